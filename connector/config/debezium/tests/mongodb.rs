//! What Debezium's connector for MongoDB is told of collections, snapshots and signals.

use millrace_mongodb::config::{Scope, Settings, Snapshot};

use super::*;

/// The file without a list of collections, and with these properties.
fn without_list(properties: &[(&str, &str)]) -> String {
    let text =
        MONGODB_FILE.replace("  \"collection.include.list\": \"shop[.]orders, shop\\\\.items\",\n", "");
    assert_ne!(text, MONGODB_FILE);
    properties.iter().fold(text, |text, (property, value)| with(&text, property, value))
}

fn source(text: &str) -> Settings {
    match read(text).unwrap().source {
        Source::Mongodb(source) => *source,
        Source::Postgres(_) => panic!("the wrong source"),
    }
}

#[test]
fn a_collection_is_captured_where_both_lists_name_it() {
    let both = |databases: &str, collections: &str| {
        let lists = [("database.include.list", databases), ("collection.include.list", collections)];
        without_list(&lists)
    };
    for (databases, collections, wanted, unwanted) in [
        ("shop", "shop\\.orders,other\\.orders", "shop.orders", "other.orders"),
        ("sh.*", "shop[.]orders,other[.]orders", "shop.orders", "other.orders"),
        ("shop", ".*\\.orders", "shop.orders", "other.orders"),
        ("s.*p,x", ".*[.](orders|items)", "shop.items", "other.items"),
        ("shop,x", ".*", "shop.orders", "other.orders"),
        ("shop", "shop\\..*", "shop.orders", "other.orders"),
    ] {
        let source = source(&both(databases, collections));
        let is_wanted = |name: &str| name.split_once('.').is_some_and(|(d, c)| source.wants(d, c));
        assert!(is_wanted(wanted) && !is_wanted(unwanted), "{databases} and {collections}: {source:?}");
    }
    let text = messages(&both("shop", "other\\.orders"));
    assert!(text.contains("collection.include.list: names no collection of the databases in"), "{text}");
}

#[test]
fn the_target_of_a_narrow_stream_is_what_it_captures() {
    let of = |scope: &str, target: &str| {
        source(&without_list(&[("capture.scope", scope), ("capture.target", target)]))
    };
    let database = of("database", "shop");
    assert_eq!(database.scope, Scope::Database("shop".into()));
    assert!(database.wants("shop", "any") && !database.wants("other", "any"));
    let collection = of("collection", "shop.orders");
    assert_eq!(collection.scope, Scope::Collection("shop".into(), "orders".into()));
    let listed = with(&with(MONGODB_FILE, "capture.scope", "database"), "capture.target", "shop");
    assert!(source(&listed).wants("shop", "items") && !source(&listed).wants("shop", "any"));
}

#[test]
fn a_snapshot_is_had_where_it_goes_on_with_the_changes_and_each_other_mode_has_its_own_reason() {
    let mode = |mode: &str, flags: &[(&str, &str)]| {
        let text = MONGODB_FILE.replace("\"no_data\"", &format!("{mode:?}"));
        flags.iter().fold(text, |text, (flag, value)| {
            with(&text, &format!("snapshot.mode.configuration.based.{flag}"), value)
        })
    };
    let stream = ("start.stream", "true");
    assert_eq!(source(&mode("initial", &[])).snapshot, Snapshot::Initial);
    let based = "configuration_based";
    assert_eq!(source(&mode(based, &[stream, ("snapshot.data", "true")])).snapshot, Snapshot::Initial);
    assert_eq!(source(&mode(based, &[stream])).snapshot, Snapshot::NoData);
    for (refused, flags, why) in [
        ("always", &[][..], "the signal execute-snapshot"),
        ("initial_only", &[], "a connector goes on with the changes"),
        ("when_needed", &[], "what was lost is not replaced unasked"),
        ("custom", &[], "it names Java code"),
        ("sometimes", &[], "it is none of Debezium's"),
        (based, &[], "start.stream: false cannot be had"),
        (based, &[stream, ("snapshot.on.data.error", "true")], "snapshot.on.data.error: true cannot be had"),
    ] {
        let text = messages(&mode(refused, flags));
        assert!(text.contains(why), "{refused}: {text}");
    }
}

