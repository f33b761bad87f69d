//! Who wants something: a peer of REST, or the user of the system who runs a verb.

use std::net::SocketAddr;

use serde_json::{Value, json};

/// What the kernel shows where nobody has logged in.
const NO_LOGIN: u32 = u32::MAX;

#[derive(Clone, Debug)]
pub enum Who {
    /// `None`: nobody knows, which is so in tests only.
    Peer(Option<SocketAddr>),
    User {
        uid: u32,
        name: Option<String>,
        /// Who logged in, and has become another user since.
        login: Option<u32>,
        host: String,
    },
}

impl Who {
    pub fn of_process() -> Self {
        let uid = rustix::process::getuid().as_raw();
        // Where there are no such files, numbers have to do.
        let login = std::fs::read_to_string("/proc/self/loginuid").unwrap_or_default();
        let login = login.trim().parse().ok().filter(|login| *login != NO_LOGIN && *login != uid);
        let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self::User { uid, name: name_of(uid, &users), login, host }
    }

    pub fn shown(&self) -> Value {
        match self {
            Self::Peer(peer) => json!({"rest": peer.map(|peer| peer.to_string())}),
            Self::User { uid, name, login, host } => {
                json!({"user": name, "uid": uid, "login_uid": login, "host": host})
            }
        }
    }
}

/// By lines of `name:password:uid:...`.
fn name_of(uid: u32, users: &str) -> Option<String> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, of) = (fields.next()?, fields.next()?, fields.next()?);
        (of.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_goes_by_name_where_the_system_knows_one() {
        let users = "admin:x:0:0::/:/bin/sh\nmillrace:x:1001:1001::/:/bin/sh\nodd\n";
        assert_eq!(name_of(1001, users).as_deref(), Some("millrace"));
        assert_eq!(name_of(7, users), None);
        let shown = Who::Peer("127.0.0.1:5000".parse().ok()).shown();
        assert_eq!(shown, json!({"rest": "127.0.0.1:5000"}));
    }
}
