//! The statements that read a table: in the order of its key, from a row on or row by row.

use serde::Deserialize;

use crate::catalog::{Form, TableInfo};
use crate::pgoutput::{Identity, RelationColumn, RelationMessage};
use crate::snapshot::key;
use crate::snapshot::table::Part;
use crate::tables::quoted;

/// What the publication sends of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Published {
    /// `None`: all columns.
    attnames: Option<Vec<String>>,
    /// A condition on rows.
    rowfilter: Option<String>,
}

/// The table as the stream would describe it now.
pub fn described(info: &TableInfo, published: &Published) -> RelationMessage {
    let identity = match info.identity {
        crate::catalog::Identity::Default => Identity::Default,
        crate::catalog::Identity::Nothing => Identity::Nothing,
        crate::catalog::Identity::Full => Identity::Full,
        crate::catalog::Identity::Index => Identity::Index,
    };
    let marked = info.identity_index().map(|index| index.columns.as_slice()).unwrap_or_default();
    let is_sent = |name: &String| published.attnames.as_ref().is_none_or(|names| names.contains(name));
    let columns = info.columns.iter().filter(|column| !column.generated && is_sent(&column.name));
    RelationMessage {
        id: info.oid,
        namespace: info.schema.clone(),
        name: info.table.clone(),
        identity,
        columns: columns
            .map(|column| RelationColumn {
                key: identity == Identity::Full || marked.contains(&column.name),
                name: column.name.clone(),
                type_oid: column.type_oid,
                typmod: column.typmod,
            })
            .collect(),
    }
}

