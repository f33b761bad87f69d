//! Avro schema texts, byte for byte as Confluent's AvroData prints them.
//!
//! The registry tells schemas apart by their text, so the order of properties, of union branches and the
//! form of names all matter.

use std::fmt::Write;

use super::connect::{Base, Field, Schema};
use super::json::quoted;
use super::lexical::number;

/// Avro's precision where a decimal has none.
const PRECISION_UNKNOWN: &str = "64";

const UNNAMED: &str = "io.confluent.connect.avro.ConnectDefault";

/// `adjust` replaces characters that Avro does not allow in names; `connect.name` keeps the original.
pub(crate) fn text(schema: &Schema, adjust: bool) -> String {
    let mut printer = Printer { out: String::new(), seen: Vec::new(), unnamed: Vec::new(), adjust };
    printer.schema(schema, "");
    whole(&printer.out)
}

/// Halves of a character as the character: keys and values have those where Jackson writes bytes, and AvroData prints
/// its schemas as text.
fn whole(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let (plain, tail) = rest.split_at(at);
        out.push_str(plain);
        // Of an escape that is no half the character behind it, which may be a backslash itself.
        let taken = half(tail).zip(tail.get(6..).and_then(half)).and_then(|pair| {
            let c = char::decode_utf16([pair.0, pair.1]).next()?.ok()?;
            out.push(c);
            Some(12)
        });
        let taken = taken.unwrap_or_else(|| {
            let escape = tail.get(..2).unwrap_or(tail);
            out.push_str(escape);
            escape.len()
        });
        rest = tail.get(taken..).unwrap_or_default();
    }
    out.push_str(rest);
    out
}

/// The half that is written at the beginning of a text.
fn half(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    u16::from_str_radix(digits, 16).ok().filter(|unit| (0xd800..0xe000).contains(unit))
}

struct Printer {
    out: String,
    /// Full names of the records printed so far: a second use is a name alone.
    seen: Vec<String>,
    /// The structs without a name: equal ones have one.
    unnamed: Vec<Schema>,
    adjust: bool,
}

impl Printer {
    fn schema(&mut self, schema: &Schema, namespace: &str) {
        match (schema.optional, &schema.default) {
            (false, _) => self.required(schema, namespace),
            (true, None) => {
                self.out.push_str("[\"null\",");
                self.required(schema, namespace);
                self.out.push(']');
            }
            // The default belongs to the first branch of a union.
            (true, Some(_)) => {
                self.out.push('[');
                self.required(schema, namespace);
                self.out.push_str(",\"null\"]");
            }
        }
    }

    fn required(&mut self, schema: &Schema, namespace: &str) {
        match &schema.base {
            Base::Struct(fields) => self.record(schema, fields, namespace),
            Base::Array(items) => {
                self.out.push_str("{\"type\":\"array\",\"items\":");
                self.schema(items, namespace);
                self.properties(schema);
                self.out.push('}');
            }
            Base::Map(inner) if matches!(inner.0.base, Base::String) => {
                self.out.push_str("{\"type\":\"map\",\"values\":");
                self.schema(&inner.1, namespace);
                self.properties(schema);
                self.out.push('}');
            }
            // Avro's maps have string keys.
            Base::Map(inner) => {
                let fields = vec![Field::new("key", inner.0.clone()), Field::new("value", inner.1.clone())];
                let name = Some("io.confluent.connect.avro.MapEntry".to_owned());
                let entry = Schema { name, ..Schema::new(Base::Struct(Vec::new())) };
                self.out.push_str("{\"type\":\"array\",\"items\":");
                self.entry(&entry, &fields, namespace);
                self.properties(schema);
                self.out.push('}');
            }
            base => self.primitive(schema, base),
        }
    }

    fn primitive(&mut self, schema: &Schema, base: &Base) {
        let (name, connect_type) = match base {
            Base::Boolean => ("boolean", None),
            Base::Int16 => ("int", Some("int16")),
            Base::Int32 => ("int", None),
            Base::Int64 => ("long", None),
            Base::Float32 => ("float", None),
            Base::Float64 => ("double", None),
            Base::Bytes => ("bytes", None),
            Base::String | Base::Array(_) | Base::Map(_) | Base::Struct(_) => ("string", None),
        };
        let plain = schema.name.is_none()
            && schema.default.is_none()
            && schema.parameters.is_empty()
            && schema.doc.is_none();
        if plain && connect_type.is_none() {
            let _ = write!(self.out, "\"{name}\"");
            return;
        }
        let _ = write!(self.out, "{{\"type\":\"{name}\"");
        let is_decimal = schema.name.as_deref() == Some("org.apache.kafka.connect.data.Decimal");
        if is_decimal {
            let parameter =
                |name: &str| schema.parameters.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
            let scale = parameter("scale").unwrap_or("0");
            let precision = parameter("connect.decimal.precision").unwrap_or(PRECISION_UNKNOWN);
            let _ = write!(self.out, ",\"scale\":{scale},\"precision\":{precision}");
        }
        self.properties(schema);
        if let Some(connect_type) = connect_type {
            let _ = write!(self.out, ",\"connect.type\":\"{connect_type}\"");
        }
        let logical =
            match schema.name.as_deref().and_then(|name| name.strip_prefix("org.apache.kafka.connect.data."))
            {
                Some("Decimal") => "decimal",
                Some("Date") => "date",
                Some("Time") => "time-millis",
                Some("Timestamp") => "timestamp-millis",
                _ => "",
            };
        if !logical.is_empty() {
            let _ = write!(self.out, ",\"logicalType\":\"{logical}\"");
        }
        self.out.push('}');
    }

