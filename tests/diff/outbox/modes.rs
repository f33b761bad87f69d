//! What a run of the event router is made of: the seed draws it, so that some runs go through all of it.

use std::fmt;

use millrace_ledger::random::Random;
use serde_json::{Map, Value as Json, json};

use crate::postgres::sides::login;
use crate::{Encoding, Encodings, Place, Result};

/// How both sides are set up.
#[derive(Clone, Debug)]
pub struct Modes {
    /// The columns have names of their own.
    pub renamed: bool,
    pub key: Converter,
    pub value: Converter,
    pub key_type: &'static str,
    pub payload_type: &'static str,
    pub route: Route,
    /// In Debezium's words.
    pub placed: Vec<String>,
    pub skips_missing: bool,
    pub timestamp: bool,
    pub tombstones: bool,
    pub expand: bool,
    pub keeps_nulls: bool,
    pub version: bool,
    pub on_update: &'static str,
    pub tracing: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Converter {
    Text,
    Bytes,
    Json { schemas: bool },
    Avro,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Debezium's own expression.
    Whole,
    /// By groups, and some values do not fit.
    Groups,
    /// By another column.
    OtherField,
}

/// Where columns beside those of every event may go.
const HEADERS: [&str; 10] = [
    "kind:header:eventType",
    "region:header",
    "amount:header",
    "flag:header:isOn",
    "made:header",
    "price:header",
    "ratio:header",
    "day:header",
    "raw:header",
    "moment:header:at",
];
const MEMBERS: [&str; 8] = [
    "kind:envelope:eventType",
    "region:envelope",
    "amount:envelope",
    "flag:envelope:isOn",
    "made:envelope",
    "price:envelope:cost",
    "ratio:envelope",
    "raw:envelope",
];

impl Modes {
    pub fn of(seed: u64) -> Self {
        let mut random = Random::fork(seed, 2);
        let json = |random: &mut Random| Converter::Json { schemas: random.percent(50) };
        let key = match random.below(3) {
            0 => Converter::Text,
            1 => json(&mut random),
            _ => Converter::Avro,
        };
        let value = match random.below(6) {
            0 => Converter::Text,
            1 => Converter::Bytes,
            2 | 3 => json(&mut random),
            _ => Converter::Avro,
        };
        let is_whole = matches!(value, Converter::Text | Converter::Bytes);
        let payload_type = match value {
            Converter::Bytes => "bytea",
            Converter::Text => *random.pick(&["jsonb", "json", "text"]),
            _ => *random.pick(&["jsonb", "jsonb", "json", "text", "bytea"]),
        };
        let mut placed: Vec<String> = Vec::new();
        for one in HEADERS {
            if random.percent(30) {
                placed.push(one.to_owned());
            }
        }
        if !is_whole && random.percent(50) {
            placed.extend(MEMBERS.iter().filter(|_| random.percent(40)).map(|one| (*one).to_owned()));
        }
        if random.percent(30) {
            placed.push("part:partition".to_owned());
        }
        for at in (1..placed.len()).rev() {
            placed.swap(at, random.below_usize(at + 1));
        }
        let skips_missing = random.percent(20);
        if skips_missing {
            placed.push("nowhere:header".to_owned());
        }
        let expand = !is_whole && payload_type != "bytea" && random.percent(60);
        let has_members = placed.iter().any(|one| one.contains(":envelope"));
        Self {
            renamed: random.percent(40),
            key,
            value,
            key_type: *random.pick(&["text", "text", "varchar(255)", "uuid", "bigint", "int"]),
            payload_type,
            route: *random.pick(&[Route::Whole, Route::Groups, Route::OtherField]),
            placed,
            skips_missing,
            timestamp: random.percent(40),
            tombstones: random.percent(50),
            expand,
            keeps_nulls: random.percent(40),
            // Debezium keeps one schema a version, and stops at a payload of another shape.
            version: has_members && !expand && random.percent(40),
            on_update: *random.pick(&["warn", "error"]),
            tracing: random.percent(20),
        }
    }

