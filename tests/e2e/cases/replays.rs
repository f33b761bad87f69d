//! Replays of dead letters: each event once, those of one key in their order, on the command line and over REST.

use millrace_e2e::{Bare, Ended, Shop, committed, run_to_die_at, run_to_end, until, wait_for_records};
use serde_json::{Value as Json, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// An outbox whose rows go to a topic each type, and whose rejects become dead letters.
async fn shop(name: &str, allow: &str) -> Shop {
    let mut shop = Shop::open(name).await;
    shop.table("outbox", "id text, aggregateid text, type text, payload text").await;
    shop.sql.run("ALTER TABLE outbox REPLICA IDENTITY FULL").await;
    shop.capture(&["public.orders", "public.outbox"]);
    shop.file.remove("format/registry").set("format/encoding", "json").lay(&route(name, allow, "json"));
    shop.file.set("sink/kafka/topics/*.dead-letters/config/cleanup.policy", "compact");
    shop.file.set("sink/kafka/topics/*.dead-letters/partitions", 3);
    shop.file.set("sink/kafka/topics/*.new/partitions", 1);
    shop
}

fn route(name: &str, allow: &str, form: &str) -> String {
    format!(
        "[[route]]\nrelations = [\"public.outbox\"]\nenvelope = \"outbox\"\ntopic = \"{name}.{{type}}\"\n\
         allow = [\"{name}.{allow}\"]\non_reject = \"dead_letter\"\n[route.outbox]\npayload_form = \"{form}\"\n"
    )
}

async fn letters(shop: &Shop, count: usize) -> Vec<String> {
    let topic = format!("{}.dead-letters", shop.name);
    wait_for_records(&shop.servers.kafka.bootstrap(), &[&topic], count).await;
    let listed = run(shop, &["list"], 0).stdout;
    listed.lines().filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect()
}

fn run(shop: &Shop, words: &[&str], code: i32) -> Ended {
    let file = shop.write_file().display().to_string();
    let words: Vec<&str> = ["dead-letters", &file].iter().chain(words).copied().collect();
    let ended = run_to_end(&words, shop.dir());
    assert_eq!(ended.code, Some(code), "{words:?}: {}", ended.text());
    ended
}

fn ids(events: &[Bare]) -> Vec<&str> {
    events.iter().filter_map(|event| event.header("id")).collect()
}

#[tokio::test]
async fn events_of_one_key_are_replayed_in_their_order_or_wait_for_the_one_before() {
    let mut shop = shop("replay-order", "nothing").await;
    shop.start().await;
    shop.sql
        .run(
            "INSERT INTO outbox VALUES ('1', 'a', 'new', '{}'), ('2', 'a', 'new', '{'), ('3', 'a', 'new', '{}'),
                ('4', 'b', 'new', '{}'), ('5', 'b', 'new', '{}')",
        )
        .await;
    let letters = letters(&shop, 5).await;
    shop.file.lay(&route("replay-order", "*", "json"));
    // One that has others of its key before it, by name.
    let alone = run(&shop, &["replay", &letters[4]], 2);
    assert!(alone.stdout.contains(&format!("waits: the earlier letter {}", letters[3])), "{}", alone.stdout);
    assert!(alone.stderr.contains("--yes"), "{}", alone.stderr);
    let all = run(&shop, &["replay"], 2).stdout;
    assert_eq!(all.matches("delivered").count(), 3, "{all}");
    assert!(all.contains("refused again"), "{all}");
    assert!(all.contains(&format!("{} public.outbox waits: the earlier letter {}", letters[2], letters[1])));
    let bootstrap = shop.servers.kafka.bootstrap();
    let events = wait_for_records(&bootstrap, &["replay-order.new"], 3).await;
    assert_eq!(ids(&events), ["1", "4", "5"]);
    // Waived for all, the order of what is asked for is kept all the same.
    let all = run(&shop, &["replay", "--yes"], 2).stdout;
    assert!(all.contains("refused again") && all.contains("waits: the earlier letter"), "{all}");
    // Waived for one that is named.
    run(&shop, &["replay", &letters[2], "--yes"], 0);
    let events = wait_for_records(&bootstrap, &["replay-order.new"], 4).await;
    assert_eq!(ids(&events), ["1", "4", "5", "3"]);
    shop.file.lay(&route("replay-order", "*", "text"));
    run(&shop, &["replay", "--yes"], 0);
    let events = wait_for_records(&bootstrap, &["replay-order.new"], 5).await;
    assert_eq!(ids(&events), ["1", "4", "5", "3", "2"]);
}

#[tokio::test]
async fn a_letter_of_whose_key_something_later_is_delivered_waits_until_that_is_accepted() {
    let mut shop = shop("replay-late", "*").await;
    shop.start().await;
    shop.sql
        .run(
            "INSERT INTO outbox VALUES ('1', 'a', 'new', '{}'), ('2', 'a', 'new', '{'), ('3', 'b', 'new', '{'),
                ('4', 'a', 'new', '{}')",
        )
        .await;
    letters(&shop, 2).await;
    let bootstrap = shop.servers.kafka.bootstrap();
    wait_for_records(&bootstrap, &["replay-late.new"], 2).await;
    shop.file.lay(&route("replay-late", "*", "text"));
    let told = run(&shop, &["replay"], 2);
    assert!(told.stdout.contains("waits: topic replay-late.new has"), "{}", told.stdout);
    assert!(told.stderr.contains("1 letters wait") && told.stderr.contains("--yes"), "{}", told.stderr);
    let events = wait_for_records(&bootstrap, &["replay-late.new"], 3).await;
    assert!(ids(&events).contains(&"3") && !ids(&events).contains(&"2"), "{events:?}");
    run(&shop, &["replay", "--yes"], 0);
    let events = wait_for_records(&bootstrap, &["replay-late.new"], 4).await;
    let of_a: Vec<&Bare> = events.iter().filter(|event| event.key.as_deref() == Some("a")).collect();
    assert_eq!(of_a.iter().filter_map(|event| event.header("id")).collect::<Vec<_>>(), ["1", "4", "2"]);
}

#[tokio::test]
async fn a_letter_of_a_version_that_the_file_does_not_take_holds_back_its_table_and_no_other() {
    let mut shop = shop("replay-version", "nothing").await;
    shop.table("more", "id text, aggregateid text, type text, payload text").await;
    shop.sql.run("ALTER TABLE more REPLICA IDENTITY FULL").await;
    shop.capture(&["public.orders", "public.outbox", "public.more"]);
    let routes = |allow: &str, headers: &str| {
        let one = route("replay-version", allow, "json");
        let first = one.replace("[route.outbox]", &format!("headers = {{ {headers} }}\n[route.outbox]"));
        format!("{first}{}", one.replace("public.outbox", "public.more"))
    };
    shop.file.lay(&routes("nothing", ""));
    shop.start().await;
    shop.sql.run("INSERT INTO outbox VALUES ('1', 'a', 'new', '{}')").await;
    letters(&shop, 1).await;
    shop.sql
        .run(
            "ALTER TABLE outbox ADD COLUMN kind text; INSERT INTO outbox VALUES ('2', 'b', 'new', '{}', 'x');
             INSERT INTO more VALUES ('3', 'a', 'new', '{}')",
        )
        .await;
    let letters = letters(&shop, 3).await;
    shop.file.lay(&routes("*", "kind = \"kind\""));
    let told = run(&shop, &["replay", &letters[1], &letters[2]], 2).stdout;
    assert!(told.contains(&format!("waits: the earlier letter {}", letters[0])), "{told}");
    assert!(told.contains(&format!("{} public.more delivered", letters[2])), "{told}");
    run(&shop, &["replay", &letters[1], "--yes"], 0);
    let bootstrap = shop.servers.kafka.bootstrap();
    let events = wait_for_records(&bootstrap, &["replay-version.new"], 2).await;
    assert_eq!(ids(&events), ["3", "2"]);
}

#[tokio::test]
async fn a_replay_that_dies_at_either_side_of_its_commit_delivers_each_letter_once() {
    let mut shop = shop("replay-death", "nothing").await;
    shop.start().await;
    shop.sql.run("INSERT INTO outbox SELECT n::text, 'a', 'new', '{}' FROM generate_series(1, 6) n").await;
    let letters = letters(&shop, 6).await;
    shop.file.lay(&route("replay-death", "*", "json"));
    let file = shop.write_file().display().to_string();
    let bootstrap = shop.servers.kafka.bootstrap();
    // Two are out, the third one is not; then one more is, and its replay does not know it.
    for point in ["replay-flushed:3", "replay-committed:1"] {
        run_to_die_at(&["dead-letters", &file, "replay"], shop.dir(), point);
    }
    assert_eq!(run(&shop, &["list"], 0).stdout.lines().count(), letters.len() - 3);
    let last = run(&shop, &["replay"], 0).stdout;
    assert_eq!(last.matches("delivered").count(), 3, "{last}");
    assert_eq!(run(&shop, &["list"], 0).stdout, "");
    let events = wait_for_records(&bootstrap, &["replay-death.new"], 6).await;
    assert_eq!(ids(&events), ["1", "2", "3", "4", "5", "6"]);
    run(&shop, &["replay"], 0);
    assert_eq!(committed(&bootstrap, &["replay-death.new"]).await.len(), 6);
}

#[tokio::test]
async fn letters_are_replayed_over_rest_and_the_operator_log_tells_of_it() {
    let mut shop = shop("replay-rest", "nothing").await;
    let log = shop.dir().join("operators.jsonl");
    shop.file.set("operator_log/file", log.display().to_string());
    shop.start().await;
    shop.sql
        .run(
            "INSERT INTO outbox VALUES ('1', 'a', 'new', '{}'), ('2', 'a', 'new', '{'), ('3', 'a', 'new', '{}'),
                ('4', 'b', 'new', '{}')",
        )
        .await;
    let letters = letters(&shop, 4).await;
    shop.file.lay(&route("replay-rest", "*", "json"));
    // By the file that the daemon has read.
    shop.write_file();
    shop.term().await;
    shop.start().await;
    let path = format!("/connectors/{}/dead-letters/replay", shop.name);
    let (code, told) = shop.daemon().asked(&path, &json!({"positions": ["0/0/0"]})).await;
    assert_eq!((code, &told["error_code"]), (409, &json!(409)), "{told}");
    assert_eq!(shop.daemon().asked(&path, &json!({"position": "0/0/0"})).await.0, 400);
    let (code, told) = shop.daemon().asked(&path, &json!({"positions": [letters[3]]})).await;
    let delivered = json!({
        "position": letters[3], "relation": "public.outbox", "outcome": "delivered", "records": 1
    });
    assert_eq!((code, told), (200, json!([delivered])));
    let (_, told) = shop.daemon().asked(&path, &json!({})).await;
    let outcomes: Vec<&str> =
        told.as_array().expect("a list").iter().filter_map(|one| one["outcome"].as_str()).collect();
    assert_eq!(outcomes, ["delivered", "refused", "behind"], "{told}");
    assert_eq!(told[2]["earlier"], json!(letters[1]));
    let (_, told) =
        shop.daemon().asked(&path, &json!({"positions": [letters[2]], "out_of_order": true})).await;
    assert_eq!(told[0]["outcome"], "delivered", "{told}");
    let (_, left) = shop.daemon().json(&format!("/connectors/{}/dead-letters", shop.name)).await;
    assert_eq!((left.as_array().map(Vec::len), &left[0]["attempt"]), (Some(1), &json!(2)), "{left}");
    let events = wait_for_records(&shop.servers.kafka.bootstrap(), &["replay-rest.new"], 3).await;
    assert_eq!(events.len(), 3);
    let entries = std::fs::read_to_string(&log).expect("the log");
    let entries: Vec<Json> =
        entries.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect();
    let outcomes: Vec<&str> = entries.iter().filter_map(|entry| entry["outcome"].as_str()).collect();
    assert_eq!(outcomes, ["failed", "failed", "done", "done", "done"], "{entries:?}");
    assert!(entries.iter().all(|entry| entry["action"] == "dead-letters replay"), "{entries:?}");
    let named = json!({"positions": [letters[2]], "out_of_order": true});
    assert!(entries.iter().any(|entry| entry["arguments"] == named), "{entries:?}");
}

#[tokio::test]
async fn a_replay_over_rest_runs_to_its_end_though_whoever_asked_hangs_up() {
    const LETTERS: usize = 150;
    let mut shop = shop("replay-hang-up", "nothing").await;
    shop.start().await;
    let rows = format!("SELECT n::text, 'a', 'new', '{{}}' FROM generate_series(1, {LETTERS}) n");
    shop.sql.run(&format!("INSERT INTO outbox {rows}")).await;
    letters(&shop, LETTERS).await;
    shop.file.lay(&route("replay-hang-up", "*", "json"));
    // By the file that the daemon has read.
    shop.write_file();
    shop.term().await;
    shop.start().await;
    let path = format!("/connectors/{}/dead-letters", shop.name);
    let mut asking = TcpStream::connect(shop.daemon().rest()).await.expect("the daemon listens");
    let request = format!("POST {path}/replay HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n");
    asking.write_all(request.as_bytes()).await.expect("it reads");
    let left = async || shop.daemon().json(&path).await.1.as_array().map_or(LETTERS, Vec::len);
    until("the replay is under way", async || (left().await < LETTERS).then_some(())).await;
    drop(asking);
    until("all are delivered", async || (left().await == 0).then_some(())).await;
    let events = committed(&shop.servers.kafka.bootstrap(), &["replay-hang-up.new"]).await;
    assert_eq!(ids(&events), (1..=LETTERS).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn letters_of_tables_that_hide_columns_and_of_others_are_replayed_together() {
    let mut shop = shop("replay-mixed", "nothing").await;
    shop.table("cards", "id int PRIMARY KEY, number text, size text").await;
    shop.capture(&["public.orders", "public.outbox", "public.cards"]);
    shop.file.set("format/mask_columns/public.cards.number", 4);
    let cards = "[[route]]\nrelations = [\"public.cards\"]\ntopic = \"replay-mixed.{size}\"\n\
                 allow = [\"replay-mixed.small\"]\non_reject = \"dead_letter\"\n";
    shop.file.lay(&format!("{}{cards}", route("replay-mixed", "nothing", "json")));
    shop.start().await;
    for n in 1..=3 {
        shop.sql
            .run(&format!(
                "INSERT INTO outbox VALUES ('{n}', 'a', 'new', '{{}}'); INSERT INTO cards VALUES ({n}, '1', 'new')"
            ))
            .await;
    }
    letters(&shop, 6).await;
    shop.file.lay(&format!("{}{}", route("replay-mixed", "*", "json"), cards.replace("small", "*")));
    let told = run(&shop, &["replay"], 0).stdout;
    assert_eq!(told.matches("delivered").count(), 6, "{told}");
    let events = wait_for_records(&shop.servers.kafka.bootstrap(), &["replay-mixed.new"], 6).await;
    assert_eq!(ids(&events), ["1", "2", "3"]);
}
