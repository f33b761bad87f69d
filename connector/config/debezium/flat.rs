//! Debezium's transforms that leave the row or the document alone, as `[format.flat]`. Start at `flat`.

use super::given::Given;
use super::keys::{Keys, list};
use super::properties::Here::{Becomes, Idle, Only, Refused};
use super::properties::Property;
use super::transforms::Filtered;
use super::{Kind, judge_one};

const SECTION: &str = "format.flat";

const EVERYWHERE: &str = "the transform is for all topics of the connector; write [[route]] with envelope = \"flat\" in a \
                          TOML file";
const BY_HEADER: &str =
    "no header names fields here; use column.exclude.list, or field.exclude.list of documents";

/// The options of both, behind `transforms.<name>.`.
pub const FLATTENING: &[Property] = &[
    ("type", "", Becomes("format.envelope = \"flat\"")),
    ("predicate", "", Refused(EVERYWHERE)),
    ("negate", "false", Only(&["false"], EVERYWHERE)),
    (
        "delete.tombstone.handling.mode",
        "tombstone",
        Becomes("format.flat.deletes; in JSON too a tombstone is a record without a value"),
    ),
    (
        "delete.handling.mode",
        "",
        Refused("Debezium 3 has delete.tombstone.handling.mode for it and for drop.tombstones"),
    ),
    (
        "drop.tombstones",
        "",
        Refused("Debezium 3 has delete.tombstone.handling.mode for it and for delete.handling.mode"),
    ),
    ("add.fields", "", Becomes("format.flat.add_fields")),
    ("add.fields.prefix", "__", Becomes("format.flat.add_fields_prefix")),
    ("add.headers", "", Becomes("format.flat.add_headers")),
    ("add.headers.prefix", "__", Becomes("format.flat.add_headers_prefix")),
    ("route.by.field", "", Refused("set topic_by and topics in a [[route]] of a TOML file")),
    ("drop.fields.header.name", "", Refused(BY_HEADER)),
    ("drop.fields.from.key", "false", Only(&["false"], BY_HEADER)),
    ("drop.fields.keep.schema.compatible", "true", Idle("no header names fields here")),
    (
        "replace.null.with.default",
        "true",
        Idle("Debezium's converters write the default for a null after it, and so does this dialect"),
    ),
];

/// Those of documents besides.
pub const OF_DOCUMENTS: &[Property] = &[
    ("array.encoding", "array", Becomes("format.flat.arrays")),
    ("flatten.struct", "false", Becomes("format.flat.flatten")),
    ("flatten.struct.delimiter", "_", Becomes("format.flat.delimiter")),
];

/// The class that does it for a kind of source.
pub fn class(kind: Kind) -> &'static str {
    match kind {
        Kind::Postgres => "io.debezium.transforms.ExtractNewRecordState",
        Kind::Mongodb => "io.debezium.connector.mongodb.transforms.ExtractNewDocumentState",
    }
}

/// The transform of this name. Where tombstones are filtered out, a delete that would be one alone makes no record.
pub fn flat(name: &str, kind: Kind, filtered: Option<Filtered>, given: &mut Given, keys: &mut Keys) {
    let of = |option: &str| format!("transforms.{name}.{option}");
    let more: &[Property] = if kind == Kind::Mongodb { OF_DOCUMENTS } else { &[] };
    let tables: Vec<&Property> = FLATTENING.iter().chain(more).collect();
    for (option, value) in given.under(&of("")) {
        judge_one(given, (&of(""), &option), &value, &tables);
    }
    keys.set("format", "envelope", "flat", "transforms");
    let deletes = [
        ("tombstone", "tombstone"),
        ("drop", "drop"),
        ("rewrite", "rewrite"),
        ("rewrite-with-tombstone", "rewrite_with_tombstone"),
        ("delete-to-tombstone", "tombstone"),
    ];
    let mode = of("delete.tombstone.handling.mode");
    let makes_its_own = given.get(&mode) == Some("delete-to-tombstone");
    let deletes = match (given.word(&mode, &deletes), filtered) {
        ("tombstone", Some(Filtered::Before)) if makes_its_own => "tombstone",
        ("tombstone", Some(_)) => "drop",
        (other, _) => other,
    };
    keys.set(SECTION, "deletes", deletes, &mode);
    for (option, key) in [("add.fields", "add_fields"), ("add.headers", "add_headers")] {
        keys.set(SECTION, key, list(given.list(&of(option))), &of(option));
        let prefix = format!("{option}.prefix");
        let found = given.get(&of(&prefix)).map(str::to_owned);
        keys.set_some(SECTION, &format!("{key}_prefix"), found, &of(&prefix));
    }
    if kind == Kind::Mongodb {
        nested(&of, given, keys);
    }
}

/// What becomes of lists and of documents in documents.
fn nested(of: &impl Fn(&str) -> String, given: &mut Given, keys: &mut Keys) {
    let arrays = given.word(&of("array.encoding"), &[("array", "array"), ("document", "document")]);
    keys.set(SECTION, "arrays", arrays, &of("array.encoding"));
    if given.flag(&of("flatten.struct"), false) {
        keys.set(SECTION, "flatten", true, &of("flatten.struct"));
        let delimiter = given.get(&of("flatten.struct.delimiter")).map(str::to_owned);
        keys.set_some(SECTION, "delimiter", delimiter, &of("flatten.struct.delimiter"));
    }
}