#[test]
fn what_a_snapshot_reads_of_which_collections_and_where_a_first_start_begins_is_taken_over() {
    let of = |properties: &[(&str, &str)]| {
        properties.iter().fold(MONGODB_FILE.to_owned(), |text, (name, value)| with(&text, name, value))
    };
    let overrides = "snapshot.collection.filter.overrides";
    let filter = (&*format!("{overrides}.shop.orders"), r#"{"qty": {"$gt": 5}}"#);
    let source = source(&of(&[
        ("snapshot.max.threads", "3"),
        ("snapshot.include.collection.list", "shop[.]orders"),
        (overrides, "shop.orders"),
        filter,
        ("capture.start.op.time", "7301444403000000002"),
    ]));
    assert_eq!(source.snapshot_workers, 3);
    assert!(source.reads("shop", "orders") && !source.reads("shop", "items"));
    assert!(source.snapshot_filter("shop", "orders").is_some_and(|filter| filter.get("qty").is_ok()));
    assert!(source.snapshot_filter("shop", "items").is_none());
    assert_eq!(source.start_at.map(|time| time.0), Some(7_301_444_403_000_000_002));
    assert_eq!(self::source(&of(&[("capture.start.op.time", "-1")])).start_at, None);
    for (properties, expected) in [
        (&[filter][..], "shop.orders is not in snapshot.collection.filter.overrides"),
        (&[(overrides, "shop.orders")], "snapshot.collection.filter.overrides.shop.orders: is missing"),
        (&[(overrides, "shop.orders"), (filter.0, "qty > 5")], "is no query in JSON"),
    ] {
        let text = messages(&of(properties));
        assert!(text.contains(expected), "{expected}: {text}");
    }
}

#[test]
fn signals_are_heard_from_a_collection_and_from_a_topic_and_from_nowhere_else() {
    let signals = with(MONGODB_FILE, "signal.data.collection", "ops.signals");
    let name = source(&signals).signal_collection.expect("a collection of signals");
    assert_eq!(name.to_string(), "ops.signals");
    assert!(source(&with(&signals, "signal.enabled.channels", "kafka")).signal_collection.is_none());
    let text = messages(&with(&signals, "signal.enabled.channels", "source,file"));
    assert!(text.contains("\"file\" cannot be had, only source and kafka"), "{text}");
    let narrow = with(&with(&signals, "capture.scope", "database"), "capture.target", "shop");
    let text = messages(&narrow);
    assert!(text.contains("signal.data.collection") && text.contains("is not seen by a stream on"), "{text}");
}

#[test]
fn the_event_router_of_documents_takes_the_options_of_collections() {
    let router = |options: &[(&str, &str)]| {
        let class = "io.debezium.connector.mongodb.transforms.outbox.MongoEventRouter";
        let text = with(&with(MONGODB_FILE, "transforms", "o"), "transforms.o.type", class);
        options
            .iter()
            .fold(text, |text, (option, value)| with(&text, &format!("transforms.o.{option}"), value))
    };
    let text = router(&[
        ("collection.expand.json.payload", "true"),
        ("collection.field.event.key", "owner"),
        ("collection.fields.additional.placement", "team:header,v:envelope:version"),
        ("collection.op.invalid.behavior", "fatal"),
        ("route.tombstone.on.empty.payload", "true"),
    ]);
    let connector = read(&text).unwrap();
    let outbox = connector.format.routes[0].outbox.as_ref().unwrap();
    let routed = outbox.routed.as_ref().unwrap();
    assert_eq!((outbox.aggregate.as_str(), outbox.on_update), ("owner", OnUpdate::Stop));
    assert!(outbox.tombstone_on_empty && routed.expand && outbox.id.is_none());
    let placed: Vec<_> = routed.placed.iter().map(|one| (one.name.as_str(), one.at)).collect();
    assert_eq!(placed, [("team", Placement::Header), ("version", Placement::Envelope)]);
    // That of rows has other names, and a null of an expanded payload is kept in any case.
    for option in ["table.expand.json.payload", "collection.json.payload.null.behavior"] {
        let said = messages(&router(&[(option, "true")]));
        assert!(said.contains(&format!("transforms.o.{option}: is not a property")), "{said}");
    }
}
