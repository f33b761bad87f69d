//! What happens to a row becomes events: operations, keys, old rows, in commit order.

use std::sync::Arc;

use millrace_e2e::{Own, Servers, Shop, until, wait_for_records};
use serde_json::{Value as Json, json};

use super::snapshot_changes::{hold_commits, wait_for_standby};

#[tokio::test]
async fn inserted_rows_arrive_once_and_in_order() {
    let mut shop = Shop::open("inserts").await;
    shop.start().await.rows(1..=100).await.rows(101..=150).await.expect_rows(1..=150).await;
}

#[tokio::test]
async fn an_update_shows_the_new_row_and_a_delete_leaves_a_tombstone() {
    let mut shop = Shop::open("updates").await;
    shop.start().await.rows(1..=2).await;
    shop.sql.run("UPDATE orders SET note = 'changed' WHERE id = 1; DELETE FROM orders WHERE id = 2").await;
    shop.expect_changes(&[("c", 1), ("c", 2), ("u", 1), ("d", 2), ("-", 2)]).await;
    let events = shop.events("public.orders").await;
    let update = &events[2];
    assert_eq!(update.after("note"), "changed");
    assert_eq!(update.value.as_ref().map(|value| &value["before"]), Some(&Json::Null));
    let delete = &events[3];
    assert_eq!(delete.value.as_ref().map(|value| &value["after"]), Some(&Json::Null));
    assert_eq!(delete.before("id"), 2);
    assert_eq!(events[4].key, Some(json!({"id": 2})));
}

#[tokio::test]
async fn a_transaction_that_came_from_another_server_names_it_and_its_place_there() {
    let mut shop = Shop::open("origin").await;
    shop.start().await;
    let set_up = "SELECT pg_replication_origin_create('elsewhere'); SELECT pg_replication_origin_session_setup('elsewhere')";
    shop.sql.run(set_up).await;
    shop.sql
        .run(
            "BEGIN; SELECT pg_replication_origin_xact_setup('16/B374D848', now()); \
             INSERT INTO orders VALUES (1, 'theirs'); UPDATE orders SET note = 'changed'; COMMIT",
        )
        .await;
    let end = "SELECT pg_replication_origin_session_reset(); SELECT pg_replication_origin_drop('elsewhere')";
    shop.sql.run(end).await;
    shop.rows(2..=2).await;
    shop.expect_changes(&[("c", 1), ("u", 1), ("c", 2)]).await;
    let theirs = (json!("elsewhere"), json!(0x16_B374_D848_u64));
    for (event, expected) in
        shop.events("public.orders").await.iter().zip([theirs.clone(), theirs, (Json::Null, Json::Null)])
    {
        let source = &event.value.as_ref().unwrap()["source"];
        assert_eq!((&source["origin"], &source["origin_lsn"]), (&expected.0, &expected.1));
    }
}

#[tokio::test]
async fn deletes_leave_no_tombstone_where_the_file_says_so() {
    let mut shop = Shop::open("no-tombstones").await;
    shop.file.set("format/tombstones", false);
    shop.start().await.rows(1..=1).await;
    shop.sql.run("DELETE FROM orders").await;
    shop.expect_changes(&[("c", 1), ("d", 1)]).await;
}

#[tokio::test]
async fn a_changed_primary_key_is_a_delete_a_tombstone_and_a_create() {
    let mut shop = Shop::open("key-change").await;
    shop.start().await.rows(1..=1).await;
    shop.sql.run("UPDATE orders SET id = 7 WHERE id = 1").await;
    shop.expect_changes(&[("c", 1), ("d", 1), ("-", 1), ("c", 7)]).await;
    let events = shop.events("public.orders").await;
    // One change, three parts of it.
    let parts: Vec<[u64; 4]> = events[1..4].iter().map(|event| event.position()).collect();
    assert!(parts.iter().all(|part| part[..3] == parts[0][..3]), "{parts:?}");
    assert_eq!(parts.iter().map(|part| part[3]).collect::<Vec<_>>(), [0, 1, 2]);
    let header = |nth: usize, name: &str| events[nth].header(name).map(str::to_owned);
    assert!(header(1, "__debezium.newkey").is_some_and(|key| key.contains('7')), "{:?}", events[1].headers);
    assert!(header(3, "__debezium.oldkey").is_some_and(|key| key.contains('1')), "{:?}", events[3].headers);
}

