//! The statements that read a table: in the order of its key, from a row on or row by row.

use millrace_core::requests::Asked;
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
    /// All of those for which the condition is true, after this one.
    Ordered {
        after: Option<&'a [String]>,
        only: Option<&'a str>,
    },
    /// Those in these blocks.
    Blocks(Blocks),
}

/// Blocks of a table; of a root: of each of its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    pub from: u64,
    /// Not among them. `None`: to the end.
    pub until: Option<u64>,
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

/// Which of them, by the words of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter<'a> {
    None,
    /// Those for which this is true.
    Condition(&'a str),
    /// Those that this gives: a whole SELECT, as Debezium has it for a blocking snapshot.
    Statement(&'a str),
}

impl<'a> Filter<'a> {
    pub fn of(asked: Option<&'a Asked>) -> Self {
        let Some((asked, filter)) = asked.and_then(|asked| Some((asked, asked.filter.as_deref()?))) else {
            return Self::None;
        };
        let filter = filter.trim().trim_end_matches(';');
        let first = filter.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
        let is_statement = ["select", "with"].iter().any(|word| first.eq_ignore_ascii_case(word));
        if asked.blocking && is_statement { Self::Statement(filter) } else { Self::Condition(filter) }
    }
}

/// `COPY` of these rows, columns as described; with a filter, of those that it lets through. `names` give the order.
pub fn copy(
    info: &TableInfo,
    published: &Published,
    message: &RelationMessage,
    (names, of): (&[String], Filter<'_>),
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
        .chain(match of {
            Filter::Condition(condition) => Some(condition),
            Filter::None | Filter::Statement(_) => None,
        })
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
        Rows::Ordered { after, only } => {
            conditions.extend(only.map(|only| format!("({only})")));
            conditions.extend(after.map(|after| format!("({row}) > {}", key::literals(after))));
            tail = format!(" ORDER BY {row}");
        }
        Rows::Blocks(Blocks { from, until }) => {
            conditions.extend((from > 0).then(|| format!("ctid >= '({from},0)'")));
            conditions.extend(until.map(|until| format!("ctid < '({until},0)'")));
        }
        Rows::These([]) => conditions.push("false".to_owned()),
        Rows::These(keys) => {
            let keys: Vec<_> = keys.iter().map(|key| key::literals(&key::texts(key))).collect();
            conditions.push(format!("({row}) IN ({})", keys.join(", ")));
        }
    }
    let filter =
        if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) };
    let from = match of {
        Filter::Statement(statement) => format!("({statement}) AS {}", quoted(&info.table)),
        Filter::None | Filter::Condition(_) => format!("{only}{}", info.name().sql()),
    };
    format!("COPY (SELECT {columns} FROM {from}{filter}{tail}) TO STDOUT")
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
        copy(info, published, &described(info, published), (&names, Filter::None), rows)
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
    fn a_range_of_blocks_is_asked_for_by_the_places_of_its_rows() {
        for (from, until, expected) in [
            (0, None, ""),
            (0, Some(8), " WHERE ctid < '(8,0)'"),
            (8, Some(16), " WHERE ctid >= '(8,0)' AND ctid < '(16,0)'"),
            (16, None, " WHERE ctid >= '(16,0)'"),
        ] {
            assert_eq!(
                sql(&table(), &Published::default(), Rows::Blocks(Blocks { from, until })),
                format!("COPY (SELECT \"a\", \"b\" FROM ONLY \"public\".\"t\"{expected}) TO STDOUT")
            );
        }
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
    fn a_whole_statement_stands_for_the_table_where_the_snapshot_blocks() {
        let asked =
            |filter: &str, blocking| Asked { filter: Some(filter.to_owned()), blocking, ..Asked::default() };
        let statement = asked(" Select * FROM t WHERE a > 'x';\n", true);
        assert_eq!(Filter::of(Some(&statement)), Filter::Statement("Select * FROM t WHERE a > 'x'"));
        for (filter, blocking) in [("selected > 1", true), ("select > 1", false)] {
            assert_eq!(Filter::of(Some(&asked(filter, blocking))), Filter::Condition(filter));
        }
        let names = table().key().to_vec();
        let (info, published) = (table(), Published::default());
        let rows = Rows::Next(&Part::default(), 5);
        assert_eq!(
            copy(
                &info,
                &published,
                &described(&info, &published),
                (&names, Filter::of(Some(&statement))),
                rows
            ),
            "COPY (SELECT \"a\", \"b\" FROM (Select * FROM t WHERE a > 'x') AS \"t\" ORDER BY \"b\", \"a\" LIMIT 5) TO STDOUT"
        );
    }

    #[test]
    fn a_table_is_described_as_the_stream_does_it() {
        let message = described(&table(), &Published::default());
        let columns: Vec<_> = message.columns.iter().map(|column| (&*column.name, column.key)).collect();
        assert_eq!(columns, [("a", true), ("b", true)]);
    }
}
