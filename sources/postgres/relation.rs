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
    let key = key(info, message).unwrap_or_default();
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

/// The key's columns as places in the message; the replica identity where the catalog's key does not fit. `None` where
/// neither tells what the key was.
fn key(info: Option<&TableInfo>, message: &RelationMessage) -> Option<Vec<u16>> {
    let of_catalog: Option<Vec<u16>> =
        info.and_then(|info| info.key().iter().map(|name| place(info, message, name)).collect());
    let sent = (0_u16..).zip(&message.columns).filter(|(_, column)| column.key);
    let sent: Vec<u16> = sent.map(|(place, _)| place).collect();
    match (of_catalog, message.identity) {
        // Every column is marked there, or none, which says nothing of a key.
        (of_catalog, Identity::Full) => of_catalog,
        // Rows are only inserted, and a list of columns may leave the key out.
        (of_catalog, Identity::Nothing) => of_catalog.or_else(|| info.map(|_| Vec::new())),
        // The catalog knows the key of now and its order; rows from before it changed hold the old one.
        (Some(key), Identity::Default | Identity::Index)
            if sent.is_empty()
                || (key.len() == sent.len() && key.iter().all(|place| sent.contains(place))) =>
        {
            Some(key)
        }
        (_, Identity::Default | Identity::Index) => Some(sent),
    }
}

/// Where the message has a column of the catalog. By its name; one that was renamed since stands between the same
/// neighbours: columns keep their order and their numbers for life.
fn place(info: &TableInfo, message: &RelationMessage, name: &str) -> Option<u16> {
    let sent_as = |name: &str| message.columns.iter().position(|sent| sent.name == name);
    if let Some(place) = sent_as(name) {
        return u16::try_from(place).ok();
    }
    let at = info.columns.iter().position(|column| column.name == name)?;
    let (before, after) = info.columns.split_at_checked(at)?;
    let neighbour = |column: &ColumnInfo| Some((sent_as(&column.name)?, column.number));
    let before = before.iter().rev().find_map(neighbour);
    let after = after.iter().find_map(neighbour);
    let (first, low) = before.map_or((0, 0), |(place, number)| (place + 1, number));
    let end = after.map_or(message.columns.len(), |(place, _)| place);
    let sent = message.columns.get(first..end)?;
    // One that stands elsewhere now: names were swapped, and say nothing.
    if sent.iter().any(|sent| info.columns.iter().any(|column| column.name == sent.name)) {
        return None;
    }
    let number = info.columns.get(at)?.number;
    let nth = match after {
        // Every number between the neighbours was sent, so each is known.
        Some((_, high)) if usize::try_from(high - low - 1) == Ok(sent.len()) => {
            usize::try_from(number - low - 1).ok()?
        }
        _ => {
            let high = after.map_or(i16::MAX, |(_, number)| number);
            let between = |column: &&ColumnInfo| low < column.number && column.number < high;
            let now = info.columns.iter().filter(between).filter(|column| !column.generated);
            let now: Vec<&ColumnInfo> = now.collect();
            // What was added since stands at the end.
            let fits = now.len() == sent.len() || (after.is_none() && now.len() > sent.len());
            let same = sent.iter().zip(&now).all(|(sent, now)| sent.type_oid == now.type_oid);
            let nth = now.iter().position(|column| column.number == number)?;
            (fits && same && nth < sent.len()).then_some(nth)?
        }
    };
    u16::try_from(first + nth).ok()
}

/// A table as the catalog has it.
pub struct Described {
    pub oid: u32,
    pub relation: Relation,
    pub captured: bool,
    /// Why its rows cannot be told.
    pub unfit: Option<Error>,
}

impl Described {
    /// Its number, what it is, and whether its changes are wanted; fails where its rows cannot be told.
    pub fn fit(self) -> Result<(u32, Relation, bool)> {
        self.unfit.map_or(Ok((self.oid, self.relation, self.captured)), Err)
    }
}

