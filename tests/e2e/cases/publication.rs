//! Who else reads or alters the publication: nobody's tables are taken out of it, and a captured table that was not
//! sent for a while is told, because no position shows it.

use millrace_e2e::{Daemon, Shop, run_to_end, until};

use super::snapshots::{ORDERS, read_through};

const ITEMS: &str = "public.items";

/// A shop that captures orders and items, and has delivered one of each.
async fn shop(name: &str, snapshot: &str) -> Shop {
    let mut shop = Shop::open(name).await;
    shop.table("items", "id bigint PRIMARY KEY, note text").await;
    shop.capture(&[ORDERS, ITEMS]);
    shop.file.set("source/postgres/snapshot", snapshot);
    shop.start().await.rows(1..=1).await;
    shop.sql.run("INSERT INTO items VALUES (1, 'before')").await;
    for table in [ORDERS, ITEMS] {
        shop.wait_for_events(table, 1).await;
    }
    shop
}

async fn alter(shop: &Shop, what: &str) {
    shop.sql.run(&format!("ALTER PUBLICATION {} {what}", shop.slot())).await;
}

async fn stop(shop: &mut Shop) {
    shop.term().await;
    shop.wait_for_slot(false).await;
}

#[tokio::test]
async fn two_connectors_share_a_publication_and_neither_takes_the_other_s_table_out() {
    let mut shop = Shop::open("shared-publication").await;
    shop.table("items", "id bigint PRIMARY KEY, note text").await;
    shop.sql.run("CREATE PUBLICATION dbz_publication FOR TABLE orders, items").await;
    shop.file.set("source/postgres/publication", "dbz_publication");
    let (one, other) = (shop.write_file(), shop.dir().join("other.toml"));
    let name = format!("{}-other", shop.name);
    let text = shop.file.text().replace(&shop.name, &name).replace(ORDERS, ITEMS);
    std::fs::write(&other, text).expect("a file in a temporary directory");
    let daemon = Daemon::start(&[&other], shop.dir(), "other").await;
    daemon.wait_for_state(&name, "RUNNING").await;
    let beside = Daemon::start(&[&one], shop.dir(), "one").await;
    beside.wait_for_state(&shop.name, "RUNNING").await;
    shop.rows(1..=5).await;
    shop.sql.run("INSERT INTO items SELECT n, 'sent' FROM generate_series(1, 5) n").await;
    shop.wait_for_events(ORDERS, 5).await;
    let topic = format!("{name}.{ITEMS}");
    assert_eq!(shop.events_of_topic(&topic, 5).await.len(), 5);
}

#[tokio::test]
async fn a_publication_of_somebody_else_says_what_is_captured_where_the_file_says_so() {
    let mut shop = Shop::open("only-published").await;
    shop.table("items", "id bigint PRIMARY KEY, note text").await;
    shop.sql.run("CREATE TABLE log (line text); CREATE PUBLICATION dbz_publication FOR TABLE orders").await;
    shop.capture(&["/public\\..*/"]);
    shop.file
        .set("source/postgres/publication", "dbz_publication")
        .set("source/postgres/alter_publication", false)
        .set("source/postgres/only_published", true);
    shop.start().await.rows(1..=5).await.expect_rows(1..=5).await;
    let listed: i64 = shop.sql.one("SELECT count(*) FROM pg_publication_rel").await;
    assert_eq!(listed, 1, "left as it was");
}

#[tokio::test]
async fn a_table_taken_out_while_nobody_looks_is_a_lost_position_until_the_gap_is_accepted() {
    let mut shop = shop("taken-out", "no_data").await;
    stop(&mut shop).await;
    alter(&shop, "DROP TABLE items").await;
    shop.sql.run("INSERT INTO items VALUES (2, 'in the gap')").await;
    // The second time, the first one has put the table back.
    for _ in 0..2 {
        shop.start_in_any_state().await;
        let refusal = shop.not_ready("POSITION_LOST").await;
        refusal.expect_reason(&[ITEMS, &shop.slot()]).expect_hint(&["set --to", "reset --yes"]);
        assert!(!refusal.reason.contains(ORDERS), "{refusal:?}");
        shop.kill().wait_for_slot(false).await;
    }
    let place = shop.position().await.value["end_lsn"].as_str().expect("a place").to_owned();
    let file = shop.write_file();
    let file = file.to_str().expect("a readable path");
    let moved = run_to_end(&["position", file, "set", "--to", &place, "--yes"], shop.dir());
    assert_eq!(moved.code, Some(0), "{}", moved.text());
    for id in 3..=4 {
        shop.start().await.sql.run(&format!("INSERT INTO items VALUES ({id}, 'after')")).await;
        let events = shop.wait_for_events(ITEMS, id - 1).await;
        assert_eq!(events[id - 2].id(), i64::try_from(id).ok());
        stop(&mut shop).await;
    }
}

