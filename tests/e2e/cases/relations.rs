//! Tables, types and transactions that are not, or not any more, as the stream described them.

use std::sync::Arc;

use millrace_e2e::{Own, Servers, Shop, wait_for_records};
use serde_json::{Value as Json, json};

use super::snapshot_changes::hold_commits;

const PAPERS: &str = "public.papers";

/// `papers (id, n, body)`, whose large bodies are read again where updates left them as they were.
async fn reselecting(mut shop: Shop) -> Shop {
    shop.table("papers", "id int PRIMARY KEY, n int, body text").await;
    shop.sql.run("ALTER TABLE papers ALTER body SET STORAGE EXTERNAL").await;
    shop.file.set("format/encoding", "json");
    shop.file.set("source/postgres/reselect_columns", vec!["public.papers.body"]);
    shop.capture(&[PAPERS]);
    shop
}

/// The new row of the newest of so many records of `papers`.
async fn newest(shop: &Shop, count: usize) -> Json {
    let (topic, bootstrap) = (shop.topic(PAPERS), shop.servers.kafka.bootstrap());
    wait_for_records(&bootstrap, &[&topic], count).await[count - 1].json()["after"].clone()
}

#[tokio::test]
async fn rows_from_before_their_key_was_renamed_keep_the_key_that_they_had() {
    let mut shop = Shop::open("renamed-key").await;
    shop.table("papers", "note text, id int PRIMARY KEY, title text").await;
    shop.sql.run("ALTER TABLE papers REPLICA IDENTITY FULL").await;
    shop.file.set("format/encoding", "json");
    shop.capture(&[PAPERS]).start().await;
    shop.sql.run("INSERT INTO papers VALUES ('a', 1, 'b')").await;
    shop.wait_for_events(PAPERS, 1).await;
    shop.kill();
    shop.sql.run("UPDATE papers SET title = 'c'").await;
    shop.sql.run("DELETE FROM papers").await;
    shop.sql.run("ALTER TABLE papers RENAME id TO nr").await;
    shop.sql.run("INSERT INTO papers VALUES ('a', 2, 'b')").await;
    shop.start().await;
    let events = shop.wait_for_events(PAPERS, 5).await;
    let seen: Vec<(&str, Option<Json>)> =
        events.iter().map(|event| (event.op(), event.key.clone())).collect();
    let old = || Some(json!({"id": 1}));
    assert_eq!(seen, [("c", old()), ("u", old()), ("d", old()), ("-", old()), ("c", Some(json!({"nr": 2})))]);
}

#[tokio::test]
async fn rows_whose_key_nobody_knows_any_more_stop_the_connector_until_the_file_names_it() {
    let mut shop = Shop::open("lost-key").await;
    shop.table("papers", "id int PRIMARY KEY, title text").await;
    shop.sql.run("ALTER TABLE papers REPLICA IDENTITY FULL").await;
    shop.file.set("format/encoding", "json");
    shop.capture(&[PAPERS]).start().await;
    shop.kill();
    shop.sql.run("INSERT INTO papers VALUES (1, 'a')").await;
    shop.sql.run("ALTER TABLE papers DROP id; ALTER TABLE papers ADD nr text PRIMARY KEY DEFAULT 'x'").await;
    shop.start_in_any_state().await;
    shop.not_ready("FAILED").await.expect_reason(&[PAPERS, "key"]).expect_hint(&["message_keys"]);
    shop.kill();
    let keys = toml::Table::from_iter([(PAPERS.to_owned(), toml::Value::Array(vec!["id".into()]))]);
    shop.file.set("source/postgres/message_keys", keys);
    shop.start().await;
    assert_eq!(shop.wait_for_events(PAPERS, 1).await[0].key, Some(json!({"id": 1})));
}

#[tokio::test]
async fn a_value_that_cannot_be_read_again_because_its_table_has_changed_stays_as_it_was_sent() {
    let mut shop = reselecting(Shop::open("reselect-renamed").await).await;
    shop.start().await;
    shop.sql.run("INSERT INTO papers VALUES (1, 1, repeat('b', 5000))").await;
    newest(&shop, 1).await;
    shop.kill();
    shop.sql.run("UPDATE papers SET n = 2").await;
    shop.sql.run("ALTER TABLE papers RENAME body TO words").await;
    shop.start().await;
    let row = newest(&shop, 2).await;
    assert_eq!((&row["n"], &row["body"]), (&json!(2), &json!("__debezium_unavailable_value")));
    shop.sql.run("INSERT INTO papers VALUES (2, 3, 'short')").await;
    assert_eq!(newest(&shop, 3).await["words"], "short");
    assert!(shop.daemon().log().contains("the table has changed since"), "{}", shop.daemon().log());
}

#[tokio::test]
async fn a_null_is_not_filled_with_the_value_of_before_while_its_commit_waits_for_a_standby() {
    let servers = Arc::new(Servers::with(Own::postgres()).await);
    let mut shop = reselecting(Shop::on(&servers, "reselect-unseen").await).await;
    shop.file.set("source/postgres/reselect_nulls", true);
    shop.start().await;
    shop.sql.run("INSERT INTO papers VALUES (1, 1, 'old')").await;
    assert_eq!(newest(&shop, 1).await["body"], "old");
    hold_commits(&shop).await;
    let session = shop.sql.another().await;
    let held = tokio::spawn(async move { session.run("UPDATE papers SET body = NULL").await });
    assert_eq!(newest(&shop, 2).await["body"], Json::Null);
    shop.sql.run("ALTER SYSTEM RESET synchronous_standby_names").await;
    shop.sql.run("SELECT pg_reload_conf()").await;
    held.await.expect("the update is committed");
}

