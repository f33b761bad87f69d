//! Files as Kafka Connect is given them.

mod chain;
mod mongodb;

use std::fmt::Write as _;
use std::path::Path;

use millrace_core::encode::Envelope;
use millrace_core::encode::flat::{Arrays, Deletes};
use millrace_core::route::rule::{Converter, OnUpdate, Placement};

use super::*;
use crate::config::Environment;
use crate::config::load;
use crate::config::settings::Connector;
use crate::registry::{Sink, Source};
use millrace_core::route::rename::Rename;

const POSTGRES_FILE: &str = r#"{
  "name": "shop-connector",
  "config": {
    "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
    "tasks.max": "1",
    "plugin.name": "pgoutput",
    "database.hostname": "db.internal",
    "database.port": 5433,
    "database.user": "debe zium",
    "database.password": "hunter2",
    "database.dbname": "shop",
    "topic.prefix": "shop",
    "table.include.list": "public\\.orders,public\\.items_\\d{1\\,3}",
    "key.converter": "io.confluent.connect.avro.AvroConverter",
    "key.converter.schema.registry.url": "http://registry:8081",
    "value.converter": "io.confluent.connect.avro.AvroConverter",
    "value.converter.schema.registry.url": "http://registry:8081",
    "topic.creation.default.partitions": "6",
    "topic.creation.default.replication.factor": "-1",
    "topic.creation.default.cleanup.policy": "compact",
    "producer.override.bootstrap.servers": "kafka-1:9092,kafka-2:9092",
    "producer.override.compression.type": "lz4"
  }
}"#;

const MONGODB_FILE: &str = r#"{
  "name": "docs",
  "connector.class": "io.debezium.connector.mongodb.MongoDbConnector",
  "mongodb.connection.string": "mongodb://mongo-1:27017,mongo-2:27017/?replicaSet=rs0",
  "mongodb.user": "debezium",
  "mongodb.password": "hunter2",
  "topic.prefix": "docs",
  "collection.include.list": "shop[.]orders, shop\\.items",
  "snapshot.mode": "no_data",
  "capture.mode": "change_streams_update_full_with_pre_image",
  "key.converter": "org.apache.kafka.connect.json.JsonConverter",
  "value.converter": "org.apache.kafka.connect.json.JsonConverter",
  "key.converter.schemas.enable": false,
  "value.converter.schemas.enable": false,
  "producer.override.bootstrap.servers": "kafka-1:9092"
}"#;

fn with(file: &str, property: &str, value: &str) -> String {
    file.replace("\"topic.prefix\"", &format!("\"{property}\": {value:?}, \"topic.prefix\""))
}

fn read(text: &str) -> Result<Connector, Vec<Problem>> {
    load::parse_json(text, &Environment::default())
}

