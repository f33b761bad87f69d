//! The database under load: made anew for each question, so that none inherits the other's slots or log.

use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls};

use crate::workload::{self, Load};
use crate::{Result, Servers};

/// Its name on the server, and the publication's.
const NAME: &str = "bench";

/// A superuser's connection to the database under load.
pub struct Database {
    pub client: Client,
    /// With the password.
    pub url: String,
}

/// What was written, and where the log ends behind it.
pub struct Written {
    pub load: Load,
    pub events: u64,
    /// Inside the last transaction: a position beyond it has everything.
    pub before_end: u64,
    /// Behind the last transaction, as `pg_recvlogical` wants it.
    pub end: String,
}

impl Database {
    /// Drops what an earlier run left and makes tables, publication and procedures.
    pub async fn new(servers: &Servers) -> Result<Database> {
        let admin = connect(&servers.postgres).await?;
        drop_slots(&admin).await?;
        admin.batch_execute(&format!("DROP DATABASE IF EXISTS {NAME} WITH (FORCE)")).await?;
        admin.batch_execute(&format!("CREATE DATABASE {NAME}")).await?;
        let (server, _) = servers.postgres.rsplit_once('/').ok_or("the url of Postgres names no database")?;
        let url = format!("{server}/{NAME}");
        let client = connect(&url).await?;
        client.batch_execute(workload::CREATE).await?;
        client.batch_execute(workload::PROCEDURES).await?;
        Ok(Database { client, url })
    }

    /// Leaves the server as it was.
    pub async fn remove(self, servers: &Servers) -> Result<()> {
        drop(self.client);
        let admin = connect(&servers.postgres).await?;
        drop_slots(&admin).await?;
        Ok(admin.batch_execute(&format!("DROP DATABASE {NAME} WITH (FORCE)")).await?)
    }

    pub async fn version(&self) -> Result<String> {
        Ok(self.client.query_one("SHOW server_version", &[]).await?.get(0))
    }

    pub async fn create_slot(&self, slot: &str) -> Result<()> {
        let sql = "SELECT pg_create_logical_replication_slot($1::text::name, 'pgoutput')";
        self.client.query_one(sql, &[&slot]).await?;
        Ok(())
    }

    pub async fn copy_slot(&self, from: &str, to: &str) -> Result<()> {
        let sql = "SELECT pg_copy_logical_replication_slot($1::text::name, $2::text::name)";
        self.client.query_one(sql, &[&from, &to]).await?;
        Ok(())
    }

    /// Drops a slot, as soon as its walsender has noticed that its client is gone.
    pub async fn drop_slot(&self, slot: &str) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while let Err(error) =
            self.client.query_one("SELECT pg_drop_replication_slot($1::text::name)", &[&slot]).await
        {
            if error.code() != Some(&tokio_postgres::error::SqlState::OBJECT_IN_USE)
                || Instant::now() >= deadline
            {
                return Err(error.into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// The process id of the slot's walsender while somebody reads from it.
    pub async fn walsender(&self, slot: &str) -> Result<Option<u32>> {
        let sql = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1::text::name";
        let row = self.client.query_opt(sql, &[&slot]).await?;
        let pid: Option<i32> = row.and_then(|row| row.get(0));
        Ok(pid.map(u32::try_from).transpose()?)
    }

    /// The slot that a daemon made for itself.
    pub async fn only_slot(&self) -> Result<Option<String>> {
        let sql = "SELECT slot_name::text FROM pg_replication_slots WHERE database = current_database()";
        Ok(self.client.query_opt(sql, &[]).await?.map(|row| row.get(0)))
    }

    /// Writes rows 1 to `transactions * size`, and a last one in a transaction of its own that shows
    /// where the log ends.
    pub async fn fill(&self, load: Load, transactions: u64, size: u64) -> Result<Written> {
        let (table, count, rows) = (load.table(), i64::try_from(transactions)?, i64::try_from(size)?);
        self.client.batch_execute(&format!("CALL fill_{table}(1, {count}, {rows})")).await?;
        let events = transactions * size + 1;
        self.client.batch_execute("BEGIN").await?;
        self.client.execute(load.insert_one(), &[&i64::try_from(events)?]).await?;
        let before_end = self.client.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await?;
        self.client.batch_execute("COMMIT").await?;
        let end = self.client.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await?;
        // Dirty pages are not to be written during the first run only.
        self.client.batch_execute("CHECKPOINT").await?;
        Ok(Written { load, events, before_end: lsn(before_end.get(0))?, end: end.get(0) })
    }

    /// What a row is on the wire, on average: the message of pgoutput, the header that wraps it (25
    /// bytes, XLogData), and that of CopyData (5).
    pub async fn wire_bytes_per_row(&self, slot: &str) -> Result<f64> {
        let sql = "SELECT avg(length(data))::float8 + 30
            FROM pg_logical_slot_peek_binary_changes($1::text::name, NULL, 1000,
                'proto_version', '1', 'publication_names', 'bench') WHERE get_byte(data, 0) = ascii('I')";
        Ok(self.client.query_one(sql, &[&slot]).await?.get(0))
    }
}

pub async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            eprintln!("connection to Postgres: {error}");
        }
    });
    Ok(client)
}

async fn drop_slots(admin: &Client) -> Result<()> {
    let sql = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = $1";
    admin.query(sql, &[&NAME]).await?;
    Ok(())
}

fn lsn(text: &str) -> Result<u64> {
    let (high, low) = text.split_once('/').ok_or("an LSN without a slash")?;
    Ok(u64::from_str_radix(high, 16)? << 32 | u64::from_str_radix(low, 16)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_lsn_is_the_number_that_its_two_halves_make() {
        assert_eq!(lsn("1/A0").unwrap(), 0x1_0000_00A0);
        assert!(lsn("10").is_err());
    }
}
