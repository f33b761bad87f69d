//! What cannot be delivered: stops the connector or becomes a dead letter, and can be replayed.

use millrace_e2e::{Bare, Shop, committed, expect_one_transaction, run_to_end, until, wait_for_records};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use serde_json::{Value as Json, json};

const OUTBOX: &str = "id text, aggregateid text, type text, payload text";

async fn shop(name: &str, policy: &str) -> Shop {
    let mut shop = Shop::open(name).await;
    shop.table("outbox", OUTBOX).await;
    shop.sql.run("ALTER TABLE outbox REPLICA IDENTITY FULL").await;
    shop.capture(&["public.orders", "public.outbox"]);
    shop.file.remove("format/registry").set("format/encoding", "json").lay(&route(name, policy, "good"));
    shop.file.set("sink/kafka/topics/*.dead-letters/config/cleanup.policy", "compact");
    shop.file.set("sink/kafka/topics/*.dead-letters/partitions", 1);
    shop
}

fn route(name: &str, policy: &str, allow: &str) -> String {
    format!(
        "[[route]]\nrelations = [\"public.outbox\"]\nenvelope = \"outbox\"\ntopic = \"{name}.{{type}}\"\n\
         allow = [\"{name}.{allow}\"]\non_reject = \"{policy}\"\n"
    )
}

fn dead_letters(shop: &Shop, words: &[&str]) -> String {
    let file = shop.write_file().display().to_string();
    let words: Vec<&str> = ["dead-letters", &file].iter().chain(words).copied().collect();
    let ended = run_to_end(&words, shop.dir());
    assert_eq!(ended.code, Some(0), "{words:?}: {}", ended.stderr);
    ended.stdout
}

fn codes(letters: &[Bare]) -> Vec<&str> {
    letters.iter().filter_map(|letter| letter.header("error.code")).collect()
}

#[tokio::test]
async fn poison_goes_to_the_dead_letters_and_its_neighbours_are_delivered_in_order() {
    let mut shop = shop("poison", "dead_letter").await;
    shop.file.set("sink/kafka/topics/poison.good/config/max.message.bytes", 20_000);
    shop.start().await;
    shop.sql
        .run(
            "BEGIN; INSERT INTO outbox VALUES ('1', 'a', 'good', '{\"n\": 1}'), ('2', 'a', 'good', '{\"n\": '),
                ('3', 'a', 'evil', '{}'), ('', 'a', 'good', '{}'), ('5', ' ', 'good', '{}'),
                ('6', NULL, 'good', '{}'), ('7', 'a', 'good', NULL),
                ('8', 'a', 'good', '\"' || repeat('x', 30000) || '\"');
             UPDATE outbox SET type = 'better' WHERE id = '1';
             INSERT INTO orders VALUES (1, 'order 1');
             INSERT INTO outbox VALUES ('9', 'a', 'good', '{\"n\": 2}'); COMMIT",
        )
        .await;
    let bootstrap = shop.servers.kafka.bootstrap();
    let topic = format!("{}.dead-letters", shop.name);
    let letters = wait_for_records(&bootstrap, &[&topic], 8).await;
    let expected = [
        "bad_json",
        "topic_not_allowed",
        "empty_id",
        "empty_key",
        "empty_key",
        "empty_payload",
        "too_large",
        "update",
    ];
    assert_eq!(codes(&letters), expected);
    let bad = &letters[0];
    assert_eq!(bad.header("position"), bad.key.as_deref());
    assert_eq!((bad.header("attempt"), bad.header("relation")), (Some("1"), Some("public.outbox")));
    assert_eq!(bad.json()["after"], json!(["2", "a", "good", "{\"n\": "]), "the row is kept as it was");
    let good = wait_for_records(&bootstrap, &["poison.good"], 2).await;
    let numbers: Vec<Json> = good.iter().map(|event| event.json()["n"].clone()).collect();
    assert_eq!(numbers, [1, 2]);
    shop.wait_for_events("public.orders", 1).await;
    expect_one_transaction(&bootstrap, &[&topic, "poison.good", &shop.topic("public.orders")]).await;
    shop.expect_rows(1..=1).await;
    until("all are counted", async || {
        let counted = shop.daemon().metric("millrace_dead_letters_total", &shop.name).await?;
        let status = shop.daemon().own_status(&shop.name).await?;
        (counted == 8.0 && status["dead_letters"] == 8 && status["state"] == "RUNNING").then_some(())
    })
    .await;
    let path = format!("/connectors/{}/dead-letters", shop.name);
    let (_, listed) = shop.daemon().json(&path).await;
    let listed: Vec<&str> =
        listed.as_array().expect("a list").iter().filter_map(|l| l["code"].as_str()).collect();
    assert_eq!(listed, expected);
    let (code, shown) =
        shop.daemon().json(&format!("{path}/{}", bad.key.as_deref().unwrap_or_default())).await;
    assert_eq!((code, &shown["after"][1]), (200, &json!("a")));
    assert_eq!(shop.daemon().json(&format!("{path}/0/0/0")).await.0, 404);
}

