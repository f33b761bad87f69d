//! The table, and rows worth trying.

use millrace_ledger::random::Random;

use super::modes::{Modes, Route};

/// Objects, as events have them. Debezium's expansion stops at an array that is the whole payload, and at numbers
/// beyond a long; its converter to Avro at names that Avro does not allow.
const OBJECTS: [&str; 15] = [
    r#"{"n": 1, "s": "x"}"#,
    r#"{"n": 1, "s": "x"}"#,
    r#"{"n": 2, "s": "grün \"q\" 🦀 \\ \n"}"#,
    r#"{"long": 3000000000, "double": 1.5, "yes": true, "no": false}"#,
    r#"{"double": 12345678.9, "small": 0.00001, "zero": 0, "whole": 1.0}"#,
    r#"{"nothing": null, "empty": [], "n": 1}"#,
    r#"{"list": ["a", "b"], "numbers": [1, 2, 3], "doubles": [0.5]}"#,
    r#"{"list": ["a", null], "objects": [{"x": 1}, {"x": 2, "y": "z"}]}"#,
    r#"{"objects": [{"x": 1}, null, {"x": 2}], "n": 1}"#,
    r#"{"deep": {"er": {"list": [{"c": 1}, {"c": 2}]}, "text": "x"}, "nested": [[1, 2], [3]]}"#,
    r#"{"mixed": [1, "x"], "n": 1}"#,
    r#"{"nulls": [null], "n": 1}"#,
    r#"{"inner": {"nothing": null, "empty": [], "none": {}}}"#,
    r#"{"objects": [{"x": null}, {"x": 1}]}"#,
    "{}",
];

/// Whatever else a text may be.
const TEXTS: [&str; 7] = ["", "   ", "plain text", " {\"n\": 1}", "null", "\"text\"", "7"];

const KINDS: [&str; 3] = ["created", "line \"changed\"", "grün"];

impl Modes {
    pub fn create(&self) -> String {
        let [id, about, about_id, payload] =
            ["id", "aggregatetype", "aggregateid", "payload"].map(|name| self.column(name));
        let tracing = if self.tracing { ", tracingspancontext text" } else { "" };
        format!(
            "CREATE TABLE outbox ({id} uuid PRIMARY KEY, {about} varchar(255) NOT NULL, {about_id} {} NOT NULL, \
             type varchar(255) NOT NULL, kind text, {payload} {}, region text NOT NULL DEFAULT 'eu', amount int, \
             flag boolean DEFAULT true, made timestamptz, price numeric(10,2), ratio double precision, day date, \
             raw bytea, moment timestamp({}) NOT NULL, part int, version int NOT NULL{tracing});",
            self.key_type,
            self.payload_type,
            if self.renamed { 6 } else { 3 }
        )
    }

    pub fn insert(&self, number: u64, name: &str, random: &mut Random) -> String {
        let about = match self.route {
            Route::Whole | Route::OtherField => (*random.pick(&["order", "Customer", "a_b"])).to_owned(),
            // The last of them does not fit.
            Route::Groups => format!("{name}.{}", random.pick(&["orders", "items", "Customer"])),
        };
        self.insert_into(&about, number, random)
    }

    /// An event about this. Where another column routes, it says the same.
    pub fn insert_into(&self, about: &str, number: u64, random: &mut Random) -> String {
        let or_null = |value: String, random: &mut Random| {
            if random.percent(25) { "NULL".to_owned() } else { value }
        };
        let key = random.below(7);
        let key = match self.key_type {
            "uuid" => format!("'00000000-0000-4000-8000-{key:012}'"),
            "bigint" => (key * 5_000_000_000).to_string(),
            "int" => key.to_string(),
            _ => format!("'k\"ü{key}'"),
        };
        let region = if self.route == Route::OtherField { about } else { random.pick(&["eu", "us"]) };
        let mut names =
            vec![self.column("id"), self.column("aggregatetype"), self.column("aggregateid"), "type"];
        let mut values = vec![
            format!("'{}'", random.uuid()),
            format!("'{about}'"),
            key,
            format!("'{}'", random.pick(&KINDS)),
        ];
        let mut set = |name, value| {
            names.push(name);
            values.push(value);
        };
        let kind = format!("'{}'", random.pick(&KINDS));
        set("kind", or_null(kind, random));
        set(self.column("payload"), self.payload(random));
        set("region", format!("'{region}'"));
        let amount = random.below(1000).to_string();
        set("amount", or_null(amount, random));
        if random.percent(70) {
            let flag = (*random.pick(&["true", "false"])).to_owned();
            set("flag", or_null(flag, random));
        }
        set("made", or_null("'2026-11-21 03:10:00.12+02'".into(), random));
        let price = random.pick(&["1.50", "-99999999.99", "0.01"]).to_string();
        set("price", or_null(price, random));
        let ratio = random.pick(&["0.1", "1e21", "12345678.9", "-3"]).to_string();
        set("ratio", or_null(ratio, random));
        set("day", or_null("'2026-11-21'".into(), random));
        set("raw", or_null("'\\x00ff10'".into(), random));
        set("moment", format!("timestamp '2026-11-21 03:10:00.123' + {number} * interval '1 s'"));
        let part = random.below(3).to_string();
        set("part", or_null(part, random));
        set("version", (1 + random.below(2)).to_string());
        if self.tracing {
            let trace = "E'#a comment\\ntraceparent=00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'";
            set("tracingspancontext", or_null(trace.to_owned(), random));
        }
        format!("INSERT INTO outbox ({}) VALUES ({})", names.join(", "), values.join(", "))
    }

    fn payload(&self, random: &mut Random) -> String {
        if random.percent(10) {
            return "NULL".to_owned();
        }
        let text = match self.payload_type {
            "bytea" => return (*random.pick(&["'\\x'", "'\\x00ff10'", "'\\x48692070'"])).to_owned(),
            "text" if random.percent(40) => *random.pick(&TEXTS),
            "json" | "jsonb" if random.percent(20) => *random.pick(&["null", "\"text\"", "7"]),
            _ => *random.pick(&OBJECTS),
        };
        format!("'{text}'")
    }

    /// Updates and deletes, which are no events.
    pub fn others(&self, number: u64, random: &mut Random) -> Vec<String> {
        let mut all = Vec::new();
        if random.percent(20) {
            all.push("UPDATE outbox SET amount = 0 WHERE amount > 500".to_owned());
        }
        if random.percent(40) && number > 3 {
            all.push("DELETE FROM outbox".to_owned());
        }
        all
    }
}
