//! A payload that is JSON as a value with a schema: what Debezium's event router infers. Start at [`expanded`].

use crate::encode::connect::{Base, Field, Schema};
use crate::encode::flat::node::{self, Members, Node};
use crate::encode::json_schema;

/// The value and its schema; `None` where the payload stays the text that it is. `name` is that of the outermost
/// struct.
pub(crate) fn expanded(payload: &[u8], name: &str, keeps_nulls: bool) -> Option<(Schema, Members)> {
    // An array at the root gets a schema there, and then no value: such a payload stops Debezium.
    let members = match payload.first()? {
        b'{' => node::plain(payload)?,
        _ => return None,
    };
    let members = once_each(members);
    let schema = Rules { keeps_nulls }.object(&members, Some(name)).ok()?;
    has_all(&schema, &members).then_some((schema, members))
}

/// Whether every value is of its field's type: elements of one array may have fields of one name and several types.
fn has_all(schema: &Schema, members: &Members) -> bool {
    let Base::Struct(fields) = &schema.base else { return false };
    let of = |field: &Field| members.iter().find(|(name, _)| *name == field.name).map(|(_, node)| node);
    fields.iter().all(|field| of(field).is_none_or(|node| is_of(&field.schema, node)))
}

fn is_of(schema: &Schema, node: &Node) -> bool {
    match (&schema.base, node) {
        (_, Node::Null) => schema.optional,
        (Base::Struct(_), Node::Document(members)) => has_all(schema, members),
        (Base::Array(element), Node::Array(items)) => items.iter().all(|item| is_of(element, item)),
        (Base::Boolean, Node::Bool(_)) | (Base::Int32, Node::Int32(_)) | (Base::Int64, Node::Int64(_)) => {
            true
        }
        (Base::Float64, Node::Double(_)) | (Base::String, Node::Text(_)) => true,
        _ => false,
    }
}

/// Of two members of one name the last one counts, at the place of the first.
fn once_each(members: Members) -> Members {
    let mut found: Members = Vec::with_capacity(members.len());
    for (name, node) in members {
        let node = in_depth(node);
        match found.iter_mut().find(|(other, _)| *other == name) {
            Some((_, known)) => *known = node,
            None => found.push((name, node)),
        }
    }
    found
}

fn in_depth(node: Node) -> Node {
    match node {
        Node::Document(members) => Node::Document(once_each(members)),
        Node::Array(items) => Node::Array(items.into_iter().map(in_depth).collect()),
        node => node,
    }
}

/// Values of one array that have no type in common.
struct Mixed;

struct Rules {
    keeps_nulls: bool,
}

impl Rules {
    fn object(&self, members: &Members, name: Option<&str>) -> Result<Schema, Mixed> {
        let mut fields = Vec::with_capacity(members.len());
        for (field, node) in members {
            let path = name.map_or_else(|| field.clone(), |name| format!("{name}.{field}"));
            if let Some(schema) = self.schema(node, Some(&path))? {
                fields.push(Field::new(field.clone(), schema));
            }
        }
        let name = name.map(str::to_owned);
        Ok(Schema { name, ..Schema::new(Base::Struct(fields)).optional() })
    }

    /// `None`: it is left out.
    fn schema(&self, node: &Node, name: Option<&str>) -> Result<Option<Schema>, Mixed> {
        let base = match node {
            Node::Null if self.keeps_nulls => Base::Bytes,
            Node::Null => return Ok(None),
            Node::Bool(_) => Base::Boolean,
            Node::Int32(_) => Base::Int32,
            Node::Int64(_) => Base::Int64,
            Node::Double(_) => Base::Float64,
            Node::Text(_) => Base::String,
            Node::Document(members) => return self.object(members, name).map(Some),
            Node::Array(items) if items.is_empty() => return Ok(None),
            Node::Array(items) => Base::Array(Box::new(self.element(items, name)?)),
            // What extended JSON alone has.
            Node::Undefined | Node::Bytes(_) | Node::Time(_) | Node::Named(..) => return Ok(None),
        };
        Ok(Some(Schema::new(base).optional()))
    }

