//! Logical messages as events, and what schemas tell of columns in the database's own words.

use millrace_e2e::{Shop, wait_for_records};
use serde_json::{Value as Json, json};

#[tokio::test]
async fn messages_inside_and_outside_transactions_are_events_once_each_over_kills() {
    const ROUNDS: usize = 60;
    let mut shop = Shop::open("messages").await;
    shop.file.set("format/encoding", "json");
    shop.file.set("source/postgres/message_events", vec!["audit", "/app\\..*/"]);
    shop.file.set("source/postgres/exclude_message_events", vec!["app.debug"]);
    shop.start().await;
    let bootstrap = shop.servers.kafka.bootstrap();
    let topic = format!("{}.message", shop.name);
    for n in 1..=ROUNDS {
        shop.sql
            .run(&format!(
                "BEGIN; SELECT pg_logical_emit_message(true, 'audit', '{n} inside');
                 INSERT INTO orders VALUES ({n}, 'x'); COMMIT;
                 SELECT pg_logical_emit_message(false, 'app.one', '{n} outside');
                 SELECT pg_logical_emit_message(true, 'app.debug', '{n} unwanted');
                 SELECT pg_logical_emit_message(false, 'foreign', '{n} unwanted')"
            ))
            .await;
        if n % 20 == 0 {
            wait_for_records(&bootstrap, &[&topic], n).await;
            shop.kill();
            shop.start().await;
        }
    }
    let found = wait_for_records(&bootstrap, &[&topic], 2 * ROUNDS).await;
    let of = |prefix: &str| -> Vec<Json> {
        let values = found.iter().map(|record| record.json());
        values.filter(|value| value["message"]["prefix"] == prefix).collect()
    };
    for (prefix, place) in [("audit", "inside"), ("app.one", "outside")] {
        let contents: Vec<String> =
            of(prefix).iter().map(|value| value["message"]["content"].as_str().unwrap().to_owned()).collect();
        let expected: Vec<String> = (1..=ROUNDS).map(|n| base64(&format!("{n} {place}"))).collect();
        assert_eq!(contents, expected, "{prefix}");
    }
    let (inside, outside) = (&of("audit")[0], &of("app.one")[0]);
    assert_eq!((&inside["op"], &outside["op"]), (&json!("m"), &json!("m")));
    assert!(inside["source"]["txId"].is_i64() && outside["source"]["txId"].is_null(), "{inside} {outside}");
    assert_eq!(inside["source"]["table"], "");
    let key = found[0].key.as_deref().unwrap();
    assert!(key == r#"{"prefix":"audit"}"# || key == r#"{"prefix":"app.one"}"#, "{key}");
}

/// As JSON has bytes.
fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let bits = chunk.iter().fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte))
            << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let known = digit <= chunk.len();
            out.push(if known { char::from(DIGITS[bits >> (18 - 6 * digit) & 63]) } else { '=' });
        }
    }
    out
}

#[tokio::test]
async fn schemas_tell_types_and_comments_of_columns_on_request() {
    let mut shop = Shop::open("declared").await;
    shop.table("prices", "id int PRIMARY KEY, amount numeric(8,2), note varchar(20)").await;
    shop.sql.run("COMMENT ON COLUMN prices.amount IS 'with tax'").await;
    shop.capture(&["public.prices"]);
    shop.file.set("format/encoding", "json").set("format/json_schemas", true).set("format/comments", true);
    shop.file.set("format/source_types", vec!["public.prices.amount"]);
    shop.file.set("format/source_types_of", vec!["public.prices.varchar"]);
    shop.start().await;
    shop.sql.run("INSERT INTO prices VALUES (1, 2.5, 'x')").await;
    let topic = shop.topic("public.prices");
    let record = &wait_for_records(&shop.servers.kafka.bootstrap(), &[&topic], 1).await[0].json();
    let fields = &record["schema"]["fields"][1]["fields"];
    assert_eq!(fields[0]["parameters"], Json::Null);
    assert_eq!(
        fields[1]["parameters"],
        json!({
            "scale": "2", "connect.decimal.precision": "8",
            "__debezium.source.column.type": "NUMERIC", "__debezium.source.column.length": "8",
            "__debezium.source.column.scale": "2", "__debezium.source.column.comment": "with tax",
            "__debezium.source.column.name": "amount",
        })
    );
    assert_eq!(fields[1]["doc"], "with tax");
    assert_eq!(fields[2]["parameters"]["__debezium.source.column.length"], "20");
}
