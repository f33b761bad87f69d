//! F9: the end of a transaction is held back past the socket's timeout, and reaches the broker in the
//! middle of the same producer's next transaction.

use std::time::Duration;

use millrace_ledger::Result;
use millrace_ledger::run::{Stage, Struck};

use super::scene::Scene;

/// The socket's timeout, an opening or two, and the next transaction.
const DELIVERED_WITHIN: Duration = Duration::from_secs(90);

/// The end of one producer's transaction, of the other's, and of both.
const PRODUCERS: [&[usize]; 3] = [&[0], &[1], &[0, 1]];

pub async fn strike(scene: &Scene, stage: &mut Stage, turn: usize) -> Result<Struck> {
    let producers = PRODUCERS[turn % PRODUCERS.len()];
    let ids: Vec<String> = producers.iter().map(|nth| transactional_id(stage, *nth)).collect();
    let ends = scene.kafka_link.ends().ok_or("the broker's proxy knows Kafka")?;
    ends.hold(&ids.iter().map(String::as_str).collect::<Vec<_>>());
    let delivered = ends.delivered(DELIVERED_WITHIN).await;
    ends.hold(&[]);
    let told: Vec<String> = delivered?
        .iter()
        .map(|end| {
            format!(
                "the end of -{} {:.1} s late, answered {}",
                nth(&end.id),
                end.late.as_secs_f64(),
                end.code
            )
        })
        .collect();
    Ok(Struck::now(told.join(" and ")))
}

fn nth(id: &str) -> &str {
    id.rsplit('-').next().unwrap_or_default()
}

/// As the daemon makes it of the connector's name.
pub fn transactional_id(stage: &Stage, nth: usize) -> String {
    format!("millrace-{}-{nth}", stage.config.connector)
}