#[tokio::test]
async fn an_event_names_the_replication_origin_of_its_transaction() {
    let mut shop = Shop::open("origin").await;
    shop.start().await;
    let origin = shop.slot();
    shop.sql.run(&format!("SELECT pg_replication_origin_create('{origin}')")).await;
    shop.rows(1..=1).await;
    let session = shop.sql.another().await;
    session.run(&format!("SELECT pg_replication_origin_session_setup('{origin}')")).await;
    session.run("INSERT INTO orders VALUES (2, 'two')").await;
    let explicit = "BEGIN; SELECT pg_replication_origin_xact_setup('0/12345', now());
                    INSERT INTO orders VALUES (3, 'three'), (4, 'four'); COMMIT";
    session.run(explicit).await;
    session.run("SELECT pg_replication_origin_session_reset()").await;
    shop.rows(5..=5).await;
    let events = shop.settled().await;
    shop.sql.run(&format!("SELECT pg_replication_origin_drop('{origin}')")).await;
    let source = |event: &millrace_e2e::Event| event.value.clone().unwrap_or_default()["source"].take();
    let seen: Vec<(Option<i64>, Json, Json)> = events
        .iter()
        .map(|event| (event.id(), source(event)["origin"].take(), source(event)["origin_lsn"].take()))
        .collect();
    // Without a word of the origin's own place it is 0, as in Debezium.
    let of = |id, lsn: i64| (Some(id), json!(origin), json!(lsn));
    let own = |id| (Some(id), Json::Null, Json::Null);
    assert_eq!(seen, [own(1), of(2, 0), of(3, 74_565), of(4, 74_565), own(5)]);
}

#[tokio::test]
async fn a_label_that_is_added_while_rows_stream_is_in_the_schema_of_the_first_row_that_has_it() {
    let mut shop = Shop::open("label").await;
    shop.sql.run("CREATE TYPE mood AS ENUM ('sad', 'glad')").await;
    shop.table("papers", "id int PRIMARY KEY, feeling mood, feelings mood[]").await;
    shop.file.set("format/encoding", "json").set("format/json_schemas", true);
    shop.capture(&[PAPERS]).start().await;
    let (topic, bootstrap) = (shop.topic(PAPERS), shop.servers.kafka.bootstrap());
    // The catalog is asked when a table's first change comes: before the label is there.
    shop.sql.run("INSERT INTO papers VALUES (1, 'sad', '{glad}')").await;
    wait_for_records(&bootstrap, &[&topic], 1).await;
    shop.sql.run("ALTER TYPE mood ADD VALUE 'so so' BEFORE 'glad'").await;
    shop.sql.run("INSERT INTO papers VALUES (2, 'so so', '{sad}')").await;
    wait_for_records(&bootstrap, &[&topic], 2).await;
    shop.sql.run("ALTER TYPE mood ADD VALUE 'wild'").await;
    shop.sql.run("INSERT INTO papers VALUES (3, 'sad', '{glad,wild}')").await;
    let records = wait_for_records(&bootstrap, &[&topic], 3).await;
    let allowed = records.iter().map(|record| {
        let schema = &record.json()["schema"]["fields"][1]["fields"][1];
        schema["parameters"]["allowed"].as_str().unwrap_or_default().to_owned()
    });
    assert_eq!(allowed.collect::<Vec<_>>(), ["sad,glad", "sad,so so,glad", "sad,so so,glad,wild"]);
    assert_eq!(records[2].json()["payload"]["after"]["feelings"], json!(["glad", "wild"]));
}

/// A base type that stores text, as far as its name and its delimiter make it one of an extension.
fn base_type(name: &str, more: &str) -> String {
    format!(
        "CREATE TYPE {name};
         CREATE FUNCTION {name}_in(cstring) RETURNS {name} LANGUAGE internal IMMUTABLE STRICT AS 'textin';
         CREATE FUNCTION {name}_out({name}) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
         CREATE TYPE {name} (INPUT = {name}_in, OUTPUT = {name}_out, LIKE = text{more})"
    )
}

#[tokio::test]
async fn types_are_those_of_an_extension_where_they_are_made_as_such_and_not_by_their_names_alone() {
    let mut shop = Shop::open("own-types").await;
    shop.sql.run("CREATE TYPE vector AS (x float8, y float8); CREATE DOMAIN geography AS text").await;
    shop.sql.run(&base_type("geometry", ", DELIMITER = ':'")).await;
    shop.sql.run(&base_type("sparsevec", "")).await;
    let columns = "id int PRIMARY KEY, speed vector, place geography, shapes geometry[], weights sparsevec";
    shop.table("papers", columns).await;
    shop.file.set("format/encoding", "json");
    shop.capture(&[PAPERS]).start().await;
    let point = "0101000000000000000000F03F0000000000000040";
    shop.sql
        .run(&format!(
            "INSERT INTO papers VALUES (1, '(1,2)', 'here', '{{{point}:{point}}}', '{{40000:1.5}}/100000')"
        ))
        .await;
    let row = newest(&shop, 1).await;
    assert_eq!((&row["speed"], &row["place"]), (&json!("(1,2)"), &json!("here")));
    assert_eq!(row["shapes"].as_array().map(Vec::len), Some(2), "{row}");
    assert_eq!(row["weights"], "{40000:1.5}/100000");
}
