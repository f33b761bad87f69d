//! The ways in which connectors of this kind have lost or doubled rows over a restart, by the public reports of them,
//! and the test of each; where no file is named, it is below.
//!
//! - The place was committed before its rows were produced (DBZ-1766):
//!   `position::what_is_confirmed_never_passes_the_position_and_follows_it`
//!   `keepalives_behind_rows_that_wait_confirm_nothing_of_them`
//! - A keepalive moved the slot past rows that were not out (DBZ-9641, pgjdbc#2941):
//!   `keepalives_behind_rows_that_wait_confirm_nothing_of_them`
//! - A start below what the slot had confirmed went on behind the gap (DBZ-1730):
//!   `position_faults::an_advanced_slot_is_a_lost_position`
//! - A slot made anew was taken for the old one (DBZ-5739):
//!   `position_faults::a_slot_created_anew_is_a_lost_position`
//! - Rows fell between the snapshot and the stream (DBZ-2288):
//!   `snapshots::rows_read_under_writers_give_the_table_and_no_event_twice`
//!   `snapshots::kills_in_the_middle_of_a_snapshot_lose_nothing_and_double_nothing`
//! - The first change behind a new slot was lost (DBZ-1400):
//!   `of_commits_under_way_while_the_slot_is_made_those_behind_its_start_come_once_and_no_other`
//!   `the_first_change_that_lies_where_the_last_commit_ended_comes_once_after_a_kill`
//! - A first change that lies where the last commit ended was taken for delivered (DBZ-9149, DBZ-6204, DBZ-5915):
//!   `the_first_change_that_lies_where_the_last_commit_ended_comes_once_after_a_kill`
//! - A transaction that was open at the restart lost its older changes (DBZ-7816, DBZ-8312, dbz#51, dbz#76):
//!   `transactions_that_were_open_at_a_kill_come_whole_whatever_was_delivered_in_between`
//! - The same around a transaction that was delivered in part; what was skipped once was skipped on (DBZ-5915,
//!   DBZ-5031):
//!   `a_transaction_with_changes_older_than_the_cut_of_another_comes_whole`
//! - A restart met a place above the one that it looked for, and stopped (DBZ-5597):
//!   `transactions_that_were_open_at_a_kill_come_whole_whatever_was_delivered_in_between`
//!   `changes_of_tables_that_are_not_captured_move_the_slot`
//! - A restart met a type or an origin, which have no place among the changes, and stopped (DBZ-5792):
//!   `types_and_origins_before_the_parts_of_a_transaction_stop_no_restart`
//! - A message in a transaction took the row at its place with it, or came again (dbz#2058, dbz#2004):
//!   `a_row_at_the_place_of_a_message_comes_once_though_a_kill_parts_the_two`
//! - A message outside of transactions was lost, or hid the commit behind it (dbz#1379):
//!   `messages::messages_inside_and_outside_transactions_are_events_once_each_over_kills`
//!   `exactly_once::a_heartbeat_right_before_a_commit_hides_no_transaction`
//! - Rows of one COPY have one place, and all counted as delivered with the first (dbz#1554):
//!   `rows_of_one_copy_at_one_place_come_once_though_kills_part_them`
//!   `exactly_once::a_relation_inside_a_cut_transaction_does_not_shift_what_is_skipped_on_replay`
//! - A slot that had confirmed nothing yet made the connector hang (DBZ-6092, DBZ-6251):
//!   `a_slot_that_somebody_is_still_making_is_waited_for_and_said_to_be`
//!   `a_first_start_that_was_killed_while_its_slot_was_made_is_a_first_start`
//! - What lies in other tables was never acknowledged (DBZ-800):
//!   `changes_of_tables_that_are_not_captured_move_the_slot`
//!   `changes_of_another_database_move_the_slot`
//! - A restart was refused after traffic of others (dbz#1863):
//!   `changes_of_tables_that_are_not_captured_move_the_slot`
//! - A snapshot asked for did not go on after a restart (dbz#2055):
//!   `signals::a_request_outlives_a_kill_and_ends_where_it_is_stopped`
//! - Workers of one snapshot saw different ones (dbz#2330):
//!   `keyless::several_workers_read_a_large_table_while_its_changes_wait`
//!   `blocking::rows_without_a_key_come_together_and_once_each`
//! - A snapshot that was broken off lost rows (DBZ-9337):
//!   `blocking::a_kill_in_the_middle_goes_on_behind_the_last_row_and_loses_and_doubles_nothing`
//! - After a crash of the server a slot is further back than was confirmed (the manual of Postgres says so):
//!   `source_faults::a_database_server_that_crashes_under_load_loses_nothing`

