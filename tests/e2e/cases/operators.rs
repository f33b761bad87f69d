//! The log of what operators did.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use millrace_e2e::{Own, Servers, Shop, committed, run_to_end, within};
use reqwest::Method;
use serde_json::{Value as Json, json};

/// Planted wherever a connector has a secret.
const PLANTED: &str = "hunter2-planted";

async fn logged_shop(name: &str) -> (Shop, PathBuf) {
    let mut shop = Shop::open(name).await;
    let path = shop.dir().join("operators.jsonl");
    shop.file.set("operator_log/file", path.display().to_string());
    (shop, path)
}

fn entries(path: &std::path::Path) -> Vec<Json> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}

/// Each action with its outcome, in order; fails where an intent has none or comes behind it.
fn actions(entries: &[Json]) -> Vec<(String, String)> {
    let text = |entry: &Json, key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let pairs = entries.chunks(2).map(|pair| {
        let [intent, outcome] = pair else { panic!("an intent without an outcome: {pair:?}") };
        assert_eq!((&intent["phase"], &outcome["phase"]), (&json!("intent"), &json!("outcome")), "{pair:?}");
        assert_eq!((&intent["id"], &intent["who"]), (&outcome["id"], &outcome["who"]), "{pair:?}");
        assert!(text(intent, "time") <= text(outcome, "time") && text(intent, "time").ends_with('Z'));
        (text(intent, "action"), text(outcome, "outcome"))
    });
    pairs.collect()
}

/// Some actions, one of which fails.
async fn ask_over_rest(shop: &Shop) {
    let at = |what: &str| format!("/connectors/{}/{what}", shop.name);
    for (method, what, status) in [
        (Method::PUT, "pause", 202),
        (Method::PUT, "resume", 202),
        (Method::POST, "restart?onlyFailed=true", 202),
        (Method::POST, "tasks/7/restart", 404),
    ] {
        assert_eq!(shop.daemon().request(method, &at(what)).await, status, "{what}");
    }
    // The same name, spelled with an escape.
    let spelled = format!("/connectors/%{:02X}{}/stop", shop.name.as_bytes()[0], &shop.name[1..]);
    assert_eq!(shop.daemon().request(Method::PUT, &spelled).await, 204);
    let data = json!({"message": PLANTED});
    shop.daemon().post(&at("signals"), &json!({"id": "one", "type": "log", "data": data})).await;
}

/// Some that change something, and some that do not get so far.
fn run_verbs(shop: &Shop, file: &str) {
    for (words, code) in [
        (&["position", file, "show"][..], 0),
        (&["position", file, "set"], 2),
        (&["position", file, "set", "--to", "now", "--yes"], 0),
        (&["position", file, "set", "--to", "0/1", "--yes"], 2),
        (&["dead-letters", file, "replay", "nowhere", "--yes"], 2),
        (&["remove", file, "--yes"], 0),
    ] {
        let ended = run_to_end(words, shop.dir());
        assert_eq!(ended.code, Some(code), "{words:?}: {}", ended.text());
    }
}

