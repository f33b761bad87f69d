//! The connection, and what the server says of itself. Start at `connect`.

use std::sync::Arc;

use millrace_core::error::{Error, Result};
use mongodb::bson::{Bson, Document, doc};
use mongodb::options::{ClientOptions, ConnectionString, Tls, TlsOptions};
use mongodb::{Client, Database};
use secrecy::ExposeSecret;

use crate::config::Settings;
use crate::errors::{Phase, classified, code_of, is_passing};
use crate::resume_token::ClusterTime;

/// Change streams tell their place after each reply from here on.
const OLDEST: (i64, i64) = (5, 0);
/// Events above the limit come in parts from here on.
const SPLITS: [(i64, i64, i64); 2] = [(6, 0, 9), (7, 0, 0)];

/// What the server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub version: String,
    /// Major, minor, patch.
    numbers: [i64; 3],
    /// Empty behind mongos, and of a server that is no member of a set.
    pub replica_set: String,
    /// What no other set has; unknown to a user who may not read the database `local`.
    pub replica_set_id: Option<String>,
    pub is_mongos: bool,
    /// The newest place in its log.
    pub end: ClusterTime,
}

impl Facts {
    /// It can send an event above its limit in parts.
    pub fn splits(&self) -> bool {
        let [major, minor, patch] = self.numbers;
        let [(a, b, c), (newer, ..)] = SPLITS;
        major >= newer || ((major, minor) == (a, b) && patch >= c)
    }

    /// It keeps images of documents.
    pub fn keeps_images(&self) -> bool {
        self.numbers.first().is_some_and(|major| *major >= 6)
    }

    /// Whether change streams work here at all.
    pub fn preconditions(&self) -> Result<()> {
        let [major, minor, _] = self.numbers;
        if (major, minor) < OLDEST {
            return Err(Error::config(format!("mongodb {} is too old", self.version))
                .hint(format!("use {}.{} or newer", OLDEST.0, OLDEST.1)));
        }
        if self.replica_set.is_empty() && !self.is_mongos {
            return Err(Error::config("the server is not a member of a replica set")
                .hint("change streams need one: start mongod with --replSet rs0 and run: rs.initiate()"));
        }
        Ok(())
    }
}

/// A client whose monitors and pool live as long as it does. Passwords and certificates are read from their
/// files here, so that a client after a refusal has the present ones.
pub async fn connect(settings: &Settings) -> Result<Client> {
    let what = || format!("cannot connect to mongodb at {}", settings.place());
    let failed = |error| classified(what(), error, settings, Phase::Reading);
    let url = ConnectionString::parse(settings.url.read()?.expose_secret()).map_err(failed)?;
    let mut options = ClientOptions::parse(url).await.map_err(failed)?;
    options.app_name = Some(settings.application_name());
    options.server_selection_timeout = Some(settings.server_selection_timeout);
    options.connect_timeout = Some(settings.connect_timeout);
    if let (Some(password), Some(credential)) = (&settings.password, &mut options.credential) {
        credential.password = Some(password.read()?.expose_secret().to_owned());
    }
    if settings.tls_ca_file.is_some() || settings.tls_certificate_key_file.is_some() {
        let mut tls = match options.tls.take() {
            Some(Tls::Enabled(tls)) => tls,
            Some(Tls::Disabled) => {
                return Err(Error::config("certificates are given, but url says tls=false")
                    .hint("remove tls=false from url in [source.mongodb]"));
            }
            None => TlsOptions::default(),
        };
        tls.ca_file_path = settings.tls_ca_file.clone().or(tls.ca_file_path);
        tls.cert_key_file_path = settings.tls_certificate_key_file.clone().or(tls.cert_key_file_path);
        options.tls = Some(Tls::Enabled(tls));
    }
    Client::with_options(options).map_err(failed)
}

/// The database on which a stream of this scope is opened, and the collection where there is one.
pub fn target(client: &Client, settings: &Settings) -> (Database, Option<String>) {
    use crate::config::Scope;
    match &settings.scope {
        Scope::Deployment => (client.database("admin"), None),
        Scope::Database(database) => (client.database(database), None),
        Scope::Collection(database, collection) => (client.database(database), Some(collection.clone())),
    }
}

pub async fn facts(client: &Client, settings: &Arc<Settings>) -> Result<Facts> {
    let admin = client.database("admin");
    let ask = async |command: Document, what: &str| {
        let failed = |error| {
            let what = format!("{what} at {}", settings.place());
            classified(what, error, settings, Phase::Reading)
        };
        admin.run_command(command).await.map_err(failed)
    };
    let hello = ask(doc! { "hello": 1 }, "cannot reach mongodb").await?;
    let build = ask(doc! { "buildInfo": 1 }, "cannot ask mongodb for its version").await?;
    let mut numbers = [0; 3];
    for (number, part) in numbers.iter_mut().zip(build.get_array("versionArray").into_iter().flatten()) {
        *number = match part {
            Bson::Int32(part) => i64::from(*part),
            Bson::Int64(part) => *part,
            _ => 0,
        };
    }
    let replica_set = hello.get_str("setName").unwrap_or_default().to_owned();
    let replica_set_id = match replica_set.is_empty() {
        true => None,
        false => replica_set_id(client).await.map_err(|error| {
            let what = format!("cannot ask mongodb at {} for the id of its set", settings.place());
            classified(what, error, settings, Phase::Reading)
        })?,
    };
    let end = hello.get_timestamp("operationTime").map(ClusterTime::from).unwrap_or_default();
    Ok(Facts {
        version: build.get_str("version").unwrap_or("?").to_owned(),
        numbers,
        replica_set,
        replica_set_id,
        is_mongos: hello.get_str("msg").is_ok_and(|word| word == "isdbgrid"),
        end,
    })
}

/// Made with the set, and kept for as long as it has members.
async fn replica_set_id(client: &Client) -> mongodb::error::Result<Option<String>> {
    let sets = client.database("local").collection::<Document>("system.replset");
    let found = match sets.find_one(doc! {}).projection(doc! { "settings.replicaSetId": 1 }).await {
        // Whatever it is refused for: without it the set is known by its name.
        Err(error) if code_of(&error).is_some() && !is_passing(&error) => None,
        found => found?,
    };
    let settings = found.as_ref().and_then(|set| set.get_document("settings").ok());
    Ok(settings.and_then(|settings| settings.get_object_id("replicaSetId").ok()).map(|id| id.to_hex()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(numbers: [i64; 3]) -> Facts {
        Facts {
            version: "?".to_owned(),
            numbers,
            replica_set: "rs0".to_owned(),
            replica_set_id: None,
            is_mongos: false,
            end: ClusterTime::default(),
        }
    }

    #[test]
    fn large_events_are_split_from_6_0_9_on() {
        for (numbers, splits) in
            [([6, 0, 5], false), ([6, 0, 9], true), ([6, 3, 1], false), ([7, 0, 0], true), ([8, 2, 0], true)]
        {
            assert_eq!(of(numbers).splits(), splits, "{numbers:?}");
        }
    }

    #[test]
    fn a_server_alone_and_one_too_old_are_refused() {
        assert!(of([6, 0, 5]).preconditions().is_ok());
        assert!(of([4, 4, 0]).preconditions().is_err());
        let alone = Facts { replica_set: String::new(), ..of([6, 0, 5]) };
        assert!(alone.preconditions().unwrap_err().hint_text().unwrap().contains("rs.initiate()"));
    }
}
