//! One session with a database.

use tokio_postgres::types::FromSqlOwned;
use tokio_postgres::{Client, NoTls};

pub struct Sql {
    client: Client,
    url: String,
}

impl Sql {
    pub async fn connect(url: &str) -> Self {
        Self::try_connect(url).await.expect("the database takes a session")
    }

    pub async fn try_connect(url: &str) -> Result<Self, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        // Ends by itself with the client, or with the server, of which the next statement tells.
        tokio::spawn(connection);
        Ok(Self { client, url: url.to_owned() })
    }

    /// Another session with the same database.
    pub async fn another(&self) -> Self {
        Self::connect(&self.url).await
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Runs statements; those without BEGIN make one transaction.
    pub async fn run(&self, statements: &str) {
        if let Err(error) = self.client.batch_execute(statements).await {
            let error = error.as_db_error().map_or(error.to_string(), |db| db.message().to_owned());
            panic!("{error}, in: {statements}");
        }
    }

    /// Runs statements that may fail.
    pub async fn try_run(&self, statements: &str) -> Option<()> {
        self.client.batch_execute(statements).await.ok()
    }

    /// The one value that a query gives.
    pub async fn one<T: FromSqlOwned>(&self, query: &str) -> T {
        let row = self.client.query_one(query, &[]).await;
        row.unwrap_or_else(|error| panic!("{error}, in: {query}")).get(0)
    }

    /// The one value, where there is a row.
    pub async fn maybe<T: FromSqlOwned>(&self, query: &str) -> Option<T> {
        let row = self.client.query_opt(query, &[]).await;
        row.unwrap_or_else(|error| panic!("{error}, in: {query}")).map(|row| row.get(0))
    }

    /// A query's one place in the log, as a number.
    pub async fn lsn(&self, query: &str) -> u64 {
        let text: String = self.one(&format!("SELECT ({query})::text")).await;
        let number = |part: &str| u64::from_str_radix(part, 16).ok();
        let halves = text.split_once('/').and_then(|(high, low)| Some((number(high)?, number(low)?)));
        let (high, low) = halves.unwrap_or_else(|| panic!("{text} is not a place in the log"));
        high << 32 | low
    }

    /// Where the server's log ends now.
    pub async fn log_end(&self) -> u64 {
        self.lsn("SELECT pg_current_wal_insert_lsn()").await
    }
}