/// Refuses changes whose key nobody knows any more: without it they would lose their order, and their deletes would
/// leave their rows behind in a compacted topic.
pub fn must_have_its_key(info: Option<&TableInfo>, message: &RelationMessage) -> Result<()> {
    if key(info, message).is_some() {
        return Ok(());
    }
    let table = format!("{}.{}", message.namespace, message.name);
    let why = match info {
        Some(_) => "its key is of other columns by now",
        None => "it was dropped meanwhile",
    };
    Err(Error::config(format!(
        "the key that table {table} had when these rows were changed is not known: {why}"
    ))
    .hint(format!(
        "name its columns of then in message_keys in [source.postgres], \"{table}\" = [\"column\"], or none, \
             \"{table}\" = [], if it had no key; remove the entry once these changes are delivered"
    )))
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
        ("origin", SourceValue::Origin),
        ("origin_lsn", SourceValue::OriginPlace),
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

    /// `public.orders` of the catalog: numbers, names and types of its columns, keyed by these.
    fn full(columns: &[(i16, &str, u32)], key: &[&str]) -> TableInfo {
        let columns = columns.iter().map(|(number, name, type_oid)| ColumnInfo {
            number: *number,
            ..known(name, *type_oid, true, None)
        });
        table(catalog::Identity::Full, columns.collect(), vec![index("pk", true, key)])
    }

    fn keyed(info: &TableInfo, columns: &[(&str, u32)]) -> Option<Vec<u16>> {
        let columns = columns.iter().map(|(name, type_oid)| sent(true, name, *type_oid));
        key(Some(info), &message(Identity::Full, columns.collect()))
    }

    #[test]
    fn a_key_column_renamed_since_is_found_by_where_it_stands() {
        let sent = [("id", 20), ("part", 23), ("note", 25)];
        let of = |columns: &[(i16, &str, u32)], key: &[&str]| keyed(&full(columns, key), &sent);
        let renamed = [(1, "nr", 20), (2, "part", 23), (3, "note", 25)];
        assert_eq!(of(&renamed, &["nr"]), Some(vec![0]));
        assert_eq!(of(&renamed, &["part", "nr"]), Some(vec![1, 0]));
        // Two of them, one behind another; and the last column of all, with one added behind it.
        assert_eq!(of(&[(1, "a", 20), (2, "b", 23), (3, "note", 25)], &["b", "a"]), Some(vec![1, 0]));
        let added = [(1, "id", 20), (2, "part", 23), (3, "words", 25), (4, "more", 25)];
        assert_eq!(of(&added, &["words"]), Some(vec![2]));
        // A column between was dropped since: the numbers tell.
        assert_eq!(of(&[(2, "p", 23), (3, "note", 25)], &["p"]), Some(vec![1]));
        // One was dropped before the rows were written.
        let gap = [(1, "nr", 20), (3, "part", 23), (4, "note", 25)];
        assert_eq!(of(&gap, &["nr"]), Some(vec![0]));
    }

    #[test]
    fn a_key_that_no_column_of_the_message_can_be_is_not_guessed() {
        let sent = [("id", 20), ("note", 25)];
        let of = |columns: &[(i16, &str, u32)], key: &[&str]| keyed(&full(columns, key), &sent);
        // A new column, one of another type, one of which there are two, names that were swapped.
        assert_eq!(of(&[(1, "id", 20), (2, "note", 25), (3, "nr", 20)], &["nr"]), None);
        assert_eq!(of(&[(1, "id", 20), (3, "nr", 23)], &["nr"]), None);
        assert_eq!(of(&[(5, "nr", 20), (6, "no", 20)], &["nr"]), None);
        assert_eq!(of(&[(1, "old", 20), (2, "id", 25)], &["old"]), None);
    }

    #[test]
    fn rows_whose_key_nobody_knows_are_refused_and_those_without_one_are_not() {
        let of_full = || message(Identity::Full, vec![sent(true, "id", 20)]);
        let error = must_have_its_key(None, &of_full()).unwrap_err();
        assert!(error.to_string().contains("public.orders"), "{error}");
        assert!(error.hint_text().is_some_and(|hint| hint.contains("message_keys")), "{error:?}");
        let keyless = table(catalog::Identity::Full, vec![], vec![]);
        assert!(must_have_its_key(Some(&keyless), &of_full()).is_ok());
        let marked = message(Identity::Default, vec![sent(true, "id", 20)]);
        assert!(must_have_its_key(None, &marked).is_ok());
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
