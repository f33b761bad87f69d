//! What the writers leave in Postgres.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use apache_avro::types::Value;
use millrace_ledger::journal::{Did, read_content, read_journal};
use millrace_ledger::tables::{Form, Kind, TABLES, Table, canonical, parse_payload, short_hash};
use millrace_ledger::writers::{Workload, Writers, connect, create_schema, write_final_rows};
use tokio::sync::Mutex;
use tokio_postgres::Client;
use xtask::services::Services;

/// The schema `ledger` is one in a database: tests that write take turns.
static SCHEMA: Mutex<()> = Mutex::const_new(());

#[tokio::test]
async fn the_journal_folded_by_key_is_the_tables_content() {
    let _turn = SCHEMA.lock().await;
    let url = Services::for_tests().await.unwrap().postgres.url();
    let client = connect(&url).await.unwrap();
    create_schema(&client).await.unwrap();
    let workload = Workload {
        postgres_url: url.clone(),
        seed: 42,
        writers: 4,
        changes_max: 500,
        changes_per_second: None,
        outbox: true,
    };
    let mut writers = Writers::start(&workload).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(180);
    let kinds = Did::ALL.len() as i64;
    while writers.totals().committed < 200
        || writers.totals().rolled_back < 20
        || kinds_journaled(&client).await < kinds
    {
        assert!(Instant::now() < deadline, "{:?}", writers.totals());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let totals = writers.stop().await.unwrap();
    let finals = write_final_rows(&url, true).await.unwrap();
    assert_eq!(totals.errors, 0);
    assert!(totals.savepoints_rolled_back > 0, "{totals:?}");
    assert!(totals.rolled_back * 100 >= totals.committed * 5, "{totals:?}");

    let journal = read_journal(&client).await.unwrap();
    let mut rows = HashMap::new();
    for entry in &journal {
        if entry.did == Did::Truncate {
            rows.retain(|(table, _), _| *table != entry.table);
            continue;
        }
        let key = (entry.table, entry.key.clone());
        let before = rows.remove(&key);
        // An aggregate of the outbox has many events.
        let again = before.is_some() && TABLES[entry.table].form != Form::Outbox;
        assert_eq!(again, entry.did != Did::Insert, "{entry:?}");
        if entry.did != Did::Delete {
            let at = entry.new_key.clone().unwrap_or_else(|| entry.key.clone());
            assert!(rows.insert((entry.table, at), entry.payload.clone()).is_none(), "{entry:?}");
        }
    }
    let content = read_content(&client).await.unwrap();
    assert_eq!(rows.len(), content.len());
    for (key, payload) in &content {
        assert_eq!(rows.get(key), Some(payload), "{key:?}");
    }
    for (table, key) in finals {
        assert!(content.contains_key(&(table, key.into())));
    }
    let mut values_checked = 0;
    for table in &TABLES {
        values_checked += rows_read_as_a_consumer_reads_them_have_the_journals_hashes(&client, table).await;
    }
    assert!(values_checked > 1_000, "{values_checked}");
    client.batch_execute("DROP SCHEMA ledger CASCADE").await.unwrap();
}

/// A TRUNCATE is rare: a run lasts until one of each kind was done.
async fn kinds_journaled(client: &Client) -> i64 {
    client.query_one("SELECT count(DISTINCT op) FROM ledger.journal", &[]).await.unwrap().get(0)
}

/// Postgres hashes what it stores, the checker what it decoded: for the same row, whatever is in
/// it, the two must agree.
async fn rows_read_as_a_consumer_reads_them_have_the_journals_hashes(
    client: &Client,
    table: &Table,
) -> usize {
    let columns: Vec<_> = table.columns.iter().map(|c| sql_of(c.kind, c.name)).collect();
    let sql =
        format!("SELECT {}, {} FROM ledger.{} t", table.payload_sql("t"), columns.join(", "), table.name);
    let mut values_checked = 0;
    for row in client.query(&sql, &[]).await.unwrap() {
        let payload = parse_payload(row.get(0)).unwrap();
        for (index, column) in table.columns.iter().enumerate() {
            let text: Option<&str> = row.get(index + 1);
            let value = text.map_or(Value::Null, |text| value_of(column.kind, text));
            let found = canonical(column, &value).unwrap();
            assert_eq!(short_hash(found.text()), payload[index], "{} {text:?} {value:?}", column.name);
            values_checked += 1;
        }
    }
    // A TRUNCATE may have left little, but never less than the row that was written last.
    assert!(values_checked >= table.columns.len(), "{} {values_checked}", table.name);
    values_checked
}

/// Texts to make consumers' values of, by other ways than those of the hash.
fn sql_of(kind: Kind, column: &str) -> String {
    match kind {
        Kind::TimestampTz => format!(
            "CASE WHEN NOT isfinite({column}) THEN {column}::text ELSE (SELECT \
             CASE WHEN y > 9999 THEN '+' || y WHEN y < 1 THEN '-' || lpad((-y)::text, 4, '0') \
             ELSE lpad(y::text, 4, '0') END \
             FROM (SELECT CASE WHEN y < 0 THEN y + 1 ELSE y END AS y \
             FROM (SELECT extract(year FROM {column} AT TIME ZONE 'UTC')::int AS y) a) b) || \
             to_char({column} AT TIME ZONE 'UTC', '-MM-DD\"T\"HH24:MI:SS.US\"Z\"') END"
        ),
        Kind::Timestamp => format!(
            "CASE {column} WHEN 'infinity' THEN '9223372036825200000' WHEN '-infinity' THEN '-9223372036832400000' \
             ELSE (extract(epoch FROM {column} - timestamp 'epoch') * 1000000)::bigint::text END"
        ),
        Kind::Date => format!("(extract(epoch FROM {column}) / 86400)::bigint::text"),
        _ => format!("{column}::text"),
    }
}

fn value_of(kind: Kind, text: &str) -> Value {
    match kind {
        Kind::Integer | Kind::Timestamp => Value::Long(text.parse().unwrap()),
        Kind::Date => Value::Int(text.parse().unwrap()),
        Kind::Boolean => Value::Boolean(text == "true"),
        Kind::Text | Kind::Json | Kind::Uuid | Kind::TimestampTz => Value::String(text.to_owned()),
        Kind::Decimal(_) => Value::Decimal(unscaled(text).into()),
        Kind::Numeric => {
            let scale = text.split_once('.').map_or(0, |(_, digits)| digits.len());
            Value::Record(vec![
                ("scale".to_owned(), Value::Int(i32::try_from(scale).unwrap())),
                ("value".to_owned(), Value::Bytes(unscaled(text))),
            ])
        }
        Kind::Bytes => {
            let digits = text.strip_prefix("\\x").unwrap().as_bytes().chunks(2);
            let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
            Value::Bytes(digits.map(byte).collect())
        }
        Kind::Double => Value::Double(text.parse().unwrap()),
    }
}

/// A decimal text's digits as a two's-complement integer, with a byte to spare for the sign.
fn unscaled(text: &str) -> Vec<u8> {
    let mut bytes = vec![0u8; 40];
    for digit in text.bytes().filter(u8::is_ascii_digit) {
        let mut carry = u16::from(digit - b'0');
        for byte in bytes.iter_mut().rev() {
            carry += u16::from(*byte) * 10;
            *byte = (carry & 0xff) as u8;
            carry >>= 8;
        }
    }
    if text.starts_with('-') {
        let mut carry = true;
        for byte in bytes.iter_mut().rev() {
            (*byte, carry) = (!*byte).overflowing_add(u8::from(carry));
        }
    }
    bytes
}
