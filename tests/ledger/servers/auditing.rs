//! The audit of `confirmed <= position` against a real slot and a real topic.

use std::time::Duration;

use millrace_ledger::broker::Broker;
use millrace_ledger::watermark::{Audit, Subject, Watch};
use millrace_ledger::writers::connect;
use xtask::services::Services;

use crate::producer::Producer;
use crate::reading::own;

/// Audits a fresh slot beside a topic whose positions these are.
async fn audit(name: &str, end_lsns: &[&str]) -> Audit {
    let services = Services::for_tests().await.unwrap();
    let (url, kafka) = (services.postgres.url(), services.kafka.bootstrap());
    let slot = own(&format!("audit_{name}_"));
    let topic = own(&format!("ledger-audit-{name}-"));
    let client = connect(&url).await.unwrap();
    client.execute("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", &[&slot]).await.unwrap();
    Broker::at(&kafka).create_topic(&topic, 2).await;
    let mut producer = Producer::open(&kafka, &topic).await;
    let subject = Subject {
        postgres_url: url,
        slot: slot.clone(),
        bootstrap: kafka.clone(),
        position_topic: topic.clone(),
    };
    let mut watch = Watch::start(subject);
    for end_lsn in end_lsns {
        let known = watch.positions();
        producer.send(&topic, 0, &[&format!(r#"{{"end_lsn":"{end_lsn}"}}"#)]).await;
        producer.end(true).await;
        watch.beyond(known, Duration::from_secs(30)).await.unwrap();
    }
    let audit = watch.finish().await.unwrap();
    client.execute("SELECT pg_drop_replication_slot($1)", &[&slot]).await.unwrap();
    audit
}

#[tokio::test]
async fn a_position_at_or_above_what_was_confirmed_is_no_breach() {
    let audit = audit("fine", &["FF/0", "FF/10"]).await;
    assert!(audit.samples > 0);
    assert_eq!(audit.breaches_total, 0);
    let positions: Vec<_> = audit.marks.iter().map(|mark| mark.end_lsn).collect();
    assert_eq!(positions, [0xFF_0000_0000, 0xFF_0000_0010]);
}

#[tokio::test]
async fn a_position_below_what_was_confirmed_is_a_breach() {
    let audit = audit("breach", &["0/1"]).await;
    assert!(audit.breaches_total > 0);
    assert_eq!(audit.breaches[0].position, Some(1));
}