use millrace_e2e::{Event, Own, Servers, Shop, Sql, until, within};
use std::sync::Arc;
use std::time::Duration;
use xtask::services::PostgresVersion;

use super::position::lsn;
use super::registry_faults::gated_shop;
use super::snapshots::{ORDERS, Writers};

/// A few rounds of seconds each, and on a server that others use any open transaction of theirs keeps the log.
const LET_GO_OF: Duration = Duration::from_secs(180);

/// So many changes a batch, and a Kafka transaction for each batch: every transaction is delivered in parts.
fn cut_after(shop: &mut Shop, changes: i64) {
    shop.file.set("source/postgres/batch_rows_max", changes).set("sink/kafka/transaction/cut_bytes", 1);
}

/// Goes on until one more part of a transaction is delivered, and dies. Answers the part's last change: its place, and
/// its number among those of that place.
async fn one_part(shop: &mut Shop) -> (u64, u64) {
    shop.start_to_die_at("cut-committed:1").await;
    let open = shop.position().await.value["open"].take();
    (lsn(&open["change_lsn"]), open["n"].as_u64().expect("a number"))
}

async fn end_of_position(shop: &Shop) -> u64 {
    lsn(&shop.position().await.value["end_lsn"])
}

/// Whether an event was left to deliver at the place of the last one that was delivered.
fn is_parted(events: &[Event], (place, n): (u64, u64)) -> bool {
    events.iter().any(|event| event.position()[1] == place && event.position()[2] > n)
}

/// The first change of a transaction lies where the log ended, which is where the commit before it ended. On
/// Postgres 17 other connectors took the one for the other (DBZ-9149), on older ones the begin that shares the place
/// (DBZ-5915, DBZ-6204).
#[tokio::test]
async fn the_first_change_that_lies_where_the_last_commit_ended_comes_once_after_a_kill() {
    // Alone, so that nothing else writes between the two.
    let quiet = [("autovacuum", "off"), ("checkpoint_timeout", "1h"), ("max_wal_size", "4GB")];
    for version in [PostgresVersion::V14, PostgresVersion::V17, PostgresVersion::V18] {
        let own = Own { version: Some(version), ..Own::postgres_with(&quiet) };
        let servers = Arc::new(Servers::with(own).await);
        let mut shop = Shop::on(&servers, "where-it-ended").await;
        shop.file.set("source/postgres/heartbeat_interval_s", 0);
        shop.start().await.rows(1..=1).await.wait_for_events(ORDERS, 1).await;
        let mut places = Vec::new();
        for id in 2..=12 {
            let end = end_of_position(shop.kill()).await;
            shop.rows(id..=id).await.start().await;
            let events = shop.wait_for_events(ORDERS, usize::try_from(id).expect("small")).await;
            let change = events.last().expect("just waited for").position()[1];
            places.push((format!("{end:X}"), format!("{change:X}")));
            if change == end {
                break;
            }
        }
        let met = places.last().is_some_and(|(end, change)| end == change);
        assert!(met, "{version:?} wrote something between commit and change each time: {places:?}");
        let newest = i64::try_from(places.len()).expect("small") + 1;
        shop.expect_rows(1..=newest).await;
    }
}

