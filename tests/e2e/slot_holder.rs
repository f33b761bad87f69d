//! Somebody else who streams from a slot: Postgres's own `pg_recvlogical`.

use std::process::{Child, Command, Stdio};

use xtask::services::Postgres;

pub struct SlotHolder(Child);

impl SlotHolder {
    /// Streams the slot to nowhere, confirming nothing that was not confirmed before.
    pub fn start(server: &Postgres, database: &str, slot: &str, publication: &str) -> Self {
        let program = server.client("pg_recvlogical").expect("pg_recvlogical is installed");
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .arg(format!("--dbname={}", server.url_of(database)))
            .args([&format!("--slot={slot}"), "--start", "--no-loop", "--file=/dev/null"])
            // Longer than any test: what it reads it is not to confirm.
            .args(["--status-interval=600", "--fsync-interval=600"])
            .args(["--option=proto_version=1", &format!("--option=publication_names={publication}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("pg_recvlogical starts");
        Self(child)
    }

    pub fn release(self) {}
}

impl Drop for SlotHolder {
    fn drop(&mut self) {
        // It may have ended already, which is what this is for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
