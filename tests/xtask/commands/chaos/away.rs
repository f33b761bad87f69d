//! F3-long: the broker is stopped in good order and stays away for two minutes, beyond every time that anything waits
//! by itself. The writers go on: what they commit meanwhile, events of the outbox included, has to wait in the database.

use std::time::Duration;

use millrace_ledger::Result;
use millrace_ledger::run::{Stage, Struck};

use super::scene::Scene;

const AWAY: Duration = Duration::from_secs(120);

pub async fn strike(scene: &Scene, stage: &mut Stage) -> Result<Struck> {
    scene.kafka.stop().await?;
    let (changes, events) = (stage.totals().changes, events(stage).await?);
    tokio::time::sleep(AWAY).await;
    stage.daemon.still_runs()?;
    let (changes, events) = (stage.totals().changes - changes, self::events(stage).await? - events);
    if events == 0 {
        return Err("the writers wrote no event while the broker was away".into());
    }
    scene.kafka.start().await?;
    let seconds = AWAY.as_secs();
    Ok(Struck::now(format!("the broker away for {seconds} s and {changes} changes, {events} of them events")))
}

/// How many there are in the outbox, from which nothing is deleted.
async fn events(stage: &Stage) -> Result<i64> {
    let admin = stage.admin().await?;
    Ok(admin.query_one("SELECT count(*) FROM ledger.outbox", &[]).await?.try_get(0)?)
}