/// Changes lie in the log where they were made, transactions come when they commit: what is skipped after a restart
/// is not told by the place of a change (DBZ-7816, DBZ-8312, dbz#51, dbz#76).
#[tokio::test]
async fn transactions_that_were_open_at_a_kill_come_whole_whatever_was_delivered_in_between() {
    let mut shop = Shop::open("open-at-kill").await;
    shop.start().await;
    let (one, two) = (shop.sql.another().await, shop.sql.another().await);
    one.run("BEGIN; INSERT INTO orders VALUES (101, 'before')").await;
    two.run("BEGIN; INSERT INTO orders VALUES (201, 'before')").await;
    let begun = shop.sql.log_end().await;
    shop.rows(1..=5).await.wait_for_events(ORDERS, 5).await;
    one.run("INSERT INTO orders VALUES (102, 'before')").await;
    until("what was delivered is confirmed", async || (shop.confirmed().await > begun).then_some(())).await;
    shop.kill();
    two.run("INSERT INTO orders VALUES (202, 'while it is down'); COMMIT").await;
    shop.rows(6..=7).await.start().await;
    shop.rows(8..=8).await.wait_for_events(ORDERS, 10).await;
    shop.kill().start().await;
    one.run("INSERT INTO orders VALUES (103, 'after'); COMMIT").await;
    let ids = [1, 2, 3, 4, 5, 201, 202, 6, 7, 8, 101, 102, 103];
    shop.expect_changes(&ids.map(|id| ("c", id))).await;
    let events = shop.events(ORDERS).await;
    assert!(events[5].position()[1] < begun && events[10].position()[1] < begun, "{events:?}");
}

/// As above, where the place that is gone on from lies inside of a transaction: those that committed before it are not
/// to come again, those that commit after it are to come whole (DBZ-5031: what was skipped once was skipped for hours).
#[tokio::test]
async fn a_transaction_with_changes_older_than_the_cut_of_another_comes_whole() {
    let mut shop = Shop::open("older-than-the-cut").await;
    cut_after(&mut shop, 5);
    shop.start().await.kill();
    let (large, late) = (shop.sql.another().await, shop.sql.another().await);
    late.run("BEGIN; INSERT INTO orders VALUES (201, 'before')").await;
    let insert = |first: i64, last: i64| {
        format!("INSERT INTO orders SELECT n, 'large' FROM generate_series({first}, {last}) n")
    };
    large.run(&format!("BEGIN; {}", insert(101, 110))).await;
    shop.rows(1..=1).await.rows(2..=2).await;
    large.run(&format!("{}; COMMIT", insert(111, 130))).await;
    let first = one_part(&mut shop).await;
    late.run("INSERT INTO orders VALUES (202, 'after'); COMMIT").await;
    let second = one_part(&mut shop).await;
    assert!(first < second, "{first:?} {second:?}");
    shop.start().await;
    let expected: Vec<_> = [1, 2].into_iter().chain(101..=130).chain([201, 202]).collect();
    shop.expect_changes(&expected.iter().map(|id| ("c", *id)).collect::<Vec<_>>()).await;
    let events = shop.events(ORDERS).await;
    assert!(events[32].position()[1] < first.0, "the row does not lie before the cut");
}

/// A message in a transaction says where it ends, which is where the next row begins: by the place alone the row was
/// delivered with the message (dbz#2058), or the message comes again with the row (dbz#2004).
#[tokio::test]
async fn a_row_at_the_place_of_a_message_comes_once_though_a_kill_parts_the_two() {
    let mut shop = Shop::open("message-and-row").await;
    shop.file.set("format/encoding", "json").set("source/postgres/message_events", vec!["audit"]);
    cut_after(&mut shop, 1);
    shop.start().await.kill();
    let pair = |id: i64| {
        format!("PERFORM pg_logical_emit_message(true, 'audit', 'x'); INSERT INTO orders VALUES ({id}, 'x');")
    };
    let pairs: String = (1..=8).map(pair).collect();
    shop.sql.run(&format!("DO $$ BEGIN {pairs} END $$")).await;
    let mut parts = Vec::new();
    for _ in 0..5 {
        parts.push(one_part(&mut shop).await);
    }
    assert!(parts.is_sorted_by(|one, next| one < next), "{parts:?}");
    shop.start().await.expect_rows(1..=8).await;
    let rows = shop.events(ORDERS).await;
    assert!(
        parts.iter().any(|part| is_parted(&rows, *part)),
        "no kill came between message and row: {parts:?}"
    );
    let topic = format!("{}.message", shop.name);
    let messages = shop.events_of_topic(&topic, 8).await;
    assert!(messages.len() == 8 && messages.is_sorted_by(|one, next| one.position() < next.position()));
}

