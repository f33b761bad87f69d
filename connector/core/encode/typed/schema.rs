//! A schema of Avro as its text says it, made ready to write by. Start at `Schema::parse`.

use std::collections::HashMap;

use serde_json::{Map, Value as Json};

/// Deeper than any event that people write.
const DEPTH_MAX: usize = 64;

/// Index into `Schema::nodes`.
pub(crate) type Id = usize;

#[derive(Debug)]
pub(crate) struct Schema {
    pub nodes: Vec<Node>,
    pub root: Id,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Node {
    /// A named type that is being read: it may be used inside itself.
    Open,
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    Text,
    Uuid,
    Date,
    TimeMillis,
    TimeMicros,
    TimestampMillis,
    TimestampMicros,
    /// `size`: of a fixed.
    Decimal {
        scale: usize,
        precision: usize,
        size: Option<usize>,
    },
    Fixed(usize),
    Enum(Vec<String>),
    Array(Id),
    Map(Id),
    Union(Vec<Id>),
    Record(Vec<Field>),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Field {
    pub name: String,
    pub node: Id,
    /// Written where the event has no such member.
    pub default: Option<Vec<u8>>,
}

impl Schema {
    /// The error says what is wrong with the text.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let json: Json = serde_json::from_str(text).map_err(|error| format!("it is no JSON: {error}"))?;
        let mut reader = Reader { schema: Self { nodes: Vec::new(), root: 0 }, names: HashMap::new() };
        reader.schema.root = reader.node(&json, "", 0)?;
        Ok(reader.schema)
    }
}

struct Reader {
    schema: Schema,
    names: HashMap<String, Id>,
}

impl Reader {
    fn add(&mut self, node: Node) -> Id {
        self.schema.nodes.push(node);
        self.schema.nodes.len() - 1
    }

    fn node(&mut self, json: &Json, namespace: &str, depth: usize) -> Result<Id, String> {
        if depth > DEPTH_MAX {
            return Err(format!("it is deeper than {DEPTH_MAX} levels"));
        }
        match json {
            Json::String(name) => self.named(name, namespace),
            Json::Array(branches) => {
                let branches = branches.iter().map(|branch| self.node(branch, namespace, depth + 1));
                let branches = branches.collect::<Result<Vec<_>, _>>()?;
                Ok(self.add(Node::Union(branches)))
            }
            Json::Object(object) => self.object(object, namespace, depth),
            _ => Err(format!("{json} is no type")),
        }
    }

    fn named(&mut self, name: &str, namespace: &str) -> Result<Id, String> {
        if let Some(node) = primitive(name) {
            return Ok(self.add(node));
        }
        let full = full_name(name, namespace);
        let known = self.names.get(&full).or_else(|| self.names.get(name));
        known.copied().ok_or_else(|| format!("type {name:?} is not known"))
    }

    fn object(&mut self, object: &Map<String, Json>, namespace: &str, depth: usize) -> Result<Id, String> {
        let word = |key: &str| object.get(key).and_then(Json::as_str);
        let Some(kind) = word("type") else {
            // `{"type": {...}}` says no more than what is inside.
            let inner = object.get("type").ok_or("a type without \"type\"")?;
            return self.node(inner, namespace, depth + 1);
        };
        let inner = |key: &str| object.get(key).ok_or_else(|| format!("{kind} without {key:?}"));
        match kind {
            "array" => {
                let items = self.node(inner("items")?, namespace, depth + 1)?;
                Ok(self.add(Node::Array(items)))
            }
            "map" => {
                let values = self.node(inner("values")?, namespace, depth + 1)?;
                Ok(self.add(Node::Map(values)))
            }
            "record" | "enum" | "fixed" => {
                let name = word("name").ok_or_else(|| format!("{kind} without a name"))?;
                let full = full_name(name, word("namespace").unwrap_or(namespace));
                let namespace = full.rsplit_once('.').map_or("", |(namespace, _)| namespace).to_owned();
                let id = self.add(Node::Open);
                self.names.insert(full, id);
                let node = match kind {
                    "record" => self.record(inner("fields")?, &namespace, depth)?,
                    "enum" => Node::Enum(symbols(inner("symbols")?)?),
                    _ => fixed(object)?,
                };
                if let Some(place) = self.schema.nodes.get_mut(id) {
                    *place = node;
                }
                Ok(id)
            }
            _ => match logical(kind, object)? {
                Some(node) => Ok(self.add(node)),
                None => self.named(kind, namespace),
            },
        }
    }

