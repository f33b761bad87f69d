//! The schema registry is away, fails, or refuses: the row waits, and so does the server's log.

use millrace_e2e::{Gate, Shop, until};
use serde_json::json;

/// A shop whose registry stands behind a gate that is shut.
pub(super) async fn gated_shop(name: &str) -> (Shop, Gate) {
    let mut shop = Shop::open(name).await;
    let registry = shop.servers.registry;
    let gate = Gate::before(registry.port());
    let url = registry.url().replace(&format!(":{}/", registry.port()), &format!(":{}/", gate.port()));
    shop.file.set("format/registry", url);
    (shop, gate)
}

#[tokio::test]
async fn a_registry_that_is_down_holds_rows_and_log_until_it_is_back() {
    let (mut shop, mut gate) = gated_shop("registry-down").await;
    // Nothing is asked of the registry before the first row.
    shop.start().await.rows(1..=10).await;
    let rows_end = shop.sql.log_end().await;
    shop.degraded(&["registry"]).await;
    assert!(shop.confirmed().await < rows_end, "the rows were confirmed and are lost");
    gate.open();
    shop.wait_for_state("RUNNING").await;
    shop.expect_rows(1..=10).await;
}

#[tokio::test]
async fn a_registry_that_answers_500_is_asked_again() {
    let (mut shop, mut gate) = gated_shop("registry-500").await;
    gate.fail();
    // Nothing is asked of the registry before the first row.
    shop.start().await.rows(1..=10).await;
    shop.degraded(&["registry"]).await;
    until("it was asked more than once", async || (gate.failed() > 1).then_some(())).await;
    gate.open();
    shop.wait_for_state("RUNNING").await;
    shop.expect_rows(1..=10).await;
}

#[tokio::test]
async fn a_registry_that_goes_down_later_holds_up_new_schemas_only() {
    let (mut shop, mut gate) = gated_shop("registry-later").await;
    gate.open();
    shop.start().await.rows(1..=10).await.expect_rows(1..=10).await;
    gate.shut();
    // Their schema is known.
    shop.rows(11..=20).await.expect_rows(1..=20).await;
    shop.sql.run("ALTER TABLE orders ADD colour text").await;
    shop.rows(21..=30).await.degraded(&["registry"]).await;
    gate.open();
    shop.wait_for_state("RUNNING").await;
    shop.expect_rows(1..=30).await;
}

#[tokio::test]
async fn an_incompatible_schema_holds_its_table_and_names_the_subject() {
    let mut shop = Shop::open("incompatible").await;
    let subject = format!("{}-value", shop.topic("public.orders"));
    let other = json!({"type": "record", "name": "Envelope", "namespace": "a.stranger",
        "fields": [{"name": "op", "type": "int"}]});
    shop.subjects().register(&subject, &other).await;
    shop.subjects().set_compatibility(&subject, "FULL").await;
    // Nothing is asked of the registry before the first row.
    shop.start().await.rows(1..=10).await;
    let rows_end = shop.sql.log_end().await;
    shop.not_ready("DEGRADED").await.expect_reason(&["public.orders", &subject]).expect_hint(&["compatib"]);
    assert!(shop.confirmed().await < rows_end, "the rows were confirmed and are lost");
    shop.subjects().set_compatibility(&subject, "NONE").await;
    shop.kill().start().await.expect_rows(1..=10).await;
}
