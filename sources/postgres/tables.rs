//! Names of tables: as the file writes them, as SQL quotes them, and which tables they mean.
//!
//! `schema.table` is taken letter by letter, without SQL's folding to lower case. Double quotes, doubled
//! inside as in SQL, are needed only around a name that holds a dot, a quote or is `*`.

use std::fmt;

use millrace_core::pattern::Pattern;
use serde::Deserialize;

/// A table by its full name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
pub struct TableName {
    pub schema: String,
    pub table: String,
}

impl TableName {
    pub fn new(schema: impl Into<String>, table: impl Into<String>) -> Self {
        Self { schema: schema.into(), table: table.into() }
    }

    /// Quoted for a statement, whatever the names hold.
    pub fn sql(&self) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&self.table))
    }
}

/// As events, messages and metrics name it.
impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.table)
    }
}

/// An identifier between double quotes.
pub fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// One entry of `tables`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TablePattern {
    One(TableName),
    /// `schema.*`
    Schema(String),
    /// `/schema\.table_\d+/`, of the whole name
    Expression(Pattern),
}

impl TablePattern {
    /// Reads `schema.table` or `schema.*`; the error says what is wrong with the entry.
    pub fn parse(entry: &str) -> Result<Self, &'static str> {
        if entry.starts_with('/') {
            let pattern = Pattern::parse(entry).ok().filter(Pattern::is_expression);
            return pattern.map(Self::Expression).ok_or("is not an expression that is understood");
        }
        let (schema, _, rest) = part(entry)?;
        let rest = rest.strip_prefix('.').ok_or("has no schema: write schema.table, as in public.orders")?;
        let (table, is_quoted, rest) = part(rest)?;
        if !rest.is_empty() {
            return Err("has more than a schema and a table: put a name that holds a dot in double quotes");
        }
        match table.as_str() {
            "*" if !is_quoted => Ok(Self::Schema(schema)),
            _ => Ok(Self::One(TableName { schema, table })),
        }
    }

    pub fn matches(&self, schema: &str, table: &str) -> bool {
        match self {
            Self::One(name) => name.schema == schema && name.table == table,
            Self::Schema(name) => name == schema,
            Self::Expression(pattern) => pattern.matches(&format!("{schema}.{table}")),
        }
    }
}

impl fmt::Display for TablePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(name) => name.fmt(f),
            Self::Schema(schema) => write!(f, "{schema}.*"),
            Self::Expression(pattern) => pattern.fmt(f),
        }
    }
}

/// One identifier, whether it was quoted, and what follows it.
fn part(text: &str) -> Result<(String, bool, &str), &'static str> {
    let (name, is_quoted, rest) = match text.strip_prefix('"') {
        Some(inner) => {
            let (name, rest) = unquote(inner).ok_or("has a double quote that is not closed")?;
            (name, true, rest)
        }
        None => {
            let (name, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
            (name.to_owned(), false, rest)
        }
    };
    if name.is_empty() {
        return Err("has an empty name in it");
    }
    if !is_quoted && name.contains(['"', ' ', '\t']) {
        return Err("has a quote or a blank inside a name: put the name in double quotes");
    }
    if name.contains('\0') {
        return Err("has a zero byte in it");
    }
    Ok((name, is_quoted, rest))
}

/// The identifier up to its closing quote, and what follows it.
fn unquote(inner: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut rest = inner;
    loop {
        let (head, tail) = rest.split_once('"')?;
        name.push_str(head);
        match tail.strip_prefix('"') {
            Some(tail) => {
                name.push('"');
                rest = tail;
            }
            None => return Some((name, tail)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(schema: &str, table: &str) -> Result<TablePattern, &'static str> {
        Ok(TablePattern::One(TableName::new(schema, table)))
    }

    #[test]
    fn names_are_taken_letter_by_letter() {
        assert_eq!(TablePattern::parse("public.Orders"), one("public", "Orders"));
        assert_eq!(TablePattern::parse(r#""my.schema"."a""b""#), one("my.schema", "a\"b"));
        assert_eq!(TablePattern::parse("shop.*"), Ok(TablePattern::Schema("shop".to_owned())));
        assert_eq!(TablePattern::parse(r#"shop."*""#), one("shop", "*"));
    }

    #[test]
    fn an_expression_means_every_table_whose_whole_name_fits() {
        let pattern = TablePattern::parse(r"/shop\.orders_\d+/").expect("an expression");
        assert!(pattern.matches("shop", "orders_7") && !pattern.matches("shop", "orders_7x"));
        assert!(TablePattern::parse("/shop").is_err() && TablePattern::parse("/(/").is_err());
        assert_eq!(TablePattern::parse(&pattern.to_string()), Ok(pattern));
    }

    #[test]
    fn an_entry_that_names_no_table_is_refused() {
        for entry in ["", "orders", ".orders", "public.", "a.b.c", "\"a.b", "a b.c", "a.\"b\"c", "a\"b.c"] {
            assert!(TablePattern::parse(entry).is_err(), "{entry:?}");
        }
    }

    #[test]
    fn a_schema_pattern_matches_all_of_its_tables_and_no_others() {
        let shop = TablePattern::Schema("shop".to_owned());
        assert!(shop.matches("shop", "orders") && !shop.matches("shops", "orders"));
    }

    proptest! {
        #[test]
        fn what_sql_quotes_is_read_back(schema in "[^\0]{1,12}", table in "[^\0]{1,12}") {
            let name = TableName::new(schema.clone(), table.clone());
            prop_assert_eq!(TablePattern::parse(&name.sql()), one(&schema, &table));
        }
    }
}
