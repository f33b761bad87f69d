//! Names of collections as the file writes them, and which collections they mean. Which of them are there:
//! `there`.
//!
//! `database.collection` or `database.*`: a database's name holds no dot, so the first one ends it, and a
//! collection's name may hold any number of them. `/database\.collection_\d+/` is an expression of the whole name.

use std::fmt;

use futures_util::StreamExt;
use millrace_core::error::Result;
use millrace_core::pattern::Pattern as Names;
use mongodb::Client;
use mongodb::bson::doc;

use crate::config::Settings;
use crate::errors::{Phase, classified};

/// A collection by its two names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    pub database: String,
    pub collection: String,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.database, self.collection)
    }
}

/// The collections that the file means and that are there. One that is named is not looked up: then the right to
/// find documents in it is enough.
pub async fn there(client: &Client, settings: &Settings) -> Result<Vec<Name>> {
    let mut names = Vec::new();
    for pattern in &settings.collections {
        let found = match pattern {
            Pattern::One { database, collection } => {
                names.push(Name { database: database.clone(), collection: collection.clone() });
                continue;
            }
            Pattern::Database(_) | Pattern::Expression(_) | Pattern::All => names_of(client, pattern).await,
        };
        let what = || format!("cannot list the collections of {pattern}");
        names.extend(found.map_err(|error| classified(what(), error, settings, Phase::Reading))?);
    }
    names.retain(|name| settings.wants(&name.database, &name.collection));
    names.sort_by_cached_key(ToString::to_string);
    names.dedup();
    Ok(names)
}

/// The databases that a pattern may mean; only where it means several are they asked for.
pub async fn databases(client: &Client, pattern: &Pattern) -> mongodb::error::Result<Vec<String>> {
    let mut databases = match pattern.database() {
        Some(database) => vec![database.to_owned()],
        None => client.list_database_names().await?,
    };
    databases.retain(|database| !is_internal(database));
    Ok(databases)
}

async fn names_of(client: &Client, pattern: &Pattern) -> mongodb::error::Result<Vec<Name>> {
    let mut names = Vec::new();
    for database in databases(client, pattern).await? {
        names.extend(names_in(client, &database).await?);
    }
    Ok(names)
}

/// Those that the user may read; views are none, and the server's own are left out.
async fn names_in(client: &Client, database: &str) -> mongodb::error::Result<Vec<Name>> {
    let list = doc! { "listCollections": 1, "nameOnly": true, "authorizedCollections": true };
    let mut cursor = client.database(database).run_cursor_command(list).await?;
    let mut names = Vec::new();
    while let Some(entry) = cursor.next().await.transpose()? {
        let collection = entry.get_str("name").unwrap_or_default();
        if entry.get_str("type").is_ok_and(|kind| kind == "collection") && !collection.starts_with("system.")
        {
            names.push(Name { database: database.to_owned(), collection: collection.to_owned() });
        }
    }
    Ok(names)
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    One {
        database: String,
        collection: String,
    },
    /// `database.*`
    Database(String),
    /// `/database\.(one|other)/`, in any case of letters
    Expression(Names),
    /// `*.*`
    All,
}

impl Pattern {
    pub fn parse(entry: &str) -> std::result::Result<Self, &'static str> {
        if entry.starts_with('/') {
            let names = Names::parse(entry).ok().filter(Names::is_expression);
            return names.map(Self::Expression).ok_or("is not an expression that is understood");
        }
        let Some((database, collection)) = entry.split_once('.') else {
            return Err("names no collection: write database.collection or database.*");
        };
        if database.is_empty() || collection.is_empty() {
            return Err("has an empty name in it");
        }
        if entry.contains(['\0', '$']) {
            return Err("has a character in it that no name may hold");
        }
        match (database, collection) {
            ("*", "*") => Ok(Self::All),
            ("*", _) => Err("names a collection of every database: only *.* is possible there"),
            (_, "*") if is_internal(database) => Err("is a database of the server's own"),
            (_, "*") => Ok(Self::Database(database.to_owned())),
            _ if is_internal(database) => Err("is a collection of the server's own"),
            _ => Ok(Self::One { database: database.to_owned(), collection: collection.to_owned() }),
        }
    }

    pub fn matches(&self, database: &str, collection: &str) -> bool {
        match self {
            Self::One { database: d, collection: c } => d == database && c == collection,
            Self::Database(d) => d == database,
            Self::Expression(names) => {
                !is_internal(database) && names.matches(&format!("{database}.{collection}"))
            }
            Self::All => !is_internal(database),
        }
    }

    /// The only one that is meant: of an expression, where it begins with a plain name.
    pub fn database(&self) -> Option<&str> {
        match self {
            Self::One { database, .. } | Self::Database(database) => Some(database),
            Self::Expression(names) => {
                let (database, rest) = names.text().strip_prefix("^(?:")?.split_once("\\.")?;
                let is_plain = database.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
                (is_plain && !has_branches(rest)).then_some(database)
            }
            Self::All => None,
        }
    }

    /// The expression as the server understands it in the same way; `None` where it might not.
    pub fn server_expression(&self) -> Option<&str> {
        let Self::Expression(names) = self else { return None };
        let inner = names.text().strip_prefix("^(?:")?;
        let mut rest = inner.chars().peekable();
        while let Some(c) = rest.next() {
            let next = rest.peek().copied();
            let is_shared = match c {
                '\\' => rest.next().is_some_and(|c| matches!(c, 'd' | 'w' | 's' | '.' | '-' | '_' | '$')),
                // A group without a number, and no flags.
                '(' if next == Some('?') => rest.nth(1) == Some(':'),
                '[' => !matches!(next, Some('[' | ':')),
                // Of Rust's own are the operators between classes.
                '&' | '~' => false,
                '-' => next != Some('-'),
                c => c.is_ascii(),
            };
            if !is_shared {
                return None;
            }
        }
        Some(names.text())
    }
}

