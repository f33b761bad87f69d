//! A slot is made once the server has seen the end of every transaction that is under way: which one it waits for.

use millrace_e2e::{Own, Servers, Shop, until};
use std::sync::Arc;

async fn waits_for(shop: &Shop, words: &[&str]) {
    until(&format!("the status names {words:?}"), async || {
        let status = shop.daemon().own_status(&shop.name).await?;
        let told = format!("{} {}", status["reason"].as_str()?, status["hint"].as_str()?);
        (status["state"] == "STARTING" && words.iter().all(|word| told.contains(word))).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_open_transaction_that_holds_up_the_first_start_is_named_with_what_ends_it() {
    let servers = Arc::new(Servers::with(Own::postgres()).await);
    let mut shop = Shop::on(&servers, "held-up").await;
    shop.file.set("source/postgres/create_slot_timeout_s", 5);
    let other = shop.sql.another().await;
    other.run("BEGIN").await;
    other.run("INSERT INTO orders VALUES (1, 'open')").await;
    let pid: i32 = other.one("SELECT pg_backend_pid()").await;
    let ends_it = format!("pg_terminate_backend({pid})");
    shop.start_in_any_state().await;
    waits_for(&shop, &[&format!("process {pid}"), &ends_it]).await;
    let refusal = shop.daemon().hinted(&shop.name, &ends_it).await;
    refusal.expect_reason(&[&shop.slot(), "within 5 s", &format!("process {pid}"), "open for"]);
    other.run("COMMIT").await;
    shop.wait_for_state("RUNNING").await;
    shop.rows(2..=5).await.expect_rows(2..=5).await;
}

#[tokio::test]
async fn a_forgotten_prepared_transaction_that_holds_up_the_first_start_is_named_with_what_ends_it() {
    let servers = Arc::new(Servers::with(Own::postgres_with(&[("max_prepared_transactions", "5")])).await);
    let mut shop = Shop::on(&servers, "prepared").await;
    shop.file.set("source/postgres/create_slot_timeout_s", 5);
    shop.sql.run("BEGIN; INSERT INTO orders VALUES (1, 'prepared'); PREPARE TRANSACTION 'left behind'").await;
    shop.start_in_any_state().await;
    let refusal = shop.daemon().hinted(&shop.name, "ROLLBACK PREPARED 'left behind'").await;
    refusal.expect_reason(&[&shop.slot(), "left behind", "open for"]).expect_hint(&[shop.database()]);
    shop.sql.run("ROLLBACK PREPARED 'left behind'").await;
    shop.wait_for_state("RUNNING").await;
    shop.rows(2..=5).await.expect_rows(2..=5).await;
}
