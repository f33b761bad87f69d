//! What stands in the position topic, and where the server may let its log go.

use millrace_e2e::{Ended, PositionRecord, Shop, run_to_end, until};
use serde_json::{Value as Json, json};

#[tokio::test]
async fn the_position_topic_holds_claims_the_first_start_and_then_positions() {
    let mut shop = Shop::open("position").await;
    // Each attempt claims anew.
    shop.trust_commits();
    shop.start().await.rows(1..=5).await.expect_rows(1..=5).await;
    let records = shop.position_records().await;
    let stream: Vec<&PositionRecord> = records.iter().filter(|record| record.partition == 0).collect();
    let claim = json!([shop.name, {"claim": true}]);
    let position = json!([shop.name, {"server": shop.name}]);

    // Both producers claim, under one instance, before anything else is written.
    assert_eq!((&stream[0].key, &stream[1].key), (&claim, &claim));
    assert_eq!(stream[0].value["instance"], stream[1].value["instance"]);
    assert_ne!(stream[0].value["id"], stream[1].value["id"]);
    assert!(stream[0].value["time"].is_i64(), "{:?}", stream[0]);
    // What is not a claim is a position.
    let written: Vec<_> = stream.iter().filter(|record| record.key != claim).collect();
    assert!(written.iter().all(|record| record.key == position), "{written:?}");
    assert_eq!(
        (&written[0].value["state"], &written[0].value["slot"]),
        (&json!("creating"), &json!(shop.slot()))
    );
    let ends: Vec<u64> = written[1..].iter().map(|record| lsn(&record.value["end_lsn"])).collect();
    assert!(!ends.is_empty(), "no position follows the first start");
    assert!(ends.is_sorted(), "{ends:?}");
}

#[tokio::test]
async fn a_position_has_our_fields_and_debezium_s() {
    let mut shop = Shop::open("position-fields").await;
    shop.start().await.rows(1..=5).await.expect_rows(1..=5).await;
    let position = shop.position().await.value;
    let system: i64 = shop.sql.one("SELECT system_identifier FROM pg_control_system()").await;
    assert_eq!(position["v"], 1);
    assert_eq!(position["system_identifier"], system.to_string());
    assert_eq!(position["timeline"], 1);
    assert_eq!(position["slot"], shop.slot());
    assert_eq!(position["open"], Json::Null);
    let xid: i64 = shop.sql.one("SELECT max(xmin::text::bigint) FROM orders").await;
    assert_eq!(position["txId"], xid);
    for field in ["lsn", "lsn_proc", "lsn_commit", "ts_usec"] {
        assert!(position[field].as_i64() > Some(0), "{field} in {position}");
    }
    assert!(position["lsn"].as_u64() <= Some(lsn(&position["end_lsn"])), "{position}");
}

#[tokio::test]
async fn the_partition_counts_of_the_topics_are_kept_beside_the_position() {
    let mut shop = Shop::open("counts").await;
    shop.file.set("sink/kafka/topic_defaults/partitions", 4);
    shop.start().await.rows(1..=1).await;
    shop.wait_for_events("public.orders", 1).await;
    let records = shop.position_records().await;
    let count = records.iter().find(|record| record.key[1]["topic"] == shop.topic("public.orders"));
    let count = count.unwrap_or_else(|| panic!("no count in {records:?}"));
    assert_eq!((count.partition, &count.value["partitions"]), (1, &json!(4)));
}

#[tokio::test]
async fn the_position_topic_is_compacted_and_has_two_partitions() {
    let mut shop = Shop::open("position-topic").await;
    shop.start().await;
    let topic = shop.position_topic();
    assert_eq!(shop.broker().topic_config(&topic, "cleanup.policy").await.as_deref(), Some("compact"));
    assert_eq!(shop.broker().partitions(&topic).await, 2);
}

