//! A relation version: what the stream says of a table, completed by what the catalog knows. Pure.
//! Start at `build`.

use millrace_core::error::{Error, Result};
use millrace_core::relation::{Column, Relation, Shape, SourceBlock, SourceField, SourceValue};

use crate::catalog::{ColumnInfo, TableInfo};
use crate::defaults;
use crate::pgoutput::{Identity, RelationColumn, RelationMessage};
use crate::types::Types;

/// What the source block of every event says about where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Version of the format's model, the first field.
    pub version: String,
    /// The topic prefix.
    pub name: String,
    pub database: String,
}

/// The stream wins over the catalog, which may be newer than the rows: names, order, types and modifiers
/// are the message's. The catalog adds nullability, defaults and the key's order, matched by name.
pub fn build(
    types: &Types,
    info: Option<&TableInfo>,
    message: &RelationMessage,
    origin: &Origin,
) -> Relation {
    let known = |name: &str| info.and_then(|info| info.columns.iter().find(|column| column.name == name));
    let columns = message.columns.iter().map(|sent| column(types, sent, known(&sent.name))).collect();
    let key = key(info, message);
    Relation {
        version: Relation::next_version(),
        namespace: message.namespace.clone(),
        name: message.name.clone(),
        columns,
        identity: key.clone(),
        key,
        source: source_block(&message.namespace, &message.name, origin),
        shape: Shape::Rows,
    }
}

fn column(types: &Types, sent: &RelationColumn, known: Option<&ColumnInfo>) -> Column {
    let kind = types.kind(sent.type_oid, sent.typmod);
    // A default of another type would be read by the wrong rules.
    let default = known
        .filter(|known| known.type_oid == sent.type_oid)
        .and_then(|known| known.default.as_deref())
        .and_then(|expression| defaults::value(expression, &kind));
    // A column that the catalog no longer has was dropped or renamed: nothing is known of its nulls.
    let nullable = known.is_none_or(|known| !known.not_null);
    let declared = types.declared(sent.type_oid, sent.typmod, known.and_then(|known| known.comment.clone()));
    Column { name: sent.name.clone(), kind, nullable, default, declared }
}

/// The key's columns as places in the message; the replica identity where the catalog's key does not fit.
fn key(info: Option<&TableInfo>, message: &RelationMessage) -> Vec<u16> {
    let places = || 0_u16..;
    let place = |name: &String| {
        places().zip(&message.columns).find(|(_, column)| column.name == *name).map(|(place, _)| place)
    };
    let of_catalog: Option<Vec<u16>> = info
        .map(TableInfo::key)
        .filter(|key| !key.is_empty())
        .and_then(|key| key.iter().map(place).collect());
    let sent: Vec<u16> =
        places().zip(&message.columns).filter(|(_, column)| column.key).map(|(place, _)| place).collect();
    match (of_catalog, message.identity) {
        // Every column is marked there, which is no key.
        (of_catalog, Identity::Full | Identity::Nothing) => of_catalog.unwrap_or_default(),
        // The catalog knows the key of now and its order; rows from before it changed hold the old one.
        (Some(key), Identity::Default | Identity::Index)
            if sent.is_empty()
                || (key.len() == sent.len() && key.iter().all(|place| sent.contains(place))) =>
        {
            key
        }
        (_, Identity::Default | Identity::Index) => sent,
    }
}

/// The places of these columns, in the table's order.
pub fn keyed_by(relation: &Relation, names: &[String]) -> Result<Vec<u16>> {
    let missing = names.iter().find(|name| !relation.columns.iter().any(|column| column.name == **name));
    if let Some(name) = missing {
        let table = relation.full_name();
        return Err(Error::config(format!("table {table} has no column {name:?} to key its events by"))
            .hint(format!("correct message_keys in [source.postgres] for {table}")));
    }
    let places = (0_u16..).zip(&relation.columns);
    Ok(places.filter(|(_, column)| names.contains(&column.name)).map(|(place, _)| place).collect())
}