#[tokio::test]
async fn a_daemon_that_dies_with_letters_placed_delivers_them_and_their_neighbours_once() {
    let mut shop = shop("letters-death", "dead_letter").await;
    shop.start().await.rows(1..=1).await.expect_rows(1..=1).await.term().await;
    shop.sql
        .run(
            "BEGIN; INSERT INTO outbox VALUES ('1', 'a', 'good', '{\"n\": 1}'), ('2', 'a', 'good', '{'),
                ('3', 'a', 'good', '{\"n\": 2}'), ('4', 'a', 'evil', '{}'); COMMIT",
        )
        .await;
    for time in 1..=2 {
        shop.start_to_die_at(&format!("letter-placed:{time}")).await;
    }
    shop.start().await.rows(2..=2).await.expect_rows(1..=2).await;
    let bootstrap = shop.servers.kafka.bootstrap();
    let letters = wait_for_records(&bootstrap, &[&format!("{}.dead-letters", shop.name)], 2).await;
    assert_eq!(codes(&letters), ["bad_json", "topic_not_allowed"]);
    let good = wait_for_records(&bootstrap, &["letters-death.good"], 2).await;
    let numbers: Vec<Json> = good.iter().map(|event| event.json()["n"].clone()).collect();
    assert_eq!(numbers, [1, 2]);
}

const SECRET: &str = "4111111111111111";
const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

async fn write_cards(shop: &Shop) {
    shop.sql
        .run(&format!(
            "INSERT INTO cards VALUES (1, '{SECRET}', '{SECRET}', '{SECRET}', '{SECRET}', 'small', '{SECRET}');
             INSERT INTO cards VALUES (2, '{SECRET}', '{SECRET}', '{SECRET}', '{SECRET}', 'huge', '{SECRET}');
             UPDATE cards SET number = '{SECRET}', size = 'huge' WHERE id = 1;
             INSERT INTO cards VALUES (3, '', '', '', '', 'small', '{SECRET}');
             UPDATE cards SET id = 4 WHERE id = 3"
        ))
        .await;
}