#[tokio::test]
async fn truncates_arrive_where_the_file_asks_for_them() {
    let mut shop = Shop::open("truncates").await;
    shop.file.set("format/truncates", true);
    shop.start().await.rows(1..=3).await;
    shop.sql.run("TRUNCATE orders").await;
    shop.rows(4..=4).await;
    let events = shop.settled().await;
    assert_eq!(events.iter().map(|event| event.op()).collect::<Vec<_>>(), ["c", "c", "c", "t", "c"]);
    assert_eq!(events[3].key, None);
}

#[tokio::test]
async fn truncates_are_left_out_unless_the_file_asks_for_them() {
    let mut shop = Shop::open("no-truncates").await;
    shop.start().await.rows(1..=1).await;
    shop.sql.run("TRUNCATE orders").await;
    shop.rows(2..=2).await.expect_rows(1..=2).await;
}

#[tokio::test]
async fn an_unchanged_toast_value_is_marked_and_not_null() {
    let mut shop = Shop::open("toast").await;
    // Stored outside the row, and not compressed away.
    shop.table("papers", "id int PRIMARY KEY, title text, body text, data bytea").await;
    shop.sql.run("ALTER TABLE papers ALTER body SET STORAGE EXTERNAL, ALTER data SET STORAGE EXTERNAL").await;
    shop.capture(&["public.papers"]).start().await;
    shop.sql
        .run("INSERT INTO papers VALUES (1, 'a', repeat('x', 50000), decode(repeat('ab', 50000), 'hex'))")
        .await;
    shop.sql.run("UPDATE papers SET title = 'b'; UPDATE papers SET body = 'short'").await;
    let events = shop.wait_for_events("public.papers", 3).await;
    assert_eq!(events[0].after("body").as_str().map(str::len), Some(50_000));
    assert_eq!(events[1].after("title"), "b");
    assert_eq!(events[1].after("body"), "__debezium_unavailable_value");
    assert_eq!(events[1].after("data"), &hex("__debezium_unavailable_value"));
    assert_eq!(events[2].after("body"), "short");
    assert_eq!(events[2].after("data"), &hex("__debezium_unavailable_value"));
}

#[tokio::test]
async fn replica_identity_full_gives_the_whole_old_row() {
    let mut shop = Shop::open("full").await;
    shop.table("papers", "id int PRIMARY KEY, title text, body text").await;
    shop.sql.run("ALTER TABLE papers REPLICA IDENTITY FULL, ALTER body SET STORAGE EXTERNAL").await;
    shop.capture(&["public.papers"]).start().await;
    shop.sql.run("INSERT INTO papers VALUES (1, 'a', repeat('x', 50000))").await;
    shop.sql.run("UPDATE papers SET title = NULL; DELETE FROM papers").await;
    let events = shop.wait_for_events("public.papers", 4).await;
    let ops: Vec<&str> = events.iter().map(|event| event.op()).collect();
    assert_eq!(ops, ["c", "u", "d", "-"]);
    assert_eq!((events[1].before("title"), events[1].after("title")), (&json!("a"), &Json::Null));
    // With the old row at hand the unchanged value is known.
    assert_eq!(events[1].after("body").as_str().map(str::len), Some(50_000));
    assert_eq!(events[2].before("body").as_str().map(str::len), Some(50_000));
}

#[tokio::test]
async fn replica_identity_by_index_keys_the_events_by_it() {
    let mut shop = Shop::open("by-index").await;
    shop.table("papers", "id int, code text NOT NULL UNIQUE, title text").await;
    shop.sql.run("ALTER TABLE papers REPLICA IDENTITY USING INDEX papers_code_key").await;
    shop.capture(&["public.papers"]).start().await;
    shop.sql.run("INSERT INTO papers VALUES (1, 'x', 'a')").await;
    shop.sql.run("UPDATE papers SET title = 'b'; UPDATE papers SET code = 'y'; DELETE FROM papers").await;
    let events = shop.wait_for_events("public.papers", 7).await;
    let seen: Vec<(&str, Json)> = events
        .iter()
        .map(|event| (event.op(), event.key.clone().unwrap_or_default()["code"].take()))
        .collect();
    let expected = [("c", "x"), ("u", "x"), ("d", "x"), ("-", "x"), ("c", "y"), ("d", "y"), ("-", "y")];
    assert_eq!(seen, expected.map(|(op, code)| (op, json!(code))));
}

