//! What is told beside rows: transactions, and that the connector lives.

use std::collections::BTreeMap;

use millrace_e2e::{Shop, wait_for_records};
use serde_json::{Value as Json, json};

#[tokio::test]
async fn transactions_and_heartbeats_are_told_on_topics_of_their_own() {
    let mut shop = Shop::open("told").await;
    shop.table("items", "id int PRIMARY KEY").await;
    shop.capture(&["public.orders", "public.items"]);
    shop.file.set("format/encoding", "json").set("format/transactions", true);
    shop.file.set("format/heartbeat_topic_interval_s", 1);
    shop.start().await;
    shop.sql
        .run(
            "BEGIN; INSERT INTO orders VALUES (1, 'a'), (2, 'b'); INSERT INTO items VALUES (1);
             UPDATE orders SET id = 3 WHERE id = 2; COMMIT",
        )
        .await;
    let bootstrap = shop.servers.kafka.bootstrap();
    let topic = format!("{}.transaction", shop.name);
    let told = wait_for_records(&bootstrap, &[&topic], 2).await;
    let [begin, end] = [told[0].json(), told[1].json()];
    assert_eq!((&begin["status"], &begin["event_count"]), (&json!("BEGIN"), &Json::Null));
    assert_eq!((&end["status"], &end["event_count"], &end["id"]), (&json!("END"), &json!(5), &begin["id"]));
    assert_eq!(
        end["data_collections"],
        json!([
            {"data_collection": "public.orders", "event_count": 4},
            {"data_collection": "public.items", "event_count": 1},
        ])
    );
    let item = &wait_for_records(&bootstrap, &[&shop.topic("public.items")], 1).await[0].json();
    let block = json!({"id": begin["id"], "total_order": 3, "data_collection_order": 1});
    assert_eq!(item["transaction"], block);
    // An idle connector tells that it lives, again and again.
    let topic = format!("__debezium-heartbeat.{}", shop.name);
    let beats = wait_for_records(&bootstrap, &[&topic], 2).await;
    assert_eq!(beats[0].key.as_deref(), Some(json!({"serverName": shop.name}).to_string().as_str()));
    assert!(beats[1].json()["ts_ms"].as_i64() > beats[0].json()["ts_ms"].as_i64(), "{beats:?}");
}

#[tokio::test]
async fn numbers_in_a_cut_transaction_go_on_after_a_kill() {
    const ROWS: usize = 20_000;
    let mut shop = Shop::open("numbers").await;
    shop.file.set("format/encoding", "json").set("format/transactions", true);
    shop.file
        .set("source/postgres/batch_rows_max", 200)
        .set("sink/kafka/transaction/cut_bytes", 50_000)
        .set("sink/kafka/transaction/records_max", 200);
    shop.start().await.rows(1..=1).await;
    let bootstrap = shop.servers.kafka.bootstrap();
    let orders = shop.topic("public.orders");
    wait_for_records(&bootstrap, &[&orders], 1).await;
    shop.term().await;
    shop.sql.run(&format!("INSERT INTO orders SELECT n, 'x' FROM generate_series(2, {}) n", ROWS + 1)).await;
    for (parts, delivered) in [(3, 500), (30, 5_000)] {
        shop.start_to_die_at(&format!("cut-committed:{parts}")).await;
        let seen = wait_for_records(&bootstrap, &[&orders], delivered).await.len();
        assert!(seen < ROWS, "the transaction was through before the kill");
    }
    shop.start().await;
    let records = wait_for_records(&bootstrap, &[&orders], ROWS + 1).await;
    let mut numbers = BTreeMap::new();
    for record in records.iter().filter(|record| record.json()["after"]["id"] != 1) {
        let value = record.json();
        numbers.insert(value["transaction"]["total_order"].as_u64(), value["after"]["id"].as_u64());
    }
    let expected = (1..=ROWS as u64).map(|number| (Some(number), Some(number + 1)));
    assert!(numbers.into_iter().eq(expected), "a number is missing, twice, or at another row");
    let ends = wait_for_records(&bootstrap, &[&format!("{}.transaction", shop.name)], 4).await;
    let counts: Vec<Json> = ends.iter().map(|end| end.json()["event_count"].clone()).collect();
    assert_eq!(ends.len(), 4, "a begin or an end came twice");
    assert!(counts.contains(&json!(ROWS)), "{counts:?}");
}
