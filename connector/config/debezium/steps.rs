//! Transforms that become a `[[step]]`, and for every other one why it cannot be had. Start at `step`.

use toml::{Table, Value};

use super::Kind;
use super::given::Given;
use super::keys::list;
use super::predicates::{Records, topic_pattern};
use super::properties::Here::{Becomes, Refused};
use super::properties::Property;

const FIRST: &str = "ExtractNewRecordState";

/// By the last part of the class's name.
pub const CLASSES: &[Property] = &[
    ("RegexRouter", "", Becomes("format.rename_topics")),
    ("ByLogicalTableRouter", "", Becomes("format.rename_topics, with schemas and key_field")),
    ("ExtractNewRecordState", "", Becomes("format.envelope = \"flat\", format.flat; once, and of rows")),
    (
        "ExtractNewDocumentState",
        "",
        Becomes("format.envelope = \"flat\", format.flat; once, and of documents"),
    ),
    ("EventRouter", "", Becomes("[[route]] with envelope = \"outbox\"; alone")),
    (
        "ReplaceField$Value",
        "",
        Becomes(
            "step.keep, step.drop, step.rename; behind ExtractNewRecordState, where it sees the row's fields",
        ),
    ),
    ("ReplaceField$Key", "", Becomes("step.keep, step.drop, step.rename, of = \"key\"")),
    ("MaskField$Value", "", Becomes("step.replace, step.with; behind ExtractNewRecordState")),
    (
        "InsertField$Value",
        "",
        Becomes("step.insert, for static.field and static.value; behind ExtractNewRecordState"),
    ),
    (
        "ValueToKey",
        "",
        Becomes("step.key; behind ExtractNewRecordState. A tombstone has the key of the old row"),
    ),
    (
        "HeaderFrom$Value",
        "",
        Becomes("step.headers, step.moves; behind ExtractNewRecordState. A NULL makes no header"),
    ),
    ("InsertHeader", "", Becomes("step.header_texts; for the records of tables and collections")),
    ("DropHeaders", "", Becomes("step.drop_headers; for the records of tables and collections")),
    (
        "Filter",
        "",
        Becomes(
            "of Kafka: step.discard for TopicNameMatches and HasHeaderKey, format.tombstones and format.flat.deletes for \
             RecordIsTombstone; of Debezium: refused, it runs a script: set filter in a [[route]] of a TOML file",
        ),
    ),
    (
        "PartitionRouting",
        "",
        Becomes(
            "step.partition_by with partition_hash = \"java\", for fields of change; before ExtractNewRecordState. A \
             tombstone goes with its row",
        ),
    ),
    (
        "TimezoneConverter",
        "",
        Becomes(
            "step.timezone, step.timestamps; before ExtractNewRecordState. Times of day stay in UTC, and offsets are those \
             of the instant",
        ),
    ),
    ("MongoEventRouter", "", Becomes("[[route]] with envelope = \"outbox\"; alone")),
    (
        "ContentBasedRouter",
        "",
        Refused("it runs a script: set topic_by and topics in a [[route]] of a TOML file"),
    ),
    ("MaskField$Key", "", Refused("keys keep what they are made of")),
    ("InsertField$Key", "", Refused("keys are made of columns; use key.field.name of ByLogicalTableRouter")),
    ("HeaderFrom$Key", "", Refused("take the field from the value: HeaderFrom$Value")),
    ("HeaderToValue", "", Refused("use add.fields of ExtractNewRecordState")),
    ("TimestampConverter", "", Refused("use time.precision.mode")),
    ("TimestampRouter", "", Refused("Debezium's records have no time when transforms see them")),
    ("Cast", "", Refused("use decimal.handling.mode, time.precision.mode and their like")),
    (
        "Flatten",
        "",
        Refused("use ExtractNewRecordState; of documents flatten.struct of ExtractNewDocumentState"),
    ),
    ("ExtractField", "", Refused("keys and values are structs")),
    ("HoistField", "", Refused("keys and values are structs")),
    ("SetSchemaMetadata", "", Refused("schemas are named after topics; use ByLogicalTableRouter")),
];

/// Where a transform stands, and for what.
pub struct Place {
    pub kind: Kind,
    /// Behind the transform that leaves the row alone.
    pub is_flat: bool,
    /// Behind a router of topics.
    pub is_renamed: bool,
    pub records: Records,
}

/// What a transform comes to.
pub enum Step {
    Steps(Vec<Table>),
    NoTombstones,
}

/// The class as the table has it: `ReplaceField$Value`, `Filter`.
pub fn short(class: &str) -> &str {
    class.rsplit('.').next().unwrap_or_default()
}