#[tokio::test]
async fn events_are_keyed_by_the_columns_that_the_file_names() {
    let mut shop = Shop::open("message-keys").await;
    shop.table("lines", "id int PRIMARY KEY, item text NOT NULL, order_id int NOT NULL").await;
    shop.sql.run("ALTER TABLE lines REPLICA IDENTITY FULL").await;
    shop.file.set("source/postgres/message_keys", keys("public.lines", &["order_id"]));
    shop.capture(&["public.lines"]).start().await;
    shop.sql.run("INSERT INTO lines VALUES (1, 'pen', 7); UPDATE lines SET id = 2").await;
    shop.sql.run("UPDATE lines SET order_id = 8").await;
    let events = shop.wait_for_events("public.lines", 5).await;
    let seen: Vec<(&str, Option<Json>)> =
        events.iter().map(|event| (event.op(), event.key.clone())).collect();
    let expected = [("c", 7), ("u", 7), ("d", 7), ("-", 7), ("c", 8)];
    assert_eq!(seen, expected.map(|(op, order)| (op, Some(json!({"order_id": order})))));
}

#[tokio::test]
async fn a_key_of_a_column_that_the_table_lacks_is_refused_with_its_name() {
    let mut shop = Shop::open("no-such-key").await;
    shop.file.set("source/postgres/message_keys", keys("public.orders", &["nr"]));
    shop.start().await.sql.run("INSERT INTO orders (id) VALUES (1)").await;
    shop.not_ready("FAILED").await.expect_reason(&["public.orders", "nr"]).expect_hint(&["message_keys"]);
}

fn keys(table: &str, columns: &[&str]) -> toml::Value {
    let columns = columns.iter().map(|column| (*column).into()).collect();
    toml::Table::from_iter([(table.to_owned(), toml::Value::Array(columns))]).into()
}

#[tokio::test]
async fn columns_and_operations_that_the_file_leaves_out_are_in_no_event() {
    let mut shop = Shop::open("left-out").await;
    shop.file.set("format/exclude_columns", vec!["public.orders.note"]);
    shop.file.set("format/skip_operations", vec!["update"]);
    shop.start().await.rows(1..=1).await;
    shop.sql.run("UPDATE orders SET note = 'changed'; DELETE FROM orders").await;
    shop.expect_changes(&[("c", 1), ("d", 1), ("-", 1)]).await;
    let events = shop.events("public.orders").await;
    let after = events[0].value.as_ref().map(|value| &value["after"]);
    assert!(after.is_some_and(|after| after["id"] == 1 && after.get("note").is_none()), "{after:?}");
}

#[tokio::test]
async fn a_masked_a_hashed_and_a_cut_column_arrive_so_and_equal_hashes_are_equal_texts() {
    let mut shop = Shop::open("disguised").await;
    shop.table("people", "id int PRIMARY KEY, phone text, email text, note text").await;
    let column = |name: &str, size: i64| toml::Table::from_iter([(name.to_owned(), size.into())]);
    shop.file.set("format/mask_columns", column("public.people.phone", 4));
    shop.file.set("format/truncate_columns", column("*.note", 3));
    shop.file.set("format/hash_columns", vec!["*.email"]).set("format/hash_salt", "pepper");
    shop.capture(&["public.people"]).start().await;
    shop.sql.run("INSERT INTO people VALUES (1, '555', 'a@b', 'abcdef'), (2, NULL, 'a@b', NULL)").await;
    let events = shop.wait_for_events("public.people", 2).await;
    let seen = |nth: usize| ["phone", "email", "note"].map(|name| events[nth].after(name).clone());
    // printf peppera@b | sha256sum
    let hash = "919f9740b9487578d6b6fb432de1eee32c7712a2f90105147f08d8f82c7370a9";
    assert_eq!(seen(0), [json!("****"), json!(hash), json!("abc")]);
    assert_eq!(seen(1), [json!("****"), json!(hash), Json::Null]);
}

