//! Names of collections as the file writes them, and which collections they mean. Which of them are there:
//! `there`.
//!
//! `database.collection` or `database.*`: a database's name holds no dot, so the first one ends it, and a
//! collection's name may hold any number of them.

use std::fmt;

use futures_util::StreamExt;
use millrace_core::error::Result;
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
            Pattern::Database(database) => names_in(client, database).await,
            Pattern::All => names_in_all(client).await,
        };
        let what = || format!("cannot list the collections of {pattern}");
        names.extend(found.map_err(|error| classified(what(), error, settings, Phase::Reading))?);
    }
    names.retain(|name| settings.wants(&name.database, &name.collection));
    names.sort_by_cached_key(ToString::to_string);
    names.dedup();
    Ok(names)
}

async fn names_in_all(client: &Client) -> mongodb::error::Result<Vec<Name>> {
    let mut names = Vec::new();
    for database in client.list_database_names().await? {
        if !is_internal(&database) {
            names.extend(names_in(client, &database).await?);
        }
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
    /// `*.*`
    All,
}

impl Pattern {
    pub fn parse(entry: &str) -> std::result::Result<Self, &'static str> {
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