    fn record(&mut self, fields: &Json, namespace: &str, depth: usize) -> Result<Node, String> {
        let mut found = Vec::new();
        for field in fields.as_array().ok_or("the fields of a record are a list")? {
            let name = field.get("name").and_then(Json::as_str).ok_or("a field without a name")?;
            let of = field.get("type").ok_or_else(|| format!("field {name} without a type"))?;
            let node = self.node(of, namespace, depth + 1)?;
            let default = match field.get("default") {
                None => None,
                Some(default) => Some(self.default(node, default, name)?),
            };
            found.push(Field { name: name.to_owned(), node, default });
        }
        Ok(Node::Record(found))
    }

    fn default(&self, node: Id, default: &Json, name: &str) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        let written = self.schema.put_at(node, default.to_string().as_bytes(), &mut out);
        written.map(|()| out).map_err(|misfit| format!("the default of field {name} {misfit}"))
    }
}

fn primitive(name: &str) -> Option<Node> {
    Some(match name {
        "null" => Node::Null,
        "boolean" => Node::Boolean,
        "int" => Node::Int,
        "long" => Node::Long,
        "float" => Node::Float,
        "double" => Node::Double,
        "bytes" => Node::Bytes,
        "string" => Node::Text,
        _ => return None,
    })
}

/// A logical type that changes how a value is written. One that is not known changes nothing, as Avro has it.
fn logical(kind: &str, object: &Map<String, Json>) -> Result<Option<Node>, String> {
    let logical = object.get("logicalType").and_then(Json::as_str).unwrap_or_default();
    Ok(Some(match (kind, logical) {
        ("bytes", "decimal") => decimal(object, None)?,
        ("int", "date") => Node::Date,
        ("int", "time-millis") => Node::TimeMillis,
        ("long", "time-micros") => Node::TimeMicros,
        ("long", "timestamp-millis") => Node::TimestampMillis,
        ("long", "timestamp-micros") => Node::TimestampMicros,
        ("string", "uuid") => Node::Uuid,
        _ => return Ok(None),
    }))
}

fn fixed(object: &Map<String, Json>) -> Result<Node, String> {
    let size = number(object, "size")?.ok_or("fixed without a size")?;
    match object.get("logicalType").and_then(Json::as_str) {
        Some("decimal") => decimal(object, Some(size)),
        _ => Ok(Node::Fixed(size)),
    }
}

fn decimal(object: &Map<String, Json>, size: Option<usize>) -> Result<Node, String> {
    let precision = number(object, "precision")?.ok_or("decimal without a precision")?;
    let scale = number(object, "scale")?.unwrap_or(0);
    Ok(Node::Decimal { scale, precision, size })
}

fn number(object: &Map<String, Json>, key: &str) -> Result<Option<usize>, String> {
    let Some(value) = object.get(key) else { return Ok(None) };
    let number = value.as_u64().and_then(|number| usize::try_from(number).ok());
    number.filter(|number| *number <= 100_000).map(Some).ok_or_else(|| format!("{key} is {value}"))
}

fn symbols(json: &Json) -> Result<Vec<String>, String> {
    let symbols = json.as_array().ok_or("the symbols of an enum are a list")?;
    let text = |symbol: &Json| symbol.as_str().map(str::to_owned).ok_or("a symbol is a text".to_owned());
    symbols.iter().map(text).collect()
}

fn full_name(name: &str, namespace: &str) -> String {
    match name.contains('.') || namespace.is_empty() {
        true => name.to_owned(),
        false => format!("{namespace}.{name}"),
    }
}