    /// Of the columns that every event has.
    pub fn column(&self, usual: &'static str) -> &'static str {
        match (self.renamed, usual) {
            (true, "id") => "event_id",
            (true, "aggregatetype") => "about",
            (true, "aggregateid") => "about_id",
            (true, "payload") => "body",
            _ => usual,
        }
    }

    pub fn encodings(&self) -> Encodings {
        let of = |converter: Converter| match converter {
            Converter::Text | Converter::Bytes => Encoding::Plain,
            Converter::Json { .. } => Encoding::Json,
            Converter::Avro => Encoding::Avro,
        };
        Encodings { key: of(self.key), value: of(self.value) }
    }

    /// What both sides are given.
    pub fn file(&self, place: &Place, name: &str, url: &str) -> Result<Map<String, Json>> {
        let Json::Object(mut file) = login(name, url)? else { return Err("not an object".into()) };
        let mut set = |key: &str, value: &str| file.insert(key.to_owned(), json!(value));
        for (key, value) in [
            ("tasks.max", "1"),
            ("snapshot.mode", "no_data"),
            ("topic.prefix", name),
            ("table.include.list", "public\\.outbox"),
            ("poll.interval.ms", "20"),
            ("topic.creation.default.partitions", "3"),
            ("topic.creation.default.replication.factor", "1"),
            ("producer.override.bootstrap.servers", place.bootstrap.as_str()),
            ("transforms", "outbox"),
            ("transforms.outbox.type", "io.debezium.transforms.outbox.EventRouter"),
        ] {
            set(key, value);
        }
        for (side, converter) in [("key", self.key), ("value", self.value)] {
            let property = format!("{side}.converter");
            set(&property, class(converter));
            match converter {
                Converter::Json { schemas } => {
                    set(&format!("{property}.schemas.enable"), if schemas { "true" } else { "false" });
                }
                Converter::Avro => {
                    set(&format!("{property}.schema.registry.url"), &place.registry);
                }
                Converter::Text | Converter::Bytes => {}
            }
        }
        for (option, value) in self.options(name) {
            set(&format!("transforms.outbox.{option}"), &value);
        }
        Ok(file)
    }

    fn options(&self, name: &str) -> Vec<(&'static str, String)> {
        let mut options = Vec::new();
        let mut set = |option, value: &str| options.push((option, value.to_owned()));
        if self.renamed {
            set("table.field.event.id", self.column("id"));
            set("table.field.event.key", self.column("aggregateid"));
            set("table.field.event.payload", self.column("payload"));
        }
        let by = if self.route == Route::OtherField { "region" } else { self.column("aggregatetype") };
        if self.renamed || self.route == Route::OtherField {
            set("route.by.field", by);
        }
        match self.route {
            Route::Whole | Route::OtherField => {
                set("route.topic.replacement", &format!("{name}.event.${{routedByValue}}"));
            }
            Route::Groups => {
                set("route.topic.regex", "([^.]+)\\.(?<what>[a-z]+)s");
                set("route.topic.replacement", "$1.of-${what}");
            }
        }
        set("table.op.invalid.behavior", self.on_update);
        if !self.placed.is_empty() {
            set("table.fields.additional.placement", &self.placed.join(","));
        }
        if self.skips_missing {
            set("table.field.additional.missing", "ignore");
        }
        if self.timestamp {
            set("table.field.event.timestamp", "moment");
        }
        set("route.tombstone.on.empty.payload", if self.tombstones { "true" } else { "false" });
        if self.expand {
            set("table.expand.json.payload", "true");
            set(
                "table.json.payload.null.behavior",
                if self.keeps_nulls { "optional_bytes" } else { "ignore" },
            );
        }
        if self.version {
            set("table.field.event.schema.version", "version");
        }
        options
    }
}

fn class(converter: Converter) -> &'static str {
    match converter {
        Converter::Text => "org.apache.kafka.connect.storage.StringConverter",
        Converter::Bytes => "org.apache.kafka.connect.converters.ByteArrayConverter",
        Converter::Json { .. } => "org.apache.kafka.connect.json.JsonConverter",
        Converter::Avro => "io.confluent.connect.avro.AvroConverter",
    }
}

impl fmt::Display for Modes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {} {:?}, payload {} {:?}", self.key_type, self.key, self.payload_type, self.value)?;
        write!(f, ", route {:?}, updates {}", self.route, self.on_update)?;
        for (is_on, word) in [
            (self.renamed, "renamed"),
            (self.skips_missing, "missing"),
            (self.timestamp, "timestamp"),
            (self.tombstones, "tombstones"),
            (self.expand, "expand"),
            (self.expand && self.keeps_nulls, "nulls"),
            (self.version, "version"),
            (self.tracing, "tracing"),
        ] {
            if is_on {
                write!(f, ", {word}")?;
            }
        }
        write!(f, ", placed [{}]", self.placed.join(" "))
    }
}