#[tokio::test]
async fn a_masked_value_is_nowhere_not_in_a_letter_nor_in_the_log_and_a_replay_keeps_it_masked() {
    let mut shop = Shop::open("masked-letters").await;
    let columns = "id int, number text, note text, hint text, iban text, size text, owner text";
    shop.table("cards", &format!("{columns}, PRIMARY KEY (id, owner)")).await;
    shop.sql.run("ALTER TABLE cards REPLICA IDENTITY FULL").await;
    shop.capture(&["public.cards"]);
    let name = shop.name.clone();
    let route = |allow: &str| {
        format!(
            "[dead_letters]\non_reject = \"dead_letter\"\n[[route]]\nrelations = [\"public.cards\"]\n\
             topic = \"{name}.{{size}}\"\nallow = [\"{name}.{allow}\"]\nheaders = {{ size = \"size\" }}\n"
        )
    };
    shop.file.remove("format/registry").set("format/encoding", "json").lay(&route("small"));
    shop.file
        .set("format/mask_columns/public.cards.number", 4)
        .set("format/hash_columns", vec!["public.cards.note".to_owned(), "public.cards.owner".to_owned()])
        .set("format/hash_salt", "salt of this test")
        .set("format/exclude_columns", vec!["public.cards.hint".to_owned()])
        .set("format/encrypt_columns", vec!["public.cards.iban".to_owned()])
        .set("format/encrypt_secret", KEY)
        .set("format/encrypt_key_id", "2026");
    shop.start().await;
    write_cards(&shop).await;
    let bootstrap = shop.servers.kafka.bootstrap();
    let [small, huge, dead] = ["small", "huge", "dead-letters"].map(|end| format!("{name}.{end}"));
    let letters = wait_for_records(&bootstrap, &[&dead], 2).await;
    // The third row, which takes another key, is a row, its end, a tombstone and the row again.
    let open = wait_for_records(&bootstrap, &[&small], 5).await;
    let row = open.iter().map(Bare::json).find(|row| row["after"]["id"] == 1).expect("the first row");
    let hash = row["after"]["note"].clone();
    let key = |id: i32| json!({"id": id, "owner": hash}).to_string();
    let moved = open.iter().find_map(|record| record.header("__debezium.newkey"));
    assert_eq!(moved, Some(key(4).as_str()), "{open:?}");
    assert_eq!(row["after"]["number"], "****");
    assert_eq!(opened(&row["after"]["iban"], KEY), SECRET);
    let sealed: Vec<Json> = letters.iter().map(|letter| letter.json()["after"][4].clone()).collect();
    for letter in &letters {
        let after = letter.json()["after"].clone();
        assert_eq!((&after[1], &after[2], &after[3]), (&json!("****"), &hash, &json!(false)), "{after}");
        assert_eq!(after[6], hash);
    }
    // Refused once more, and disguised no second time.
    let refused = dead_letters(&shop, &["replay", "--yes"]);
    assert_eq!(refused.matches("refused again").count(), 2, "{refused}");
    shop.file.lay(&route("*"));
    let replayed = dead_letters(&shop, &["replay", "--yes"]);
    assert_eq!(replayed.matches("delivered").count(), 2, "{replayed}");
    let rows = wait_for_records(&bootstrap, &[&huge], 2).await;
    let keys: Vec<_> = open.iter().chain(&rows).filter_map(|record| record.key.clone()).collect();
    assert!(keys.len() == 7 && keys.iter().all(|found| (1..5).any(|id| *found == key(id))), "{keys:?}");
    let all =
        open.iter().chain(&rows).chain(&letters).map(|record| format!("{record:?}")).collect::<String>();
    assert!(!all.contains(SECRET) && !shop.daemon().log().contains(SECRET) && !replayed.contains(SECRET));
    for row in &rows {
        let row = row.json();
        assert_eq!((&row["after"]["number"], &row["after"]["note"]), (&json!("****"), &hash));
        // As it was in the letter, for those who have the key.
        assert!(sealed.contains(&row["after"]["iban"]), "{row} {sealed:?}");
        assert_eq!(opened(&row["after"]["iban"], KEY), SECRET);
    }
    for record in rows.iter().chain(&letters) {
        let before = record.json()["before"].clone();
        assert!(!before.to_string().contains(SECRET), "{before}");
    }
    let (_, config) = shop.daemon().get(&format!("/connectors/{name}/config")).await;
    assert!(!config.contains(KEY) && !shop.daemon().log().contains(KEY), "the key is shown");
}

/// What a consumer with the key reads.
fn opened(sealed: &Json, key: &str) -> String {
    let raw = base64(sealed.as_str().expect("a text"));
    let key: Vec<u8> = (0..key.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&key[at..at + 2], 16).expect("hexadecimal"))
        .collect();
    let at = 2 + usize::from(raw[1]);
    assert_eq!((raw[0], &raw[2..at]), (1, &b"2026"[..]));
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).expect("a key"));
    let nonce = Nonce::try_assume_unique_for_key(&raw[at..at + 12]).expect("a nonce");
    let mut sealed = raw[at + 12..].to_vec();
    let text = key.open_in_place(nonce, Aad::from(&raw[..at]), &mut sealed).expect("it opens");
    String::from_utf8(text.to_vec()).expect("a text")
}

fn base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0_u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let digit = DIGITS.iter().position(|digit| *digit == byte).expect("base64");
        (bits, count) = (bits << 6 | u32::try_from(digit).expect("six bits"), count + 6);
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).expect("a byte"));
        }
    }
    bytes
}

