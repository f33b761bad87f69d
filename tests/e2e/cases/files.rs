//! Files that cannot be meant so: what is answered, before anything is touched.

use millrace_e2e::{Ended, Own, Servers, Shop, run_to_end};
use std::sync::Arc;

#[tokio::test]
async fn an_unknown_key_is_answered_with_its_line_a_caret_and_the_nearest_key() {
    let shop = Shop::open("unknown-key").await;
    let text = "name = \"orders\"\n\n[source.postgres]\nurl = \"postgres://u@h/d\"\ntabels = [\"a.b\"]\n\n[sink.stdout]\n";
    let path = shop.dir().join("orders.toml");
    std::fs::write(&path, text).expect("a file in a temporary directory");
    for verb in ["run", "check"] {
        let ended = run_to_end(&[verb, "orders.toml"], shop.dir());
        assert_eq!(ended.code, Some(2), "{}", ended.text());
        for part in ["orders.toml:5:1", "5 | tabels = ", "^^^^^^", "did you mean `tables`?"] {
            assert!(ended.stderr.contains(part), "{verb} does not say {part:?}:\n{}", ended.stderr);
        }
    }
}

#[tokio::test]
async fn check_passes_on_a_shop_that_can_run_and_changes_nothing() {
    let shop = Shop::open("check").await;
    let ended = check(&shop);
    assert_eq!(ended.code, Some(0), "{}", ended.text());
    assert!(!ended.text().contains("FAIL"), "{}", ended.text());
    let left: i64 = shop
        .sql
        .one("SELECT (SELECT count(*) FROM pg_publication) + (SELECT count(*) FROM pg_replication_slots WHERE database = current_database())")
        .await;
    assert_eq!(left, 0, "check made something");
}

#[tokio::test]
async fn a_wrong_password_fails_the_connector_and_is_never_shown() {
    let mut shop = Shop::open("password").await;
    let url = shop.servers.postgres.url_of(shop.database());
    let without = url.replace(&format!(":{}@", shop.servers.postgres.password()), "@");
    shop.file.set("source/postgres/url", without).set("source/postgres/password", "hunter2-hunter2");
    shop.start_in_any_state().await;
    let refusal = shop.not_ready("FAILED").await;
    refusal.expect_reason(&["authentication"]).expect_hint(&["password"]);
    let (_, config) = shop.daemon().get(&format!("/connectors/{}/config", shop.name)).await;
    let log = shop.daemon().log();
    assert!(!log.contains("hunter2") && !config.contains("hunter2"), "the password is shown");
    let ended = check(&shop);
    assert_eq!(ended.code, Some(2), "{}", ended.text());
    assert!(!ended.text().contains("hunter2"), "the password is shown:\n{}", ended.text());
}

#[tokio::test]
async fn a_server_without_logical_decoding_is_refused_with_the_setting_to_type() {
    let servers = Arc::new(Servers::with(Own::postgres_with(&[("wal_level", "replica")])).await);
    let mut shop = Shop::on(&servers, "wal-level").await;
    shop.start_in_any_state().await;
    shop.not_ready("FAILED").await.expect_reason(&["wal_level"]).expect_hint(&["wal_level", "logical"]);
    let ended = check(&shop);
    assert_eq!(ended.code, Some(2), "{}", ended.text());
    assert!(ended.text().contains("FAIL  wal_level"), "{}", ended.text());
}

#[tokio::test]
async fn check_says_what_to_type_for_a_table_without_replica_identity() {
    let mut shop = Shop::open("no-identity").await;
    shop.table("notes", "line int, words text").await;
    shop.capture(&["public.orders", "public.notes"]);
    let ended = check(&shop);
    let sql = "ALTER TABLE \"public\".\"notes\" REPLICA IDENTITY FULL;";
    assert!(ended.text().contains(sql), "{}", ended.text());
    assert!(ended.text().contains("table public.notes"), "{}", ended.text());
    shop.sql.run(sql).await;
    let ended = check(&shop);
    assert_eq!(ended.code, Some(0), "{}", ended.text());
}

#[tokio::test]
async fn two_files_of_one_name_are_refused() {
    let shop = Shop::open("one-name").await;
    shop.file.write(&shop.dir().join("a.toml"));
    shop.file.write(&shop.dir().join("b.toml"));
    let ended = run_to_end(&["run", "a.toml", "b.toml"], shop.dir());
    assert_eq!(ended.code, Some(2), "{}", ended.text());
    assert!(ended.stderr.contains("is taken by a.toml"), "{}", ended.stderr);
}

/// `millrace check` on the shop's file.
fn check(shop: &Shop) -> Ended {
    let path = shop.write_file();
    run_to_end(&["check", &path.display().to_string()], shop.dir())
}