/// The transform of this name; `None` where it is not one of these, or a problem was told.
pub fn step(name: &str, class: &str, place: &Place, given: &mut Given) -> Option<Step> {
    let mut transform = Transform { name, place, given };
    let steps = match short(class) {
        "Filter" if class.starts_with("org.apache.kafka.") => return transform.filter(),
        "ReplaceField$Value" => transform.replace_field("row"),
        "ReplaceField$Key" => transform.replace_field("key"),
        "MaskField$Value" => transform.mask_field(),
        "InsertField$Value" => transform.insert_field(),
        "ValueToKey" => transform.value_to_key(),
        "HeaderFrom$Value" => transform.header_from(),
        "InsertHeader" => transform.insert_header(),
        "DropHeaders" => transform.drop_headers(),
        "PartitionRouting" => transform.partition_routing(),
        "TimezoneConverter" => transform.timezone_converter(),
        other => {
            transform.refuse(other);
            return None;
        }
    };
    let condition = transform.condition()?;
    let steps = steps.into_iter().filter(|step| !step.is_empty());
    Some(Step::Steps(steps.map(|step| step.into_iter().chain(condition.clone()).collect()).collect()))
}

struct Transform<'a> {
    name: &'a str,
    place: &'a Place,
    given: &'a mut Given,
}