/// Whether an expression has branches outside of its groups. A bracket in a class is taken for a group's, which
/// errs on the side of branches.
fn has_branches(expression: &str) -> bool {
    let (mut depth, mut was_escape) = (0_i32, false);
    // The group around the whole ends with the last bracket.
    for c in expression.strip_suffix(")$").unwrap_or(expression).chars() {
        match c {
            _ if was_escape => {}
            '(' => depth += 1,
            ')' => depth -= 1,
            '[' | ']' => return true,
            '|' if depth <= 0 => return true,
            _ => {}
        }
        was_escape = c == '\\' && !was_escape;
    }
    false
}

/// Change streams leave these out.
pub fn is_internal(database: &str) -> bool {
    matches!(database, "admin" | "local" | "config")
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One { database, collection } => write!(f, "{database}.{collection}"),
            Self::Database(database) => write!(f, "{database}.*"),
            Self::Expression(names) => write!(f, "{names}"),
            Self::All => f.write_str("*.*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_dot_ends_the_database_s_name() {
        let one = Pattern::One { database: "shop".into(), collection: "a.b.c".into() };
        assert_eq!(Pattern::parse("shop.a.b.c"), Ok(one.clone()));
        assert!(one.matches("shop", "a.b.c") && !one.matches("shop", "a"));
        assert_eq!(Pattern::parse("shop.*"), Ok(Pattern::Database("shop".into())));
        assert!(Pattern::All.matches("shop", "x") && !Pattern::All.matches("local", "oplog.rs"));
    }

    #[test]
    fn an_expression_is_of_the_whole_name_and_never_of_the_server_s_own() {
        let pattern = Pattern::parse(r"/shop\.(orders|items_\d+)/").unwrap();
        for (database, collection, expected) in [
            ("shop", "orders", true),
            ("SHOP", "Items_7", true),
            ("shop", "orders2", false),
            ("local", "orders", false),
        ] {
            assert_eq!(pattern.matches(database, collection), expected, "{database}.{collection}");
        }
        assert_eq!(pattern.to_string(), r"/shop\.(orders|items_\d+)/");
        assert!(!Pattern::parse("/.*/").unwrap().matches("admin", "x"));
    }

    #[test]
    fn the_database_of_an_expression_is_known_where_it_is_plain() {
        for (expression, expected) in [
            (r"/shop\.(orders|items)/", Some("shop")),
            (r"/shop\..*/", Some("shop")),
            (r"/shop\.a|other\.b/", None),
            (r"/sh.p\.a/", None),
            ("/shop.a/", None),
            (r"/shop\.[a-c]/", None),
        ] {
            assert_eq!(Pattern::parse(expression).unwrap().database(), expected, "{expression}");
        }
    }

    #[test]
    fn the_server_is_only_given_expressions_that_mean_the_same_to_it() {
        for (expression, expected) in [
            (r"/shop\.(orders|items_\d+)/", true),
            (r"/shop\.(?:orders|items)/", true),
            (r"/shop\.(?x)orders/", false),
            (r"/shop\.\bx/", false),
            (r"/shop\.[[:alpha:]]/", false),
            (r"/shop\.zażółć/", false),
            (r"/shop\.[a-z]{2,3}x?/", true),
        ] {
            let pattern = Pattern::parse(expression).unwrap();
            assert_eq!(pattern.server_expression().is_some(), expected, "{expression}");
        }
    }

    #[test]
    fn an_entry_that_names_no_collection_is_refused() {
        for entry in
            ["", "shop", ".orders", "shop.", "*.orders", "local.*", "admin.users", "shop.$cmd", "/(/", "/a"]
        {
            assert!(Pattern::parse(entry).is_err(), "{entry:?}");
        }
    }
}