#[tokio::test]
async fn a_table_taken_out_and_put_back_while_the_connector_runs_is_a_lost_position() {
    let shop = shop("put-back", "no_data").await;
    alter(&shop, "DROP TABLE items").await;
    shop.sql.run("INSERT INTO items VALUES (2, 'in the gap')").await;
    alter(&shop, "ADD TABLE items").await;
    shop.not_ready("POSITION_LOST").await.expect_reason(&[ITEMS]);
}

#[tokio::test]
async fn operations_that_were_not_sent_while_the_connector_ran_are_a_lost_position() {
    let shop = shop("narrowed", "no_data").await;
    alter(&shop, "SET (publish = 'insert')").await;
    shop.not_ready("POSITION_LOST").await.expect_reason(&[ORDERS, ITEMS]);
}

#[tokio::test]
async fn operations_that_were_not_sent_while_nobody_looked_are_a_lost_position() {
    let mut shop = shop("narrowed-unseen", "no_data").await;
    stop(&mut shop).await;
    alter(&shop, "SET (publish = 'insert')").await;
    shop.sql.run("DELETE FROM items").await;
    alter(&shop, "SET (publish = 'insert, update, delete, truncate')").await;
    shop.start_in_any_state().await.not_ready("POSITION_LOST").await.expect_reason(&[ORDERS, ITEMS]);
}

#[tokio::test]
async fn a_publication_that_was_given_to_another_owner_goes_on() {
    let mut shop = shop("owned", "no_data").await;
    let role = format!("{}_owner", shop.database());
    shop.sql.run(&format!("CREATE ROLE {role} SUPERUSER")).await;
    alter(&shop, &format!("OWNER TO {role}")).await;
    stop(&mut shop).await;
    let events = shop.start().await.rows(2..=5).await.wait_for_events(ORDERS, 5).await;
    assert_eq!(events.len(), 5);
    alter(&shop, "OWNER TO CURRENT_USER").await;
    shop.sql.run(&format!("DROP ROLE {role}")).await;
}

#[tokio::test]
async fn a_table_that_was_not_sent_for_a_while_is_read_anew_where_the_file_asks_for_it() {
    let mut shop = shop("read-anew", "when_needed").await;
    read_through(&shop, ITEMS).await;
    stop(&mut shop).await;
    alter(&shop, "DROP TABLE items").await;
    shop.sql.run("INSERT INTO items VALUES (2, 'in the gap')").await;
    shop.start().await;
    let events = shop.wait_for_events(ITEMS, 3).await;
    assert!(events[1..].iter().all(|event| event.op() == "r"), "{events:?}");
    alter(&shop, "DROP TABLE items").await;
    shop.sql.run("INSERT INTO items VALUES (3, 'in the next gap')").await;
    let events = shop.wait_for_events(ITEMS, 6).await;
    assert!(events[3..].iter().all(|event| event.op() == "r"), "{events:?}");
    shop.sql.run("INSERT INTO items VALUES (4, 'streamed')").await;
    let events = shop.wait_for_events(ITEMS, 7).await;
    assert_eq!((events[6].op(), events[6].id()), ("c", Some(4)));
    assert_eq!(shop.events(ORDERS).await.len(), 1, "the other table was never out");
}

#[tokio::test]
async fn a_table_made_anew_while_the_connector_runs_is_published_and_read_as_a_new_one() {
    let mut shop = shop("made-anew", "initial").await;
    read_through(&shop, ITEMS).await;
    shop.sql.run("DROP TABLE items").await;
    shop.sql
        .run("CREATE TABLE items (id bigint PRIMARY KEY, note text); INSERT INTO items VALUES (7, 'new')")
        .await;
    let events = shop.wait_for_events(ITEMS, 2).await;
    assert_eq!(events[1].id(), Some(7));
    until("it is at work again", async || {
        (shop.daemon().state(&shop.name).await.as_deref() == Some("RUNNING")).then_some(())
    })
    .await;
    shop.sql.run("INSERT INTO items VALUES (8, 'streamed')").await;
    assert_eq!(shop.wait_for_events(ITEMS, 3).await[2].id(), Some(8));
}

#[tokio::test]
async fn a_table_made_anew_and_published_at_once_while_nobody_looks_lacks_nothing() {
    let mut shop = shop("born", "no_data").await;
    stop(&mut shop).await;
    let anew = "DROP TABLE items; CREATE TABLE items (id bigint PRIMARY KEY, note text); \
                INSERT INTO items VALUES (7, 'unseen'); ALTER PUBLICATION";
    shop.sql
        .run(&format!("{anew} {} ADD TABLE items; INSERT INTO items VALUES (8, 'new')", shop.slot()))
        .await;
    let events = shop.start().await.wait_for_events(ITEMS, 2).await;
    assert_eq!((events[1].op(), events[1].id()), ("c", Some(8)));
}
