//! MongoDB is not as it should be, or goes away: what is said, and what happens when it is mended.

use std::sync::Arc;
use std::time::Duration;

use millrace_e2e::{Archive, Own, Servers, connect, id, run_to_end, until, within};
use mongodb::bson::{Document, doc};

/// An election on a busy machine, and what was written meanwhile.
const ELECTION: Duration = Duration::from_secs(150);

/// What `millrace check` prints of the archive's file.
fn check(archive: &Archive) -> (Option<i32>, String) {
    let file = archive.write_file();
    let ended = run_to_end(&["check", &file.display().to_string()], archive.dir());
    (ended.code, ended.text())
}

fn says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is missing in:\n{text}");
    }
}

#[tokio::test]
async fn check_proves_what_a_connector_needs() {
    let archive = Archive::open("check").await;
    archive.papers().insert_one(doc! { "_id": 1 }).await.unwrap();
    let (code, text) = check(&archive);
    assert_eq!(code, Some(0), "{text}");
    says(&text, &["member of rs0", "change stream on deployment", "papers", "oplog window", "6.0.5"]);
}

#[tokio::test]
async fn a_collection_without_images_is_refused_where_the_file_wants_them() {
    let mut archive = Archive::open("no-images").await;
    archive.docs(1..=1).await.file.set("source/mongodb/pre_images", true);
    let mend = "changeStreamPreAndPostImages: {enabled: true}";
    let (code, text) = check(&archive);
    assert_ne!(code, Some(0), "{text}");
    says(&text, &["keeps no images", mend]);
    archive.start_in_any_state().await;
    archive.not_ready("FAILED").await.expect_reason(&["papers", "no images"]).expect_hint(&[mend]);
    let command = doc! { "collMod": "papers", "changeStreamPreAndPostImages": { "enabled": true } };
    archive.database().run_command(command).await.unwrap();
    archive.kill().start().await.docs(2..=2).await.expect_docs(2..=2).await;
}

#[tokio::test]
async fn an_unreachable_host_is_waited_for_and_named() {
    let mut archive = Archive::open("unreachable").await;
    archive
        .file
        .set("source/mongodb/url", "mongodb://127.0.0.1:9/?replicaSet=rs0")
        .set("source/mongodb/server_selection_timeout_s", 1);
    archive.start_in_any_state().await;
    archive.degraded(&["127.0.0.1:9"]).await.expect_hint(&["reachable"]);
    let (code, text) = check(&archive);
    assert_ne!(code, Some(0), "{text}");
}

#[tokio::test]
async fn a_server_without_a_replica_set_is_refused() {
    let servers = Arc::new(Servers::with(Own::mongodb(1)).await);
    let mut archive = Archive::on(&servers, "alone").await;
    // The same server, without its set.
    let member = &servers.mongodb.members()[0];
    member.stop().await.expect("it stops");
    let dir = member.dir().join("alone");
    std::fs::create_dir(&dir).expect("a directory");
    let port = member.port();
    let program = member.program();
    let mut alone = std::process::Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--"])
        .arg(program)
        .args(["--bind_ip", "127.0.0.1", "--nounixsocket", "--port", &port.to_string(), "--dbpath"])
        .arg(&dir)
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("mongod starts");
    archive.file.set("source/mongodb/url", format!("mongodb://127.0.0.1:{port}/?directConnection=true"));
    archive.start_in_any_state().await;
    archive.not_ready("FAILED").await.expect_reason(&["replica set"]).expect_hint(&["rs.initiate()"]);
    let (code, text) = check(&archive);
    assert_ne!(code, Some(0), "{text}");
    says(&text, &["rs.initiate()"]);
    alone.kill().expect("our own child");
    let _ = alone.wait();
}

/// An archive whose user has no right, and what its url says of the host.
async fn of_a_poor_user(name: &str) -> Archive {
    let servers = Arc::new(Servers::with(Own::mongodb_with(true, &[])).await);
    let mut archive = Archive::on(&servers, name).await;
    let admin = archive.client.database("admin");
    admin.run_command(doc! { "createUser": "poor", "pwd": "secret", "roles": [] }).await.unwrap();
    let host = format!("127.0.0.1:{}", servers.mongodb.members()[0].port());
    archive
        .file
        .set("source/mongodb/url", format!("mongodb://poor@{host}/?replicaSet=rs0"))
        .set("source/mongodb/password", "secret");
    archive
}