#[tokio::test]
async fn a_column_that_cannot_be_masked_stops_the_connector_before_its_first_event() {
    let mut shop = Shop::open("no-mask").await;
    let columns = toml::Table::from_iter([("public.orders.id".to_owned(), 4.into())]);
    shop.file.set("format/mask_columns", columns);
    shop.start_in_any_state().await;
    shop.not_ready("FAILED").await.expect_reason(&["public.orders.id"]).expect_hint(&["exclude_columns"]);
}

#[tokio::test]
async fn an_update_without_a_change_makes_no_event_where_the_file_says_so() {
    let mut shop = Shop::open("unchanged").await;
    shop.sql.run("ALTER TABLE orders REPLICA IDENTITY FULL").await;
    shop.file.set("format/skip_unchanged", true);
    shop.start().await.rows(1..=1).await;
    shop.sql.run("UPDATE orders SET note = note; UPDATE orders SET note = 'changed'").await;
    shop.expect_changes(&[("c", 1), ("u", 1)]).await;
}

#[tokio::test]
async fn a_table_without_a_key_gives_events_without_keys_in_commit_order() {
    let mut shop = Shop::open("no-key").await;
    shop.table("notes", "line int, words text").await;
    shop.sql.run("ALTER TABLE notes REPLICA IDENTITY FULL").await;
    shop.capture(&["public.notes"]).start().await;
    shop.sql.run("INSERT INTO notes SELECT line, 'w' FROM generate_series(1, 50) line").await;
    shop.sql.run("UPDATE notes SET words = 'v' WHERE line = 7; DELETE FROM notes WHERE line = 8").await;
    let events = shop.wait_for_events("public.notes", 52).await;
    assert!(events.iter().all(|event| event.key.is_none() && event.partition == 0), "{events:?}");
    let lines: Vec<i64> = events[..50].iter().filter_map(|event| event.after("line").as_i64()).collect();
    assert_eq!(lines, (1..=50).collect::<Vec<_>>());
    assert_eq!((events[50].op(), events[50].before("words")), ("u", &json!("w")));
    // Nothing could be kept under no key, so there is no tombstone to wait for.
    assert_eq!((events[51].op(), events[51].before("line")), ("d", &json!(8)));
    assert_eq!(events.len(), 52);
}

#[tokio::test]
async fn a_rolled_back_transaction_leaves_nothing_and_a_savepoint_only_what_was_kept() {
    let mut shop = Shop::open("rollbacks").await;
    shop.start().await;
    shop.sql.run("BEGIN; INSERT INTO orders VALUES (90, 'no'); ROLLBACK").await;
    shop.sql
        .run(
            "BEGIN; INSERT INTO orders VALUES (1, 'a'); SAVEPOINT s; INSERT INTO orders VALUES (91, 'no');
             ROLLBACK TO s; INSERT INTO orders VALUES (2, 'b'); COMMIT",
        )
        .await;
    shop.expect_rows(1..=2).await;
}

