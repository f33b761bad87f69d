//! A physical standby of a Postgres server, and its promotion.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tokio_postgres::{NoTls, SimpleQueryMessage};

use super::blocking;
use super::home::{Home, create, free_port, remove};
use super::install::finish;
use super::postgres::{Postgres, USER};
use super::process::Launch;
use super::server::{Kind, Record, Server};
use crate::{Context, Error, Result};

/// What it reads the primary's log through.
pub const SLOT: &str = "standby";

impl Postgres {
    /// A standby that follows this server and keeps its failover slots, from a copy of its data: this one is
    /// stopped for it and started again. It has the primary's settings and its own port.
    pub async fn standby(&self, home: &Home) -> Result<Postgres> {
        // From 17 on slots follow.
        let synced = self.major().await? >= 17;
        self.run(&format!("SELECT pg_create_physical_replication_slot('{SLOT}', true)")).await?;
        self.stop().await?;
        let launch = self.record(|record| record.launch.clone());
        let (dir, port) = (home.place("postgres-standby")?, free_port()?);
        let conninfo = format!(
            "host=127.0.0.1 port={} user={USER} password={} dbname=postgres",
            self.port(),
            self.password()
        );
        let (site, own) = (launch.cwd.with_extension("standby"), dir.clone());
        let place = site.clone();
        let made = blocking(move || copied(&launch, &place, &own, (&conninfo, synced))).await?;
        self.start().await?;
        let password = self.password().to_owned();
        let record = Record {
            name: "postgres-standby".to_owned(),
            kind: Kind::Postgres { password: password.clone() },
            port,
            launch: at(&made, port),
            dirs: vec![dir.clone(), site],
            process: None,
        };
        let server = Server::new(dir, home.lifetime, record);
        server.start_new(|port| Ok(at(&made, port))).await?;
        // What this one acknowledges, and what it sends to readers of failover slots, the standby has.
        if synced {
            self.run(&format!("ALTER SYSTEM SET synchronized_standby_slots = '{SLOT}'")).await?;
        }
        self.run("ALTER SYSTEM SET synchronous_standby_names = '*'").await?;
        self.run("SELECT pg_reload_conf()").await?;
        Ok(Postgres::from_server(server, password))
    }

    /// Makes a standby the primary; returns when it takes writes.
    pub async fn promote(&self) -> Result<()> {
        self.run("SELECT pg_promote(true, 60)").await
    }

    async fn major(&self) -> Result<i32> {
        let rows = self.query("SELECT current_setting('server_version_num')::int / 10000").await?;
        let first = rows.iter().find_map(|row| match row {
            SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
            _ => None,
        });
        first.ok_or_else(|| Error::new("the server does not say its version"))
    }

    async fn run(&self, sql: &str) -> Result<()> {
        self.query(sql).await.map(drop)
    }

    async fn query(&self, sql: &str) -> Result<Vec<SimpleQueryMessage>> {
        let failed = |error: tokio_postgres::Error| Error::new(format!("{sql}: {error}"));
        let (client, connection) = tokio_postgres::connect(&self.url(), NoTls).await.map_err(failed)?;
        let connection = tokio::spawn(connection);
        let outcome = client.simple_query(sql).await.map_err(failed);
        connection.abort();
        outcome
    }
}

/// How the copy is started, but for its port.
fn copied(primary: &Launch, place: &Path, own: &Path, (conninfo, synced): (&str, bool)) -> Result<Launch> {
    let data = PathBuf::from(primary.args.get(1).ok_or_else(|| Error::new("the primary has no data"))?);
    let copy = place.join("data");
    remove(place)?;
    create(place)?;
    fs::set_permissions(place, fs::Permissions::from_mode(0o755))
        .context(|| format!("{}", place.display()))?;
    // Whose the files are stays as it is.
    finish(Command::new("cp").arg("-a").arg(&data).arg(&copy))?;
    let conf = copy.join("postgresql.conf");
    let mut text = fs::read_to_string(&conf).context(|| format!("{}", conf.display()))?;
    text += &format!(
        "\nprimary_conninfo = '{conninfo}'\nprimary_slot_name = '{SLOT}'\nhot_standby_feedback = on\n"
    );
    if synced {
        text += "sync_replication_slots = on\n";
    }
    fs::write(&conf, text).context(|| format!("{}", conf.display()))?;
    // An empty file is enough; the server reads that it is there.
    finish(Command::new("cp").arg("-a").arg(copy.join("PG_VERSION")).arg(copy.join("standby.signal")))?;
    let mut launch = primary.clone();
    launch.args = vec!["-D".to_owned(), copy.display().to_string()];
    launch.cwd = place.to_owned();
    launch.log = own.join("log");
    Ok(launch)
}

fn at(launch: &Launch, port: u16) -> Launch {
    let mut launch = launch.clone();
    launch.args.truncate(2);
    launch.args.extend(["-c".to_owned(), format!("port={port}")]);
    launch
}