/// A column of a type of the user's own has the type sent ahead of the rows, and a transaction of another server its
/// origin, anew in every session and without a place among the changes (DBZ-5792).
#[tokio::test]
async fn types_and_origins_before_the_parts_of_a_transaction_stop_no_restart() {
    let mut shop = Shop::open("types-and-origins").await;
    shop.sql.run("CREATE TYPE mood AS ENUM ('calm', 'cross'); ALTER TABLE orders ADD mood mood").await;
    cut_after(&mut shop, 2);
    shop.start().await.kill();
    let origin = shop.database().to_owned();
    let set_up = format!(
        "SELECT pg_replication_origin_create('{origin}'); SELECT pg_replication_origin_session_setup('{origin}')"
    );
    shop.sql.run(&set_up).await;
    shop.sql
        .run(
            "BEGIN; SELECT pg_replication_origin_xact_setup('16/B374D848', now());
             INSERT INTO orders SELECT n, 'theirs', 'cross' FROM generate_series(1, 7) n; COMMIT",
        )
        .await;
    let end = "SELECT pg_replication_origin_session_reset(); SELECT pg_replication_origin_drop(";
    shop.sql.run(&format!("{end}'{origin}')")).await;
    let parts = [one_part(&mut shop).await, one_part(&mut shop).await, one_part(&mut shop).await];
    assert!(parts.is_sorted_by(|one, next| one < next), "{parts:?}");
    shop.start().await.expect_rows(1..=7).await;
    let events = shop.events(ORDERS).await;
    let is_whole = |event: &&Event| {
        let told = &event.value.as_ref().expect("a value")["source"]["origin"];
        event.after("mood") == "cross" && *told == serde_json::json!(origin)
    };
    assert_eq!(events.iter().filter(is_whole).count(), 7, "{events:?}");
}

/// Rows that were copied into one page have one place in the log (dbz#1554).
#[tokio::test]
async fn rows_of_one_copy_at_one_place_come_once_though_kills_part_them() {
    let mut shop = Shop::open("copy").await;
    cut_after(&mut shop, 7);
    shop.start().await.kill();
    shop.sql.run("COPY orders FROM PROGRAM 'seq -f %.0f,copied 1 60' (DELIMITER ',')").await;
    let parts = [one_part(&mut shop).await, one_part(&mut shop).await, one_part(&mut shop).await];
    assert!(parts.is_sorted_by(|one, next| one < next), "{parts:?}");
    shop.start().await.expect_rows(1..=60).await;
    let events = shop.events(ORDERS).await;
    assert!(parts.iter().all(|part| is_parted(&events, *part)), "no kill came between such rows: {parts:?}");
}