/// Which rows of a table.
#[derive(Clone, Copy, Debug)]
pub enum Rows<'a> {
    /// So many of a part, in the order of the key, after the last one that was read.
    Next(&'a Part, u64),
    These(&'a [key::Key]),
    All,
}

/// As many parts as wanted, where there are bounds enough to tell them apart.
pub fn parts(bounds: &[String], count: usize) -> Vec<Part> {
    let mut cuts: Vec<&String> =
        (1..count).filter_map(|nth| bounds.get(nth * bounds.len().saturating_sub(1) / count)).collect();
    cuts.dedup();
    let from = std::iter::once(None).chain(cuts.iter().copied().map(Some));
    let until = cuts.iter().copied().map(Some).chain(std::iter::once(None));
    from.zip(until)
        .map(|(from, until)| Part { from: from.cloned(), until: until.cloned(), ..Part::default() })
        .collect()
}

/// `COPY` of these rows, columns as described; with a filter, of those that it lets through. `names` give the order.
pub fn copy(
    info: &TableInfo,
    published: &Published,
    message: &RelationMessage,
    (names, filter): (&[String], Option<&str>),
    rows: Rows<'_>,
) -> String {
    let list = |names: &mut dyn Iterator<Item = &String>| {
        names.map(|name| quoted(name)).collect::<Vec<_>>().join(", ")
    };
    let columns = list(&mut message.columns.iter().map(|column| &column.name));
    let row = list(&mut names.iter());
    // A root's rows are its parts'; of any other table those of tables that inherit from it are not its own.
    let only = if info.form == Form::Partitioned { "" } else { "ONLY " };
    let mut conditions: Vec<String> = published
        .rowfilter
        .as_deref()
        .into_iter()
        .chain(filter)
        .map(|filter| format!("({filter})"))
        .collect();
    let mut tail = String::new();
    match rows {
        Rows::Next(part, limit) => {
            let first = list(&mut names.iter().take(1));
            let from = part.from.as_ref().filter(|_| part.last.is_none());
            conditions.extend(from.map(|from| format!("{first} >= {}", key::literal(from))));
            conditions.extend(part.last.as_ref().map(|last| format!("({row}) > {}", key::literals(last))));
            conditions.extend(part.until.as_ref().map(|until| format!("{first} < {}", key::literal(until))));
            tail = format!(" ORDER BY {row} LIMIT {limit}");
        }
        Rows::All => {}
        Rows::These([]) => conditions.push("false".to_owned()),
        Rows::These(keys) => {
            let keys: Vec<_> = keys.iter().map(|key| key::literals(&key::texts(key))).collect();
            conditions.push(format!("({row}) IN ({})", keys.join(", ")));
        }
    }
    let filter =
        if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) };
    format!("COPY (SELECT {columns} FROM {only}{}{filter}{tail}) TO STDOUT", info.name().sql())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{self, ColumnInfo, IndexInfo};

    fn table() -> TableInfo {
        let column = |name: &str, generated| ColumnInfo {
            number: 1,
            name: name.into(),
            type_oid: 25,
            typmod: -1,
            not_null: true,
            generated,
            is_toasted: true,
            default: None,
            comment: None,
        };
        let key = IndexInfo {
            name: "pk".into(),
            is_primary: true,
            is_identity: false,
            not_null: true,
            columns: vec!["b".into(), "a".into()],
        };
        TableInfo {
            oid: 1,
            schema: "public".into(),
            table: "t".into(),
            form: Form::Table,
            is_logged: true,
            identity: catalog::Identity::Default,
            root: None,
            columns: vec![column("a", false), column("b", false), column("sum", true)],
            indexes: vec![key],
        }
    }

    fn sql(info: &TableInfo, published: &Published, rows: Rows<'_>) -> String {
        let names = info.key().to_vec();
        copy(info, published, &described(info, published), (&names, None), rows)
    }

    #[test]
    fn rows_are_asked_for_in_the_key_s_order_and_after_a_row() {
        let last = Some(vec!["x".to_owned(), "o'k".to_owned()]);
        assert_eq!(
            sql(&table(), &Published::default(), Rows::Next(&Part { last, ..Part::default() }, 10)),
            "COPY (SELECT \"a\", \"b\" FROM ONLY \"public\".\"t\" WHERE (\"b\", \"a\") > ('x', 'o''k') \
             ORDER BY \"b\", \"a\" LIMIT 10) TO STDOUT"
        );
    }

    #[test]
    fn a_part_ends_where_the_next_one_begins_and_rows_from_its_beginning_on_are_its_own() {
        let bounds: Vec<String> = ["a", "f", "m", "t", "z"].map(str::to_owned).into();
        let parts = parts(&bounds, 2);
        let ends: Vec<_> = parts.iter().map(|part| (part.from.as_deref(), part.until.as_deref())).collect();
        assert_eq!(ends, [(None, Some("m")), (Some("m"), None)]);
        assert!(
            sql(&table(), &Published::default(), Rows::Next(&parts[1], 10))
                .contains("WHERE \"b\" >= 'm' ORDER BY \"b\", \"a\" LIMIT 10")
        );
        let begun = Part { last: Some(vec!["n".into(), "1".into()]), ..parts[1].clone() };
        let sql = sql(&table(), &Published::default(), Rows::Next(&begun, 10));
        assert!(sql.contains("WHERE (\"b\", \"a\") > ('n', '1') ORDER BY"), "{sql}");
    }

    #[test]
    fn a_table_that_nothing_is_known_of_is_one_part() {
        for (bounds, count) in [(&[][..], 4), (&["a".to_owned(), "b".to_owned()][..], 1), (&[], 0)] {
            assert_eq!(parts(bounds, count), [Part::default()]);
        }
    }

    #[test]
    fn single_rows_are_asked_for_by_their_keys_and_a_root_with_its_parts() {
        let keys = [key::from_texts(&["x".to_owned(), "1".to_owned()])];
        let root = TableInfo { form: Form::Partitioned, ..table() };
        assert_eq!(
            sql(&root, &Published::default(), Rows::These(&keys)),
            "COPY (SELECT \"a\", \"b\" FROM \"public\".\"t\" WHERE (\"b\", \"a\") IN (('x', '1'))) TO STDOUT"
        );
    }

    #[test]
    fn what_the_publication_leaves_out_is_left_out() {
        let published = Published { attnames: Some(vec!["b".into()]), rowfilter: Some("(a > 1)".into()) };
        assert_eq!(
            sql(&table(), &published, Rows::Next(&Part::default(), 5)),
            "COPY (SELECT \"b\" FROM ONLY \"public\".\"t\" WHERE ((a > 1)) ORDER BY \"b\", \"a\" LIMIT 5) TO STDOUT"
        );
    }

    #[test]
    fn a_table_is_described_as_the_stream_does_it() {
        let message = described(&table(), &Published::default());
        let columns: Vec<_> = message.columns.iter().map(|column| (&*column.name, column.key)).collect();
        assert_eq!(columns, [("a", true), ("b", true)]);
    }
}
