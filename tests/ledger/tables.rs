//! The tables of the ledger, and the canonical form of their rows.
//!
//! A row is compared by one short hash per column. Postgres computes it in the transaction that
//! writes the row ([`Table::payload_sql`]); [`canonical`] computes it from what a consumer
//! decoded. Both go through a text that neither the daemon nor its encoder ever sees.

use apache_avro::types::Value;
use md5::{Digest, Md5};

use crate::avro::{decimal_text, hex, variable_scale};
use crate::calendar;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// smallint, integer, bigint
    Integer,
    Boolean,
    Text,
    Json,
    Uuid,
    /// numeric with this scale
    Decimal(usize),
    /// numeric of any scale
    Numeric,
    TimestampTz,
    Timestamp,
    Date,
    Bytes,
    Double,
}

#[derive(Debug)]
pub struct Column {
    pub name: &'static str,
    pub kind: Kind,
    pub declared: &'static str,
    /// Large values lie outside the row, and an update that leaves them alone does not log them.
    pub toasted: bool,
}

#[derive(Debug)]
pub struct Table {
    pub name: &'static str,
    pub columns: &'static [Column],
    /// The key is the first so many columns.
    pub keys: usize,
    /// Replica identity FULL: old rows are in the log.
    pub full: bool,
    pub form: Form,
}

/// What sets a table apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Plain,
    /// Its rows lie in parts, and its events carry its own name.
    Partitioned,
    /// No primary key: events without a key, and no tombstones. Its first column tells rows apart all the same.
    Keyless,
    /// One writer's alone, who truncates it and adds, drops and renames columns of text.
    Loose,
    /// Its rows are events that say themselves what they hold: the key is the aggregate's, who has many of them, the
    /// payload the value, and what else the ledger has to know stands in headers. Rows are only inserted, and their
    /// own keys are random uuids: no order of the events can be had from them.
    Outbox,
}

const fn column(name: &'static str, kind: Kind, declared: &'static str) -> Column {
    Column { name, kind, declared, toasted: false }
}

const fn toasted(name: &'static str, kind: Kind, declared: &'static str) -> Column {
    Column { name, kind, declared, toasted: true }
}

const SEQ: Column = column("seq", Kind::Integer, "bigint not null");
const TXID: Column = column("txid", Kind::Uuid, "uuid not null");
const ID: Column = column("id", Kind::Integer, "bigint not null");
/// What most tables are.
const PLAIN: Table = Table { name: "", keys: 1, full: false, form: Form::Plain, columns: &[] };

pub static TABLES: [Table; 7] = [
    Table {
        name: "account",
        columns: &[
            ID,
            SEQ,
            TXID,
            column("name", Kind::Text, "text"),
            column("balance", Kind::Decimal(2), "numeric(12,2)"),
            column("opened", Kind::TimestampTz, "timestamptz"),
            column("profile", Kind::Json, "jsonb"),
            column("secret", Kind::Bytes, "bytea"),
            column("active", Kind::Boolean, "boolean"),
            column("rating", Kind::Double, "double precision"),
            column("visits", Kind::Integer, "integer"),
            column("level", Kind::Integer, "smallint"),
        ],
        ..PLAIN
    },
    Table {
        name: "wide",
        columns: &[
            ID,
            SEQ,
            TXID,
            column("title", Kind::Text, "varchar(200)"),
            toasted("body", Kind::Text, "text"),
            toasted("notes", Kind::Text, "text"),
            column("amount", Kind::Numeric, "numeric"),
            column("day", Kind::Date, "date"),
            column("noted", Kind::Timestamp, "timestamp"),
        ],
        ..PLAIN
    },
    Table {
        name: "member",
        keys: 2,
        full: true,
        columns: &[
            column("team", Kind::Integer, "bigint not null"),
            column("login", Kind::Text, "text not null"),
            SEQ,
            TXID,
            column("note", Kind::Text, "text"),
        ],
        ..PLAIN
    },
    Table {
        name: "measure",
        form: Form::Partitioned,
        columns: &[
            ID,
            SEQ,
            TXID,
            column("reading", Kind::Double, "double precision"),
            column("taken", Kind::TimestampTz, "timestamptz"),
        ],
        ..PLAIN
    },
    Table {
        name: "entry",
        full: true,
        form: Form::Keyless,
        columns: &[ID, SEQ, TXID, column("note", Kind::Text, "text"), column("details", Kind::Json, "jsonb")],
        ..PLAIN
    },
    Table {
        name: "scratch",
        form: Form::Loose,
        columns: &[ID, SEQ, TXID, column("note", Kind::Text, "text")],
        ..PLAIN
    },
    Table {
        name: "outbox",
        form: Form::Outbox,
        columns: &[
            column("aggregateid", Kind::Text, "text not null"),
            SEQ,
            TXID,
            column("payload", Kind::Json, "jsonb not null"),
        ],
        ..PLAIN
    },
];

