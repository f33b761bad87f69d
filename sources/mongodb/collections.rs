//! Names of collections as the file writes them, and which collections they mean.
//!
//! `database.collection` or `database.*`: a database's name holds no dot, so the first one ends it, and a
//! collection's name may hold any number of them.

use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    One {
        database: String,
        collection: String,
    },
    /// `database.*`
    Database(String),
    /// `*.*`
    All,
}

impl Pattern {
    pub fn parse(entry: &str) -> Result<Self, &'static str> {
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
            Self::All => !is_internal(database),
        }
    }

    pub fn database(&self) -> Option<&str> {
        match self {
            Self::One { database, .. } | Self::Database(database) => Some(database),
            Self::All => None,
        }
    }
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
    fn an_entry_that_names_no_collection_is_refused() {
        for entry in ["", "shop", ".orders", "shop.", "*.orders", "local.*", "admin.users", "shop.$cmd"] {
            assert!(Pattern::parse(entry).is_err(), "{entry:?}");
        }
    }
}