#[tokio::test]
async fn a_small_source_transaction_lies_in_one_kafka_transaction() {
    let mut shop = Shop::open("whole").await;
    shop.table("items", "id int PRIMARY KEY").await;
    shop.capture(&["public.orders", "public.items"]).start().await;
    shop.sql
        .run(
            "BEGIN; INSERT INTO orders VALUES (1, 'a'); INSERT INTO items SELECT generate_series(1, 500);
             INSERT INTO orders VALUES (2, 'b'); COMMIT",
        )
        .await;
    let orders = shop.settled().await;
    let items = shop.wait_for_events("public.items", 500).await;
    assert_eq!(orders[0].kafka_transaction, orders[1].kafka_transaction);
    assert!(items.iter().all(|item| item.kafka_transaction == items[0].kafka_transaction));
    // The same producer in both topics; its transactions are numbered by partition.
    let producer = |transaction: Option<(i64, u64)>| transaction.map(|(producer, _)| producer);
    assert_eq!(producer(items[0].kafka_transaction), producer(orders[0].kafka_transaction));
    let ids: Vec<Option<i64>> = items.iter().map(|event| event.id()).collect();
    assert_eq!(ids, (1..=500).map(Some).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_column_added_between_two_rows_is_in_the_second_and_not_in_the_first() {
    let mut shop = Shop::open("added-column").await;
    shop.start().await.rows(1..=1).await;
    shop.sql.run("ALTER TABLE orders ADD colour text DEFAULT 'red'").await;
    shop.sql.run("INSERT INTO orders VALUES (2, 'b', 'green')").await;
    let events = shop.settled().await;
    assert_eq!(events[0].value.as_ref().map(|value| value["after"].get("colour").is_some()), Some(false));
    assert_eq!(events[1].after("colour"), "green");
    assert_ne!(events[0].schema_ids.1, events[1].schema_ids.1);
}

#[tokio::test]
async fn the_partitions_of_a_topic_keep_the_order_of_each_key() {
    let mut shop = Shop::open("partitions").await;
    shop.file.set("sink/kafka/topic_defaults/partitions", 3);
    shop.start().await.rows(1..=30).await;
    for round in 1..=3 {
        shop.sql.run(&format!("UPDATE orders SET note = '{round}'")).await;
    }
    let events = shop.wait_for_events("public.orders", 120).await;
    assert_eq!(events.len(), 120);
    for id in 1..=30 {
        let of_key: Vec<_> = events.iter().filter(|event| event.id() == Some(id)).collect();
        assert!(of_key.iter().all(|event| event.partition == of_key[0].partition), "key {id} moved");
        let notes: Vec<&Json> = of_key[1..].iter().map(|event| event.after("note")).collect();
        assert_eq!(notes, ["1", "2", "3"], "key {id}");
    }
    let mut used: Vec<i32> = events.iter().map(|event| event.partition).collect();
    used.sort_unstable();
    used.dedup();
    assert_eq!(used, [0, 1, 2]);
}

#[tokio::test]
async fn many_tables_of_a_schema_have_a_topic_each() {
    let mut shop = Shop::open("many-tables").await;
    shop.sql
        .run(
            "CREATE SCHEMA wide; DO $$ BEGIN FOR t IN 1..60 LOOP
               EXECUTE format('CREATE TABLE wide.t%s (id int PRIMARY KEY)', t);
             END LOOP; END $$",
        )
        .await;
    shop.capture(&["wide.*"]).start().await;
    shop.sql
        .run(
            "DO $$ BEGIN FOR t IN 1..60 LOOP
               EXECUTE format('INSERT INTO wide.t%s SELECT generate_series(1, %s)', t, t);
             END LOOP; END $$",
        )
        .await;
    for table in [1, 31, 60] {
        let events = shop.wait_for_events(&format!("wide.t{table}"), table).await;
        assert_eq!(events.len(), table);
    }
}

/// Bytes as the reader prints them.
fn hex(text: &str) -> Json {
    Json::String(text.bytes().map(|byte| format!("{byte:02x}")).collect())
}

#[tokio::test]
async fn parts_of_a_captured_table_are_no_strangers_and_a_table_that_is_one_is_named_once() {
    let mut shop = Shop::open("parts").await;
    for table in ["days", "months"] {
        shop.sql
            .run(&format!(
                "CREATE TABLE {table} (id int, day int, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
                 CREATE TABLE {table}_1 PARTITION OF {table} FOR VALUES FROM (0) TO (10);
                 CREATE TABLE {table}_2 PARTITION OF {table} FOR VALUES FROM (10) TO (20)"
            ))
            .await;
    }
    shop.capture(&["public.orders", "public.days"]);
    shop.start().await;
    shop.sql.run("INSERT INTO days VALUES (1, 1), (2, 11)").await;
    shop.wait_for_events("public.days", 2).await;
    assert!(!shop.daemon().log().contains("was it renamed"), "{}", shop.daemon().log());
    shop.sql.run(&format!("ALTER PUBLICATION {} ADD TABLE months", shop.slot())).await;
    shop.sql.run("INSERT INTO months VALUES (3, 3), (4, 14)").await;
    shop.rows(1..=1).await;
    shop.wait_for_events("public.orders", 1).await;
    assert_eq!(shop.daemon().log().matches("was it renamed").count(), 1, "{}", shop.daemon().log());
}

#[tokio::test]
async fn a_large_value_that_an_update_left_alone_is_read_again_where_the_file_asks_for_it() {
    let mut shop = Shop::open("reselect").await;
    shop.table("papers", "id int, part text, n int, body text, other text, PRIMARY KEY (part, id)").await;
    shop.sql
        .run("ALTER TABLE papers ALTER body SET STORAGE EXTERNAL, ALTER other SET STORAGE EXTERNAL")
        .await;
    shop.capture(&["public.papers"]);
    shop.file.set("format/encoding", "json");
    shop.file.set("source/postgres/reselect_columns", vec!["public.papers.body"]);
    shop.start().await;
    shop.sql.run("INSERT INTO papers VALUES (1, 'it''s', 1, repeat('b', 5000), repeat('o', 5000))").await;
    shop.sql.run("UPDATE papers SET n = 2").await;
    let (topic, bootstrap) = (shop.topic("public.papers"), shop.servers.kafka.bootstrap());
    let after = wait_for_records(&bootstrap, &[&topic], 2).await[1].json()["after"].clone();
    assert_eq!((&after["n"], after["body"].as_str().map(str::len)), (&json!(2), Some(5000)));
    assert_eq!(after["other"], "__debezium_unavailable_value");
    // Gone before it can be read: what was not sent stays unknown.
    shop.sql.run("BEGIN; UPDATE papers SET n = 3; DELETE FROM papers; COMMIT").await;
    let last = wait_for_records(&bootstrap, &[&topic], 5).await[2].json()["after"].clone();
    assert_eq!((&last["n"], &last["body"]), (&json!(3), &after["other"]));
}

#[tokio::test]
async fn a_changed_column_is_as_its_transaction_left_it_though_a_standby_holds_that_up() {
    let servers = Arc::new(Servers::with(Own::postgres()).await);
    let mut shop = Shop::on(&servers, "unseen").await;
    shop.file.set("format/encoding", "json").set("format/json_schemas", true);
    shop.start().await;
    shop.sql.run("ALTER TABLE orders ADD COLUMN size int NOT NULL DEFAULT 7").await;
    let size_of = async |count: usize| {
        let topic = format!("{}.public.orders", shop.name);
        let records = wait_for_records(&shop.servers.kafka.bootstrap(), &[&topic], count).await;
        let row = &records.last().expect("a record").json()["schema"]["fields"][1];
        let size = row["fields"].as_array().expect("fields").last().cloned().expect("a field");
        json!([size["field"], size["optional"], size["default"]])
    };
    shop.sql.run("INSERT INTO orders VALUES (1, 'one')").await;
    assert_eq!(size_of(1).await, json!(["size", false, 7]));
    hold_commits(&shop).await;
    // Its commit is in the log, and streamed, and the catalog shows nothing of it.
    let session = shop.sql.another().await;
    let held = tokio::spawn(async move {
        session
            .run("ALTER TABLE orders ALTER size SET DEFAULT 8; INSERT INTO orders VALUES (2, 'two')")
            .await;
    });
    until("it is waited for", async || {
        shop.daemon().log().contains("in the log and not visible yet").then_some(())
    })
    .await;
    shop.sql.run("ALTER SYSTEM RESET synchronous_standby_names").await;
    shop.sql.run("SELECT pg_reload_conf()").await;
    held.await.expect("the transaction is committed");
    assert_eq!(size_of(2).await, json!(["size", false, 8]));
}

#[tokio::test]
async fn a_commit_that_waits_for_the_daemon_itself_is_delivered_and_its_columns_are_right_from_then_on() {
    let servers = Arc::new(Servers::with(Own::postgres()).await);
    let mut shop = Shop::on(&servers, "unseen-own").await;
    shop.start().await;
    shop.rows(1..=1).await.expect_rows(1..=1).await;
    // Every connection that reads the log counts, and there is no other.
    wait_for_standby(&shop, "*").await;
    shop.sql
        .run("ALTER TABLE orders ADD COLUMN size int NOT NULL DEFAULT 7; INSERT INTO orders VALUES (2, 'x')")
        .await;
    shop.expect_rows(1..=2).await;
    until("the table is described anew", async || {
        shop.sql.run("INSERT INTO orders (id, note) SELECT max(id) + 1, 'y' FROM orders").await;
        let events = shop.settled().await;
        let [.., before, last] = events.as_slice() else { return None };
        (before.schema_ids.1 != last.schema_ids.1).then_some(())
    })
    .await;
}
