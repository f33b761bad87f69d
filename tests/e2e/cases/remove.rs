//! Taking a connector off its servers.

use millrace_e2e::{Shop, run_to_end};

use super::snapshots::{ORDERS, read_through};

#[tokio::test]
async fn a_removed_connector_leaves_nothing_and_begins_anew() {
    let mut shop = Shop::open("remove").await;
    shop.file.set("source/postgres/snapshot", "initial");
    shop.rows(1..=10).await.start().await;
    read_through(&shop, ORDERS).await;
    shop.term().await;
    shop.wait_for_slot(false).await;
    let file = shop.write_file();
    let file = file.to_str().expect("a path");
    let orphan = format!("{}_forgotten", shop.slot());
    shop.sql.run(&format!("SELECT pg_create_logical_replication_slot('{orphan}', 'pgoutput')")).await;
    let left = "SELECT (SELECT count(*) FROM pg_publication) + \
                (SELECT count(*) FROM pg_replication_slots WHERE database = current_database())";

    let refused = run_to_end(&["remove", file], shop.dir());
    assert_eq!(refused.code, Some(2), "{}", refused.text());
    for words in [&*shop.slot(), &orphan, "publication", "--yes"] {
        assert!(refused.text().contains(words), "{words}: {}", refused.text());
    }
    assert_eq!(shop.sql.one::<i64>(left).await, 3);

    let removed = run_to_end(&["remove", file, "--yes"], shop.dir());
    assert_eq!(removed.code, Some(0), "{}", removed.text());
    assert_eq!(shop.sql.one::<i64>(left).await, 1, "the slot that is not its own stays");

    shop.start().await;
    read_through(&shop, ORDERS).await;
    let events = shop.settled().await;
    assert_eq!(events.iter().filter(|event| event.op() == "r").count(), 20);
}

#[tokio::test]
async fn a_publication_that_somebody_else_made_stays_when_a_connector_is_removed() {
    let mut shop = Shop::open("remove-shared").await;
    shop.sql.run(&format!("CREATE PUBLICATION {} FOR TABLE orders", shop.slot())).await;
    shop.start().await.rows(1..=1).await.wait_for_events(ORDERS, 1).await;
    shop.term().await;
    shop.wait_for_slot(false).await;
    let file = shop.write_file();
    let removed = run_to_end(&["remove", file.to_str().expect("a path"), "--yes"], shop.dir());
    assert_eq!(removed.code, Some(0), "{}", removed.text());
    assert_eq!(shop.sql.one::<i64>("SELECT count(*) FROM pg_publication").await, 1);
}
