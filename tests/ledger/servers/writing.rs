//! What the writers leave in Postgres.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use millrace_ledger::journal::{Did, read_content, read_journal};
use millrace_ledger::writers::{Workload, Writers, connect, create_schema, write_final_rows};
use tokio::sync::Mutex;
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
    };
    let mut writers = Writers::start(&workload).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while writers.totals().committed < 200 || writers.totals().rolled_back < 20 {
        assert!(Instant::now() < deadline, "{:?}", writers.totals());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let totals = writers.stop().await.unwrap();
    let finals = write_final_rows(&url).await.unwrap();
    assert_eq!(totals.errors, 0);
    assert!(totals.savepoints_rolled_back > 0, "{totals:?}");
    assert!(totals.rolled_back * 100 >= totals.committed * 5, "{totals:?}");

    let journal = read_journal(&client).await.unwrap();
    let mut rows = HashMap::new();
    let mut did = HashMap::new();
    for entry in &journal {
        *did.entry(entry.did.code()).or_insert(0) += 1;
        let key = (entry.table, entry.key.clone());
        let before = rows.remove(&key);
        assert_eq!(before.is_none(), entry.did == Did::Insert, "{entry:?}");
        if entry.did != Did::Delete {
            let at = entry.new_key.clone().unwrap_or_else(|| entry.key.clone());
            assert!(rows.insert((entry.table, at), entry.payload.clone()).is_none(), "{entry:?}");
        }
    }
    assert_eq!(did.len(), Did::ALL.len(), "{did:?}");
    let content = read_content(&client).await.unwrap();
    assert_eq!(rows.len(), content.len());
    for (key, payload) in &content {
        assert_eq!(rows.get(key), Some(payload), "{key:?}");
    }
    for (table, key) in finals {
        assert!(content.contains_key(&(table, key.into())));
    }
    client.batch_execute("DROP SCHEMA ledger CASCADE").await.unwrap();
}
