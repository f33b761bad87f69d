//! `millrace audit`: sound topics pass, planted violations are told with their offsets, and what cannot be
//! proved is never called passed.

use millrace_e2e::{Ended, Shop, openssl, run_to_end, wait_for_records};
use millrace_ledger::reader::{Isolation, Reader, Record};
use std::time::Duration;

const SECRET: &str = "of a test, and long enough for a hash";

/// Three rows, one of which changes its note and then its key, and one of which is deleted.
async fn sound(name: &str) -> Shop {
    let mut shop = Shop::open(name).await;
    shop.start().await.rows(1..=3).await;
    shop.sql.run("UPDATE orders SET note = 'b' WHERE id = 2").await;
    shop.sql.run("UPDATE orders SET id = 20 WHERE id = 2").await;
    shop.sql.run("DELETE FROM orders WHERE id = 3").await;
    // A change of the key is three records, a delete is two.
    shop.wait_for_events("public.orders", 9).await;
    shop
}

fn audit(shop: &Shop) -> Ended {
    let path = shop.write_file();
    run_to_end(&["audit", &path.display().to_string()], shop.dir())
}

/// The records of the shop's orders as they lie in the topic.
async fn raw(shop: &Shop) -> Vec<Record> {
    let bootstrap = shop.servers.kafka.bootstrap();
    let mut reader = Reader::new(&bootstrap, Isolation::ReadCommitted, Duration::from_secs(30));
    reader.read_all(&[&shop.topic("public.orders")]).await.expect("the topic can be read").records
}

fn place(record: &Record) -> String {
    format!("{}-{}@{}", record.topic, record.partition, record.offset)
}

/// The offset that comes next in a record's partition.
async fn next_place(shop: &Shop, record: &Record) -> String {
    let last = shop.broker().last_offset(&record.topic, record.partition).await.unwrap_or(-1);
    format!("{}-{}@{}", record.topic, record.partition, last + 1)
}

/// Writes a copy, behind everything else in its partition.
async fn write(shop: &Shop, record: &Record) {
    let Record { topic, partition, key, value, headers, .. } = record;
    shop.broker().produce_record(topic, *partition, key.clone(), value.clone(), headers).await;
}

/// The same record, so many bytes further in the source's log than anything that is there.
fn moved(record: &Record, bytes: u64) -> Record {
    let mut moved = record.clone();
    for (name, value) in &mut moved.headers {
        if name == "position" {
            *value = Some(format!("FFFFFFFF{bytes:08X}/FFFFFFFF{bytes:08X}/0/0").into());
        }
    }
    moved
}

fn is_delete(record: &&Record) -> bool {
    let is_first = record.header("position").is_some_and(|at| at.ends_with(b"/0"));
    let left = record.header("__debezium.newkey").is_some();
    is_first && !left && record.value.is_some()
}

#[tokio::test]
async fn an_audit_of_flat_rows_passes_and_one_that_is_there_twice_is_found() {
    let mut shop = Shop::open("audit-flat").await;
    shop.file.set("format/envelope", "flat").set("format/flat/deletes", "rewrite_with_tombstone");
    shop.file.set("signature/key_id", "k").set("signature/hmac_sha256_secret", SECRET);
    // Not an operation, though it is called so.
    shop.sql.run("ALTER TABLE orders ADD COLUMN op text DEFAULT 'd'").await;
    shop.start().await.rows(1..=3).await;
    shop.sql.run("UPDATE orders SET id = 20 WHERE id = 2; DELETE FROM orders WHERE id = 3").await;
    let topic = shop.topic("public.orders");
    wait_for_records(&shop.servers.kafka.bootstrap(), &[&topic], 8).await;
    let ended = audit(&shop);
    assert_eq!(ended.code, Some(0), "{}", ended.text());
    assert!(ended.stdout.contains("8 records of 5 changes"), "{}", ended.stdout);
    let first = raw(&shop).await.remove(0);
    assert!(ended.stdout.contains("6 values, all signed by the connector's key"), "{}", ended.stdout);
    let dir = shop.dir();
    std::fs::write(dir.join("value"), first.value.as_deref().expect("a row")).expect("a file");
    openssl(dir, &["dgst", "-sha256", "-hmac", SECRET, "-binary", "-out", "mac", "value"]);
    openssl(dir, &["base64", "-A", "-in", "mac", "-out", "mac.base64"]);
    let mac = std::fs::read_to_string(dir.join("mac.base64")).expect("a file");
    let header = format!("hmac-sha256:k:{mac}");
    assert_eq!(first.header("signature").map(<[u8]>::to_vec), Some(header.into_bytes()));
    // Somebody else's value under a signature that was for another.
    let mut forged = first.clone();
    forged.value = Some("{}".into());
    forged.headers.retain(|(name, _)| name != "position");
    let at = next_place(&shop, &forged).await;
    write(&shop, &forged).await;
    let ended = audit(&shop);
    let found = format!("1 values, the first at {at}, are not what the connector's key has signed");
    assert!(ended.code == Some(1) && ended.text().contains(&found), "{}", ended.text());
    let (at, copy) = (place(&first), next_place(&shop, &first).await);
    write(&shop, &first).await;
    let ended = audit(&shop);
    assert_eq!(ended.code, Some(1), "{}", ended.text());
    assert!(ended.text().contains(&at) && ended.text().contains(&copy), "{}", ended.text());
}

#[tokio::test]
async fn an_audit_of_sound_topics_passes_while_the_connector_runs() {
    let shop = sound("audit-sound").await;
    let ended = audit(&shop);
    assert_eq!(ended.code, Some(0), "{}", ended.text());
    assert!(ended.stdout.contains("9 records of 6 changes"), "{}", ended.stdout);
    assert!(ended.stdout.contains("leaves no trace"), "{}", ended.stdout);
    assert!(ended.stdout.trim_end().ends_with("passed"), "{}", ended.stdout);
}