fn messages(text: &str) -> String {
    let problems = read(text).expect_err("something is wrong with it");
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_connector_of_postgres_runs_as_it_is() {
    let connector = read(POSTGRES_FILE).unwrap();
    assert_eq!((connector.name.as_str(), connector.format.topic_prefix.as_str()), ("shop-connector", "shop"));
    let Source::Postgres(source) = &connector.source else { panic!("{:?}", connector.source) };
    assert_eq!((source.user.as_str(), source.database.as_str()), ("debe zium", "shop"));
    assert_eq!((source.slot.as_str(), source.publication.as_str()), ("debezium", "dbz_publication"));
    assert!(source.takes_slot && source.create_publication && source.heartbeat_interval.is_none());
    assert!(!source.alter_publication && !source.only_published);
    for (table, expected) in [("orders", true), ("Items_12", true), ("items_1234", false), ("carts", false)] {
        assert_eq!(source.wants("public", table), expected, "{table}");
    }
    let Sink::Kafka(sink, Some(_)) = &connector.sink else { panic!("{:?}", connector.sink) };
    let topic = sink.declared("anything");
    assert_eq!((topic.partitions, topic.replication), (Some(6), None));
    assert_eq!(topic.config.get("cleanup.policy").map(String::as_str), Some("compact"));
}

#[test]
fn what_the_publication_sends_is_captured_where_no_table_is_named_and_only_filtered_alters_it() {
    let unnamed = POSTGRES_FILE
        .replace("\"table.include.list\": \"public\\\\.orders,public\\\\.items_\\\\d{1\\\\,3}\",", "");
    assert_ne!(unnamed, POSTGRES_FILE);
    for (mode, create, alter, only) in [
        ("all_tables", true, false, true),
        ("filtered", true, true, false),
        ("disabled", false, false, true),
        ("no_tables", false, false, true),
    ] {
        let connector = read(&with(&unnamed, "publication.autocreate.mode", mode)).unwrap();
        let Source::Postgres(source) = &connector.source else { panic!("{:?}", connector.source) };
        let found = (source.create_publication, source.alter_publication, source.only_published);
        assert_eq!(found, (create, alter, only), "{mode}");
    }
}

#[test]
fn a_connector_of_mongodb_runs_as_it_is() {
    let connector = read(MONGODB_FILE).unwrap();
    let Source::Mongodb(source) = &connector.source else { panic!("{:?}", connector.source) };
    assert!(
        source.wants("shop", "orders") && source.wants("shop", "items") && !source.wants("shop", "carts")
    );
    assert!(source.pre_images && !source.split_large_events);
}

#[test]
fn its_configuration_is_shown_as_it_was_given_without_its_secrets() {
    let connector = read(POSTGRES_FILE).unwrap();
    let shown = |key: &str| connector.shown.get(key).map(String::as_str);
    assert_eq!(shown("table.include.list"), Some("public\\.orders,public\\.items_\\d{1\\,3}"));
    assert_eq!(shown("database.password"), Some("[hidden]"));
    assert_eq!(
        shown("connector.class"),
        Some("io.debezium.connector.postgresql.PostgresConnector"),
        "tools look for the class that they know"
    );
}

#[test]
fn an_unknown_property_is_answered_with_the_nearest_one() {
    let text = messages(&with(POSTGRES_FILE, "table.inclde.list", "x"));
    assert!(text.contains("table.inclde.list: is not a property"), "{text}");
    assert!(text.contains("did you mean table.include.list?"), "{text}");
}

/// As a worker with Debezium 3.6.3 answers to `PUT /connector-plugins/<class>/config/validate`: each property, and its
/// default where it has one.
const LIVE: [(&str, &str); 2] = [
    (POSTGRES_FILE, include_str!("tests/live_postgres.txt")),
    (MONGODB_FILE, include_str!("tests/live_mongodb.txt")),
];

#[test]
fn every_property_that_a_live_worker_knows_is_taken_with_its_default() {
    for (file, live) in LIVE {
        let defaults = live.lines().filter_map(|line| line.split_once('='));
        for (property, default) in defaults.filter(|(property, _)| !file.contains(&format!("\"{property}\"")))
        {
            // The worker tells one of the two connectors the default of all others.
            if property == "topic.naming.strategy" {
                continue;
            }
            let found = read(&with(file, property, default));
            assert!(found.is_ok(), "{property}={default}: {:?}", found.err());
        }
        for property in live.lines().filter(|line| !line.contains('=')) {
            let text = read(&with(file, property, "x"))
                .err()
                .map(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
            assert!(!text.unwrap_or_default().contains("is not a property"), "{property}");
        }
    }
}

#[test]
fn what_cannot_be_had_is_refused_with_its_reason() {
    for (property, value, expected) in [
        ("transforms", "unwrap", "transforms.unwrap.type: is missing"),
        ("signal.enabled.channels", "source,jmx", "\"jmx\" cannot be had, only source, file and kafka"),
        ("snapshot.locking.mode", "custom", "only none, shared: nothing is locked"),
        ("lsn.flush.mode", "manual", "what is delivered is always confirmed"),
        (
            "time.precision.mode",
            "structured",
            "time.precision.mode: \"structured\" cannot be had, only adaptive",
        ),
        (
            "table.exclude.list",
            "a(?!b)",
            "table.exclude.list: \"a(?!b)\" is not an expression that is understood",
        ),
        ("errors.tolerance", "all", "a record that is dropped would be lost"),
        ("heartbeat.interval.ms", "soon", "heartbeat.interval.ms: \"soon\" is no number"),
        ("provide.transaction.metadata", "yes", "must be true or false"),
    ] {
        let text = messages(&with(POSTGRES_FILE, property, value));
        assert!(text.contains(expected), "{property}: {text}");
    }
}

#[test]
fn every_problem_is_listed_at_once() {
    let broken = with(&with(POSTGRES_FILE, "converters", "x"), "post.processors", "y");
    assert_eq!(messages(&broken).lines().count(), 2);
}

#[test]
fn expressions_of_collections_and_whole_databases_are_taken() {
    let text = MONGODB_FILE.replace("shop[.]orders, shop\\\\.items", "shop\\\\..*");
    let connector = read(&text).unwrap();
    let Source::Mongodb(source) = &connector.source else { panic!("{:?}", connector.source) };
    assert!(source.wants("shop", "carts") && !source.wants("other", "carts"));
    let connector = read(&MONGODB_FILE.replace("shop[.]orders", "shop[.](a|b)")).unwrap();
    let Source::Mongodb(source) = &connector.source else { panic!("{:?}", connector.source) };
    assert!(source.wants("shop", "b") && source.wants("shop", "items") && !source.wants("shop", "c"));
    let text = messages(&MONGODB_FILE.replace("shop[.]orders", "shop[.](a"));
    assert!(text.contains("not an expression that is understood"), "{text}");
}

#[test]
fn a_topic_of_signals_is_heard_by_either_connector() {
    let topic = |text: &str| {
        let connector = read(&with(text, "signal.enabled.channels", "kafka")).unwrap();
        let Sink::Kafka(sink, _) = connector.sink else { panic!("no Kafka") };
        sink.signal_topic().map(str::to_owned)
    };
    assert_eq!(topic(POSTGRES_FILE).as_deref(), Some("shop-signal"));
    assert_eq!(topic(&with(MONGODB_FILE, "signal.kafka.topic", "orders")).as_deref(), Some("orders"));
    let connector = read(POSTGRES_FILE).unwrap();
    let Sink::Kafka(sink, _) = connector.sink else { panic!("no Kafka") };
    assert_eq!(sink.signal_topic(), None);
}

#[test]
fn the_transform_to_flat_documents_is_ours_and_no_other_is() {
    let transformed = |options: &[(&str, &str)]| {
        let mut text = with(MONGODB_FILE, "transforms", "unwrap");
        for (option, value) in options {
            text = with(&text, &format!("transforms.unwrap.{option}"), value);
        }
        text
    };
    let kind = ("type", "io.debezium.connector.mongodb.transforms.ExtractNewDocumentState");
    let connector = read(&transformed(&[
        kind,
        ("array.encoding", "document"),
        ("delete.tombstone.handling.mode", "rewrite-with-tombstone"),
        ("flatten.struct", "true"),
        ("flatten.struct.delimiter", "-"),
        ("add.fields", "op,source.ts_ms:at"),
        ("add.headers", "op"),
        ("add.headers.prefix", "x-"),
    ]))
    .unwrap();
    let flat = &connector.format.flat;
    assert_eq!(connector.format.envelope, Envelope::Flat);
    assert_eq!((flat.arrays, flat.deletes), (Arrays::Members, Deletes::RewriteWithTombstone));
    assert_eq!(flat.delimiter.as_deref(), Some("-"));
    let names: Vec<&str> = flat.fields.iter().chain(&flat.headers).map(|added| added.name.as_str()).collect();
    assert_eq!(names, ["__op", "__at", "x-op"]);
    let text = messages(&transformed(&[("type", "org.apache.kafka.connect.transforms.Filter$Value")]));
    assert!(text.contains("transforms.unwrap.type"), "{text}");
    let text = messages(&transformed(&[kind, ("route.by.field", "x")]));
    assert!(text.contains("transforms.unwrap.route.by.field: cannot be had"), "{text}");
}

#[test]
fn the_transform_to_flat_rows_is_ours_and_what_it_cannot_do_is_refused_with_the_reason() {
    let class = "io.debezium.transforms.ExtractNewRecordState";
    let transformed = |options: &[(&str, &str)]| {
        let of =
            |(option, value): &(&str, &str)| (format!("transforms.unwrap.{option}"), (*value).to_owned());
        let named: Vec<(String, String)> = options.iter().map(of).collect();
        let named = named.iter().map(|(option, value)| (option.as_str(), value.as_str()));
        let first = [("transforms", "unwrap"), ("transforms.unwrap.type", class)];
        with_all(&first.into_iter().chain(named).collect::<Vec<_>>())
    };
    let connector = read(&transformed(&[
        ("delete.tombstone.handling.mode", "rewrite"),
        ("add.fields", "op,table,lsn:at"),
        ("add.headers", "db"),
    ]))
    .unwrap();
    let flat = &connector.format.flat;
    assert_eq!((connector.format.envelope, flat.deletes), (Envelope::Flat, Deletes::Rewrite));
    let names: Vec<&str> = flat.fields.iter().chain(&flat.headers).map(|added| added.name.as_str()).collect();
    assert_eq!(names, ["__op", "__table", "__at", "__db"]);
    for (option, value, said) in [
        ("route.by.field", "kind", "set topic_by and topics in a [[route]]"),
        ("drop.fields.header.name", "x", "use column.exclude.list"),
        ("drop.tombstones", "true", "Debezium 3 has delete.tombstone.handling.mode"),
        ("predicate", "some", "for all topics of the connector"),
        ("array.encoding", "array", "is not a property of this connector"),
        ("add.field", "op", "did you mean transforms.unwrap.add.fields?"),
        ("add.fields", "after.x", "is no part of an event"),
    ] {
        let text = messages(&transformed(&[(option, value)]));
        assert!(text.contains(said), "{option}: {text}");
    }
}

fn router(options: &[(&str, &str)]) -> String {
    let text = POSTGRES_FILE
        .replace("\"key.converter\": \"io.confluent.connect.avro.AvroConverter\",", "")
        .replace("\"key.converter.schema.registry.url\": \"http://registry:8081\",", "")
        .replace("\"value.converter\": \"io.confluent.connect.avro.AvroConverter\",", "")
        .replace("\"value.converter.schema.registry.url\": \"http://registry:8081\",", "");
    let mut all: Vec<(&str, &str)> = vec![
        ("transforms", "outbox"),
        ("transforms.outbox.type", "io.debezium.transforms.outbox.EventRouter"),
        ("snapshot.mode", "no_data"),
        ("key.converter", "org.apache.kafka.connect.storage.StringConverter"),
        ("value.converter", "org.apache.kafka.connect.json.JsonConverter"),
        ("value.converter.schemas.enable", "false"),
    ];
    all.retain(|(name, _)| !options.iter().any(|(other, _)| other == name));
    all.extend(options);
    all.iter().fold(text, |text, (property, value)| with(&text, property, value))
}

#[test]
fn the_outbox_event_router_is_a_route_over_all_tables() {
    let connector = read(&router(&[
        ("transforms.outbox.table.field.event.key", "about"),
        ("transforms.outbox.table.field.event.timestamp", "at"),
        ("transforms.outbox.table.op.invalid.behavior", "fatal"),
        (
            "transforms.outbox.table.fields.additional.placement",
            "type:header:eventType,part:partition, a:envelope",
        ),
        ("transforms.outbox.table.expand.json.payload", "true"),
        ("transforms.outbox.table.json.payload.null.behavior", "optional_bytes"),
        ("transforms.outbox.route.topic.regex", "([a-z]+)\\.(.*)"),
        ("transforms.outbox.route.topic.replacement", "$2-events"),
        ("transforms.outbox.route.tombstone.on.empty.payload", "true"),
    ]))
    .unwrap();
    let [route] = &connector.format.routes[..] else { panic!("{:?}", connector.format.routes) };
    assert!(route.relations.iter().any(|pattern| pattern.matches("public.outbox")));
    assert_eq!(route.topic.as_ref().and_then(|rule| rule.topic(&["a.b"])).as_deref(), Some("b-events"));
    let outbox = route.outbox.as_ref().unwrap();
    assert_eq!((outbox.aggregate.as_str(), outbox.timestamp.as_deref()), ("about", Some("at")));
    assert_eq!((outbox.on_update, outbox.tombstone_on_empty), (OnUpdate::Stop, true));
    let routed = outbox.routed.as_ref().unwrap();
    assert_eq!((routed.key, routed.value), (Converter::Text, Converter::Json { schemas: false }));
    assert!(routed.expand && routed.keeps_nulls);
    let placed: Vec<_> = routed.placed.iter().map(|p| (p.column.as_str(), p.at, p.name.as_str())).collect();
    let expected = [
        ("type", Placement::Header, "eventType"),
        ("part", Placement::Partition, "part"),
        ("a", Placement::Envelope, "a"),
    ];
    assert_eq!(placed, expected);
}

#[test]
fn what_the_event_router_cannot_be_told_is_said_in_its_own_words() {
    for (property, value, expected) in [
        (
            "transforms.outbox.table.feld.event.id",
            "x",
            "did you mean transforms.outbox.table.field.event.id?",
        ),
        ("transforms.outbox.predicate", "p", "every table of the connector is an outbox"),
        ("transforms.outbox.table.op.invalid.behavior", "wrn", "cannot be had, only warn, error, fatal"),
        (
            "transforms.outbox.table.fields.additional.placement",
            "a:nowhere",
            "table.fields.additional.placement",
        ),
        ("transforms.outbox.route.topic.regex", "(", "transforms.outbox.route.topic.regex"),
        ("transforms.outbox.route.topic.replacement", "$7", "without a group"),
        ("transforms", "outbox,other", "cannot be had beside \"outbox\""),
        ("value.converter", "io.confluent.connect.protobuf.ProtobufConverter", "behind the event router"),
        ("heartbeat.interval.ms", "1000", "not for structs"),
        ("snapshot.mode", "initial", "snapshot.mode"),
    ] {
        let text = messages(&router(&[(property, value)]));
        assert!(text.contains(expected), "{property}: {text}");
    }
}

#[test]
fn an_event_router_with_one_converter_keeps_the_rest_in_it() {
    let avro = "io.confluent.connect.avro.AvroConverter";
    let text = router(&[
        ("key.converter", avro),
        ("value.converter", avro),
        ("key.converter.schema.registry.url", "http://registry:8081"),
        ("value.converter.schema.registry.url", "http://registry:8081"),
        ("heartbeat.interval.ms", "1000"),
    ])
    .replace("\"value.converter.schemas.enable\": \"false\",", "");
    let connector = read(&text).unwrap();
    assert_eq!(connector.format.encoding, millrace_core::encode::Encoding::Avro);
    assert!(connector.format.heartbeat.is_some());
}

#[test]
fn documents_that_are_there_are_read_unless_the_file_says_otherwise() {
    use millrace_mongodb::config::Snapshot;
    let of = |text: &str| match read(text).unwrap().source {
        Source::Mongodb(source) => source.snapshot,
        Source::Postgres(_) => panic!("the wrong source"),
    };
    assert_eq!(of(MONGODB_FILE), Snapshot::NoData);
    assert_eq!(of(&MONGODB_FILE.replace("  \"snapshot.mode\": \"no_data\",\n", "")), Snapshot::Initial);
    let text = messages(&MONGODB_FILE.replace("\"no_data\"", "\"when_needed\""));
    assert!(text.contains("snapshot.mode: \"when_needed\" cannot be had"), "{text}");
}

#[test]
fn transactions_heartbeats_keys_and_masks_become_ours() {
    let mut text = POSTGRES_FILE.to_owned();
    for (property, value) in [
        ("provide.transaction.metadata", "true"),
        ("topic.transaction", "tx"),
        ("heartbeat.interval.ms", "1500"),
        ("heartbeat.action.query", "UPDATE beat SET at = now()"),
        ("message.key.columns", "(.*)\\.orders:region,id;public\\.x:a"),
        ("column.mask.with.10.chars", ".*\\.phone"),
        ("column.mask.hash.SHA-256.with.salt.CzQ", "public.users.email"),
        ("skipped.operations", "none"),
        ("schema.name.adjustment.mode", "avro_unicode"),
    ] {
        text = with(&text, property, value);
    }
    let connector = read(&text).unwrap();
    let format = &connector.format;
    assert_eq!(format.transactions.as_deref(), Some("shop.tx"));
    let heartbeat = format.heartbeat.as_ref().unwrap();
    assert_eq!((heartbeat.every.as_secs(), heartbeat.topic.as_str()), (2, "__debezium-heartbeat.shop"));
    assert!(format.truncates && format.disguised.len() == 2);
    let Source::Postgres(source) = &connector.source else { panic!("{:?}", connector.source) };
    let key = source.message_key("sales", "orders").unwrap();
    assert_eq!(key, ["region", "id"]);
    assert_eq!(source.heartbeat_query.as_deref(), Some("UPDATE beat SET at = now()"));
}

#[test]
fn a_secret_may_be_a_reference_and_the_brokers_may_come_from_the_environment() {
    let text = POSTGRES_FILE
        .replace("hunter2", "${env:PG_PASSWORD}")
        .replace("\"producer.override.bootstrap.servers\": \"kafka-1:9092,kafka-2:9092\",", "");
    let environment =
        Environment::of(&[("PG_PASSWORD", "x"), ("MILLRACE__SINK__KAFKA__BOOTSTRAP", "kafka:9092")]);
    assert!(load::parse_json(&text, &environment).is_ok());
    assert!(messages(&text).contains("PG_PASSWORD"));
}

/// The table in `configs/debezium.md`.
fn documented() -> String {
    let mut text = String::from(
        "# Debezium's connectors, property by property\n\n\
         A file that ends in `.json` is a connector as Kafka Connect is given it, and runs as it is. Each property\n\
         of Debezium 3.6 and of Kafka Connect is here, with its default there; one that is not here is refused.\n\
         What the worker's own file says (brokers, converters) is written into the connector, or comes as\n\
         `MILLRACE__SINK__KAFKA__BOOTSTRAP`. A test makes this page of the table that the daemon works by.\n",
    );
    for (title, properties) in [
        ("Postgres", POSTGRES),
        ("Both: the outbox event routers, behind transforms.<name>.", outbox::EVENT_ROUTERS),
        ("Postgres: the outbox event router, behind transforms.<name>.", outbox::EVENT_ROUTER),
        ("MongoDB: the outbox event router, behind transforms.<name>.", outbox::MONGO_EVENT_ROUTER),
        ("Both: flat records, behind transforms.<name>.", flat::FLATTENING),
        ("MongoDB: flat records, behind transforms.<name>.", flat::OF_DOCUMENTS),
        ("MongoDB", MONGODB),
        ("Transforms, by the last part of their class", steps::CLASSES),
        ("Both connectors", SHARED),
        ("Kafka Connect", CONNECT),
    ] {
        let _ = write!(text, "\n## {title}\n\n| Property | Default | Here |\n|---|---|---|\n");
        for (name, default, here) in properties {
            let here = match here {
                Here::Becomes(keys) => format!("`{keys}`"),
                Here::Idle(why) => format!("taken, nothing to do: {why}"),
                Here::Only(values, why) => format!("only {}: {why}", values.join(", ")),
                Here::Refused(why) => format!("refused: {why}"),
            };
            let _ = writeln!(text, "| `{name}` | {default} | {here} |");
        }
    }
    text
}

#[test]
fn the_page_of_properties_is_that_of_the_table() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/debezium.md");
    let (found, expected) = (std::fs::read_to_string(&page).unwrap_or_default(), documented());
    if found != expected {
        let made = std::env::temp_dir().join("debezium.md");
        std::fs::write(&made, expected).unwrap();
        panic!("copy {} to {}", made.display(), page.display());
    }
}

#[test]
fn no_property_is_named_twice() {
    for properties in [POSTGRES, MONGODB] {
        let all: Vec<&str> = properties.iter().chain(SHARED).chain(CONNECT).map(|(name, ..)| *name).collect();
        for name in &all {
            assert_eq!(all.iter().filter(|other| other == &name).count(), 1, "{name}");
        }
    }
}

/// A file with these properties.
fn with_all(properties: &[(&str, &str)]) -> String {
    properties.iter().fold(POSTGRES_FILE.to_owned(), |text, (property, value)| with(&text, property, value))
}

#[test]
fn routers_of_topics_become_renames_and_other_transforms_are_refused_with_the_key_to_use() {
    let text = with_all(&[
        ("transforms", "short,shards,flat"),
        ("transforms.short.type", "org.apache.kafka.connect.transforms.RegexRouter"),
        ("transforms.short.regex", "[^.]+\\.(.*)"),
        ("transforms.short.replacement", "$1"),
        ("transforms.short.predicate", "beats"),
        ("transforms.short.negate", "true"),
        ("transforms.shards.type", "io.debezium.transforms.ByLogicalTableRouter"),
        ("transforms.shards.topic.regex", "(.*)_\\d+"),
        ("transforms.shards.topic.replacement", "$1"),
        ("transforms.shards.key.field.name", "shard"),
        ("transforms.shards.key.field.regex", ".*_(\\d+)"),
        ("transforms.shards.key.field.replacement", "$1"),
        ("transforms.flat.type", "io.debezium.transforms.Filter"),
        ("predicates", "beats"),
        ("predicates.beats.type", "org.apache.kafka.connect.transforms.predicates.TopicNameMatches"),
        ("predicates.beats.pattern", ".*heartbeat.*"),
    ]);
    let refused = messages(&text);
    assert!(refused.contains("transforms.flat.type: Filter cannot be had"), "{refused}");
    assert!(refused.contains("set filter in a [[route]]"), "{refused}");
    let renames = read(&with(&text, "transforms", "short,shards")).unwrap().format.renames;
    let short = Rename::new("[^.]+\\.(.*)", "$1").and_then(|rename| rename.only(".*heartbeat.*", true));
    let shards = Rename::new("(.*)_\\d+", "$1").map(|rename| rename.with_schemas(true));
    let shards = shards.and_then(|rename| rename.with_key_field("shard", Some((".*_(\\d+)", "$1"))));
    assert_eq!(renames, [short.unwrap(), shards.unwrap()]);
    let misspelt = messages(&with(&text, "transforms.short.regexp", "x"));
    assert!(misspelt.contains("transforms.short.regexp: is not a property"), "{misspelt}");
}

#[test]
fn the_post_processor_that_reads_values_again_is_ours_and_no_other_is() {
    let reselecting = |options: &[(&str, &str)]| {
        let class = "io.debezium.processors.reselect.ReselectColumnsPostProcessor";
        let text = with_all(&[("post.processors", "again"), ("again.type", class)]);
        options
            .iter()
            .fold(text, |text, (option, value)| with(&text, &format!("again.reselect.{option}"), value))
    };
    let of = |text: &str| match read(text).unwrap().source {
        Source::Postgres(source) => source.reselected,
        other => panic!("{other:?}"),
    };
    let chosen = of(&reselecting(&[
        ("columns.include.list", "public\\.papers:(?:body|.*_text)"),
        ("null.values", "false"),
    ]));
    assert!(chosen.names("public.papers.body") && chosen.names("public.papers.long_text"));
    assert!(!chosen.names("public.papers.note") && !chosen.nulls);
    let all = of(&reselecting(&[("columns.exclude.list", "public\\.papers:note")]));
    assert!(all.names("public.papers.body") && !all.names("public.papers.note") && all.nulls);
    assert!(of(POSTGRES_FILE).is_off());
    let other = messages(&with_all(&[("post.processors", "again"), ("again.type", "x.Other")]));
    assert!(other.contains("only ReselectColumnsPostProcessor can be had"), "{other}");
    let stray = messages(&with(POSTGRES_FILE, "again.type", "x"));
    assert!(stray.contains("again.type: is not a property of this connector"), "{stray}");
}
