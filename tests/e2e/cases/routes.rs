//! Where the rows of tables go when a route says so, and how they look there.

use millrace_e2e::{Bare, Shop, expect_one_transaction, run_to_end, wait_for_records};
use serde_json::json;

const ROUTES: &str = r#"
[[route]]
relations = ["public.people"]
envelope = "flat"
topic = "routes-{region}"
key = ["team", "id"]
headers = { team = "team" }
copy_to = "routes-audit"
[[route]]
relations = ["public.plain"]
encoding = "json"
topic = "routes-plain"
[[route]]
relations = ["public.bills"]
encoding = "json"
topic = "routes-bills"
filter = "status in ('paid', 'sent') and total >= 10 and op != 'd'"
"#;

/// Rows that come into what the filter takes, and go out of it.
async fn write_bills(shop: &Shop) {
    shop.sql
        .run(
            "INSERT INTO bills VALUES (1, 'new', 50), (2, 'paid', 9.99), (3, 'paid', 10), (4, NULL, 50);
             UPDATE bills SET status = 'sent' WHERE id = 1; UPDATE bills SET status = 'lost' WHERE id = 3;
             UPDATE bills SET total = 8 WHERE id = 1; DELETE FROM bills",
        )
        .await;
}

/// Only what a row was when it was taken: no other change, and no deletes.
async fn expect_bills(bootstrap: &str) {
    let bills = wait_for_records(bootstrap, &["routes-bills"], 2).await;
    let told = bills.iter().map(Bare::json).map(|bill| {
        let (row, op) = (&bill["after"], bill["op"].clone());
        (row["id"].as_i64(), row["status"].clone(), op)
    });
    let mut told: Vec<_> = told.collect();
    told.sort_by_key(|(id, ..)| *id);
    assert_eq!(told, [(Some(1), json!("sent"), json!("u")), (Some(3), json!("paid"), json!("c"))]);
}

