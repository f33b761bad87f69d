//! F12: something the connector stands on is tampered with. It must halt: not ready, in a state that fits,
//! with the remedy named. Each trial is a run of its own, for none of them can go on.

use std::time::{Duration, Instant};

use millrace_ledger::Result;
use millrace_ledger::broker::Broker;
use millrace_ledger::daemon::State;
use millrace_ledger::run::{Config, Stage};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tampering {
    SlotDropped,
    SlotAdvanced,
    SlotRecreated,
    PublicationDropped,
    TopicDeleted,
    PartitionsAdded,
    PositionCorrupted,
}

use Tampering::{
    PartitionsAdded, PositionCorrupted, PublicationDropped, SlotAdvanced, SlotDropped, SlotRecreated,
    TopicDeleted,
};

/// MongoDB's, a resume token that has aged out, comes with it.
pub const EACH: [Tampering; 7] = [
    SlotDropped,
    SlotAdvanced,
    SlotRecreated,
    PublicationDropped,
    TopicDeleted,
    PartitionsAdded,
    PositionCorrupted,
];

const HALTS_WITHIN: Duration = Duration::from_secs(60);
const WORKS_FOR: Duration = Duration::from_secs(2);

impl Tampering {
    /// The states that fit.
    fn states(self) -> &'static [&'static str] {
        match self {
            SlotDropped | SlotAdvanced | SlotRecreated | PublicationDropped => &["POSITION_LOST"],
            TopicDeleted | PartitionsAdded => &["FAILED"],
            PositionCorrupted => &["FAILED", "POSITION_LOST"],
        }
    }
}

/// One trial; an error says what is wrong with how the daemon took it.
pub async fn trial(config: &Config, tampering: Tampering) -> Result<String> {
    let mut stage = Stage::prepare(config).await?;
    let outcome = halt(&mut stage, tampering).await;
    let outcome = outcome.map_err(|error| format!("{tampering:?}: {error}\n{}", stage.daemon.log_tail()));
    stage.abandon().await?;
    Ok(outcome?)
}

async fn halt(stage: &mut Stage, tampering: Tampering) -> Result<String> {
    stage.first_start().await?;
    stage.set_writers_to_work().await?;
    stage.position_after(stage.positions(), HALTS_WITHIN).await?;
    tokio::time::sleep(WORKS_FOR).await;
    let began = Instant::now();
    tamper(stage, tampering).await?;
    let mut state = State::default();
    while began.elapsed() < HALTS_WITHIN {
        stage.daemon.still_runs()?;
        state = stage.daemon.state().await.unwrap_or_default();
        if !state.ready && tampering.states().contains(&state.name.as_str()) {
            stage.catch_up().await?;
            stage.in_order()?;
            if state.hint.is_empty() {
                return Err(format!("no remedy is named: {state:?}").into());
            }
            let after = began.elapsed().as_secs_f64();
            return Ok(format!("{tampering:?}: {} after {after:.1} s; {}", state.name, state.hint));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(format!("after {HALTS_WITHIN:?} the daemon says {state:?}").into())
}

async fn tamper(stage: &mut Stage, tampering: Tampering) -> Result<()> {
    let (admin, slot) = (stage.admin().await?, stage.config.slot());
    let broker = Broker::at(&stage.config.bootstrap);
    let topic = format!("{}.ledger.account", stage.config.connector);
    let anew = !matches!(tampering, SlotDropped | PublicationDropped | TopicDeleted);
    if anew {
        stage.daemon.kill().await?;
        free(stage).await?;
    }
    let sql = match tampering {
        SlotDropped => {
            // The daemon comes back for it at once: the two have to be one moment.
            let sql = format!(
                "DO $$ BEGIN FOR i IN 1..1000 LOOP \
                   PERFORM pg_terminate_backend(active_pid) FROM pg_replication_slots \
                     WHERE slot_name = '{slot}' AND active; \
                   BEGIN PERFORM pg_drop_replication_slot('{slot}'); EXIT; \
                   EXCEPTION WHEN object_in_use THEN PERFORM pg_sleep(0.005); END; \
                 END LOOP; END $$"
            );
            Some(sql)
        }
        SlotAdvanced => {
            // The writers may rest: a commit of our own lies between the position and the place.
            admin.batch_execute("SELECT pg_logical_emit_message(true, 'between', '')").await?;
            Some(format!("SELECT pg_replication_slot_advance('{slot}', pg_current_wal_lsn())"))
        }
        SlotRecreated => Some(format!(
            "SELECT pg_drop_replication_slot('{slot}'); \
             SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"
        )),
        PublicationDropped => Some(format!("DROP PUBLICATION {slot}")),
        TopicDeleted => {
            broker.delete_topic(&topic).await;
            None
        }
        PartitionsAdded => {
            broker.add_partitions(&topic, i32::try_from(stage.config.partitions)? + 2).await;
            None
        }
        PositionCorrupted => {
            let key = stage.position_key().await?;
            broker.produce(&stage.config.position_topic(), 0, &key, b"{\"v\":1,\"end_lsn\":\"no").await;
            None
        }
    };
    if let Some(sql) = sql {
        admin.batch_execute(&sql).await?;
    }
    if anew {
        stage.daemon.start()?;
    }
    Ok(())
}

/// Waits until nobody reads the slot.
async fn free(stage: &Stage) -> Result<()> {
    let admin = stage.admin().await?;
    let sql = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots \
               WHERE slot_name = $1 AND active";
    while admin.execute(sql, &[&stage.config.slot()]).await? > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
