//! Which rows a snapshot saw, told from the rows themselves when the snapshot is gone: by the transactions that wrote
//! them. Start at `Sight::condition`.
//!
//! A row keeps the number of the transaction that wrote it, or of one inside that, of which a snapshot and the stream
//! know nothing. So numbers are compared with the snapshot only where all of them had ended, or none had begun; those
//! in between that wrote a row which the snapshot saw are noted, those that follow one another as one range. A number
//! between two of them may be of somebody who was still under way: it never counts with them.

use std::collections::BTreeMap;

use millrace_core::error::{Error, Result};
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use crate::catalog::{Form, TableInfo};
use crate::errors;
use crate::snapshot::visibility::Visibility;

/// More would make each note of how far the table is as large as a chunk.
const YOUNG_MAX: usize = 2_000;

/// Below it numbers stand for something else than a transaction: for rows that were frozen long ago.
const FIRST_NORMAL: u32 = 3;

/// What is noted of a snapshot of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sight {
    /// Transactions that began while an older one was under way, and wrote rows that the snapshot saw: the first and
    /// the last of each range, by how many began between the snapshot's oldest and them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    young: Vec<(i64, i64)>,
    /// The files of the table, and of its parts, by their oids: what is written anew gets other numbers.
    files: BTreeMap<u32, u32>,
}

impl Sight {
    /// In the transaction that has the snapshot.
    pub async fn of(client: &Client, table: &TableInfo, seen: &Visibility) -> Result<Self> {
        let window = seen.xmax().saturating_sub(seen.xmin());
        let mut young = Vec::new();
        if window > 0 {
            let what = || format!("cannot look which transactions wrote rows of {}", table.name());
            let only = if table.form == Form::Partitioned { "" } else { "ONLY " };
            let sql = format!(
                "SELECT min(place), max(place) FROM (
                    SELECT place, place - row_number() OVER (ORDER BY place) AS range FROM (
                        SELECT DISTINCT {place} AS place FROM {only}{table} WHERE {place} < {window}
                    ) AS places
                ) AS ranges GROUP BY range ORDER BY 1 LIMIT {limit}",
                table = table.name().sql(),
                place = distance(seen),
                limit = YOUNG_MAX + 1
            );
            for row in client.query(&sql, &[]).await.map_err(|error| errors::query(what(), error))? {
                let place = |at| row.try_get(at).map_err(|error| errors::query(what(), error));
                young.push((place(0)?, place(1)?));
            }
        }
        if young.len() > YOUNG_MAX {
            return Err(Error::transient(format!(
                "more than {YOUNG_MAX} times others came between the transactions that wrote into {} since the oldest \
                 one began that is under way",
                table.name()
            ))
            .hint("it is tried again; look in pg_stat_activity for what holds the smallest backend_xid"));
        }
        Ok(Self { young, files: files(client, table).await? })
    }

    /// Whether the rows have the numbers that they had then.
    pub async fn holds(&self, client: &Client, table: &TableInfo) -> Result<bool> {
        let now = files(client, table).await?;
        Ok(self.files.iter().all(|(oid, file)| now.get(oid) == Some(file)))
    }

    /// True of a row that the snapshot saw, in a transaction whose own snapshot is `now`.
    pub fn condition(&self, seen: &Visibility, now: &Visibility) -> String {
        let window = now.xmax().saturating_sub(seen.xmin());
        let place = distance(seen);
        let young: Vec<String> = self.young.iter().map(|(first, last)| format!("[{first},{last}]")).collect();
        format!(
            "{place} >= {window} OR xmin::text::bigint < {FIRST_NORMAL} OR '{{{}}}'::int8multirange @> {place}",
            young.join(",")
        )
    }
}

/// How many transactions began between the snapshot's oldest and the one that wrote the row, over the wrap of numbers.
fn distance(seen: &Visibility) -> String {
    format!("((xmin::text::bigint - {} + 4294967296) % 4294967296)", seen.xmin() % (1 << 32))
}

async fn files(client: &Client, table: &TableInfo) -> Result<BTreeMap<u32, u32>> {
    let what = || format!("cannot look up the files of {}", table.name());
    let sql = "SELECT leaf.oid, coalesce(pg_relation_filenode(leaf.oid), 0::oid)
        FROM (SELECT $1::oid UNION SELECT relid FROM pg_partition_tree($1::oid)) AS leaf(oid)";
    let rows = client.query(sql, &[&table.oid]).await.map_err(|error| errors::query(what(), error))?;
    let oid = |row: &tokio_postgres::Row, at| row.try_get(at).map_err(|error| errors::query(what(), error));
    rows.iter().map(|row| Ok((oid(row, 0)?, oid(row, 1)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_known_by_the_transaction_that_wrote_it_over_the_wrap_of_numbers() {
        let seen = Visibility::parse("4294967290:4294967300:4294967291").expect("a snapshot");
        let now = Visibility::parse("4294967310:4294967320:").expect("a snapshot");
        let sight = Sight { young: vec![(4, 4), (7, 9)], files: BTreeMap::new() };
        assert_eq!(
            sight.condition(&seen, &now),
            "((xmin::text::bigint - 4294967290 + 4294967296) % 4294967296) >= 30 \
             OR xmin::text::bigint < 3 \
             OR '{[4,4],[7,9]}'::int8multirange @> ((xmin::text::bigint - 4294967290 + 4294967296) % 4294967296)"
        );
    }

    #[test]
    fn it_is_noted_and_read_back() {
        let sight = Sight { young: vec![(7, 9)], files: BTreeMap::from([(16_400, 16_401)]) };
        let text = serde_json::to_string(&sight).expect("a text");
        assert_eq!(text, r#"{"young":[[7,9]],"files":{"16400":16401}}"#);
        assert_eq!(serde_json::from_str::<Sight>(&text).expect("a sight"), sight);
    }
}