#[tokio::test]
async fn a_replay_delivers_each_letter_once_after_its_cause_is_mended() {
    let mut shop = shop("replay", "dead_letter").await;
    shop.start().await;
    shop.sql
        .run("INSERT INTO outbox SELECT n::text, 'a', 'new', '{\"n\": ' || n || '}' FROM generate_series(1, 5) n")
        .await;
    shop.sql.run("INSERT INTO outbox VALUES ('x', 'a', 'good', 'no')").await;
    let bootstrap = shop.servers.kafka.bootstrap();
    let topic = format!("{}.dead-letters", shop.name);
    wait_for_records(&bootstrap, &[&topic], 6).await;
    let listed = dead_letters(&shop, &["list"]);
    assert_eq!(listed.lines().count(), 6, "{listed}");
    let first = listed.split_whitespace().next().expect("a position").to_owned();
    let shown: Json = serde_json::from_str(&dead_letters(&shop, &["show", &first])).expect("JSON");
    assert_eq!((&shown["code"], &shown["after"]["type"]), (&json!("topic_not_allowed"), &json!("new")));

    // With the daemon running all the while: the file is mended, and the letters go where it now says.
    shop.file.lay(&route("replay", "dead_letter", "*"));
    let replayed = dead_letters(&shop, &["replay", &first, "--yes"]);
    assert!(replayed.contains("delivered"), "{replayed}");
    assert_eq!(dead_letters(&shop, &["list"]).lines().count(), 5);
    let replayed = dead_letters(&shop, &["replay", "--yes"]);
    assert_eq!(replayed.matches("delivered").count(), 4, "{replayed}");
    assert_eq!(replayed.matches("refused again").count(), 1, "{replayed}");
    let left = dead_letters(&shop, &["list"]);
    assert!(left.lines().count() == 1 && left.contains("bad_json attempt 2"), "{left}");
    dead_letters(&shop, &["replay", "--yes"]);
    let events = wait_for_records(&bootstrap, &["replay.new"], 5).await;
    let numbers: Vec<Json> = events.iter().map(|event| event.json()["n"].clone()).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5]);
    assert!(events.iter().all(|event| event.key.as_deref() == Some("a") && event.header("id").is_some()));
}

#[tokio::test]
async fn poison_stops_the_connector_where_the_file_says_so() {
    let mut shop = shop("poison-stop", "stop").await;
    shop.start().await;
    shop.sql.run("INSERT INTO outbox VALUES ('1', 'a', 'good', '{}'), ('2', 'a', 'good', '{')").await;
    let refusal = shop.not_ready("FAILED").await;
    refusal.expect_reason(&["public.outbox", "is not JSON"]).expect_hint(&["payload_form"]);
    let bootstrap = shop.servers.kafka.bootstrap();
    // Nothing of its transaction came out, and a policy for it lets it go on from there.
    assert!(committed(&bootstrap, &["poison-stop.good"]).await.is_empty());
    shop.kill();
    shop.file.lay(&route("poison-stop", "dead_letter", "good"));
    shop.start().await;
    assert_eq!(wait_for_records(&bootstrap, &["poison-stop.good"], 1).await[0].header("id"), Some("1"));
    // An update has a policy of its own, and here no letter is made of it.
    shop.kill();
    shop.file.lay(&(route("poison-stop", "dead_letter", "good") + "[route.outbox]\non_update = \"stop\"\n"));
    shop.start().await;
    shop.sql.run("UPDATE outbox SET type = 'better' WHERE id = '1'").await;
    shop.not_ready("FAILED").await.expect_reason(&["public.outbox", "updated"]).expect_hint(&["on_update"]);
}

#[tokio::test]
async fn a_row_that_is_too_large_for_the_dead_letters_too_is_told_of_by_size_and_hash() {
    let mut shop = Shop::open("row-letters").await;
    shop.file.lay("[dead_letters]\non_reject = \"dead_letter\"\n").set("format/record_bytes_max", 4_000);
    shop.start().await;
    shop.sql
        .run(
            "INSERT INTO orders VALUES (1, 'order 1'), (2, repeat('x', 9000)); INSERT INTO orders VALUES (3, '')",
        )
        .await;
    let topic = format!("{}.dead-letters", shop.name);
    let bootstrap = shop.servers.kafka.bootstrap();
    let letters = wait_for_records(&bootstrap, &[&topic], 1).await;
    assert_eq!(codes(&letters), ["too_large"]);
    // The letter itself was too large for its topic: what is left names it without its row.
    assert!(letters[0].json()["left_out"]["bytes"].as_u64() > Some(9000), "{letters:?}");
    let replayed = dead_letters(&shop, &["replay", "--yes"]);
    assert!(replayed.contains("too large"), "{replayed}");
    shop.expect_changes(&[("c", 1), ("c", 3)]).await;
}