/// The place of a table in [`TABLES`].
pub fn table_index(name: &str) -> Option<usize> {
    TABLES.iter().position(|table| table.name == name)
}

/// Separates the columns of a key in its printed form.
const KEY_SEPARATOR: &str = "|";
/// Stands for NULL in a canonical text: a control character that no written text contains.
const NULL_TEXT: &str = "\u{1e}";
/// What Debezium writes where the log has no value of an unchanged TOAST column.
const UNAVAILABLE: &str = "__debezium_unavailable_value";

impl Table {
    pub fn key_columns(&self) -> &'static [Column] {
        self.columns.split_at(self.keys).0
    }

    pub fn column_index(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    /// SQL for the key's printed form, of columns with this prefix.
    pub fn key_sql(&self, prefix: &str) -> String {
        let parts: Vec<_> = self.key_columns().iter().map(|c| format!("{prefix}{}::text", c.name)).collect();
        format!("concat_ws('{KEY_SEPARATOR}', {})", parts.join(", "))
    }

    /// SQL for the hashes of a row's columns, eight hex digits each, in one text.
    pub fn payload_sql(&self, alias: &str) -> String {
        let hash = |column: &Column| {
            let text = canonical_sql(column.kind, &format!("{alias}.{}", column.name));
            format!("left(md5(coalesce({text}, chr(30))), 8)")
        };
        let mut hashes: Vec<_> = self.columns.iter().map(hash).collect();
        if self.form == Form::Loose {
            hashes.push(format!("left(md5({}), 8)", self.extra_sql(alias)));
        }
        hashes.join(" || ")
    }

    /// SQL for the columns that came later, by name; see [`extra_text`].
    fn extra_sql(&self, alias: &str) -> String {
        // A statement that gives a row another key returns its old one beside it.
        let old = self.key_columns().iter().map(|column| format!("'old_{}'", column.name));
        let own: Vec<_> = self.columns.iter().map(|column| format!("'{}'", column.name)).chain(old).collect();
        format!(
            "coalesce((SELECT string_agg(e.key || '=' || e.value, ',' ORDER BY e.key COLLATE \"C\") \
             FROM jsonb_each_text(to_jsonb({alias}) - ARRAY[{}]) e WHERE e.value IS NOT NULL), '')",
            own.join(", ")
        )
    }

    pub fn create_sql(&self) -> String {
        let columns: Vec<_> = self.columns.iter().map(|c| format!("{} {}", c.name, c.declared)).collect();
        let key: Vec<_> = self.key_columns().iter().map(|c| c.name).collect();
        let name = self.name;
        let (columns, key) = (columns.join(", "), key.join(", "));
        let mut sql = match self.form {
            Form::Plain | Form::Loose => {
                format!("CREATE TABLE ledger.{name} ({columns}, PRIMARY KEY ({key}));")
            }
            Form::Keyless => {
                format!("CREATE TABLE ledger.{name} ({columns}); CREATE INDEX ON ledger.{name} ({key});")
            }
            Form::Outbox => format!(
                "CREATE TABLE ledger.{name} ({columns}, id uuid PRIMARY KEY DEFAULT gen_random_uuid(), \
                 aggregatetype text NOT NULL DEFAULT 'ledger');"
            ),
            Form::Partitioned => {
                let part = |n| {
                    format!(
                        "CREATE TABLE ledger.{name}_{n} PARTITION OF ledger.{name} \
                         FOR VALUES WITH (MODULUS 3, REMAINDER {n});"
                    )
                };
                let parts: String = (0..3).map(part).collect();
                format!(
                    "CREATE TABLE ledger.{name} ({columns}, PRIMARY KEY ({key})) PARTITION BY HASH ({key}); {parts}"
                )
            }
        };
        if self.full {
            sql += &format!("ALTER TABLE ledger.{name} REPLICA IDENTITY FULL;");
        }
        // Uncompressed, so that a long text surely leaves the row.
        for column in self.columns.iter().filter(|column| column.toasted) {
            sql += &format!("ALTER TABLE ledger.{name} ALTER {} SET STORAGE EXTERNAL;", column.name);
        }
        sql
    }
}

