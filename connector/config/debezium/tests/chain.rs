//! Transforms that become steps, and those that cannot be had.

use millrace_core::encode::flat::Deletes;
use millrace_core::pattern::Pattern;
use millrace_core::route::step::{Does, Hash, Inserted, Name, Part, Spread, Step};
use millrace_core::route::topics::Topics;
use millrace_core::route::zone::Zone;

use super::*;

const KAFKA: &str = "org.apache.kafka.connect.transforms";

/// Name, class and options.
type Transform<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);

/// A file with these transforms.
fn chain(transforms: &[Transform<'_>]) -> String {
    let names: Vec<&str> = transforms.iter().map(|(name, ..)| *name).collect();
    let mut properties = vec![("transforms".to_owned(), names.join(","))];
    for (name, class, options) in transforms {
        let class = class.replace("kafka.", &format!("{KAFKA}."));
        properties.push((format!("transforms.{name}.type"), class));
        properties.extend(
            options
                .iter()
                .map(|(option, value)| (format!("transforms.{name}.{option}"), (*value).to_owned())),
        );
    }
    for (name, class, pattern) in
        [("orders", "TopicNameMatches", ".*orders"), ("gone", "RecordIsTombstone", "")]
    {
        properties.push((format!("predicates.{name}.type"), format!("{KAFKA}.predicates.{class}")));
        if !pattern.is_empty() {
            properties.push((format!("predicates.{name}.pattern"), pattern.to_owned()));
        }
    }
    for (name, header) in HEADERS {
        properties.push((format!("predicates.{name}.type"), format!("{KAFKA}.predicates.HasHeaderKey")));
        properties.push((format!("predicates.{name}.name"), header.to_owned()));
    }
    properties.push(("predicates".to_owned(), "orders,gone,team,op,run,moved,pay".to_owned()));
    let properties: Vec<(&str, &str)> =
        properties.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    with_all(&properties)
}

/// Predicates that ask for headers.
const HEADERS: [(&str, &str); 5] = [
    ("team", "team"),
    ("op", "__op"),
    ("run", "__debezium.context.runId"),
    ("moved", "__debezium.newkey"),
    ("pay", "pay"),
];

const UNWRAP: Transform<'_> = ("unwrap", "io.debezium.transforms.ExtractNewRecordState", &[]);

fn steps(transforms: &[Transform<'_>]) -> Vec<Step> {
    read(&chain(transforms)).unwrap().format.steps
}

fn does(transforms: &[Transform<'_>]) -> Vec<Does> {
    steps(transforms).into_iter().map(|step| step.does).collect()
}

fn names(names: &[&str]) -> Vec<Name> {
    names.iter().map(|name| Name::parse(name)).collect()
}

#[test]
fn fields_of_the_row_and_of_the_key_are_replaced_in_the_order_of_the_file() {
    let replace: &[(&str, &str)] = &[
        ("include", "a,b"),
        ("exclude", "c"),
        ("renames", "a:x"),
        ("predicate", "gone"),
        ("negate", "true"),
    ];
    let found = does(&[
        UNWRAP,
        ("one", "kafka.ReplaceField$Value", replace),
        ("two", "kafka.ReplaceField$Key", &[("blacklist", "k")]),
    ]);
    let rename = vec![(Name::parse("a?"), "x".to_owned())];
    let expected = [
        Does::Keep { of: Part::Row, fields: names(&["a?", "b?"]) },
        Does::Drop { of: Part::Row, fields: names(&["c?"]) },
        Does::Rename { of: Part::Row, fields: rename },
        Does::Drop { of: Part::Key, fields: names(&["k?"]) },
    ];
    assert_eq!(found, expected);
}

#[test]
fn values_are_masked_and_fields_and_headers_added() {
    let found = does(&[
        UNWRAP,
        ("mask", "kafka.MaskField$Value", &[("fields", "pay"), ("replacement", "7")]),
        ("opt", "kafka.InsertField$Value", &[("static.field", "of"), ("static.value", "shop")]),
        ("req", "kafka.InsertField$Value", &[("static.field", "at!"), ("static.value", "eu")]),
        ("key", "kafka.ValueToKey", &[("fields", "a,b")]),
        ("copy", "kafka.HeaderFrom$Value", &[("fields", "a"), ("headers", "h"), ("operation", "copy")]),
        ("put", "kafka.InsertHeader", &[("header", "team"), ("value.literal", "payments")]),
        ("drop", "kafka.DropHeaders", &[("headers", "x,y")]),
    ]);
    let inserted = |name: &str, text: &str, optional| {
        Does::Insert(vec![Inserted { name: name.into(), text: text.into(), optional }])
    };
    let expected = [
        Does::Replace { fields: names(&["pay?"]), with: Some("7".into()) },
        inserted("of", "shop", true),
        inserted("at", "eu", false),
        Does::Key(names(&["a", "b"])),
        Does::Headers { fields: vec![("h".into(), Name::parse("a"))], moves: false },
        Does::HeaderTexts(vec![("team".into(), "payments".into())]),
        Does::DropHeaders(vec!["x".into(), "y".into()]),
    ];
    assert_eq!(found, expected);
}

#[test]
fn partitions_go_by_fields_of_the_change_and_topics_are_filtered() {
    let fields = ("partition.payload.fields", "change.team, change.id");
    let routing = "io.debezium.transforms.partitions.PartitionRouting";
    let found = steps(&[
        ("part", routing, &[fields, ("partition.topic.num", "6"), ("predicate", "orders")]),
        ("only", "kafka.Filter", &[("predicate", "orders"), ("negate", "true")]),
    ]);
    let spread = Spread { fields: names(&["team?", "id?"]), partitions: Some(6), hash: Hash::Java };
    let step = |negated, does| {
        let topics = Some(Topics::new(".*orders", negated).unwrap());
        Step { relations: Vec::new(), topics, does }
    };
    assert_eq!(found, [step(false, Does::Partition(spread)), step(true, Does::Discard)]);
}

#[test]
fn a_header_is_there_for_the_topics_that_the_transforms_before_gave_it_to() {
    fn put<'a>(options: &'a [(&'a str, &'a str)]) -> Transform<'a> {
        ("put", "kafka.InsertHeader", options)
    }
    let of_orders = [("header", "team"), ("value.literal", "a"), ("predicate", "orders")];
    let of_all = [("header", "team"), ("value.literal", "a")];
    let step = |negated| {
        (
            "mark",
            "kafka.InsertHeader",
            [("header", "m"), ("value.literal", "1"), ("predicate", "team"), ("negate", negated)],
        )
    };
    let (having, lacking) = (step("false"), step("true"));
    let having: Transform<'_> = (having.0, having.1, &having.2);
    let lacking: Transform<'_> = (lacking.0, lacking.1, &lacking.2);
    let drop_it: Transform<'_> = ("drop", "kafka.DropHeaders", &[("headers", "team")]);
    let topics = |found: Vec<Step>| found.last().map(|step| step.topics.clone());
    let orders = |negated| Some(Some(Topics::new(".*orders", negated).unwrap()));
    assert_eq!(topics(steps(&[put(&of_orders), having])), orders(false));
    assert_eq!(topics(steps(&[put(&of_orders), lacking])), orders(true));
    // Everywhere, nowhere, and nowhere any more.
    assert_eq!(topics(steps(&[put(&of_all), having])), Some(None));
    for (transforms, count) in [
        (vec![put(&of_all), lacking], 1),
        (vec![having], 0),
        (vec![lacking], 1),
        (vec![put(&of_all), drop_it, having], 2),
    ] {
        assert_eq!(steps(&transforms).len(), count, "{transforms:?}");
    }
    // It is told by the names before the router, which a step goes by too.
    let router: Transform<'_> = ("short", "kafka.RegexRouter", &[("regex", "(.*)"), ("replacement", "$1")]);
    assert_eq!(topics(steps(&[put(&of_orders), router, having])), orders(false));
    // Of Debezium's own headers logical messages have none.
    let run: Transform<'_> = ("no", "kafka.Filter", &[("predicate", "run"), ("negate", "true")]);
    let messages = Some(Some(Topics::new("shop\\.message", false).unwrap()));
    assert_eq!(topics(steps(&[run])), messages);
    let rename: Transform<'_> =
        ("short", "kafka.RegexRouter", &[("regex", "(.*)"), ("replacement", "$1"), ("predicate", "team")]);
    assert_eq!(read(&chain(&[rename])).unwrap().format.renames, []);
    let renamed = read(&chain(&[put(&of_orders), rename])).unwrap().format.renames;
    assert_eq!(
        renamed,
        [Rename::new("(.*)", "$1").and_then(|rename| rename.only(".*orders", false)).unwrap()]
    );
}

#[test]
fn a_header_that_only_some_records_of_a_table_have_is_refused() {
    let put: &[(&str, &str)] = &[("header", "team"), ("value.literal", "a"), ("predicate", "orders")];
    let others: &[(&str, &str)] =
        &[("header", "team"), ("value.literal", "b"), ("predicate", "orders"), ("negate", "true")];
    let unwrap: Transform<'_> =
        ("unwrap", "io.debezium.transforms.ExtractNewRecordState", &[("add.headers", "op")]);
    let from: &[(&str, &str)] = &[("fields", "pay"), ("headers", "pay"), ("operation", "copy")];
    let of = |predicate| vec![("header", "m"), ("value.literal", "1"), ("predicate", predicate)];
    for (before, predicate, part) in [
        (vec![], "moved", "whether a row changed its key is known with each record only"),
        (vec![unwrap], "op", "whether a record is a tombstone"),
        (vec![UNWRAP, ("from", "kafka.HeaderFrom$Value", from)], "pay", "whether a value holds the field"),
        (
            vec![("put", "kafka.InsertHeader", put), ("more", "kafka.InsertHeader", others)],
            "team",
            "several transforms say",
        ),
    ] {
        let options = of(predicate);
        let mut transforms = before;
        transforms.push(("mark", "kafka.InsertHeader", &options));
        let said = messages(&chain(&transforms));
        assert!(said.contains(part) && said.contains("transforms.mark.predicate"), "{part}: {said}");
    }
    let all: &[(&str, &str)] = &[("header", "team"), ("value.literal", "a")];
    let drops =
        chain(&[("put", "kafka.InsertHeader", all), ("no", "kafka.Filter", &[("predicate", "team")])]);
    assert!(messages(&drops).contains("drops them all"));
}

#[test]
fn timestamps_of_the_tables_that_are_named_are_those_of_the_zone() {
    fn converter<'a>(options: &'a [(&'a str, &'a str)]) -> [Transform<'a>; 1] {
        [("zone", "io.debezium.transforms.TimezoneConverter", options)]
    }
    let list = ("include.list", "source:orders,topic:shop.public.items:at,carts:made");
    let found = steps(&converter(&[("converted.timezone", "Europe/Berlin"), list]));
    let step = |relations: &[&str], topics: Option<&str>, fields: &[&str]| Step {
        relations: relations.iter().map(|name| Pattern::new(*name)).collect(),
        topics: topics.map(|topics| Topics::new(topics, false).unwrap()),
        does: Does::Timezone { zone: Zone::parse("Europe/Berlin").unwrap(), fields: names(fields) },
    };
    let expected = [
        step(&["*.orders"], None, &[]),
        step(&[], Some("shop\\.public\\.items"), &["at?"]),
        step(&["*.carts"], None, &["made?"]),
    ];
    assert_eq!(found, expected);
    assert_eq!(steps(&converter(&[("converted.timezone", "+02:00")])).len(), 1);
    for (options, part) in [
        ([("converted.timezone", "Moon/Base"), list], "no time zone that this machine knows"),
        ([("converted.timezone", "UTC"), ("exclude.list", "source:a")], "exclude.list: cannot be had"),
    ] {
        let said = messages(&chain(&converter(&options)));
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn a_filter_of_tombstones_leaves_deletes_without_them() {
    let filter: Transform<'_> = ("no", "kafka.Filter", &[("predicate", "gone")]);
    assert!(!read(&chain(&[filter])).unwrap().format.tombstones);
    let flat = read(&chain(&[UNWRAP, filter])).unwrap().format;
    assert_eq!((flat.flat.deletes, flat.tombstones), (Deletes::Drop, false));
    // One that stands before it leaves alone what it makes of deletes.
    let made: &[(&str, &str)] = &[("delete.tombstone.handling.mode", "delete-to-tombstone")];
    let unwrap: Transform<'_> = ("unwrap", "io.debezium.transforms.ExtractNewRecordState", made);
    let deletes = |transforms: &[Transform<'_>]| read(&chain(transforms)).unwrap().format.flat.deletes;
    assert_eq!((deletes(&[filter, unwrap]), deletes(&[unwrap, filter])), (Deletes::Tombstone, Deletes::Drop));
}

#[test]
fn what_a_transform_cannot_do_here_is_refused_with_what_to_use() {
    let fields: &[(&str, &str)] = &[("fields", "a")];
    let router: Transform<'_> = ("short", "kafka.RegexRouter", &[("regex", "(.*)"), ("replacement", "$1")]);
    let routing = "io.debezium.transforms.partitions.PartitionRouting";
    for (transforms, part) in [
        (vec![("x", "kafka.MaskField$Value", fields)], "would see the envelope"),
        (
            vec![UNWRAP, ("x", "kafka.ReplaceField$Value", &[("exclude", "a,__deleted")])],
            "\"__deleted\" is no column",
        ),
        (vec![UNWRAP, ("x", "kafka.MaskField$Key", fields)], "keys keep what they are made of"),
        (
            vec![UNWRAP, ("x", "kafka.InsertField$Value", &[("topic.field", "t")])],
            "topic.field: cannot be had",
        ),
        (vec![UNWRAP, ("x", "kafka.ValueToKey", &[])], "transforms.x.fields: is missing"),
        (vec![("x", "kafka.TimestampRouter", &[])], "have no time when transforms see them"),
        (vec![("x", "kafka.Filter", &[])], "drops them all"),
        (vec![("x", "io.debezium.transforms.Filter", &[])], "it runs a script"),
        (vec![UNWRAP, ("x", routing, &[("partition.payload.fields", "change.a")])], "put it before"),
        (
            vec![(
                "x",
                routing,
                &[("partition.payload.fields", "source.table"), ("partition.topic.num", "2")],
            )],
            "only change.<column>",
        ),
        (vec![router, ("x", "kafka.Filter", &[("predicate", "orders")])], "it would see their new names"),
        (
            vec![("x", "kafka.DropHeaders", &[("headers", "a"), ("predicate", "gone")])],
            "tombstones have the headers",
        ),
        (
            vec![UNWRAP, ("x", "kafka.ReplaceField$Value", &[("excludes", "a")])],
            "is not a property of this transform",
        ),
    ] {
        let said = messages(&chain(&transforms));
        assert!(said.contains(part), "{part}: {said}");
    }
    let beats = chain(&[("x", "kafka.Filter", &[("predicate", "orders"), ("negate", "true")])]);
    let said = messages(&with(&beats, "heartbeat.interval.ms", "1000"));
    assert!(said.contains("set heartbeat.interval.ms=0"), "{said}");
}

#[test]
fn documents_have_headers_and_no_columns() {
    let file = |class: &str, option: &str| {
        let text = with(MONGODB_FILE, "transforms", "x");
        let text = with(&text, "transforms.x.type", &format!("{KAFKA}.{class}"));
        with(&with(&text, option, "a"), "transforms.x.value.literal", "b")
    };
    let connector = read(&file("InsertHeader", "transforms.x.header")).unwrap();
    assert_eq!(connector.format.steps.len(), 1);
    let said = messages(&file("MaskField$Value", "transforms.x.fields"));
    assert!(said.contains("documents have no columns") && said.contains("field.exclude.list"), "{said}");
}