#[tokio::test]
async fn a_record_that_is_there_twice_is_told_with_both_offsets() {
    let shop = sound("audit-double").await;
    let records = raw(&shop).await;
    let (first, copy) = (place(&records[0]), next_place(&shop, &records[0]).await);
    write(&shop, &records[0]).await;
    let ended = audit(&shop);
    assert_eq!(ended.code, Some(1), "{}", ended.text());
    let expected = format!("double: {first} and {copy} are the same record");
    assert!(ended.stdout.contains(&expected), "{expected}\n{}", ended.stdout);
    assert!(ended.stdout.trim_end().ends_with("FAILED"), "{}", ended.stdout);
}

#[tokio::test]
async fn a_swapped_pair_is_told_with_both_offsets() {
    let shop = sound("audit-swapped").await;
    let records = raw(&shop).await;
    let first = next_place(&shop, &records[0]).await;
    write(&shop, &moved(&records[0], 2)).await;
    let second = next_place(&shop, &records[0]).await;
    write(&shop, &moved(&records[0], 1)).await;
    let ended = audit(&shop);
    assert_eq!(ended.code, Some(1), "{}", ended.text());
    let expected = format!("order: {second} comes behind {first}");
    assert!(ended.stdout.contains(&expected), "{expected}\n{}", ended.stdout);
}

#[tokio::test]
async fn a_delete_whose_tombstone_is_missing_is_told() {
    let shop = sound("audit-gap").await;
    let records = raw(&shop).await;
    let tombstones = records.iter().filter(|record| record.value.is_none());
    let keys: Vec<_> = tombstones.map(|record| record.key.clone()).collect();
    let deletes = records.iter().filter(is_delete);
    // The last event of a key that has a tombstone is its delete.
    let delete = deletes.filter(|record| keys.contains(&record.key)).max_by_key(|record| record.offset);
    let delete = delete.expect("row 3 was deleted");
    let at = next_place(&shop, delete).await;
    write(&shop, &moved(delete, 1)).await;
    let ended = audit(&shop);
    assert_eq!(ended.code, Some(1), "{}", ended.text());
    let expected = format!("gap: a record of the change of {at} is missing");
    assert!(ended.stdout.contains(&expected), "{expected}\n{}", ended.stdout);
}

#[tokio::test]
async fn a_foreign_record_keeps_an_audit_from_passing() {
    let shop = sound("audit-foreign").await;
    shop.broker().produce(&shop.topic("public.orders"), 0, b"k", b"v").await;
    expect_not_proved(&shop, "foreign records");
}

#[tokio::test]
async fn a_schema_that_is_missing_keeps_an_audit_from_passing() {
    let shop = sound("audit-schema").await;
    let mut record = moved(&raw(&shop).await[0], 1);
    record.value = Some(vec![0, 0x7F, 0xFF, 0xFF, 0xFF, 0].into());
    write(&shop, &record).await;
    expect_not_proved(&shop, "with schema 2147483647, which the registry does not have");
}

#[tokio::test]
async fn expired_records_keep_an_audit_from_passing() {
    let shop = sound("audit-expired").await;
    shop.broker().expire(&shop.topic("public.orders"), 0, 1).await;
    expect_not_proved(&shop, "begins above offset 0 in partitions [0]");
}

#[tokio::test]
async fn a_compacted_topic_keeps_an_audit_from_passing() {
    let shop = sound("audit-compacted").await;
    shop.broker().set_topic_config(&shop.topic("public.orders"), "cleanup.policy", "compact").await;
    expect_not_proved(&shop, "is compacted");
}

#[tokio::test]
async fn compacted_dead_letters_take_nothing_from_the_proof_of_the_records() {
    let mut shop = Shop::open("audit-letters").await;
    shop.file.set("dead_letters/on_reject", "dead_letter").set("format/record_bytes_max", 100_000);
    shop.file.set("sink/kafka/topics/*.dead-letters/partitions", 1);
    shop.start().await.rows(1..=3).await;
    shop.sql.run("INSERT INTO orders VALUES (4, repeat('x', 200000))").await;
    shop.rows(5..=6).await.wait_for_events("public.orders", 5).await;
    let letters = format!("{}.dead-letters", shop.name);
    assert!(shop.broker().last_offset(&letters, 0).await.is_some(), "there is no letter in {letters}");
    shop.broker().set_topic_config(&letters, "cleanup.policy", "compact").await;
    let ended = audit(&shop);
    assert_eq!(ended.code, Some(0), "{}", ended.text());
    assert!(ended.stdout.contains("5 records of 5 changes"), "{}", ended.stdout);
    assert!(ended.stdout.contains("holds dead letters"), "{}", ended.stdout);
}

#[tokio::test]
async fn records_without_positions_are_not_audited() {
    let mut shop = Shop::open("audit-debezium").await;
    shop.file.set("format/dialect", "debezium").set("format/encoding", "json");
    shop.start().await.rows(1..=1).await;
    shop.wait_for_events("public.orders", 1).await;
    expect_not_proved(&shop, "carry no position");
}

#[tokio::test]
async fn a_connector_that_never_ran_proves_nothing() {
    let shop = Shop::open("audit-nothing").await;
    expect_not_proved(&shop, "nothing was delivered yet");
}

fn expect_not_proved(shop: &Shop, why: &str) {
    let ended = audit(shop);
    assert_eq!(ended.code, Some(2), "{}", ended.text());
    assert!(ended.stdout.contains(why), "{why}\n{}", ended.stdout);
    assert!(ended.stdout.trim_end().ends_with("not proved"), "{}", ended.stdout);
}
