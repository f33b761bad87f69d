//! F6: the primary dies, and its standby is promoted, with the connector's slot (Postgres 17 and newer). A run of
//! its own a trial, because a promotion is one for good.
//!
//! The daemon has both servers in its url. Writers and checker go through a proxy that leads to whichever is the
//! primary: the truth is what the promoted server has. Nothing that it lacks may have been delivered, which the
//! primary's `synchronized_standby_slots` sees to; where it does not, the daemon must halt in POSITION_AHEAD.

use std::time::{Duration, Instant};

use millrace_ledger::Result;
use millrace_ledger::proxy::Proxy;
use millrace_ledger::run::{self, Config, Fault, Stage, Struck};
use millrace_ledger::writers::connect;
use xtask::services::{Home, Postgres, PostgresConfig, PostgresVersion};

use super::row::Row;

/// A slot is kept by the standby once its log has reached the slot's.
const SYNCED_WITHIN: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A primary, its standby, and the way to whichever takes writes.
struct Pair<'a> {
    primary: &'a Postgres,
    standby: &'a Postgres,
    link: &'a Proxy,
    slack: u32,
}

/// One trial: what happened, and how long the daemon took to be at work again. What is wrong is an error.
pub async fn trial(config: &Config, slack: u32) -> Result<(String, Duration)> {
    let home = Home::temporary()?;
    let server = PostgresConfig {
        version: PostgresVersion::V17,
        settings: vec![("wal_sender_timeout".into(), "5s".into())],
        ..PostgresConfig::default()
    };
    let primary = Postgres::start_new(&server, &home).await?;
    let standby = primary.standby(&home).await?;
    let link = Proxy::start(primary.port()).await?;
    let mut config = config.clone();
    let at = |ports: &str| primary.url().replace(&format!(":{}/", primary.port()), &format!(":{ports}/"));
    config.postgres_url = at(&link.port().to_string());
    let hosts = format!("{},127.0.0.1:{}", primary.port(), standby.port());
    config.links.postgres_url = format!("{}?target_session_attrs=read-write", at(&hosts));
    let mut pair = Pair { primary: &primary, standby: &standby, link: &link, slack };
    match run::run(&config, &mut pair, |news| println!("{news}")).await {
        Ok(report) if report.passed() => {
            Ok((report.in_short(), Duration::from_millis(report.recovery.worst_ms)))
        }
        Ok(report) => Err(report.to_string().into()),
        Err(error) if error.to_string().contains("name: \"POSITION_AHEAD\"") => {
            Ok(("halted in POSITION_AHEAD".to_owned(), Duration::ZERO))
        }
        Err(error) => Err(error),
    }
}

impl Pair<'_> {
    /// Waits until the standby would keep the slot.
    async fn synced(&self, slot: &str) -> Result<()> {
        let (primary, standby) = (connect(&self.primary.url()).await?, connect(&self.standby.url()).await?);
        let sql = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1 AND synced AND NOT temporary \
                   AND invalidation_reason IS NULL";
        let began = Instant::now();
        while standby.query_one(sql, &[&slot]).await?.get::<_, i64>(0) == 0 {
            if began.elapsed() > SYNCED_WITHIN {
                return Err(format!("the standby does not keep slot {slot}").into());
            }
            // A standby takes a slot over at such a record.
            primary.batch_execute("SELECT pg_log_standby_snapshot()").await?;
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }
}

impl Fault for Pair<'_> {
    fn name(&self) -> &'static str {
        Row::F6.name()
    }

    fn recovery_max(&self) -> Duration {
        Row::F6.recovery_max() * self.slack
    }

    async fn strike(&mut self, stage: &mut Stage) -> Result<Struck> {
        self.synced(&stage.config.slot()).await?;
        stage.work_a_while().await;
        self.primary.kill();
        let gap = stage.millis(2_000);
        tokio::time::sleep(gap).await;
        self.standby.promote().await?;
        self.link.lead_to(self.standby.port());
        Ok(Struck::now(format!("the primary killed, its standby promoted {:.1} s later", gap.as_secs_f64())))
    }
}