#[tokio::test]
async fn what_is_asked_over_rest_and_by_verbs_is_written_before_and_after_and_holds_no_secret() {
    let (mut shop, path) = logged_shop("operators").await;
    let topic = format!("{}.operators", shop.name);
    shop.file
        .set("operator_log/topic", topic.clone())
        .set("format/registry_username", "registrar")
        .set("format/registry_password", PLANTED)
        .set("format/hash_columns", vec!["public.orders.note"])
        .set("format/hash_salt", PLANTED)
        .set("signature/hmac_sha256_secret", format!("{PLANTED}-{PLANTED}-{PLANTED}"))
        .set("dead_letters/on_reject", "dead_letter");
    shop.start().await;
    let name = shop.name.clone();
    ask_over_rest(&shop).await;
    shop.term().await;
    shop.wait_for_slot(false).await;
    let file = shop.write_file().display().to_string();
    run_verbs(&shop, &file);
    let entries = entries(&path);
    let done = |action: &str| (action.to_owned(), "done".to_owned());
    let failed = |action: &str| (action.to_owned(), "failed".to_owned());
    let (signals, rest): (Vec<_>, Vec<_>) =
        actions(&entries).into_iter().partition(|(action, _)| action == "signals");
    assert_eq!(signals.len(), 1);
    let expected = [
        done("pause"),
        done("resume"),
        done("restart"),
        failed("tasks 7 restart"),
        done("stop"),
        done("position set"),
        failed("position set"),
        failed("dead-letters replay"),
        done("remove"),
    ];
    assert_eq!(rest, expected);
    assert!(entries.iter().all(|entry| entry["connector"] == name.as_str()));
    assert!(entries[0]["who"]["rest"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:")));
    let last = entries.last().expect("entries");
    assert!(last["who"]["uid"].is_number() && last["who"]["host"].is_string(), "{last}");
    let set = entries.iter().find(|entry| entry["action"] == "position set").expect("it is written");
    assert_eq!(set["arguments"], json!({"to": "now"}));
    let mode = std::fs::metadata(&path).expect("the log").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // The topic has the same.
    let bootstrap = shop.servers.kafka.bootstrap();
    let records = within(Duration::from_secs(30), "all entries are on the topic", async || {
        let records = committed(&bootstrap, &[&topic]).await;
        (records.len() == entries.len()).then_some(records)
    })
    .await;
    let copies: Vec<Json> = records.iter().map(millrace_e2e::Bare::json).collect();
    assert_eq!(copies, entries);
    assert!(records.iter().all(|record| record.key.as_deref() == Some(name.as_str())));
    let text = std::fs::read_to_string(&path).expect("the log");
    assert!(!text.contains(PLANTED), "{text}");
}

#[tokio::test]
async fn what_cannot_be_written_is_not_done() {
    let (mut shop, path) = logged_shop("operators-refused").await;
    shop.start().await.rows(1..=3).await.expect_rows(1..=3).await;
    std::fs::write(&path, "").expect("the log");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("its mode");
    let pause = format!("/connectors/{}/pause", shop.name);
    assert_eq!(shop.daemon().request(Method::PUT, &pause).await, 503);
    assert!(shop.daemon().log().contains("operator log cannot be written"));
    shop.rows(4..=6).await.expect_rows(1..=6).await;
    shop.term().await;
    shop.wait_for_slot(false).await;
    let before = shop.position().await;
    let file = shop.write_file().display().to_string();
    let refused = run_to_end(&["position", &file, "reset", "--yes"], shop.dir());
    assert_eq!(refused.code, Some(2), "{}", refused.text());
    for words in ["position reset was not carried out", "[operator_log]"] {
        assert!(refused.text().contains(words), "{words}: {}", refused.text());
    }
    assert_eq!(shop.position().await.value, before.value);
    assert_eq!(std::fs::read_to_string(&path).expect("the log"), "");
    // It can be, once it is mended.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("its mode");
    let done = run_to_end(&["position", &file, "reset", "--yes"], shop.dir());
    assert_eq!((done.code, entries(&path).len()), (Some(0), 2), "{}", done.text());
}

#[tokio::test]
async fn kafka_that_is_away_keeps_nobody_from_stopping_where_there_is_a_file() {
    let servers = Arc::new(Servers::with(Own::kafka()).await);
    let mut shop = Shop::on(&servers, "operators-away").await;
    let path = shop.dir().join("operators.jsonl");
    let topic = format!("{}.operators", shop.name);
    shop.file.set("operator_log/file", path.display().to_string()).set("operator_log/topic", topic);
    shop.start().await.rows(1..=3).await.expect_rows(1..=3).await;
    servers.kafka.pause();
    let stop = format!("/connectors/{}/stop", shop.name);
    assert_eq!(shop.daemon().request(Method::PUT, &stop).await, 204);
    assert_eq!(actions(&entries(&path)), [("stop".to_owned(), "done".to_owned())]);
    servers.kafka.resume();
}

#[tokio::test]
async fn several_who_ask_at_once_are_all_written_to_the_topic() {
    let mut shop = Shop::open("operators-at-once").await;
    let topic = format!("{}.operators", shop.name);
    shop.file.set("operator_log/topic", topic.clone());
    shop.start().await;
    let restart = format!("/connectors/{}/restart?onlyFailed=true", shop.name);
    let ask = || shop.daemon().request(Method::POST, &restart);
    let answers: [u16; 4] = tokio::join!(ask(), ask(), ask(), ask()).into();
    assert_eq!(answers, [202; 4], "{}", shop.daemon().log());
    let bootstrap = shop.servers.kafka.bootstrap();
    within(Duration::from_secs(30), "an intent and an outcome of each", async || {
        let entries: Vec<Json> =
            committed(&bootstrap, &[&topic]).await.iter().map(millrace_e2e::Bare::json).collect();
        let of = |phase: &str| entries.iter().filter(|entry| entry["phase"] == phase).count();
        (of("intent") == 4 && of("outcome") == 4).then_some(())
    })
    .await;
}