impl Transform<'_> {
    fn property(&self, option: &str) -> String {
        format!("transforms.{}.{option}", self.name)
    }

    fn get(&self, option: &str) -> Option<String> {
        self.given.get(&self.property(option)).map(str::to_owned)
    }

    fn list(&self, option: &str) -> Vec<String> {
        self.given.list(&self.property(option))
    }

    /// A list that has to be there.
    fn required(&mut self, option: &str) -> Vec<String> {
        let found = self.list(option);
        if found.is_empty() {
            self.wrong(option, "is missing");
        }
        found
    }

    fn wrong(&mut self, option: &str, what: &str) {
        let property = self.property(option);
        self.given.wrong(format!("{property}: {what}"));
    }

    fn refuse(&mut self, class: &str) {
        let base = class.split('$').next().unwrap_or_default();
        let known = |name: &str| CLASSES.iter().find(|(known, ..)| *known == name);
        let hint = match known(class).or_else(|| known(base)) {
            Some((_, _, Refused(why) | Becomes(why))) => (*why).to_owned(),
            _ => {
                let taken = CLASSES.iter().filter(|(_, _, here)| matches!(here, Becomes(_)));
                format!(
                    "these are understood: {}",
                    taken.map(|(name, ..)| *name).collect::<Vec<_>>().join(", ")
                )
            }
        };
        let property = self.property("type");
        self.given.wrong_with_hint(format!("{property}: {class} cannot be had"), hint);
    }

    fn only_known(&mut self, known: &[&str]) {
        super::transforms::only_known(self.name, known, self.given);
    }

    /// Where the fields that it sees are those of the row.
    fn sees_rows(&mut self) {
        if self.place.kind == Kind::Mongodb {
            let hint = "use field.exclude.list and field.renames".to_owned();
            let property = self.property("type");
            self.given.wrong_with_hint(format!("{property}: documents have no columns to work on"), hint);
        } else if !self.place.is_flat {
            let property = self.property("type");
            self.given.wrong_with_hint(
                format!(
                    "{property}: without {FIRST} before it, it would see the envelope (before, after, source, op) and no \
                     column"
                ),
                format!("put it behind {FIRST}, or use column.exclude.list and its like; in a TOML file a [[step]] is of \
                         the row in either"),
            );
        }
    }

    /// `only` or `not`, where a predicate says so.
    fn condition(&mut self) -> Option<Table> {
        let mut condition = Table::new();
        match &self.place.records {
            Records::All | Records::None => {}
            Records::Topics { first_names: false, .. } if self.place.is_renamed => {
                self.wrong(
                    "predicate",
                    "behind a router of topics it would see their new names; put it before",
                );
                return None;
            }
            Records::Topics { pattern, negated, .. } => {
                let key = if *negated { "not" } else { "only" };
                condition.insert(key.into(), pattern.clone().into());
            }
            // Values of tombstones are none, and nothing is done to them.
            Records::Tombstones { negated: true } => {}
            Records::Tombstones { negated: false } => {
                self.wrong("predicate", "tombstones alone cannot be had: they have no value");
                return None;
            }
        }
        Some(condition)
    }

    fn replace_field(&mut self, of: &str) -> Vec<Table> {
        self.only_known(&["include", "exclude", "renames", "whitelist", "blacklist"]);
        if of == "row" {
            self.sees_rows();
        }
        for option in ["include", "exclude", "renames", "whitelist", "blacklist"] {
            if let Some(name) = self.list(option).iter().find(|name| name.starts_with("__")) {
                self.wrong(
                    option,
                    &format!("{name:?} is no column: leave it out of add.fields, or call it so there"),
                );
            }
        }
        let mut steps = Vec::new();
        for (key, options) in [("keep", ["include", "whitelist"]), ("drop", ["exclude", "blacklist"])] {
            let fields: Vec<String> =
                options.iter().flat_map(|option| self.list(option)).map(optional).collect();
            if !fields.is_empty() {
                steps.push(table([(key, list(fields)), ("of", of.into())]));
            }
        }
        let mut renames = Table::new();
        for pair in self.list("renames") {
            match pair.split_once(':').filter(|(from, to)| !from.is_empty() && !to.is_empty()) {
                Some((from, to)) => drop(renames.insert(optional(from.trim().into()), to.trim().into())),
                None => self.wrong("renames", &format!("{pair:?} is not old:new")),
            }
        }
        if !renames.is_empty() {
            steps.push(table([("rename", Value::Table(renames)), ("of", of.into())]));
        }
        steps
    }

    fn mask_field(&mut self) -> Vec<Table> {
        self.only_known(&["fields", "replacement"]);
        self.sees_rows();
        let fields = self.required("fields").into_iter().map(optional).collect();
        let mut step = table([("replace", list(fields))]);
        step.extend(self.get("replacement").map(|text| ("with".to_owned(), text.into())));
        vec![step]
    }

    fn insert_field(&mut self) -> Vec<Table> {
        self.only_known(&[
            "static.field",
            "static.value",
            "topic.field",
            "partition.field",
            "offset.field",
            "timestamp.field",
            "replace.null.with.default",
        ]);
        self.sees_rows();
        for (option, why) in [
            ("topic.field", "use add.fields of ExtractNewRecordState: source.schema, source.table"),
            ("partition.field", "a record finds its partition behind all transforms"),
            ("offset.field", "it is for sinks"),
            (
                "timestamp.field",
                "Debezium's records have no time there: use add.fields of ExtractNewRecordState, source.ts_ms",
            ),
        ] {
            if self.get(option).is_some() {
                self.wrong(option, &format!("cannot be had: {why}"));
            }
        }
        match (self.get("static.field"), self.get("static.value")) {
            (Some(field), Some(value)) => {
                let field = field.strip_suffix('?').unwrap_or(&field).to_owned();
                vec![table([("insert", Value::Table(table([(field.as_str(), value.into())])))])]
            }
            _ => {
                self.wrong("static.field", "and static.value are both needed");
                Vec::new()
            }
        }
    }

    fn value_to_key(&mut self) -> Vec<Table> {
        self.only_known(&["fields", "replace.null.with.default"]);
        self.sees_rows();
        vec![table([("key", list(self.required("fields")))])]
    }

    fn header_from(&mut self) -> Vec<Table> {
        self.only_known(&["fields", "headers", "operation", "replace.null.with.default"]);
        self.sees_rows();
        let (fields, headers) = (self.required("fields"), self.required("headers"));
        if fields.len() != headers.len() {
            self.wrong("headers", "must be as many as fields");
        }
        let moves = match self.get("operation").as_deref() {
            Some("move") => true,
            Some("copy") => false,
            _ => {
                self.wrong("operation", "must be move or copy");
                false
            }
        };
        let pairs = headers.into_iter().zip(fields).map(|(header, field)| (header, field.into()));
        vec![table([("headers", Value::Table(pairs.collect())), ("moves", moves.into())])]
    }

    fn insert_header(&mut self) -> Vec<Table> {
        self.only_known(&["header", "value.literal"]);
        self.of_all_records();
        let (header, property) = (self.property("header"), self.property("value.literal"));
        let (header, value) = (self.given.required(&header), self.given.required(&property));
        if value.starts_with(['[', '{', '"']) {
            self.wrong(
                "value.literal",
                "lists, maps and quoted texts cannot be had: a header is the text as it stands",
            );
        }
        vec![table([("header_texts", Value::Table(table([(header.as_str(), value.into())])))])]
    }

    fn drop_headers(&mut self) -> Vec<Table> {
        self.only_known(&["headers"]);
        self.of_all_records();
        vec![table([("drop_headers", list(self.required("headers")))])]
    }

    /// Headers are those of all records of a table.
    fn of_all_records(&mut self) {
        if matches!(self.place.records, Records::Tombstones { .. }) {
            self.wrong("predicate", "tombstones have the headers of their table's other records");
        }
    }

    fn partition_routing(&mut self) -> Vec<Table> {
        self.only_known(&["partition.payload.fields", "partition.topic.num", "partition.hash.function"]);
        self.sees_envelopes();
        let mut fields = Vec::new();
        for path in self.required("partition.payload.fields") {
            match path.split_once('.') {
                Some(("change", column)) if !column.contains('.') => fields.push(optional(column.to_owned())),
                _ => self.wrong(
                    "partition.payload.fields",
                    &format!(
                        "{path:?} cannot be had, only change.<column>: before and after are not in all events"
                    ),
                ),
            }
        }
        let function = self.property("partition.hash.function");
        self.given.word(&function, &[("java", "java")]);
        let count = self.property("partition.topic.num");
        let Some(count) = self.given.number(&count) else {
            self.wrong("partition.topic.num", "is missing");
            return Vec::new();
        };
        vec![table([
            ("partition_by", list(fields)),
            ("partitions", count.into()),
            ("partition_hash", "java".into()),
        ])]
    }

    fn sees_envelopes(&mut self) {
        if self.place.kind == Kind::Mongodb {
            self.sees_rows();
        } else if self.place.is_flat {
            self.wrong("type", &format!("behind {FIRST} it does nothing in Debezium; put it before"));
        }
    }

    fn timezone_converter(&mut self) -> Vec<Table> {
        self.only_known(&["converted.timezone", "include.list", "exclude.list"]);
        self.sees_envelopes();
        let property = self.property("converted.timezone");
        let zone = self.given.required(&property);
        if self.get("exclude.list").is_some() {
            self.wrong("exclude.list", "cannot be had: name what is converted in include.list");
        }
        let rules = self.list("include.list");
        let whole = || table([("timezone", zone.clone().into())]);
        if rules.is_empty() {
            return vec![whole()];
        }
        let mut steps = Vec::new();
        for rule in rules {
            let mut step = whole();
            let parts: Vec<&str> = rule.split(':').map(str::trim).collect();
            let (key, value, field) = match parts[..] {
                ["source", name] => ("relations", format!("*.{name}"), None),
                ["source", name, field] => ("relations", format!("*.{name}"), Some(field)),
                ["topic", name] => ("only", topic_pattern(name), None),
                ["topic", name, field] => ("only", topic_pattern(name), Some(field)),
                // Every record of ours has a block that tells its table.
                [name, field] => ("relations", format!("*.{name}"), Some(field)),
                _ => {
                    self.wrong(
                        "include.list",
                        &format!("{rule:?} is not source:table:field or topic:name:field"),
                    );
                    continue;
                }
            };
            if key == "only" && (self.place.records != Records::All || self.place.is_renamed) {
                self.wrong(
                    "include.list",
                    "names topics, which cannot be had with a predicate or behind a router",
                );
            }
            step.insert(key.to_owned(), value.into());
            step.extend(field.map(|field| ("timestamps".to_owned(), optional(field.to_owned()).into())));
            steps.push(step);
        }
        steps
    }

    /// Kafka's own, which drops what its predicate fits.
    fn filter(&mut self) -> Option<Step> {
        self.only_known(&[]);
        match self.place.records.clone() {
            Records::All => {
                self.wrong("predicate", "is missing, or fits every record: then it drops them all");
                None
            }
            Records::None => Some(Step::Steps(Vec::new())),
            Records::Tombstones { negated: false } => Some(Step::NoTombstones),
            Records::Tombstones { negated: true } => {
                self.wrong("negate", "would leave tombstones alone");
                None
            }
            Records::Topics { pattern, negated, .. } => {
                self.must_spare_topics_beside(&pattern, negated);
                let step = table([("discard", true.into())]);
                Some(Step::Steps(vec![step.into_iter().chain(self.condition()?).collect()]))
            }
        }
    }

    /// Heartbeats and transactions have properties of their own.
    fn must_spare_topics_beside(&mut self, pattern: &str, negated: bool) {
        let Ok(topics) = millrace_core::route::topics::Topics::new(pattern, negated) else {
            return;
        };
        let prefix = self.given.get("topic.prefix").unwrap_or_default().to_owned();
        let or = |property: &str, usual: &str| self.given.get(property).unwrap_or(usual).to_owned();
        let heartbeats = format!("{}.{prefix}", or("topic.heartbeat.prefix", "__debezium-heartbeat"));
        let transactions = format!("{prefix}.{}", or("topic.transaction", "transaction"));
        for (topic, property, off) in [
            (or("topic.heartbeat.name", &heartbeats), "heartbeat.interval.ms", "0"),
            (transactions, "provide.transaction.metadata", "false"),
        ] {
            let is_on = self.given.get(property).is_some_and(|value| value != off);
            if is_on && topics.matches(&topic) {
                self.wrong("predicate", &format!("drops {topic} too; set {property}={off} instead"));
            }
        }
    }
}

/// Kafka Connect's transforms take no notice of fields that are not there.
fn optional(field: String) -> String {
    format!("{field}?")
}

fn table<const N: usize>(members: [(&str, Value); N]) -> Table {
    members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}
