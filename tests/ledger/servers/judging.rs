//! The checker over topics that it cannot vouch for: foreign records, records that have expired, schemas that
//! nobody has. It says so, and never that the run has passed.

use std::path::PathBuf;
use std::time::Duration;

use millrace_ledger::broker::Broker;
use millrace_ledger::checker::{Outcome, Verdict};
use millrace_ledger::run::{Config, judge};
use millrace_ledger::tables::TABLES;
use millrace_ledger::writers::{Workload, Writers, connect, create_schema};
use xtask::services::Services;

use crate::producer::Producer;
use crate::reading::own;

/// A run of which only the tables and the journal are there, beside topics with these values in that of the
/// table without keys.
async fn judged(name: &str, values: &[&str], expire: bool) -> Verdict {
    let services = Services::for_tests().await.unwrap();
    let database = own(&format!("judging_{name}_"));
    let admin = connect(&services.postgres.url()).await.unwrap();
    admin.batch_execute(&format!("CREATE DATABASE {database}")).await.unwrap();
    let (postgres, kafka) = (services.postgres.url_of(&database), services.kafka.bootstrap());
    create_schema(&connect(&postgres).await.unwrap()).await.unwrap();
    let workload = Workload {
        postgres_url: postgres.clone(),
        seed: 1,
        writers: 1,
        changes_max: 10,
        changes_per_second: None,
        outbox: false,
    };
    let mut writers = Writers::start(&workload).await.unwrap();
    while writers.totals().committed < 5 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    writers.stop().await.unwrap();
    let nowhere = PathBuf::new();
    let mut config = Config::new(&postgres, &kafka, &services.registry.url(), nowhere.clone(), nowhere);
    config.connector = own(name);
    let broker = Broker::at(&kafka);
    let topic = |table: &str| format!("{}.ledger.{table}", config.connector);
    for table in &TABLES {
        broker.create_topic(&topic(table.name), 1).await;
    }
    broker.create_topic(&config.position_topic(), 2).await;
    let mut producer = Producer::open(&kafka, &config.connector).await;
    producer.key = None;
    producer.send(&config.position_topic(), 0, &[r#"{"end_lsn":"FF/0"}"#]).await;
    producer.send(&topic("entry"), 0, values).await;
    producer.end(true).await;
    if expire {
        broker.expire(&topic("entry"), 0, 1).await;
    }
    judge(&config).await.unwrap()
}

fn says(verdict: &Verdict, words: &str) -> bool {
    let violations = verdict.violations.iter().map(|violation| &violation.text);
    verdict.unchecked.iter().chain(violations).any(|text| text.contains(words))
}

#[tokio::test]
async fn a_topic_with_foreign_records_is_never_passed() {
    let verdict = judged("foreign", &["no Avro at all", "nor this"], false).await;
    assert_ne!(verdict.outcome, Outcome::Passed);
    assert!(says(&verdict, "2 records are not of this run"), "{verdict:#?}");
}

#[tokio::test]
async fn a_topic_whose_records_have_expired_is_never_passed() {
    let verdict = judged("expired", &["gone", "there"], true).await;
    assert_ne!(verdict.outcome, Outcome::Passed);
    assert!(says(&verdict, "begins at offset 1: older records are gone"), "{verdict:#?}");
}

#[tokio::test]
async fn a_record_whose_schema_nobody_has_is_never_passed() {
    // The magic byte, and an id that no registry has given.
    let verdict = judged("schemaless", &["\0\u{7f}\u{7f}\u{7f}\u{7f}rest"], false).await;
    assert_eq!(verdict.outcome, Outcome::Failed);
    assert!(says(&verdict, "does not resolve"), "{verdict:#?}");
}