/// A new slot has a place from which on everything comes: whatever commits behind it comes, whenever it began, and
/// nothing before it (DBZ-1400: the first change was lost). A second slot, read by the server itself, is the witness.
#[tokio::test]
async fn of_commits_under_way_while_the_slot_is_made_those_behind_its_start_come_once_and_no_other() {
    let mut shop = Shop::open("made-under-writers").await;
    let witness = format!("witness_{}", shop.database());
    shop.sql.run("CREATE SEQUENCE ids").await;
    shop.sql.run(&format!("SELECT pg_create_logical_replication_slot('{witness}', 'test_decoding')")).await;
    // One after the other, so that there is always a transaction that is open.
    let writing: &[&str] = &[
        "BEGIN; INSERT INTO orders VALUES (nextval('ids'), 'one')",
        "INSERT INTO orders VALUES (nextval('ids'), 'two')",
        "INSERT INTO orders VALUES (nextval('ids'), 'three'); COMMIT",
    ];
    let writers = Writers::at_work(&shop, 4, writing).await;
    let count = "SELECT count(*) FROM orders";
    until("they write", async || (shop.sql.one::<i64>(count).await > 50).then_some(())).await;
    // The first slot is left behind without a position, and a second one is made.
    shop.start_to_die_at("slot-created:1").await;
    shop.start_to_die_at("first-position-committed:1").await;
    let start = shop.position().await.value["end_lsn"].take();
    assert_eq!(shop.confirmed().await, lsn(&start), "the start is not where the slot begins");
    shop.start().await.wait_for_events(ORDERS, 100).await;
    writers.stop().await;
    let found: Vec<_> = shop.settled().await.iter().filter_map(Event::id).collect();

    let start = start.as_str().expect("a place");
    let committed = format!(
        "WITH told AS MATERIALIZED (
             SELECT row_number() OVER () AS nth, lsn, xid::text AS xid, data
             FROM pg_logical_slot_peek_changes('{witness}', NULL, NULL)),
         rows AS (
             SELECT told.nth, ended.lsn,
                    substring(told.data FROM '^table public.orders: INSERT: id.bigint.:([0-9]+)')::bigint AS id
             FROM told JOIN told ended ON ended.xid = told.xid AND ended.data LIKE 'COMMIT%')
         SELECT coalesce(array_agg(id ORDER BY nth), '{{}}') FROM rows WHERE id IS NOT NULL AND lsn"
    );
    let before: Vec<i64> = shop.sql.one(&format!("{committed} <= '{start}'")).await;
    let behind: Vec<i64> = shop.sql.one(&format!("{committed} > '{start}'")).await;
    assert!(!before.is_empty(), "nothing was committed before the start");
    assert_eq!(found, behind);
}

/// A slot is there before it can be read, and has confirmed nothing until then (DBZ-6092, DBZ-6251: the connector hung
/// without a word).
#[tokio::test]
async fn a_slot_that_somebody_is_still_making_is_waited_for_and_said_to_be() {
    let mut shop = Shop::open("still-made").await;
    let slot = shop.slot();
    shop.sql.run(&format!("CREATE PUBLICATION {slot} FOR TABLE orders")).await;
    let (open, maker) = (shop.sql.another().await, shop.sql.another().await);
    open.run("BEGIN; INSERT INTO orders VALUES (1, 'open')").await;
    let pid: i32 = maker.one("SELECT pg_backend_pid()").await;
    let make = format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')");
    let making = tokio::spawn(async move { maker.run(&make).await });
    has_confirmed_nothing(&shop).await;
    shop.file.set("source/postgres/slot_made_beforehand", true);
    shop.start_in_any_state().await;
    let refusal = shop.daemon().hinted(&shop.name, &format!("pg_terminate_backend({pid})")).await;
    let words = [slot.as_str(), &format!("still being made by server process {pid}")];
    refusal.expect_reason(&words).expect_hint(&["pg_stat_activity"]);
    open.run("COMMIT").await;
    making.await.expect("the slot is made");
    shop.wait_for_state("RUNNING").await;
    shop.rows(2..=10).await.expect_rows(2..=10).await;
}

/// The server goes on making a slot whose maker has died, and nobody can take it or drop it until it is made.
#[tokio::test]
async fn a_first_start_that_was_killed_while_its_slot_was_made_is_a_first_start() {
    let mut shop = Shop::open("killed-making").await;
    let open = shop.sql.another().await;
    open.run("BEGIN; INSERT INTO orders VALUES (1, 'open')").await;
    shop.start_in_any_state().await;
    let pid = has_confirmed_nothing(&shop).await;
    shop.kill().start_in_any_state().await;
    let refusal = shop.daemon().hinted(&shop.name, &format!("pg_terminate_backend({pid})")).await;
    refusal.expect_reason(&[&shop.slot(), &format!("still being made by server process {pid}")]);
    open.run("COMMIT").await;
    shop.wait_for_state("RUNNING").await;
    shop.rows(2..=10).await.expect_rows(2..=10).await;
}

/// Waits until the slot is there and not yet made; who makes it.
async fn has_confirmed_nothing(shop: &Shop) -> i32 {
    let slot = shop.slot();
    let maker = format!(
        "SELECT active_pid FROM pg_replication_slots
         WHERE slot_name = '{slot}' AND active AND confirmed_flush_lsn IS NULL"
    );
    until("the slot is being made", async || shop.sql.maybe::<i32>(&maker).await).await
}

