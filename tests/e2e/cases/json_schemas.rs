//! Events of an outbox with a registered schema: JSON Schema, declared, registered by somebody else or derived; and
//! Avro that is inferred of payloads.

use millrace_e2e::{Bare, Shop, run_to_end, wait_for_records};
use millrace_ledger::avro::Registry;
use serde_json::{Value as Json, json};

const OUTBOX: &str = "id text PRIMARY KEY, aggregateid text NOT NULL, type text NOT NULL, payload text";

/// A shop with an outbox whose events go to `<name>.events`; `more` is what its section says besides, by the shop's name.
async fn shop(name: &str, more: impl Fn(&str) -> String) -> Shop {
    let mut shop = Shop::open(name).await;
    shop.table("outbox", OUTBOX).await;
    shop.sql.run("ALTER TABLE outbox REPLICA IDENTITY FULL").await;
    shop.capture(&["public.orders", "public.outbox"]);
    shop.file.set("format/encoding", "json");
    lay(&mut shop, &more);
    shop.file.set("sink/kafka/topics/*.dead-letters/config/cleanup.policy", "compact");
    shop.file.set("sink/kafka/topics/*.dead-letters/partitions", 1);
    shop
}

fn lay(shop: &mut Shop, more: impl Fn(&str) -> String) {
    let (name, more) = (shop.name.clone(), more(&shop.name));
    let route = format!(
        "[[route]]\nrelations = [\"public.outbox\"]\nenvelope = \"outbox\"\ntopic = \"{name}.events\"\n\
         on_reject = \"dead_letter\"\n[route.outbox]\n{more}"
    );
    shop.file.lay(&route);
}

/// `schema_type = "json"` under subjects of this test's own.
fn typed(name: &str, more: &str) -> String {
    format!("subject = \"{name}.{{type}}\"\nschema_type = \"json\"\n{more}")
}

async fn write(shop: &Shop, id: &str, kind: &str, payload: &str) {
    let insert = format!("INSERT INTO outbox VALUES ('{id}', 'a', '{kind}', '{payload}')");
    shop.sql.run(&insert).await;
}

async fn events(shop: &Shop, count: usize) -> Vec<Bare> {
    wait_for_records(&shop.servers.kafka.bootstrap(), &[&format!("{}.events", shop.name)], count).await
}

async fn letters(shop: &Shop, count: usize) -> Vec<(String, String)> {
    let topic = format!("{}.dead-letters", shop.name);
    let found = wait_for_records(&shop.servers.kafka.bootstrap(), &[&topic], count).await;
    let text = |letter: &Bare, name: &str| letter.header(name).unwrap_or_default().to_owned();
    found.iter().map(|letter| (text(letter, "error.code"), text(letter, "error.message"))).collect()
}

fn replay(shop: &Shop) -> String {
    let file = shop.write_file().display().to_string();
    run_to_end(&["dead-letters", &file, "replay", "--yes"], shop.dir()).text()
}

fn check(shop: &Shop) -> String {
    run_to_end(&["check", &shop.write_file().display().to_string()], shop.dir()).text()
}

fn paid() -> Json {
    json!({"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "required": ["amount"],
        "properties": {"amount": {"type": "number", "minimum": 0}}})
}

