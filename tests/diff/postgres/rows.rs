//! Rows that are there: before both sides start, when they start again, and when a signal asks for them. Start at
//! [`are_read`] and [`signals`].

use std::collections::BTreeSet;

use millrace_ledger::random::Random;
use serde_json::Value as Json;
use tokio_postgres::Client;

use super::sides::{SIGNALS, captured};
use super::{Config, Table, changes, said};
use crate::Result;
use crate::compare::operation;
use crate::records::{Topics, Written};
use crate::sides::Sides;

/// At most so many inserts into a table; some keys are the same.
const ROWS_MAX: u64 = 20;

/// Debezium reads a table in the order in which its rows lie: they are laid in the order of their keys.
const IN_ORDER: &str = "\
DO $$ DECLARE t record; BEGIN
  FOR t IN SELECT i.indrelid::regclass::text AS name, x.relname AS key FROM pg_index i
    JOIN pg_class c ON c.oid = i.indrelid JOIN pg_class x ON x.oid = i.indexrelid
    WHERE i.indisprimary AND c.relkind = 'r' AND NOT c.relispartition
      AND c.relnamespace IN ('public'::regnamespace, '\"other-place\"'::regnamespace)
  LOOP EXECUTE format('CLUSTER %s USING %I', t.name, t.key); END LOOP;
END $$;";

/// Rows of every table; some stay empty.
pub async fn prepare(client: &Client, tables: &[Table], random: &mut Random) -> Result<()> {
    for table in tables {
        let count = if random.percent(15) { 0 } else { random.below(ROWS_MAX) };
        for _ in 0..count {
            let row = table.row(random);
            client.batch_execute(&row).await.map_err(|error| said(&row, &error))?;
        }
    }
    let rows = changes::rows();
    client.batch_execute(&rows).await.map_err(|error| said(&rows, &error))?;
    in_order(client).await
}

pub async fn in_order(client: &Client) -> Result<()> {
    client.batch_execute(IN_ORDER).await.map_err(|error| said(IN_ORDER, &error))
}

/// How many rows the captured tables have.
pub async fn count(config: &Config, client: &Client, tables: &[Table]) -> Result<usize> {
    let mut all = 0;
    for name in captured(config, tables) {
        let (schema, table) = name.split_once('.').ok_or("a table without a schema")?;
        let sql = format!("SELECT count(*) FROM \"{schema}\".\"{table}\"");
        let count: i64 = client.query_one(&sql, &[]).await?.get(0);
        all += usize::try_from(count)?;
    }
    Ok(all)
}

/// Waits until both sides have read so many rows since their first start.
pub async fn are_read(sides: &mut Sides, count: usize) -> Result<()> {
    let read = |topics: &Topics| topics.values().flatten().filter(|record| is_read(record)).count();
    sides.both(|topics| read(topics) >= count, async || Ok(())).await.map(drop)
}

fn is_read(record: &Written) -> bool {
    operation(record).as_deref() == Some("r")
}

/// What signals ask for, and how many rows come of it. The tables are at rest.
pub async fn signals(client: &Client, tables: &[Table]) -> Result<Vec<(Json, usize)>> {
    let mut asked = Vec::new();
    // Not those that may have a chosen key: Debezium takes rows with the same one for the same row.
    let some: Vec<&Table> = tables.iter().skip(4).take(3).collect();
    let mut rows = 0;
    for table in some.iter().filter(|table| table.has_key()) {
        rows += number(client, &format!("SELECT count(*) FROM {}", table.name)).await?;
    }
    let names: Vec<&str> = some.iter().map(|table| table.name.as_str()).collect();
    let collections: Vec<String> = names.iter().map(|name| format!("public\\.{name}")).collect();
    asked.push((serde_json::json!({ "type": "INCREMENTAL", "data-collections": collections }), rows));
    let condition = "feeling > 'low'::feeling AND id > 1";
    let rows = number(client, &format!("SELECT count(*) FROM moods WHERE {condition}")).await?;
    let filter = serde_json::json!({ "data-collection": "public.moods", "filter": condition });
    asked.push((
        serde_json::json!({
            "type": "incremental",
            "data-collections": ["public.moods"],
            "additional-conditions": [filter],
        }),
        rows,
    ));
    let rows = number(client, "SELECT count(*) FROM coded").await?;
    asked.push((
        serde_json::json!({
            "type": "incremental",
            "data-collections": ["public.coded"],
            "surrogate-key": "code",
        }),
        rows,
    ));
    asked.push((
        serde_json::json!({ "type": "incremental", "data-collections": ["public.inserts_only", "public.empty_.*"] }),
        number(client, "SELECT count(*) FROM empty_one").await?,
    ));
    Ok(asked)
}

async fn number(client: &Client, sql: &str) -> Result<usize> {
    let count: i64 = client.query_one(sql, &[]).await.map_err(|error| said(sql, &error))?.get(0);
    Ok(usize::try_from(count)?)
}

/// The same signal to both, each by a table of its own.
pub async fn signal(client: &Client, id: &str, data: &Json) -> Result<()> {
    for side in ["theirs", "ours"] {
        let sql = format!("INSERT INTO {SIGNALS}{side} VALUES ('{id}', 'execute-snapshot', $1)");
        client.execute(&sql, &[&data.to_string()]).await?;
    }
    Ok(())
}

/// Before 15 the server sends transactions in which nothing is published, and Debezium tells that they begin and
/// end. The daemon tells of those that it has events of, whatever the server.
pub fn without_empty(topics: &mut Topics) {
    let transactions = |topic: &str| topic == "transaction";
    let of = topics.iter().filter(|((topic, _), _)| transactions(topic)).flat_map(|(_, records)| records);
    let empty: BTreeSet<String> =
        of.filter_map(told).filter(|(_, is_empty)| *is_empty).map(|(number, _)| number).collect();
    for ((topic, _), records) in topics.iter_mut() {
        if transactions(topic) {
            records.retain(|record| told(record).is_none_or(|(number, _)| !empty.contains(&number)));
        }
    }
}

/// The number of a transaction, and whether there is nothing in it.
fn told(record: &Written) -> Option<(String, bool)> {
    let value: Json = serde_json::from_str(record.value.as_deref()?).ok()?;
    let value = if value["payload"].is_null() { value } else { value["payload"].clone() };
    let number = value["id"].as_str()?.split(':').next()?.to_owned();
    Some((number, value["event_count"].as_i64() == Some(0)))
}