fn canonical_sql(kind: Kind, column: &str) -> String {
    // Days and the time of day, in numeric: the last years are beyond 64 bits of microseconds
    // since 1970, and there `extract(epoch ...)` itself drops the last digits.
    let epoch = |utc: &str| {
        format!(
            "(({utc}::date - date '1970-01-01')::numeric * 86400000000 \
             + extract(epoch from {utc}::time) * 1000000)::numeric(40,0)::text"
        )
    };
    match kind {
        Kind::TimestampTz => {
            let utc = epoch(&format!("({column} AT TIME ZONE 'UTC')"));
            format!("CASE WHEN isfinite({column}) THEN {utc} ELSE {column}::text END")
        }
        Kind::Timestamp => {
            let utc = epoch(column);
            format!("CASE WHEN isfinite({column}) THEN {utc} ELSE {column}::text END")
        }
        Kind::Date => format!("({column} - date '1970-01-01')::text"),
        Kind::Bytes => format!("encode({column}, 'hex')"),
        // Bits, because the digits that two programs print for one double differ.
        Kind::Double => {
            format!("CASE WHEN {column} = 'NaN' THEN 'NaN' ELSE encode(float8send({column}), 'hex') END")
        }
        Kind::Integer
        | Kind::Boolean
        | Kind::Text
        | Kind::Json
        | Kind::Uuid
        | Kind::Decimal(_)
        | Kind::Numeric => {
            format!("{column}::text")
        }
    }
}

/// One decoded column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Canonical {
    Text(String),
    Null,
    /// The marker of an unchanged TOAST value.
    Unavailable,
}

impl Canonical {
    pub fn text(&self) -> &str {
        match self {
            Canonical::Text(text) => text,
            Canonical::Null => NULL_TEXT,
            Canonical::Unavailable => UNAVAILABLE,
        }
    }
}

/// The canonical text of a decoded value; an error says what does not fit the column.
pub fn canonical(column: &Column, value: &Value) -> Result<Canonical, String> {
    let value = match value {
        Value::Union(_, inner) => inner,
        other => other,
    };
    let text = match (column.kind, value) {
        (_, Value::Null) => return Ok(Canonical::Null),
        (Kind::Text | Kind::Json | Kind::Bytes, value) if column.toasted && unavailable(value) => {
            return Ok(Canonical::Unavailable);
        }
        (Kind::Integer, Value::Int(n)) | (Kind::Date, Value::Int(n)) => n.to_string(),
        (Kind::Integer, Value::Long(n)) => n.to_string(),
        (Kind::Boolean, Value::Boolean(b)) => b.to_string(),
        (Kind::Text | Kind::Json | Kind::Uuid, Value::String(text)) => text.clone(),
        (Kind::Decimal(scale), Value::Decimal(number)) => {
            let bytes = Vec::<u8>::try_from(number).map_err(|error| error.to_string())?;
            decimal_text(&bytes, scale)
        }
        (Kind::Numeric, value) => variable_scale(value).ok_or_else(|| mismatch(column, value))?,
        (Kind::TimestampTz, Value::String(text)) => calendar::zoned_to_micros(text)?,
        (Kind::Timestamp, Value::Long(micros)) => calendar::micros_text(*micros),
        (Kind::Bytes, Value::Bytes(bytes)) => hex(bytes),
        (Kind::Double, Value::Double(x)) if x.is_nan() => "NaN".to_owned(),
        (Kind::Double, Value::Double(x)) => hex(&x.to_be_bytes()),
        (_, value) => return Err(mismatch(column, value)),
    };
    Ok(Canonical::Text(text))
}