#[tokio::test]
async fn json_behind_the_id_of_a_declared_schema_is_what_was_written_and_misfits_are_letters() {
    let mut shop = shop("json-declared", |_| String::new()).await;
    let file = shop.dir().join("paid.json");
    std::fs::write(&file, paid().to_string()).expect("a file");
    let text = format!("${{file:{}}}", file.display());
    lay(&mut shop, |name| typed(name, &format!("schemas = {{ \"{name}.paid\" = \"{text}\" }}")));
    shop.start().await;
    write(&shop, "1", "paid", r#" {"amount" : 12.500, "list":[ ], "none":null}"#).await;
    write(&shop, "2", "paid", r#"{"amount": -7777}"#).await;
    write(&shop, "3", "unknown", "{}").await;
    shop.kill();
    write(&shop, "4", "paid", r#"{"amount":1}"#).await;
    shop.start().await;
    let events = events(&shop, 2).await;
    let seen: Vec<_> = events.iter().map(Bare::framed_json).collect();
    assert_eq!(seen[0].1, r#" {"amount" : 12.500, "list":[ ], "none":null}"#);
    assert_eq!((seen[1].0, seen[1].1, seen.len()), (seen[0].0, r#"{"amount":1}"#, 2));
    assert_eq!(shop.subjects().by_id(seen[0].0).await, ("JSON".to_owned(), paid()));
    assert_eq!(shop.subjects().versions(&format!("{}.paid", shop.name)).await, 1);
    let letters = letters(&shop, 2).await;
    assert_eq!(letters[0].0, "schema_misfit");
    let broken = "/amount breaks minimum (#/properties/amount/minimum)";
    assert!(letters[0].1.ends_with(broken) && !letters[0].1.contains("7777"), "{letters:?}");
    assert_eq!(letters[1].0, "no_schema");
}

#[tokio::test]
async fn bare_json_has_the_id_of_the_registry_s_newest_schema_in_a_header() {
    let header = "schema_id = \"header\"\nschema_id_header = \"x-schema\"";
    let mut shop = shop("json-newest", |name| typed(name, header)).await;
    let (subjects, made) = (shop.subjects(), format!("{}.made", shop.name));
    let closed = |names: &[&str]| {
        let properties: Json =
            names.iter().map(|name| (name.to_string(), json!({"type": "integer"}))).collect();
        json!({"type": "object", "properties": properties, "additionalProperties": false})
    };
    subjects.register_json(&made, &closed(&["a"])).await;
    shop.start().await;
    write(&shop, "1", "made", r#"{"a": 1}"#).await;
    events(&shop, 1).await;
    write(&shop, "2", "made", r#"{"a": 1, "b": 2}"#).await;
    write(&shop, "3", "late", r#"{"c": 3}"#).await;
    let told = letters(&shop, 2).await;
    assert!(
        told[0].1.ends_with("the value breaks additionalProperties by b (#/additionalProperties)"),
        "{told:?}"
    );
    assert_eq!(told[1].0, "no_schema");
    // Services deploy their schemas, and what waited is delivered; no restart is needed.
    subjects.register_json(&made, &closed(&["a", "b"])).await;
    subjects.register_json(&format!("{}.late", shop.name), &closed(&["c"])).await;
    assert_eq!(replay(&shop).matches("delivered").count(), 2);
    write(&shop, "4", "made", r#"{"b": 4}"#).await;
    let events = events(&shop, 4).await;
    for (id, text, names) in [
        ("1", r#"{"a": 1}"#, &["a"][..]),
        ("2", r#"{"a": 1, "b": 2}"#, &["a", "b"]),
        ("3", r#"{"c": 3}"#, &["c"]),
        ("4", r#"{"b": 4}"#, &["a", "b"]),
    ] {
        let event = events.iter().find(|event| event.header("id") == Some(id)).expect("the event");
        assert_eq!(event.value.as_deref(), Some(text));
        let schema = event.header("x-schema").and_then(|id| id.parse().ok()).expect("an id");
        assert_eq!(subjects.by_id(schema).await, ("JSON".to_owned(), closed(names)), "{id}");
    }
}

#[tokio::test]
async fn a_derived_schema_takes_a_member_more_where_its_subject_keeps_to_what_was() {
    let field = |name: &str, from: &str| format!("[[route.outbox.fields]]\nname = \"{name}\"\n{from}\n");
    let fields = field("eventId", "column = \"id\"") + &field("data", "column = \"payload\"");
    let more = |name: &str| typed(name, "derive_schemas = true\n") + &fields;
    let mut shop = shop("json-derived", more).await;
    keep_to(&mut shop, "made", "BACKWARD");
    shop.start().await;
    write(&shop, "1", "made", r#"{"any": "thing"}"#).await;
    events(&shop, 1).await;
    shop.kill();
    lay(&mut shop, |name| more(name) + &field("source", "text = \"shop\""));
    shop.start().await;
    write(&shop, "2", "made", "[1]").await;
    let events = events(&shop, 2).await;
    let seen: Vec<_> = events.iter().map(Bare::framed_json).collect();
    assert_eq!(seen[0].1, r#"{"eventId":"1","data":{"any": "thing"}}"#);
    assert_eq!(seen[1].1, r#"{"eventId":"2","data":[1],"source":"shop"}"#);
    let (of, schema) = shop.subjects().by_id(seen[1].0).await;
    let text = json!({"type": ["string", "null"]});
    let properties = json!({"eventId": text, "data": {}, "source": {"type": "string"}});
    assert_eq!((of.as_str(), &schema["properties"]), ("JSON", &properties));
    assert_eq!(shop.subjects().versions(&format!("{}.made", shop.name)).await, 2);
}

/// How later schemas of `<name>.<end>` have to relate to earlier ones.
fn keep_to(shop: &mut Shop, end: &str, level: &str) -> String {
    let subject = format!("{}.{end}", shop.name);
    shop.file.set(&format!("format/compatibility/{subject}"), level);
    subject
}

#[tokio::test]
async fn a_json_schema_that_the_registry_refuses_as_incompatible_holds_its_events_and_names_the_subject() {
    let declared = |name: &str| typed(name, &format!("schemas = {{ \"{name}.paid\" = '{}' }}", paid()));
    let mut shop = shop("json-refused", declared).await;
    let (subjects, subject) = (shop.subjects(), format!("{}.paid", shop.name));
    let other = json!({"type": "object", "properties": {"amount": {"type": "string"}}});
    subjects.register_json(&subject, &other).await;
    subjects.set_compatibility(&subject, "FULL").await;
    shop.start().await;
    write(&shop, "1", "paid", r#"{"amount":1}"#).await;
    let end = shop.sql.log_end().await;
    let held = shop.not_ready("DEGRADED").await;
    held.expect_reason(&["public.outbox", &subject, "incompatible"]).expect_hint(&["compatib"]);
    assert!(shop.confirmed().await < end, "the event was confirmed and is lost");
    subjects.set_compatibility(&subject, "NONE").await;
    shop.kill().start().await;
    assert_eq!(events(&shop, 1).await[0].framed_json().1, r#"{"amount":1}"#);
}

#[tokio::test]
async fn check_names_a_schema_that_is_missing_and_one_that_cannot_be_read() {
    let one = |name: &str| format!("subject = \"{name}-all\"\nschema_type = \"json\"\n");
    let mut shop = shop("json-checked", one).await;
    let (name, subjects) = (shop.name.clone(), shop.subjects());
    let (subject, of_all) = (format!("{name}-all"), format!("  subject {name}-all"));
    let (fails, passes) = (format!("FAIL{of_all}"), format!("pass{of_all}"));
    let expect = |told: String, parts: &[&str]| {
        assert!(parts.iter().all(|part| told.contains(part)), "{parts:?}: {told}");
    };
    expect(check(&shop), &[&fails, "the registry knows no such subject"]);
    lay(&mut shop, |name| typed(name, ""));
    expect(check(&shop), &[&format!("warn  subjects {name}.*"), "the registry knows none"]);
    lay(&mut shop, one);
    let mut idle = paid();
    idle["unevaluatedProperties"] = json!(false);
    subjects.register_json(&subject, &idle).await;
    expect(check(&shop), &[&fails, "#/unevaluatedProperties says nothing in its draft"]);
    subjects.register_json(&subject, &paid()).await;
    expect(check(&shop), &[&passes, "can be read"]);
    lay(&mut shop, |name| format!("subject = \"{name}-all\""));
    expect(check(&shop), &[&fails, "is of type JSON, and the route wants AVRO"]);
    // What the file declares is read before anything else is.
    lay(&mut shop, |name| typed(name, "schemas = { x = '{\"type\": \"strng\"}' }"));
    expect(check(&shop), &["route.outbox.schemas: the schema of subject x is unusable", "#/type"]);
    lay(&mut shop, |name| typed(name, "schemas = { x = \"${file:/nowhere/x.json}\" }"));
    expect(check(&shop), &["route.outbox.schemas.x: cannot read file /nowhere/x.json"]);
}

/// Payloads of Debezium's event router: without a schema of anybody's, in Avro.
const INFERRED: &str = "[route.outbox.routed]\nkey = \"string\"\nvalue = \"avro\"\nexpand = true\n";

#[tokio::test]
async fn avro_that_is_inferred_of_payloads_grows_with_them_and_is_the_same_after_a_crash() {
    let mut shop = shop("inferred", |_| INFERRED.to_owned()).await;
    let subject = keep_to(&mut shop, "events-value", "BACKWARD");
    shop.start().await;
    let payloads = [r#"{"n": 1}"#, r#"{"n": 2, "note": "x", "deep": {"on": true}}"#, r#"{"n": 3}"#];
    for (id, payload) in payloads.iter().enumerate() {
        write(&shop, &id.to_string(), "made", payload).await;
    }
    let mut registry = Registry::new(&shop.servers.registry.url()).expect("a client");
    let before = events(&shop, 3).await;
    shop.kill();
    for (id, payload) in payloads.iter().enumerate() {
        write(&shop, &format!("again-{id}"), "made", payload).await;
    }
    shop.start().await;
    let after = events(&shop, 6).await;
    let ids = |events: &[Bare]| -> Vec<u32> { events.iter().map(|event| event.frame().0).collect() };
    assert_eq!(ids(&after)[3..], ids(&before), "a payload has the schema that it had");
    assert_eq!(ids(&before)[0], ids(&before)[2]);
    let expected = [json!({"n": 1}), json!({"n": 2, "note": "x", "deep": {"on": true}}), json!({"n": 3})];
    for (event, expected) in after.iter().zip(expected.iter().cycle()) {
        assert_eq!(event.avro(&mut registry).await, *expected);
    }
    assert_eq!(shop.subjects().versions(&subject).await, 2);
    let newest = shop.subjects().latest(&subject).await;
    assert!(
        newest[1]["fields"].as_array().expect("fields").iter().all(|field| field["default"].is_null()),
        "{newest}"
    );
}

#[tokio::test]
async fn a_payload_whose_member_changed_its_type_is_a_letter_and_its_neighbours_go_on() {
    let mut shop = shop("inferred-change", |_| INFERRED.to_owned()).await;
    let subject = keep_to(&mut shop, "events-value", "BACKWARD");
    shop.start().await;
    for (id, payload) in [r#"{"n": 1}"#, r#"{"n": "7777"}"#, r#"{"n": 3}"#].into_iter().enumerate() {
        write(&shop, &id.to_string(), "made", payload).await;
    }
    let told = letters(&shop, 1).await;
    assert_eq!(told[0].0, "schema_incompatible");
    let words = ["member n is string and was int", &subject];
    assert!(words.iter().all(|part| told[0].1.contains(part)) && !told[0].1.contains("7777"), "{told:?}");
    assert_eq!(events(&shop, 2).await.len(), 2);
    keep_to(&mut shop, "events-value", "NONE");
    assert_eq!(replay(&shop).matches("delivered").count(), 1);
    let mut registry = Registry::new(&shop.servers.registry.url()).expect("a client");
    let all = events(&shop, 3).await;
    let late = all.iter().find(|event| event.header("id") == Some("1")).expect("the replayed one");
    assert_eq!(late.avro(&mut registry).await, json!({"n": "7777"}));
    assert_eq!(all.len(), 3);
}