/// Does what the hint says.
async fn grant(archive: &Archive, actions: &[&str]) {
    let admin = archive.client.database("admin");
    let privilege = doc! { "resource": { "db": "", "collection": "" }, "actions": actions };
    let role = doc! { "createRole": "millrace", "roles": [], "privileges": [privilege] };
    admin.run_command(role).await.unwrap();
    admin.run_command(doc! { "grantRolesToUser": "poor", "roles": ["millrace"] }).await.unwrap();
}

#[tokio::test]
async fn a_user_without_the_right_is_told_which_one() {
    let mut archive = of_a_poor_user("rights").await;
    archive.start_in_any_state().await;
    archive.not_ready("FAILED").await.expect_hint(&["createRole", r#"["find", "changeStream"]"#]);
    let (code, text) = check(&archive);
    assert_ne!(code, Some(0), "{text}");
    says(&text, &["createRole"]);
    // What the hint says is enough.
    grant(&archive, &["find", "changeStream"]).await;
    archive.kill().start().await.docs(1..=10).await.expect_docs(1..=10).await;
    let (_, text) = check(&archive);
    says(&text, &["oplog window", "grant the user read on database local"]);
}

#[tokio::test]
async fn a_user_without_the_right_that_images_need_is_told_of_it() {
    let mut archive = of_a_poor_user("rights-images").await;
    archive.with_images("papers").await.file.set("source/mongodb/pre_images", true);
    archive.start_in_any_state().await;
    let actions = ["find", "changeStream", "listCollections"];
    archive
        .not_ready("FAILED")
        .await
        .expect_hint(&["createRole", r#"["find", "changeStream", "listCollections"]"#]);
    let (code, text) = check(&archive);
    assert_ne!(code, Some(0), "{text}");
    grant(&archive, &actions).await;
    archive.kill().start().await.docs(1..=10).await.expect_docs(1..=10).await;
    let (code, text) = check(&archive);
    assert_eq!(code, Some(0), "{text}");
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_not_shown() {
    let servers = Arc::new(Servers::with(Own::mongodb_with(true, &[])).await);
    let mut archive = Archive::on(&servers, "password").await;
    let host = format!("127.0.0.1:{}", servers.mongodb.members()[0].port());
    archive
        .file
        .set("source/mongodb/url", format!("mongodb://root@{host}/?replicaSet=rs0"))
        .set("source/mongodb/password", "hunter2");
    archive.start_in_any_state().await;
    archive.not_ready("FAILED").await.expect_hint(&["password", "authSource"]);
    assert!(!archive.daemon().log().contains("hunter2"));
}

#[tokio::test]
async fn a_token_that_left_the_log_stops_in_position_lost_and_never_begins_at_now() {
    let mut archive = Archive::open("stale").await;
    let mut stream = archive.papers().watch().await.expect("a change stream");
    archive.start().await.docs(1..=5).await.expect_docs(1..=5).await.term().await;
    let position = archive.position().await;
    // Of an event: a place between events may lie before a log that was never cut.
    let event = until("an event", async || stream.next_if_any().await.expect("the stream goes on")).await;
    let token = mongodb::bson::serialize_to_document(&event.id).expect("a token");
    let data = token.get_str("_data").expect("a token");
    // An hour after 1970: before any log begins.
    let mut value = position.value.clone();
    value["resume_token"]["_data"] = format!("8200000E1000000001{}", &data[18..]).into();
    value["cluster_time"] = "3600.1".into();
    let (topic, key) = (archive.position_topic(), position.key.to_string());
    archive.broker().produce(&topic, 0, key.as_bytes(), value.to_string().as_bytes()).await;
    archive.docs(6..=9).await.start_in_any_state().await;
    let refusal = archive.not_ready("POSITION_LOST").await;
    refusal.expect_hint(&["millrace position", "replSetResizeOplog"]);
    let ids = archive.events("papers").await.len();
    assert_eq!(ids, 6, "nothing may be delivered past a gap");
    // The operator accepts the gap, and goes on where the first delivery ended.
    archive.kill();
    let file = archive.write_file().display().to_string();
    let to = position.value["resume_token"]["_data"].as_str().expect("a token");
    let ended = run_to_end(&["position", &file, "set", "--to", to, "--yes"], archive.dir());
    assert_eq!(ended.code, Some(0), "{}", ended.text());
    archive.start().await;
    archive.expect_docs(1..=9).await;
}

#[tokio::test]
async fn a_start_from_now_on_gives_up_what_waits_and_one_at_a_time_to_come_is_refused() {
    let mut archive = Archive::open("start-now").await;
    archive.start().await.docs(1..=5).await.expect_docs(1..=5).await.term().await;
    archive.docs(6..=9).await;
    let file = archive.write_file().display().to_string();
    let set = |to: &str| run_to_end(&["position", &file, "set", "--to", to, "--yes"], archive.dir());
    let refused = set("2099-01-31T18:00:00Z");
    assert_eq!(refused.code, Some(2), "{}", refused.text());
    assert!(refused.text().contains("still to come"), "{}", refused.text());
    let moved = set("now");
    assert_eq!(moved.code, Some(0), "{}", moved.text());
    archive.start().await.docs(10..=12).await;
    let ids: Vec<_> = archive.settled().await.iter().filter_map(id).collect();
    assert_eq!(ids, (1..=5).chain(10..=12).collect::<Vec<_>>());
}

/// Writes until the server's log no longer reaches back to a time.
async fn roll_the_log_past(archive: &Archive, seconds: u32) {
    let log = archive.client.database("local").collection::<Document>("oplog.rs");
    let other = archive.collection("other");
    within(ELECTION, "the log has lost its beginning", async || {
        let text = "x".repeat(10_000);
        other.insert_many((0..100).map(|_| doc! { "text": &text })).await.expect("documents are inserted");
        let first = log.find_one(doc! {}).sort(doc! { "$natural": 1 }).await.expect("the log can be read");
        let first = first.and_then(|entry| entry.get_timestamp("ts").ok()).expect("it has entries");
        (first.time > seconds).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_snapshot_whose_stream_fell_out_of_the_log_stops_and_is_not_begun_again() {
    let servers = Arc::new(Servers::with(Own::mongodb_with(false, &["--oplogSize", "1"])).await);
    let mut archive = Archive::on(&servers, "short-log").await;
    archive.file.set("source/mongodb/snapshot", "initial").set("source/mongodb/snapshot_chunk_rows", 5);
    archive.docs(1..=10_000).await.start().await;
    archive.wait_for_events("papers", 200).await;
    let shown = until("the log's figures are shown", async || {
        let figures = ["millrace_log_window_seconds", "millrace_log_headroom_seconds"];
        archive.daemon().metrics(figures, &archive.name).await
    });
    let [window, headroom] = shown.await;
    assert!(headroom <= window);
    archive.kill();
    assert!(archive.events("papers").await.len() < 10_000, "the snapshot was through");
    // What was acknowledged and not committed by then lies before this too.
    let known = archive.broker().last_offset(&archive.topic("papers"), 0).await;
    roll_the_log_past(&archive, archive.server_seconds().await).await;
    archive.start_in_any_state().await;
    archive.not_ready("POSITION_LOST").await.expect_hint(&["millrace position", "replSetResizeOplog"]);
    let newest = archive.events("papers").await.last().map(|event| event.offset);
    assert!(newest.is_some() && newest <= known, "{newest:?} was delivered past a gap, behind {known:?}");
}

#[tokio::test]
async fn a_position_ahead_of_the_server_is_a_restored_one() {
    let mut archive = Archive::open("ahead").await;
    archive.start().await.docs(1..=5).await.expect_docs(1..=5).await.term().await;
    let position = archive.position().await;
    let mut value = position.value.clone();
    value["cluster_time"] = format!("{}.1", archive.server_seconds().await + 100_000).into();
    let (topic, key) = (archive.position_topic(), position.key.to_string());
    archive.broker().produce(&topic, 0, key.as_bytes(), value.to_string().as_bytes()).await;
    archive.start_in_any_state().await;
    archive.daemon().wait_for_state_within(ELECTION, &archive.name, "POSITION_AHEAD").await;
}

#[tokio::test]
async fn a_position_of_another_scope_is_refused_by_name() {
    let mut archive = Archive::open("scope").await;
    archive.start().await.docs(1..=5).await.expect_docs(1..=5).await.term().await;
    archive.file.set("source/mongodb/scope", "database");
    archive.start_in_any_state().await;
    archive.not_ready("FAILED").await.expect_reason(&["deployment", "database"]).expect_hint(&["scope"]);
    archive.file.set("source/mongodb/scope", "deployment");
    archive.kill().start().await.docs(6..=9).await.expect_docs(1..=9).await;
}

#[tokio::test]
async fn a_collection_added_to_the_file_is_captured_from_the_position_on() {
    let mut archive = Archive::open("added").await;
    archive.start().await.docs(1..=5).await.expect_docs(1..=5).await.term().await;
    archive.collection("notes").insert_one(doc! { "_id": 1 }).await.unwrap();
    archive.capture(&["papers", "notes"]).start().await.docs(6..=9).await.expect_docs(1..=9).await;
    assert_eq!(archive.wait_for_events("notes", 1).await.len(), 1);
}

#[tokio::test]
async fn an_event_above_the_server_s_limit_stops_the_connector_and_says_what_to_do() {
    let mut archive = Archive::open("oversize").await;
    archive.with_images("papers").await;
    archive
        .file
        .set("source/mongodb/update_document", "post_image")
        .set("source/mongodb/pre_images", true)
        .set("sink/kafka/topic_defaults/config/max.message.bytes", "60000000");
    archive.start().await.docs(1..=1).await.expect_docs(1..=1).await;
    // Twice in one event: more than 16 MB.
    let text = "x".repeat(9_000_000);
    archive.papers().insert_one(doc! { "_id": 2_i64, "text": &text }).await.unwrap();
    archive.papers().update_one(doc! { "_id": 2_i64 }, doc! { "$set": { "a": 1 } }).await.unwrap();
    let refusal = archive.not_ready("FAILED").await;
    refusal.expect_hint(&["16 MB", "pre_images"]);
    // Without images the event fits, and nothing was lost.
    archive.kill().file.set("source/mongodb/update_document", "none").set("source/mongodb/pre_images", false);
    archive.start().await.docs(3..=3).await;
    let events = archive.settled().await;
    assert_eq!(events.iter().map(|event| event.op()).collect::<Vec<_>>()[..2], ["c", "c"]);
    assert_eq!(events.last().map(|event| event.op()), Some("c"));
    assert!(events.iter().any(|event| event.op() == "u"), "the update is lost");
}

#[tokio::test]
async fn a_step_down_loses_and_doubles_nothing_and_needs_no_new_start() {
    let servers = Arc::new(Servers::with(Own::mongodb(3)).await);
    let mut archive = Archive::on(&servers, "step-down").await;
    archive.trust_commits().docs(0..=0).await.start().await;
    let load = archive.load(1..=4_000, 20).await;
    archive.wait_for_events("papers", 500).await;
    let primary = servers.mongodb.primary().await.expect("a primary");
    let direct = connect(&format!("mongodb://127.0.0.1:{}/?directConnection=true", primary.port())).await;
    let down = doc! { "replSetStepDown": 20, "force": true };
    direct.database("admin").run_command(down).await.expect("it steps down");
    load.await.expect("the load is written");
    archive.expect_docs_within(ELECTION, 1..=4_000).await;
    let restarts = archive.daemon().metric("millrace_restarts_total", &archive.name).await;
    assert_eq!(restarts, Some(0.0));
}

#[tokio::test]
async fn a_killed_primary_loses_and_doubles_nothing() {
    let servers = Arc::new(Servers::with(Own::mongodb(3)).await);
    let mut archive = Archive::on(&servers, "primary-killed").await;
    archive.docs(0..=0).await.start().await;
    let load = archive.load(1..=4_000, 20).await;
    archive.wait_for_events("papers", 500).await;
    let primary = servers.mongodb.primary().await.expect("a primary");
    primary.kill();
    servers.mongodb.primary().await.expect("another primary");
    primary.start().await.expect("the killed member starts");
    load.await.expect("the load is written");
    archive.expect_docs_within(ELECTION, 1..=4_000).await;
    archive.wait_for_state("RUNNING").await;
}

#[tokio::test]
async fn a_restarted_server_is_waited_for() {
    let servers = Arc::new(Servers::with(Own::mongodb(1)).await);
    let mut archive = Archive::on(&servers, "restarted").await;
    archive.start().await.docs(1..=10).await.expect_docs(1..=10).await;
    servers.mongodb.kill();
    archive.wait_for_state("DEGRADED").await;
    servers.mongodb.start().await.expect("it starts again");
    archive.docs(11..=20).await;
    archive.expect_docs_within(ELECTION, 1..=20).await;
}

#[tokio::test]
async fn sigterm_delivers_what_is_whole_and_the_next_start_goes_on() {
    let mut archive = Archive::open("sigterm").await;
    archive.docs(0..=0).await.start().await;
    let load = archive.load(1..=3_000, 30).await;
    archive.wait_for_events("papers", 300).await;
    archive.term().await.start().await;
    load.await.unwrap();
    archive.expect_docs(1..=3_000).await;
    until("nothing lags", async || {
        archive.daemon().metric("millrace_lag_seconds", &archive.name).await.filter(|lag| *lag == 0.0)
    })
    .await;
}

/// Has a collection take the place of the papers, by its name before.
async fn put_in_the_place_of_papers(archive: &Archive, from: &str) {
    let [from, to] = [from, "papers"].map(|name| format!("{}.{name}", archive.database_name()));
    let rename = doc! { "renameCollection": from, "to": to, "dropTarget": true };
    archive.client.database("admin").run_command(rename).await.expect("the collection is renamed");
}

#[tokio::test]
async fn a_collection_that_takes_the_place_of_a_captured_one_is_told_of() {
    for scope in ["deployment", "database", "collection"] {
        let mut archive = Archive::open(&format!("replaced-{scope}")).await;
        archive.file.set("source/mongodb/scope", scope).set("format/truncates", true);
        archive.start().await.docs(1..=1).await;
        archive.collection("draft").insert_one(doc! { "_id": 7 }).await.unwrap();
        put_in_the_place_of_papers(&archive, "draft").await;
        archive.docs(2..=2).await;
        let out = doc! { "$out": { "db": archive.database_name(), "coll": "papers" } };
        archive.collection("draft2").insert_one(doc! { "_id": 8 }).await.unwrap();
        archive.collection("draft2").aggregate([out]).await.unwrap();
        archive.docs(3..=3).await;
        let events = archive.wait_for_events("papers", 5).await;
        let seen: Vec<(&str, Option<i64>)> = events.iter().map(|event| (event.op(), id(event))).collect();
        let expected = [("c", Some(1)), ("t", None), ("c", Some(2)), ("t", None), ("c", Some(3))];
        assert_eq!(seen, expected, "{scope}");
        let from = format!(r#"{{"operationType":"rename","from":"{}.draft"}}"#, archive.database_name());
        assert_eq!(events[1].header("operation"), Some(from.as_str()));
        assert!(events[3].header("operation").is_some_and(|o| o.contains("\"rename\"")), "{:?}", events[3]);
        assert!(archive.daemon().log().contains("execute-snapshot"), "the log does not say what to do");
    }
}

#[tokio::test]
async fn a_collection_that_changes_its_captured_name_for_another_is_told_of_under_both() {
    let mut archive = Archive::open("renamed-both").await;
    archive.file.set("format/truncates", true);
    archive.capture(&["papers", "draft"]).start().await.docs(1..=1).await;
    archive.collection("draft").insert_one(doc! { "_id": 7_i64 }).await.unwrap();
    put_in_the_place_of_papers(&archive, "draft").await;
    archive.docs(2..=2).await;
    let papers = archive.wait_for_events("papers", 3).await;
    let drafts = archive.wait_for_events("draft", 2).await;
    let ops = |events: &[millrace_e2e::Event]| events.iter().map(|e| e.op().to_owned()).collect::<Vec<_>>();
    assert_eq!(
        (ops(&papers), ops(&drafts)),
        (["c", "t", "c"].map(String::from).into(), ["c", "t"].map(String::from).into())
    );
    assert_ne!(papers[1].position(), drafts[1].position(), "two records of one position");
    assert!(papers[1].position() < papers[2].position());
    // The numbers go on where they were.
    archive.kill().start().await.docs(3..=3).await;
    assert_eq!(ops(&archive.wait_for_events("papers", 4).await), ["c", "t", "c", "c"]);
}

#[tokio::test]
async fn a_document_without_the_image_that_the_file_asks_for_is_told_of_once_a_collection() {
    let mut archive = Archive::open("image-less").await;
    archive.with_images("papers").await;
    let all = format!("{}.*", archive.database_name());
    archive
        .file
        .set("source/mongodb/collections", vec![all])
        .set("source/mongodb/update_document", "post_image");
    archive.start().await.docs(1..=1).await;
    let later = archive.collection("later");
    later.insert_one(doc! { "_id": 1_i64 }).await.unwrap();
    for n in 0..3 {
        later.update_one(doc! { "_id": 1_i64 }, doc! { "$set": { "n": n } }).await.unwrap();
    }
    archive.papers().update_one(doc! { "_id": 1_i64 }, doc! { "$set": { "n": 1 } }).await.unwrap();
    archive.wait_for_events("later", 4).await;
    archive.wait_for_events("papers", 2).await;
    let log = archive.daemon().log();
    let told: Vec<&str> = log.lines().filter(|line| line.contains("changeStreamPreAndPostImages")).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    says(told[0], &["collMod", "later"]);
}

#[tokio::test]
async fn another_cluster_under_the_same_name_is_not_taken_for_the_one_of_the_position() {
    let mut archive = Archive::open("same-name").await;
    archive.start().await.docs(1..=5).await.expect_docs(1..=5).await.term().await;
    let position = archive.position().await;
    let (topic, key) = (archive.position_topic(), position.key.to_string());
    let id = position.value["replica_set_id"].as_str().expect("the set's id").to_owned();
    let mut other = position.value.clone();
    other["replica_set_id"] = "0123456789abcdef01234567".into();
    archive.broker().produce(&topic, 0, key.as_bytes(), other.to_string().as_bytes()).await;
    archive.docs(6..=9).await.start_in_any_state().await;
    let refusal = archive.not_ready("POSITION_LOST").await;
    refusal.expect_reason(&[id.as_str(), "0123456789abcdef01234567"]).expect_hint(&["new name"]);
    // One that was written before ids were goes on, and has it from then on.
    archive.kill();
    let mut old = position.value.clone();
    old.as_object_mut().expect("an object").remove("replica_set_id");
    archive.broker().produce(&topic, 0, key.as_bytes(), old.to_string().as_bytes()).await;
    archive.start().await.expect_docs(1..=9).await;
    assert_eq!(archive.position().await.value["replica_set_id"], id.as_str());
}

#[tokio::test]
async fn check_says_how_far_the_position_is_from_the_log_s_beginning() {
    let mut archive = Archive::open("headroom").await;
    let (_, text) = check(&archive);
    assert!(!text.contains("oplog headroom"), "nothing was delivered yet:\n{text}");
    archive.start().await.docs(1..=5).await.expect_docs(1..=5).await.term().await;
    let (code, text) = check(&archive);
    assert_eq!(code, Some(0), "{text}");
    says(&text, &["oplog headroom", "replSetResizeOplog"]);
}
