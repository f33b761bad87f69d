//! One table, or one type of event, waits while everything else goes on; then what waited goes out, once and in order.

use millrace_e2e::{Bare, Event, Shop, run_to_end, until, wait_for_records, within};
use serde_json::{Value as Json, json};
use std::time::Duration;

use super::registry_faults::gated_shop;

/// Two minutes: what waits is tried again seldom.
const LONG: Duration = Duration::from_secs(120);

/// A shop with a second table, of which five rows are delivered.
async fn shop_with_parcels(name: &str) -> Shop {
    let mut shop = Shop::open(name).await;
    shop.table("parcels", "id bigint PRIMARY KEY, note text").await;
    shop.capture(&["public.orders", "public.parcels"]);
    // Each attempt claims anew.
    shop.trust_commits();
    shop.start().await.rows(1..=5).await.expect_rows(1..=5).await;
    parcels(&shop, 1, 5).await;
    shop.wait_for_events("public.parcels", 5).await;
    shop
}

async fn parcels(shop: &Shop, first: i64, last: i64) {
    shop.sql.run(&format!("INSERT INTO parcels SELECT n, 7 FROM generate_series({first}, {last}) n")).await;
}

/// Gives the table a column of another type, which the registry does not take.
async fn make_incompatible(shop: &Shop) -> String {
    let subject = format!("{}-value", shop.topic("public.parcels"));
    shop.subjects().set_compatibility(&subject, "FULL").await;
    shop.sql.run("ALTER TABLE parcels ALTER note TYPE bigint USING 7").await;
    subject
}

async fn held(shop: &Shop) -> Vec<Json> {
    let status = shop.daemon().own_status(&shop.name).await.unwrap_or_default();
    status["held"].as_array().cloned().unwrap_or_default()
}

async fn wait_until_held(shop: &Shop, relation: &str) -> Json {
    let what = format!("{relation} is held");
    until(&what, async || held(shop).await.into_iter().find(|held| held["relation"] == relation)).await
}

async fn wait_until_released(shop: &Shop) {
    within(LONG, "nothing is held", async || {
        let is_running = shop.daemon().state(&shop.name).await.as_deref() == Some("RUNNING");
        (is_running && held(shop).await.is_empty()).then_some(())
    })
    .await;
}

async fn restart(shop: &Shop) {
    let path = format!("/connectors/{}/tasks/0/restart", shop.name);
    assert_eq!(shop.daemon().post(&path, &json!({})).await, 204);
}

fn ids(events: &[Event]) -> Vec<i64> {
    for pair in events.windows(2) {
        assert!(pair[0].position() < pair[1].position(), "{:?} stands before {:?}", pair[0], pair[1]);
    }
    events.iter().filter_map(Event::id).collect()
}

#[tokio::test]
async fn an_incompatible_change_holds_its_table_alone_and_what_waited_goes_out_once_the_registry_takes_it() {
    let mut shop = shop_with_parcels("held-table").await;
    let subject = make_incompatible(&shop).await;
    parcels(&shop, 6, 8).await;
    let waits_from = shop.sql.log_end().await;
    shop.rows(6..=10).await.expect_rows(1..=10).await;
    let one = wait_until_held(&shop, "public.parcels").await;
    assert!(one["reason"].as_str().is_some_and(|why| why.contains(&subject)), "{one}");
    assert!(one["hint"].as_str().is_some_and(|hint| hint.contains("compatibility")), "{one}");
    shop.not_ready("DEGRADED").await.expect_reason(&["public.parcels", &subject]).expect_hint(&["curl"]);
    // The position says it as soon as one is written.
    shop.rows(11..=15).await.expect_rows(1..=15).await;
    let position = shop.position().await.value;
    assert_eq!(position["held"][0]["relation"], "public.parcels", "{position}");
    assert!(shop.confirmed().await < waits_from, "what waits was confirmed and is lost");
    assert_eq!(shop.daemon().metric("millrace_held", &shop.name).await, Some(1.0));

    // Over crashes too.
    for round in 0..2 {
        shop.kill().start_in_any_state().await;
        let first = 16 + 5 * round;
        shop.rows(first..=first + 4).await.expect_rows(1..=first + 4).await;
        wait_until_held(&shop, "public.parcels").await;
        assert_eq!(shop.events("public.parcels").await.len(), 5);
    }
    assert!(shop.confirmed().await < waits_from, "what waits was confirmed and is lost");

    parcels(&shop, 9, 10).await;
    shop.subjects().set_compatibility(&subject, "NONE").await;
    restart(&shop).await;
    wait_until_released(&shop).await;
    shop.rows(26..=30).await.expect_rows(1..=30).await;
    parcels(&shop, 11, 12).await;
    let events = shop.wait_for_events("public.parcels", 12).await;
    assert_eq!(ids(&events), (1..=12).collect::<Vec<_>>());
    until("the log is let go", async || (shop.confirmed().await > waits_from).then_some(())).await;
    assert!(shop.position().await.value.get("held").is_none());
}

