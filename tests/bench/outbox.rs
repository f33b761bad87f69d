//! How fast an outbox that waits is drained into Kafka, measured as [`throughput`](crate::throughput) measures
//! tables. Start at [`run`].

use std::collections::HashMap;

use crate::throughput::{Workload, compared};
use crate::verify::{Count, each};
use crate::workload::{AGGREGATES, Load};
use crate::{Bench, Result, Servers};

#[derive(Clone, Debug)]
pub struct Options {
    pub rounds: u32,
    /// Of each workload: in transactions of 10,000, and in transactions of one.
    pub events: u64,
}

pub async fn run(bench: &Bench, options: &Options) -> Result<()> {
    let workloads = [
        Workload::of_large_transactions("outbox-large", Load::Outbox, options.events),
        Workload::of_single_rows("outbox-single", Load::Outbox, options.events),
    ];
    compared(bench, "outbox", METHOD, &workloads, options.rounds).await
}

const METHOD: &str = "\
Rows of an outbox with Debezium's columns, about 10,000 orders. Each round copies one slot twice and reads the same \
log with both programs; odd rounds the other way round. Timed as above: from the slot becoming active to the exit of \
`pg_recvlogical`, and to the moment when the daemon's `/metrics` shows the end of the log as durable in Kafka. The \
daemon routes each row by its aggregate type, checks its payload to be JSON and writes it with the key of its \
aggregate and two headers, in Kafka transactions, with its default settings; after each run an independent \
`read_committed` reader counts that every event is there once, and that each aggregate's are in their order. CPU \
time is that of the whole process. The first round warms caches and the broker's JVM; it is shown and not counted. \
For scale, on another machine of 2 cores: Debezium's EventRouter on Kafka Connect, tuned and warm, 75,000 events a \
second, 20 us of CPU an event, 0.45 times pg_recvlogical.
";

/// The route of the outbox, into topics that begin with the connector's name.
pub fn route(name: &str) -> String {
    format!(
        "\n[[route]]\nrelations = [\"public.outbox\"]\nenvelope = \"outbox\"\n\
         topic = \"{name}.{{aggregatetype}}\"\nheaders = {{ eventType = \"type\" }}\n"
    )
}

/// An error unless the topic holds the events 1 to `events`, once each and each aggregate's in their order.
pub async fn exactly_once(servers: &Servers, topic: &str, events: u64) -> Result<()> {
    let mut count = Count::new(events)?;
    let mut newest: HashMap<Vec<u8>, (i32, i64)> = HashMap::new();
    each(servers, topic, async |record| {
        count.events += 1;
        let value = std::str::from_utf8(record.value.as_deref().ok_or("an event became a tombstone")?)?;
        let number = number(value).ok_or("an event without its number")?;
        let key = record.key.as_deref().unwrap_or_default();
        if key != format!("order-{}", number.cast_unsigned() % AGGREGATES).as_bytes() {
            return Err(format!("event {number} has another's key").into());
        }
        let before = newest.insert(key.to_vec(), (record.partition, number));
        if before.is_some_and(|(partition, before)| partition != record.partition || before >= number) {
            return Err(format!("event {number} is not in the order of its aggregate").into());
        }
        count.mark(number);
        Ok(())
    })
    .await?;
    count.verdict(topic)
}

/// Of a payload as the database prints it.
fn number(payload: &str) -> Option<i64> {
    let (_, rest) = payload.split_once("\"n\": ")?;
    rest.split([',', '}']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_s_number_stands_in_its_payload() {
        assert_eq!(number(r#"{"n": 17, "on": true}"#), Some(17));
        assert_eq!(number(r#"{"on": true, "n": 3}"#), Some(3));
        assert_eq!(number("{}"), None);
    }
}