/// What every event of a table says of its origin.
pub fn source_block(schema: &str, table: &str, origin: &Origin) -> SourceBlock {
    let text = |text: &str| SourceValue::Text(text.to_owned());
    let fields = [
        ("version", text(&origin.version)),
        ("connector", text("postgresql")),
        ("name", text(&origin.name)),
        ("ts_ms", SourceValue::CommitMs),
        ("snapshot", SourceValue::Snapshot),
        ("db", text(&origin.database)),
        ("sequence", SourceValue::Sequence),
        ("ts_us", SourceValue::CommitUs),
        ("ts_ns", SourceValue::CommitNs),
        ("schema", text(schema)),
        ("table", text(table)),
        ("txId", SourceValue::TransactionId),
        ("lsn", SourceValue::Place),
        ("xmin", SourceValue::NoLong),
        ("origin", SourceValue::NoText),
        ("origin_lsn", SourceValue::NoLong),
    ];
    SourceBlock {
        schema_name: "io.debezium.connector.postgresql.Source",
        fields: fields.map(|(name, value)| SourceField { name, value }).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{self, Form, IndexInfo};
    use millrace_core::relation::{Declared, Kind};

    fn sent(key: bool, name: &str, type_oid: u32) -> RelationColumn {
        RelationColumn { key, name: name.into(), type_oid, typmod: -1 }
    }

    fn message(identity: Identity, columns: Vec<RelationColumn>) -> RelationMessage {
        RelationMessage { id: 1, namespace: "public".into(), name: "orders".into(), identity, columns }
    }

    fn known(name: &str, type_oid: u32, not_null: bool, default: Option<&str>) -> ColumnInfo {
        let default = default.map(str::to_owned);
        ColumnInfo {
            number: 1,
            name: name.into(),
            type_oid,
            typmod: -1,
            not_null,
            generated: false,
            is_toasted: false,
            default,
            comment: None,
        }
    }

    fn index(name: &str, not_null: bool, columns: &[&str]) -> IndexInfo {
        IndexInfo {
            name: name.into(),
            is_primary: name == "pk",
            is_identity: name == "identity",
            not_null,
            columns: columns.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    fn table(identity: catalog::Identity, columns: Vec<ColumnInfo>, indexes: Vec<IndexInfo>) -> TableInfo {
        TableInfo {
            oid: 1,
            schema: "public".into(),
            table: "orders".into(),
            form: Form::Table,
            is_logged: true,
            identity,
            root: None,
            columns,
            indexes,
        }
    }

    fn built(info: Option<&TableInfo>, message: &RelationMessage) -> Relation {
        let origin = Origin { version: "1".into(), name: "shop".into(), database: "db".into() };
        build(&Types::default(), info, message, &origin)
    }

    #[test]
    fn the_key_has_the_primary_key_s_order_and_not_the_table_s() {
        let info = table(catalog::Identity::Default, vec![], vec![index("pk", true, &["b", "a"])]);
        let message = message(Identity::Default, vec![sent(true, "a", 23), sent(true, "b", 23)]);
        assert_eq!(built(Some(&info), &message).key, [1, 0]);
    }

    #[test]
    fn a_key_column_renamed_since_leaves_the_key_to_the_replica_identity() {
        let info = table(catalog::Identity::Default, vec![], vec![index("pk", true, &["new_id"])]);
        let message = message(Identity::Default, vec![sent(false, "x", 25), sent(true, "id", 23)]);
        assert_eq!(built(Some(&info), &message).key, [1]);
        assert_eq!(built(None, &message).key, [1]);
    }

    #[test]
    fn full_identity_without_a_key_has_no_key() {
        let info = table(catalog::Identity::Full, vec![], vec![index("maybe", false, &["a"])]);
        let message = message(Identity::Full, vec![sent(true, "a", 23), sent(true, "b", 23)]);
        assert_eq!(built(Some(&info), &message).key, [] as [u16; 0]);
    }

    #[test]
    fn without_a_primary_key_the_first_unique_index_that_knows_no_null_is_the_key() {
        let indexes = vec![index("a_null", false, &["a"]), index("b_key", true, &["b"])];
        let info = table(catalog::Identity::Full, vec![], indexes);
        let message = message(Identity::Full, vec![sent(true, "a", 23), sent(true, "b", 23)]);
        assert_eq!(built(Some(&info), &message).key, [1]);
    }

    #[test]
    fn an_identity_index_is_the_key_because_old_rows_hold_nothing_else() {
        let indexes = vec![index("pk", true, &["id"]), index("identity", true, &["code"])];
        let info = table(catalog::Identity::Index, vec![], indexes);
        let message = message(Identity::Index, vec![sent(false, "id", 23), sent(true, "code", 25)]);
        assert_eq!(built(Some(&info), &message).key, [1]);
    }

    #[test]
    fn the_message_s_columns_win_and_the_catalog_adds_nulls_and_defaults() {
        let columns = vec![
            known("id", 23, true, Some("nextval('s'::regclass)")),
            known("note", 25, false, Some("'-'::text")),
            known("size", 20, true, Some("5")),
            known("added", 25, true, None),
        ];
        let info = table(catalog::Identity::Default, columns, vec![]);
        let columns = vec![
            sent(true, "id", 23),
            sent(false, "note", 25),
            sent(false, "gone", 16),
            sent(false, "size", 23),
        ];
        let relation = built(Some(&info), &message(Identity::Default, columns));
        let column = |name: &str, kind, nullable, default: Option<&str>| Column {
            default: default.map(str::to_owned),
            ..Column::new(name, kind, nullable)
        };
        let undeclared = |column: &Column| Column { declared: Declared::default(), ..column.clone() };
        assert_eq!(
            relation.columns.iter().map(undeclared).collect::<Vec<_>>(),
            [
                column("id", Kind::Int32, false, Some("0")),
                column("note", Kind::Text, true, Some("-")),
                column("gone", Kind::Bool, true, None),
                // Another type than the catalog's now: its default is not this column's.
                column("size", Kind::Int32, false, None),
            ]
        );
    }

    #[test]
    fn the_source_block_has_debezium_s_fields_in_their_order() {
        let relation = built(None, &message(Identity::Default, vec![]));
        let names: Vec<_> = relation.source.fields.iter().map(|field| field.name).collect();
        assert_eq!(
            names.join(" "),
            "version connector name ts_ms snapshot db sequence ts_us ts_ns schema table txId lsn xmin origin origin_lsn"
        );
        assert_eq!(relation.source.fields[1].value, SourceValue::Text("postgresql".into()));
    }

    #[test]
    fn every_version_has_its_own_number() {
        let message = message(Identity::Default, vec![]);
        assert_ne!(built(None, &message).version, built(None, &message).version);
    }
}