#[tokio::test]
async fn what_waits_is_tried_again_by_itself() {
    let mut shop = shop_with_parcels("held-again").await;
    let subject = make_incompatible(&shop).await;
    parcels(&shop, 6, 8).await;
    wait_until_held(&shop, "public.parcels").await;
    shop.subjects().set_compatibility(&subject, "NONE").await;
    wait_until_released(&shop).await;
    let events = shop.wait_for_events("public.parcels", 8).await;
    assert_eq!(ids(&events), (1..=8).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_crash_while_what_waited_goes_out_loses_and_doubles_nothing() {
    let mut shop = shop_with_parcels("held-death").await;
    let subject = make_incompatible(&shop).await;
    parcels(&shop, 6, 6).await;
    wait_until_held(&shop, "public.parcels").await;
    for first in (7..2_007).step_by(20) {
        parcels(&shop, first, first + 19).await;
        shop.rows(first - 1..=first + 18).await;
    }
    let mut last = 2_006;
    shop.expect_rows(1..=2_005).await;
    shop.subjects().set_compatibility(&subject, "NONE").await;
    for _ in 0..4 {
        let before = shop.events("public.parcels").await.len();
        shop.kill();
        // However soon all of it was out: there is more.
        last += 1;
        parcels(&shop, last, last).await;
        shop.start_in_any_state().await;
        within(LONG, "more goes out", async || {
            (shop.events("public.parcels").await.len() > before).then_some(())
        })
        .await;
    }
    shop.kill().start_in_any_state().await;
    wait_until_released(&shop).await;
    let count = usize::try_from(last).expect("a count");
    let events = shop.wait_for_events("public.parcels", count).await;
    assert_eq!(ids(&events), (1..=last).collect::<Vec<_>>());
    shop.expect_rows(1..=2_005).await;
}

#[tokio::test]
async fn of_a_registry_that_stops_at_the_moment_of_a_new_type_only_that_type_waits() {
    let (mut shop, mut gate) = gated_shop("held-type").await;
    shop.trust_commits();
    shop.table("outbox", "id text PRIMARY KEY, aggregateid text NOT NULL, type text NOT NULL, payload text")
        .await;
    shop.capture(&["public.orders", "public.outbox"]);
    let (name, schema) =
        (shop.name.clone(), json!({"$schema": "http://json-schema.org/draft-07/schema#", "type": "object"}));
    let schemas = format!("schemas = {{ \"{name}.paid\" = '{schema}', \"{name}.sent\" = '{schema}' }}");
    shop.file.set("format/encoding", "json").lay(&format!(
        "[[route]]\nrelations = [\"public.outbox\"]\nenvelope = \"outbox\"\ntopic = \"{name}.{{type}}\"\n\
         [route.outbox]\nsubject = \"{name}.{{type}}\"\nschema_type = \"json\"\n{schemas}"
    ));
    gate.open();
    shop.start().await;
    let bootstrap = shop.servers.kafka.bootstrap();
    let (paid, sent) = (format!("{name}.paid"), format!("{name}.sent"));
    write(&shop, "1", "paid").await;
    wait_for_records(&bootstrap, &[&paid], 1).await;
    gate.shut();
    write(&shop, "2", "sent").await;
    write(&shop, "3", "paid").await;
    shop.rows(1..=3).await;
    assert_eq!(told(&wait_for_records(&bootstrap, &[&paid], 2).await), ["1", "3"]);
    shop.expect_rows(1..=3).await;
    let one = wait_until_held(&shop, "public.outbox").await;
    assert_eq!((&one["where"], &one["topics"]), (&json!({"type": "sent"}), &json!([sent])));
    write(&shop, "4", "sent").await;
    write(&shop, "5", "paid").await;
    assert_eq!(told(&wait_for_records(&bootstrap, &[&paid], 3).await), ["1", "3", "5"]);
    gate.open();
    assert_eq!(told(&wait_for_records(&bootstrap, &[&sent], 2).await), ["2", "4"]);
    wait_until_released(&shop).await;
    write(&shop, "6", "sent").await;
    assert_eq!(told(&wait_for_records(&bootstrap, &[&sent], 3).await), ["2", "4", "6"]);
    assert_eq!(told(&wait_for_records(&bootstrap, &[&paid], 3).await), ["1", "3", "5"]);
}

async fn write(shop: &Shop, id: &str, kind: &str) {
    shop.sql.run(&format!("INSERT INTO outbox VALUES ('{id}', 'a', '{kind}', '{{\"n\": {id}}}')")).await;
}

fn told(events: &[Bare]) -> Vec<&str> {
    events.iter().filter_map(|event| event.header("id")).collect()
}

#[tokio::test]
async fn poison_parks_its_type_of_event_until_the_file_says_otherwise() {
    let mut shop = Shop::open("parked").await;
    shop.trust_commits();
    shop.table("outbox", "id text, aggregateid text, type text, payload text").await;
    shop.sql.run("ALTER TABLE outbox REPLICA IDENTITY FULL").await;
    shop.capture(&["public.orders", "public.outbox"]);
    let route = |name: &str, policy: &str| {
        format!(
            "[[route]]\nrelations = [\"public.outbox\"]\nenvelope = \"outbox\"\ntopic = \"{name}.{{type}}\"\n\
             on_reject = \"{policy}\"\n"
        )
    };
    let name = shop.name.clone();
    shop.file.remove("format/registry").set("format/encoding", "json").lay(&route(&name, "park"));
    shop.file.set("sink/kafka/topics/*.dead-letters/partitions", 1);
    shop.start().await;
    let bootstrap = shop.servers.kafka.bootstrap();
    let (good, fine) = (format!("{name}.good"), format!("{name}.fine"));
    write(&shop, "1", "good").await;
    wait_for_records(&bootstrap, &[&good], 1).await;
    shop.sql.run("INSERT INTO outbox VALUES ('2', 'a', 'good', '{\"n\": ')").await;
    write(&shop, "3", "fine").await;
    write(&shop, "4", "good").await;
    assert_eq!(told(&wait_for_records(&bootstrap, &[&fine], 1).await), ["3"]);
    let one = wait_until_held(&shop, "public.outbox").await;
    assert_eq!(one["topics"], json!([good]));
    shop.rows(1..=3).await.expect_rows(1..=3).await;
    assert_eq!(told(&wait_for_records(&bootstrap, &[&good], 1).await), ["1"]);
    shop.kill();
    shop.file.lay(&route(&name, "dead_letter"));
    shop.start_in_any_state().await;
    assert_eq!(told(&wait_for_records(&bootstrap, &[&good], 2).await), ["1", "4"]);
    let letters = wait_for_records(&bootstrap, &[&format!("{name}.dead-letters")], 1).await;
    assert_eq!(letters[0].header("error.code"), Some("bad_json"));
    wait_until_released(&shop).await;
    assert_eq!(told(&wait_for_records(&bootstrap, &[&fine], 1).await), ["3"]);
    shop.expect_rows(1..=3).await;
}

#[tokio::test]
async fn no_command_moves_a_position_past_what_waits() {
    let mut shop = shop_with_parcels("held-moved").await;
    let subject = make_incompatible(&shop).await;
    parcels(&shop, 6, 8).await;
    wait_until_held(&shop, "public.parcels").await;
    shop.rows(6..=10).await.expect_rows(1..=10).await;
    let file = shop.write_file().display().to_string();
    shop.term().await;
    for words in [
        &["position", &file, "set", "--to", "now", "--yes"][..],
        &["position", &file, "reset", "--yes"],
        &["drain", &file],
    ] {
        let ended = run_to_end(words, shop.dir());
        assert_ne!(ended.code, Some(0), "{words:?}: {}", ended.text());
        assert!(ended.text().contains("public.parcels"), "{words:?}: {}", ended.text());
    }
    shop.subjects().set_compatibility(&subject, "NONE").await;
    shop.start_in_any_state().await;
    shop.wait_for_events("public.parcels", 8).await;
}

#[tokio::test]
async fn two_tables_that_one_migration_alters_wait_both_while_the_rest_goes_on() {
    let mut shop = Shop::open("held-two").await;
    for table in ["parcels", "crates"] {
        shop.table(table, "id bigint PRIMARY KEY, note text").await;
    }
    shop.capture(&["public.orders", "public.parcels", "public.crates"]);
    shop.trust_commits();
    shop.start().await.rows(1..=5).await.expect_rows(1..=5).await;
    shop.sql.run("INSERT INTO parcels VALUES (1, 'a'); INSERT INTO crates VALUES (1, 'a')").await;
    let subject = |table: &str| format!("{}-value", shop.topic(&format!("public.{table}")));
    let subjects = [subject("parcels"), subject("crates")];
    for (table, subject) in ["public.parcels", "public.crates"].iter().zip(&subjects) {
        shop.wait_for_events(table, 1).await;
        shop.subjects().set_compatibility(subject, "FULL").await;
    }
    // In one transaction: the second refusal comes before anything is delivered behind the first one.
    shop.sql
        .run(
            "BEGIN; ALTER TABLE parcels ALTER note TYPE bigint USING 7; ALTER TABLE crates ALTER note TYPE bigint \
             USING 7; INSERT INTO parcels VALUES (2, 7); INSERT INTO crates VALUES (2, 7); COMMIT",
        )
        .await;
    shop.rows(6..=10).await.expect_rows(1..=10).await;
    for table in ["public.parcels", "public.crates"] {
        wait_until_held(&shop, table).await;
    }
    for subject in &subjects {
        shop.subjects().set_compatibility(subject, "NONE").await;
    }
    restart(&shop).await;
    wait_until_released(&shop).await;
    for table in ["public.parcels", "public.crates"] {
        assert_eq!(ids(&shop.wait_for_events(table, 2).await), [1, 2]);
    }
    shop.rows(11..=15).await.expect_rows(1..=15).await;
}

#[tokio::test]
async fn where_the_slot_is_gone_what_waited_can_be_given_up_and_is_named() {
    let mut shop = shop_with_parcels("held-gone").await;
    make_incompatible(&shop).await;
    parcels(&shop, 6, 8).await;
    wait_until_held(&shop, "public.parcels").await;
    shop.rows(6..=10).await.expect_rows(1..=10).await;
    let (file, slot) = (shop.write_file().display().to_string(), shop.slot());
    shop.term().await;
    shop.wait_for_slot(false).await;
    shop.sql.run(&format!("SELECT pg_drop_replication_slot('{slot}')")).await;
    let ended = run_to_end(&["position", &file, "reset", "--yes"], shop.dir());
    assert_eq!(ended.code, Some(0), "{}", ended.text());
    assert!(ended.text().contains("public.parcels"), "{}", ended.text());
}