#[tokio::test]
async fn rows_choose_their_topic_key_and_headers_beside_tables_in_another_encoding() {
    let mut shop = Shop::open("routes").await;
    shop.table("people", "id int PRIMARY KEY, team text, region text, note text").await;
    shop.sql.run("ALTER TABLE people REPLICA IDENTITY FULL").await;
    shop.table("plain", "id int PRIMARY KEY").await;
    shop.table("bills", "id int PRIMARY KEY, status text, total numeric").await;
    shop.capture(&["public.orders", "public.people", "public.plain", "public.bills"]);
    // Avro for the orders, JSON for the rest: one connector, one Kafka transaction.
    shop.file.lay(&ROUTES.replace("envelope = \"flat\"", "envelope = \"flat\"\nencoding = \"json\""));
    shop.file.set("sink/kafka/topics/routes-eu/partitions", 5);
    shop.file.set("sink/kafka/topics/routes-eu/config/retention.ms", 259_200_000);
    shop.start().await;
    shop.sql
        .run(
            "BEGIN; INSERT INTO people VALUES (1, 'a', 'eu', 'x'), (2, 'b', 'us', NULL);
             INSERT INTO orders VALUES (1, 'order 1'); INSERT INTO plain VALUES (7);
             DELETE FROM people WHERE id = 1; COMMIT",
        )
        .await;
    let bootstrap = shop.servers.kafka.bootstrap();
    let eu = wait_for_records(&bootstrap, &["routes-eu"], 2).await;
    assert_eq!(eu[0].json(), json!({"id": 1, "team": "a", "region": "eu", "note": "x"}));
    assert_eq!(eu[0].key.as_deref(), Some(r#"{"team":"a","id":1}"#));
    assert_eq!(eu[0].header("team"), Some("a"));
    assert_eq!((eu[1].key.as_deref(), eu[1].value.as_deref()), (eu[0].key.as_deref(), None));
    let us = wait_for_records(&bootstrap, &["routes-us"], 1).await;
    assert_eq!(us[0].json(), json!({"id": 2, "team": "b", "region": "us", "note": null}));
    let audit = wait_for_records(&bootstrap, &["routes-audit"], 3).await;
    assert_eq!(audit.len(), 3, "{audit:?}");
    let plain = wait_for_records(&bootstrap, &["routes-plain"], 1).await;
    assert_eq!((&plain[0].json()["op"], &plain[0].json()["after"]), (&json!("c"), &json!({"id": 7})));
    shop.wait_for_events("public.orders", 1).await;
    let topics = ["routes-eu", "routes-us", "routes-audit", "routes-plain", &shop.topic("public.orders")];
    expect_one_transaction(&bootstrap, &topics).await;
    write_bills(&shop).await;
    shop.expect_rows(1..=1).await;
    expect_bills(&bootstrap).await;
    let broker = shop.broker();
    assert_eq!(broker.partitions("routes-eu").await, 5);
    assert_eq!(broker.topic_config("routes-eu", "retention.ms").await.as_deref(), Some("259200000"));
    // Each record is read as its own route writes it.
    let file = shop.write_file().display().to_string();
    let audit = run_to_end(&["audit", &file], shop.dir());
    assert!(audit.code == Some(0) && !audit.stdout.contains("foreign"), "{}", audit.text());
}

#[tokio::test]
async fn flat_rows_have_what_the_file_adds_and_a_delete_is_the_old_row_and_a_tombstone() {
    let mut shop = Shop::open("flat-rows").await;
    shop.table("plain", "id int PRIMARY KEY, note text").await;
    shop.sql.run("ALTER TABLE plain REPLICA IDENTITY FULL").await;
    shop.capture(&["public.orders", "public.plain"]);
    shop.file.lay(
        "[[route]]\nrelations = ['public.plain']\nenvelope = 'flat'\ntopic = 'flat-rows'\nencoding = 'json'\n",
    );
    shop.file.set("format/flat/deletes", "rewrite_with_tombstone");
    shop.file.set("format/flat/add_fields", vec!["op", "source.table:of", "source.txId"]);
    shop.file.set("format/flat/add_headers", vec!["op", "xmin"]);
    shop.start().await;
    shop.sql
        .run(
            "BEGIN; INSERT INTO plain VALUES (1, 'x'); UPDATE plain SET id = 2, note = NULL; DELETE FROM plain; COMMIT",
        )
        .await;
    let records = wait_for_records(&shop.servers.kafka.bootstrap(), &["flat-rows"], 6).await;
    let of = |id: i32| {
        let key = format!("{{\"id\":{id}}}");
        let records = records.iter().filter(move |record| record.key.as_deref() == Some(key.as_str()));
        records.collect::<Vec<_>>()
    };
    for (id, rows) in
        [(1, [("x", "c", "false"), ("x", "d", "true")]), (2, [("", "c", "false"), ("", "d", "true")])]
    {
        let records = of(id);
        assert_eq!(records.len(), 3, "a row, its end and a tombstone: {records:?}");
        for (record, (note, op, deleted)) in records.iter().zip(rows) {
            let note = (!note.is_empty()).then_some(note);
            let mut value = record.json();
            assert!(value["__source_txId"].take().as_i64().is_some(), "{record:?}");
            let expected = json!({"id": id, "note": note, "__deleted": deleted, "__op": op, "__of": "plain",
                "__source_txId": null});
            assert_eq!(value, expected);
            assert_eq!(record.header("__op"), Some(op));
        }
        assert_eq!(records[2].value, None);
    }
}

#[tokio::test]
async fn a_route_that_does_not_fit_its_table_does_not_start_and_names_the_column() {
    let mut shop = Shop::open("routes-misfit").await;
    shop.file.lay("[[route]]\nrelations = [\"public.orders\"]\nkey = \"customer\"\n");
    shop.start_in_any_state().await;
    let refusal = shop.not_ready("FAILED").await;
    refusal.expect_reason(&["public.orders", "customer"]).expect_hint(&["id, note"]);
}

#[tokio::test]
async fn shards_of_a_table_share_a_topic_of_another_name() {
    let mut shop = Shop::open("renamed").await;
    for shard in ["items_1", "items_2"] {
        shop.table(shard, "id int PRIMARY KEY, note text").await;
    }
    shop.capture(&["public.orders", "public.items_1", "public.items_2"]);
    shop.file.lay(
        "[[format.rename_topics]]\nfrom = '(.*)_\\d'\nto = '$1'\nschemas = true\nkey_field = 'shard'\n\
         key_from = '.*_(\\d)'\nkey_to = '$1'\n",
    );
    shop.file.set("format/encoding", "json");
    shop.start().await;
    shop.sql.run("INSERT INTO items_1 VALUES (7, 'one')").await;
    shop.sql.run("INSERT INTO items_2 VALUES (7, 'two')").await;
    let topic = shop.topic("public.items");
    let found = wait_for_records(&shop.servers.kafka.bootstrap(), &[&topic], 2).await;
    let mut seen: Vec<_> =
        found.iter().map(|record| (record.key.clone(), record.json()["after"]["note"].clone())).collect();
    seen.sort_by_key(|(key, _)| key.clone());
    let key = |shard: &str| Some(format!(r#"{{"id":7,"shard":"{shard}"}}"#));
    assert_eq!(seen, [(key("1"), json!("one")), (key("2"), json!("two"))]);
    // What no rule fits keeps its name.
    shop.rows(1..=1).await;
    shop.expect_rows(1..=1).await;
}