    /// What Connect knows and Avro does not, in AvroData's order.
    fn properties(&mut self, schema: &Schema) {
        if let Some(doc) = &schema.doc {
            let _ = write!(self.out, ",\"connect.doc\":{}", quoted(doc));
        }
        if let Some(version) = schema.version {
            let _ = write!(self.out, ",\"connect.version\":{version}");
        }
        for (index, (name, value)) in schema.parameters.iter().enumerate() {
            self.out.push_str(if index == 0 { ",\"connect.parameters\":{" } else { "," });
            let _ = write!(self.out, "{}:{}", quoted(name), quoted(value));
        }
        if !schema.parameters.is_empty() {
            self.out.push('}');
        }
        if let Some(default) = &schema.default {
            let _ = write!(self.out, ",\"connect.default\":{}", default.avro);
        }
        if let Some(name) = &schema.name {
            let _ = write!(self.out, ",\"connect.name\":{}", quoted(name));
        }
    }

    /// A record that Connect does not know, so it has no `connect.name`.
    fn entry(&mut self, schema: &Schema, fields: &[Field], enclosing: &str) {
        let unnamed = Schema::new(Base::Struct(Vec::new()));
        self.record_of(schema, &unnamed, fields, enclosing);
    }

    fn record(&mut self, schema: &Schema, fields: &[Field], enclosing: &str) {
        self.record_of(schema, schema, fields, enclosing);
    }

    fn record_of(&mut self, schema: &Schema, properties: &Schema, fields: &[Field], enclosing: &str) {
        let full = match &schema.name {
            Some(original) => self.adjusted_name(original),
            None => self.unnamed(schema),
        };
        let (namespace, name) = full.rsplit_once('.').unwrap_or(("", &full));
        if self.seen.contains(&full) {
            let reference = if namespace == enclosing { name } else { &full };
            self.out.push_str(&quoted(reference));
            return;
        }
        let _ = write!(self.out, "{{\"type\":\"record\",\"name\":{}", quoted(name));
        if namespace != enclosing {
            let _ = write!(self.out, ",\"namespace\":{}", quoted(namespace));
        }
        self.out.push_str(",\"fields\":[");
        self.seen.push(full.clone());
        let mut names: Vec<String> = Vec::with_capacity(fields.len());
        for field in fields {
            let mut name = if self.adjust { adjusted(&field.name) } else { field.name.clone() };
            // Two columns may differ only in what was replaced.
            while names.contains(&name) {
                name.push('_');
            }
            if !names.is_empty() {
                self.out.push(',');
            }
            self.field(&name, &field.schema, namespace);
            names.push(name);
        }
        self.out.push(']');
        self.properties(properties);
        self.out.push('}');
    }

    /// AvroData's name for a struct that has none, with a number from the second one on.
    fn unnamed(&mut self, schema: &Schema) -> String {
        let known = self.unnamed.iter().position(|known| known == schema);
        let index = known.unwrap_or_else(|| {
            self.unnamed.push(schema.clone());
            self.unnamed.len() - 1
        });
        match index {
            0 => UNNAMED.to_owned(),
            index => format!("{UNNAMED}{}", index + 1),
        }
    }

    fn field(&mut self, name: &str, schema: &Schema, namespace: &str) {
        let _ = write!(self.out, "{{\"name\":{},\"type\":", quoted(name));
        self.schema(schema, namespace);
        match (&schema.default, schema.optional) {
            (Some(default), _) => {
                let widened = matches!(schema.base, Base::Float32).then(|| widened(&default.avro)).flatten();
                let text = widened.as_deref().unwrap_or(&default.avro);
                let _ = write!(self.out, ",\"default\":{text}");
            }
            (None, true) => self.out.push_str(",\"default\":null"),
            (None, false) => {}
        }
        self.out.push('}');
    }

    fn adjusted_name(&self, name: &str) -> String {
        if self.adjust {
            name.split('.').map(adjusted).collect::<Vec<_>>().join(".")
        } else {
            name.to_owned()
        }
    }
}

/// The default of a float, which Avro's own printer takes for a double.
fn widened(single: &str) -> Option<String> {
    Some(number::java_double(f64::from(single.parse::<f32>().ok()?)))
}

/// A name that Avro allows: letters, digits and `_`, no digit first.
fn adjusted(name: &str) -> String {
    let legal = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let mut out: String = name.chars().map(legal).collect();
    if out.is_empty() || out.starts_with(|c: char| c.is_ascii_digit()) {
        out.insert(0, '_');
    }
    out
}