/// Nothing of the captured tables comes, and the server's log is let go of all the same (DBZ-800). A restart after
/// that, and after more of it, finds its place (dbz#1863).
#[tokio::test]
async fn changes_of_tables_that_are_not_captured_move_the_slot() {
    let mut shop = Shop::open("aside").await;
    shop.table("aside", "id bigint, note text").await;
    let others = shop.sql.another().await;
    let_go_of_and_killed(&mut shop, &others, "aside").await;
    shop.start().await.rows(2..=5).await.expect_rows(1..=5).await;
}

/// The log is of all databases of a server, and a slot of one of them keeps it.
#[tokio::test]
async fn changes_of_another_database_move_the_slot() {
    let servers = Arc::new(Servers::shared().await);
    let mut shop = Shop::on(&servers, "idle").await;
    let neighbour = Shop::on(&servers, "neighbour").await;
    let_go_of_and_killed(&mut shop, &neighbour.sql, "orders").await;
    shop.start().await.rows(2..=5).await.expect_rows(1..=5).await;
}

/// Fails unless rows in a table that is not captured move the slot of an idle connector, which is killed then.
async fn let_go_of_and_killed(shop: &mut Shop, others: &Sql, table: &str) {
    shop.file.set("source/postgres/heartbeat_interval_s", 0);
    shop.start().await.rows(1..=1).await.wait_for_events(ORDERS, 1).await;
    let idle = shop.sql.log_end().await;
    let (mut written, mut id) = (0, 0);
    let kept = format!("SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = '{}'", shop.slot());
    within(LET_GO_OF, "the server lets go of its log", async || {
        if shop.confirmed().await >= written {
            id += 1_000;
            let rows = format!("SELECT {id} + n, 'theirs' FROM generate_series(1, 1000) n");
            others.run(&format!("INSERT INTO {table} {rows}")).await;
            // What is kept moves where the server says which transactions are under way.
            others.run("CHECKPOINT").await;
            written = others.log_end().await;
        }
        (shop.sql.lsn(&kept).await > idle).then_some(())
    })
    .await;
    until("the slot follows", async || (shop.confirmed().await >= written).then_some(())).await;
    shop.kill();
    others.run(&format!("INSERT INTO {table} VALUES (1, 'meanwhile')")).await;
}

/// Rows wait for the registry while the log grows behind them and the server asks to be told how far we are: what is
/// told is not that (DBZ-9641, DBZ-1766).
#[tokio::test]
async fn keepalives_behind_rows_that_wait_confirm_nothing_of_them() {
    let (mut shop, mut gate) = gated_shop("keepalive").await;
    shop.table("aside", "id bigint").await;
    shop.file.set("source/postgres/status_interval_s", 1).set("source/postgres/heartbeat_interval_s", 1);
    shop.start().await.rows(1..=10).await;
    let rows_end = shop.sql.log_end().await;
    shop.degraded(&["registry"]).await;
    shop.sql.run("INSERT INTO aside SELECT generate_series(1, 1000)").await;
    let (end, slot): (String, _) = (shop.sql.one("SELECT pg_current_wal_lsn()::text").await, shop.slot());
    let told = format!(
        "SELECT count(*) > 0 FROM pg_stat_replication r JOIN pg_replication_slots s ON s.active_pid = r.pid
         WHERE s.slot_name = '{slot}' AND r.sent_lsn >= '{end}'"
    );
    let is_told = async |more: &str| shop.sql.one::<bool>(&format!("{told} {more}")).await.then_some(());
    until("the server has sent all of it", async || is_told("").await).await;
    let now: String = shop.sql.one("SELECT clock_timestamp()::text").await;
    until("it was answered", async || is_told(&format!("AND r.reply_time > '{now}'")).await).await;
    let confirmed = shop.confirmed().await;
    assert!(confirmed < rows_end, "{confirmed:X} is confirmed, and the rows before {rows_end:X} are not out");
    shop.kill();
    gate.open();
    shop.start().await.expect_rows(1..=10).await;
}