fn mismatch(column: &Column, value: &Value) -> String {
    format!("column {} ({:?}) holds {value:?}", column.name, column.kind)
}

fn unavailable(value: &Value) -> bool {
    match value {
        Value::String(text) => text == UNAVAILABLE,
        Value::Bytes(bytes) => bytes == UNAVAILABLE.as_bytes(),
        _ => false,
    }
}

/// The columns of a loose table beyond its own, all of text, by name.
pub fn extra_text<'a>(columns: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut columns: Vec<_> = columns.map(|(name, value)| format!("{name}={value}")).collect();
    columns.sort();
    columns.join(",")
}

/// The key's printed form from the canonical texts of its columns.
pub fn key_text<'a>(columns: impl Iterator<Item = &'a str>) -> String {
    columns.collect::<Vec<_>>().join(KEY_SEPARATOR)
}

/// The first eight hex digits of the text's MD5.
pub fn short_hash(text: &str) -> u32 {
    let digest = Md5::digest(text);
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
}

/// What [`Table::payload_sql`] made, split into its hashes.
pub fn parse_payload(text: &str) -> Option<Box<[u32]>> {
    let digits = text.as_bytes().chunks(8);
    digits
        .map(|chunk| u32::from_str_radix(std::str::from_utf8(chunk).ok()?, 16).ok())
        .collect::<Option<Vec<_>>>()
        .map(Vec::into_boxed_slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_one_hash_per_column() {
        let digits =
            |text: &str| -> String { Md5::digest(text).iter().map(|byte| format!("{byte:02x}")).collect() };
        let text = digits("a") + &digits("b");
        let payload = parse_payload(&[&text[..8], &text[32..40]].concat()).unwrap();
        assert_eq!(*payload, [short_hash("a"), short_hash("b")]);
    }

    #[test]
    fn the_old_key_that_a_statement_returns_is_no_column_of_a_later_shape() {
        let loose = TABLES.iter().find(|table| table.form == Form::Loose).unwrap();
        assert!(loose.payload_sql("w").contains("'old_id'"));
        let extra = extra_text([("x2", "b"), ("x10", "a")].into_iter());
        assert_eq!(extra, "x10=a,x2=b", "by name, as bytes compare");
    }

    #[test]
    fn a_value_of_another_type_is_not_silently_a_text() {
        let id = &TABLES[0].columns[0];
        assert_eq!(canonical(id, &Value::Long(7)), Ok(Canonical::Text("7".to_owned())));
        assert!(canonical(id, &Value::String("7".to_owned())).is_err());
    }

    #[test]
    fn the_marker_of_an_unchanged_value_counts_only_where_values_leave_the_row() {
        let marker = Value::Union(1, Box::new(Value::String(UNAVAILABLE.to_owned())));
        let body = &TABLES[1].columns[4];
        let title = &TABLES[1].columns[3];
        assert_eq!(canonical(body, &marker), Ok(Canonical::Unavailable));
        assert_eq!(canonical(title, &marker), Ok(Canonical::Text(UNAVAILABLE.to_owned())));
    }
}