#[tokio::test]
async fn what_is_confirmed_never_passes_the_position_and_follows_it() {
    let mut shop = Shop::open("confirmed").await;
    shop.start().await;
    for batch in 0..20 {
        shop.rows(batch * 10 + 1..=batch * 10 + 10).await;
        // Confirmed first: the position may only be further by the time that it is read.
        let confirmed = shop.confirmed().await;
        let position = lsn(&shop.position().await.value["end_lsn"]);
        assert!(
            confirmed <= position,
            "confirmed {confirmed:X} before the position {position:X} was written"
        );
    }
    shop.expect_rows(1..=200).await;
    let written = shop.sql.log_end().await;
    until("the slot follows", async || (shop.confirmed().await >= written).then_some(())).await;
}

#[tokio::test]
async fn an_idle_database_s_slot_moves_by_the_heartbeat() {
    let mut shop = Shop::open("heartbeat").await;
    shop.file.set("source/postgres/heartbeat_interval_s", 1);
    shop.start().await;
    let first = shop.confirmed().await;
    until("the slot moves twice", async || {
        let position = lsn(&shop.position().await.value["end_lsn"]);
        let confirmed = shop.confirmed().await;
        (confirmed > first && position > confirmed).then_some(())
    })
    .await;
    let lag = until("nothing lags", async || {
        shop.daemon().metric("millrace_lag_bytes", &shop.name).await.filter(|lag| *lag == 0.0)
    });
    assert_eq!(lag.await, 0.0);
}

/// `millrace position set --to` on a stopped shop.
async fn set(shop: &Shop, to: &str) -> Ended {
    shop.wait_for_slot(false).await;
    let file = shop.write_file();
    run_to_end(&["position", file.to_str().expect("a path"), "set", "--to", to, "--yes"], shop.dir())
}

#[tokio::test]
async fn a_start_at_a_time_passes_over_what_was_committed_before_it_over_restarts_too() {
    let mut shop = Shop::open("start-time").await;
    shop.start().await.rows(1..=10).await.expect_rows(1..=10).await.term().await;
    shop.rows(11..=20).await;
    let time: String = shop.sql.one("SELECT to_char(clock_timestamp(), 'YYYY-MM-DD HH24:MI:SS.USOF')").await;
    shop.rows(21..=30).await;
    let moved = set(&shop, &time).await;
    assert_eq!(moved.code, Some(0), "{}", moved.text());
    assert!(shop.position().await.value["since_us"].is_i64(), "it is not recorded");
    shop.start_to_die_at("slot-checked:1").await;
    shop.start().await.rows(31..=40).await;
    let ids: Vec<_> = shop.settled().await.iter().filter_map(millrace_e2e::Event::id).collect();
    assert_eq!(ids, (1..=10).chain(21..=40).collect::<Vec<_>>());
    assert_eq!(shop.position().await.value["since_us"], Json::Null);
}

#[tokio::test]
async fn a_start_at_a_time_to_come_is_refused_and_one_from_now_on_gives_up_what_waits() {
    let mut shop = Shop::open("start-now").await;
    shop.start().await.rows(1..=10).await.expect_rows(1..=10).await.term().await;
    shop.rows(11..=20).await;
    let refused = set(&shop, "2999-01-31T18:00:00Z").await;
    assert_eq!(refused.code, Some(2), "{}", refused.text());
    assert!(refused.text().contains("still to come"), "{}", refused.text());
    let refused = set(&shop, "18:00 or so").await;
    assert_eq!(refused.code, Some(2), "{}", refused.text());
    let moved = set(&shop, "now").await;
    assert_eq!(moved.code, Some(0), "{}", moved.text());
    shop.start().await.rows(21..=30).await;
    let ids: Vec<_> = shop.settled().await.iter().filter_map(millrace_e2e::Event::id).collect();
    assert_eq!(ids, (1..=10).chain(21..=30).collect::<Vec<_>>());
}

/// `0/16B3748` as a number.
pub(super) fn lsn(text: &Json) -> u64 {
    let parsed = text.as_str().and_then(|text| {
        let (high, low) = text.split_once('/')?;
        Some(u64::from_str_radix(high, 16).ok()? << 32 | u64::from_str_radix(low, 16).ok()?)
    });
    parsed.unwrap_or_else(|| panic!("{text} is not a place in the log"))
}