    fn element(&self, items: &[Node], name: Option<&str>) -> Result<Schema, Mixed> {
        let mut there = items.iter().filter(|item| **item != Node::Null);
        let sample = there.next().unwrap_or(&Node::Null);
        if there.any(|item| std::mem::discriminant(item) != std::mem::discriminant(sample)) {
            return Err(Mixed);
        }
        if !matches!(sample, Node::Document(_)) {
            return self.schema(sample, None)?.ok_or(Mixed);
        }
        let (mut merged, mut known): (Option<Schema>, Vec<String>) = (None, Vec::new());
        for item in items {
            let Node::Document(members) = item else { continue };
            let schema = self.object(members, name)?;
            let text = json_schema::text(&schema);
            if known.contains(&text) {
                continue;
            }
            known.push(text);
            merged = Some(match merged {
                None => schema,
                Some(merged) => merge(merged, schema),
            });
        }
        merged.ok_or(Mixed)
    }
}

/// The fields of both; the first schema of a name counts, unless it is that of a null. Debezium forgets there that
/// an element may be null.
fn merge(one: Schema, other: Schema) -> Schema {
    let (Base::Struct(mut fields), Base::Struct(others)) = (one.base.clone(), other.base) else { return one };
    for field in others {
        match fields.iter_mut().find(|known| known.name == field.name) {
            None => fields.push(field),
            Some(known) if matches!(known.schema.base, Base::Bytes) => known.schema = field.schema,
            Some(_) => {}
        }
    }
    Schema { base: Base::Struct(fields), optional: false, ..one }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(payload: &str, keeps_nulls: bool) -> Option<String> {
        let (schema, _) = expanded(payload.as_bytes(), "payload", keeps_nulls)?;
        let text: serde_json::Value = serde_json::from_str(&json_schema::text(&schema)).unwrap();
        let field = |field: &serde_json::Value| {
            let items = field["items"]["type"].as_str().map(|items| format!("<{items}>")).unwrap_or_default();
            format!("{}:{}{items}", field["field"].as_str().unwrap(), field["type"].as_str().unwrap())
        };
        Some(text["fields"].as_array().unwrap().iter().map(field).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn every_member_has_the_type_of_its_value() {
        let payload =
            r#"{"i":1,"l":3000000000,"d":1.0,"t":"x","b":true,"o":{"x":1},"a":["y",null],"n":null,"e":[]}"#;
        let common = "i:int32 l:int64 d:double t:string b:boolean o:struct a:array<string>";
        assert_eq!(fields(payload, false).as_deref(), Some(common));
        assert_eq!(fields(payload, true), Some(format!("{common} n:bytes")));
    }

    #[test]
    fn what_is_no_object_or_mixes_types_stays_a_text() {
        for payload in [
            "[1]",
            "7",
            " {}",
            r#"{"a":[1,"x"]}"#,
            r#"{"a":[1,3000000000]}"#,
            r#"{"a":[null]}"#,
            r#"{"a":[[1],["x"]]}"#,
            r#"{"a":[{"x":1},{"x":"y"}]}"#,
        ] {
            assert_eq!(fields(payload, false), None, "{payload}");
        }
    }

    #[test]
    fn dollars_in_names_mean_nothing() {
        assert_eq!(fields(r#"{"a":{"$oid":"x"}}"#, false).as_deref(), Some("a:struct"));
    }

    #[test]
    fn documents_of_an_array_have_the_fields_of_all_of_them() {
        let (schema, _) = expanded(br#"{"a":[{"x":1},{"x":2,"y":"z"}]}"#, "payload", false).unwrap();
        let text = json_schema::text(&schema);
        assert!(text.contains(r#""name":"payload.a""#) && text.contains(r#""field":"y""#), "{text}");
        assert!(text.contains(r#""optional":false,"name":"payload.a""#), "{text}");
        let nothing = r#"{"a":[{"x":1},null,{"x":2,"y":"z"}]}"#;
        assert_eq!(fields(nothing, false), None, "an element of merged ones is never null");
    }
}
