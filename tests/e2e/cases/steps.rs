//! Steps on fields, keys, headers and partitions, in our spelling and in that of Kafka Connect and Debezium; and those
//! that do not fit, which are told before there is a row.

use millrace_e2e::{Daemon, Ended, Shop, run_to_end, wait_for_records};
use serde_json::{Value as Json, json};

const TEAMS: &str = "id int PRIMARY KEY, team text NOT NULL, email text, pay bigint, note text";

const STEPS: &str = r#"
[[step]]
relations = ["public.teams"]
drop = ["note", "nobody?"]
[[step]]
relations = ["public.teams"]
rename = { email = "mail" }
[[step]]
relations = ["public.teams"]
replace = ["pay"]
[[step]]
relations = ["public.teams"]
insert = { origin = "shop-eu" }
[[step]]
relations = ["public.teams"]
headers = { team = "team" }
[[step]]
relations = ["public.teams"]
partition_by = ["team"]
[[step]]
relations = ["public.gone"]
discard = true
"#;

async fn shop(name: &str) -> Shop {
    let mut shop = Shop::open(name).await;
    shop.table("teams", TEAMS).await;
    shop.sql.run("ALTER TABLE teams REPLICA IDENTITY FULL").await;
    shop.capture(&["public.orders", "public.teams"]);
    shop.file.set("format/encoding", "json");
    shop
}

/// Two rows of one team, then both change, and one goes.
async fn work(shop: &Shop) {
    shop.sql
        .run(
            "BEGIN; INSERT INTO teams VALUES (1, 'red', 'anna@example.com', 1000, 'x'), (2, 'red', NULL, NULL, 'y');
             UPDATE teams SET note = 'z'; DELETE FROM teams WHERE id = 1; COMMIT",
        )
        .await;
}

#[tokio::test]
async fn fields_are_dropped_renamed_replaced_and_added_and_rows_of_a_team_share_a_partition() {
    let mut shop = shop("steps").await;
    shop.table("gone", "id int PRIMARY KEY").await;
    shop.capture(&["public.orders", "public.teams", "public.gone"]);
    shop.file.lay(STEPS);
    let topic = shop.topic("public.teams");
    shop.file.set(&format!("sink/kafka/topics/{topic}/partitions"), 6);
    shop.start().await;
    shop.sql.run("INSERT INTO gone VALUES (1)").await;
    work(&shop).await;
    let records = wait_for_records(&shop.servers.kafka.bootstrap(), &[&topic], 6).await;
    let after = |nth: usize| records[nth].json()["after"].clone();
    let row = |id: i32, mail: Option<&str>, pay: Option<i32>| json!({"id": id, "team": "red", "mail": mail, "pay": pay, "origin": "shop-eu"});
    let anna = row(1, Some("anna@example.com"), Some(0));
    assert_eq!([after(0), after(1)], [anna.clone(), row(2, None, None)]);
    assert_eq!(records[4].json()["before"], anna);
    // The tombstone too.
    assert_eq!((records.len(), records[5].value.as_deref()), (6, None));
    for record in &records {
        assert_eq!(record.partition, records[0].partition, "{record:?}");
        assert_eq!(record.header("team"), Some("red"));
    }
    shop.rows(1..=1).await;
    shop.expect_rows(1..=1).await;
    let gone = shop.broker().has_topic(&shop.topic("public.gone")).await;
    assert!(!gone, "what makes no records needs no topic");
    let path = shop.write_file();
    let audit = run_to_end(&["audit", &path.display().to_string()], shop.dir());
    assert_eq!(audit.code, Some(0), "{}", audit.text());
}

#[tokio::test]
async fn a_keyed_hash_hides_a_column_before_and_after_a_change() {
    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    let mut shop = shop("hmac").await;
    shop.file.set("format/hmac_columns", vec!["public.teams.email"]).set("format/hmac_secret", SECRET);
    shop.start().await;
    work(&shop).await;
    let records = wait_for_records(&shop.servers.kafka.bootstrap(), &[&shop.topic("public.teams")], 6).await;
    let hash = records[0].json()["after"]["email"].as_str().unwrap_or_default().to_owned();
    assert!(hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()), "{hash}");
    // Equal texts stay equal, before and after; NULL stays NULL.
    assert_eq!(records[2].json()["before"]["email"], hash.as_str());
    assert_eq!(records[1].json()["after"]["email"], Json::Null);
    for record in &records {
        assert!(!record.value.as_deref().unwrap_or_default().contains("anna@"), "{record:?}");
    }
    let (_, config) = shop.daemon().get(&format!("/connectors/{}/config", shop.name)).await;
    assert!(!config.contains(SECRET) && !shop.daemon().log().contains(SECRET), "the secret is shown");
}

#[tokio::test]
async fn a_column_of_the_key_or_one_that_a_step_shows_is_neither_encrypted_nor_masked_which_check_says() {
    let mut shop = shop("encrypted").await;
    shop.sql.run("CREATE TABLE codes (code text PRIMARY KEY, note text)").await;
    shop.capture(&["public.codes"]);
    shop.file
        .set("format/encrypt_secret", "ab".repeat(32))
        .set("format/encrypt_columns", vec!["public.codes.code"]);
    let ended = check(&shop);
    assert_eq!(ended.code, Some(2), "{}", ended.text());
    assert!(ended.text().contains("column public.codes.code is of the key"), "{}", ended.text());
    shop.file.set("format/encrypt_columns", vec!["public.codes.note"]);
    for key in ["mask_columns", "truncate_columns"] {
        shop.file.set(&format!("format/{key}/public.codes.code"), 4);
        let ended = check(&shop);
        assert_eq!(ended.code, Some(2), "{key}: {}", ended.text());
        for part in ["column public.codes.code is of the key", "hash_columns or hmac_columns"] {
            assert!(ended.text().contains(part), "{key}: {}", ended.text());
        }
        shop.file.remove(&format!("format/{key}"));
    }
    for (step, part) in [
        ("headers = { note = 'note' }", "is masked, and the step shows it"),
        ("partition_by = ['note']", "is masked, and the step shows it"),
    ] {
        shop.file.lay(&format!("[[step]]\nrelations = ['public.codes']\n{step}\n"));
        let ended = check(&shop);
        assert_eq!(ended.code, Some(2), "{step}: {}", ended.text());
        assert!(ended.text().contains(part), "{step}: {}", ended.text());
    }
    shop.file.remove("step");
    let ended = check(&shop);
    assert_eq!(ended.code, Some(0), "{}", ended.text());
}

#[tokio::test]
async fn timestamps_are_told_by_the_clocks_of_a_zone() {
    let mut shop = shop("zone").await;
    shop.sql.run("ALTER TABLE teams ADD made timestamptz, ADD shown timestamp").await;
    shop.file.lay("[[step]]\ntimezone = 'Europe/Berlin'\n");
    shop.start().await;
    let moment = "'2026-07-14 02:13:20";
    shop.sql
        .run(&format!("INSERT INTO teams (id, team, made, shown) VALUES (1, 'red', {moment}+00', {moment}')"))
        .await;
    let records = wait_for_records(&shop.servers.kafka.bootstrap(), &[&shop.topic("public.teams")], 1).await;
    let after = &records[0].json()["after"];
    assert_eq!(after["made"], "2026-07-14T04:13:20.000000+02:00");
    // When the clocks of Berlin showed it: two hours before those of UTC did.
    assert_eq!(after["shown"], (1_783_995_200_i64 - 7200) * 1_000_000);
}

#[tokio::test]
async fn a_step_that_does_not_fit_its_table_is_an_error_of_check_and_of_the_first_start() {
    let mut shop = shop("steps-misfit").await;
    shop.file.lay("[[step]]\nrelations = ['public.teams']\ndrop = ['nota']\n");
    let ended = check(&shop);
    assert_eq!(ended.code, Some(2), "{}", ended.text());
    for part in ["FAIL  columns", "table public.teams has no field nota", "id, team, email, pay, note"] {
        assert!(ended.text().contains(part), "{part}: {}", ended.text());
    }
    shop.start_in_any_state().await;
    let refusal = shop.not_ready("FAILED").await;
    refusal.expect_reason(&["public.teams", "nota"]).expect_hint(&["id, team, email, pay, note", "?"]);
    shop.kill();
    // A type that it cannot work on, and a mask of a column that is not there.
    shop.file.lay("[[step]]\nrelations = ['public.teams']\nheaders = { x = 'made' }\n");
    shop.sql.run("ALTER TABLE teams ADD made timestamptz").await;
    let ended = check(&shop);
    assert!(ended.text().contains("column public.teams.made"), "{}", ended.text());
    shop.file.remove("step").set("format/mask_columns/public.teams.emial", 3);
    let ended = check(&shop);
    assert!(ended.text().contains("table public.teams has no column emial"), "{}", ended.text());
    shop.file.remove("format/mask_columns").set("format/mask_columns/public.taems.email", 3);
    let ended = check(&shop);
    assert_eq!(ended.code, Some(2), "{}", ended.text());
    assert!(ended.text().contains("has a column public.taems.email"), "{}", ended.text());
    shop.file.remove("format/mask_columns");
    shop.file.lay("[[step]]\nrelations = ['public.taems']\ndiscard = true\n");
    let ended = check(&shop);
    assert_eq!(ended.code, Some(0), "{}", ended.text());
    assert!(ended.text().contains("warn  relations public.taems"), "{}", ended.text());
}

#[tokio::test]
async fn a_field_that_may_be_missing_takes_rows_of_before_and_after_its_column_was_renamed() {
    let mut shop = shop("steps-away").await;
    shop.file.lay("[[step]]\nrelations = ['public.teams']\ndrop = ['note']\n");
    shop.start().await.rows(1..=1).await;
    shop.expect_rows(1..=1).await;
    shop.kill();
    shop.sql.run("INSERT INTO teams VALUES (1, 'red', NULL, NULL, 'x')").await;
    shop.sql.run("ALTER TABLE teams RENAME note TO words").await;
    shop.sql.run("INSERT INTO teams VALUES (2, 'red', NULL, NULL, 'y')").await;
    // It goes on, because rows of before may be the next to come, and the first that does not fit stops it.
    shop.start_in_any_state().await;
    shop.not_ready("FAILED").await.expect_reason(&["public.teams", "note"]);
    let log = shop.daemon().log();
    assert!(log.contains("the file does not fit a table as it is now"), "{log}");
    shop.kill();
    shop.file.lay("[[step]]\nrelations = ['public.teams']\ndrop = ['note?', 'words?']\n");
    shop.start().await;
    let records = wait_for_records(&shop.servers.kafka.bootstrap(), &[&shop.topic("public.teams")], 2).await;
    for (record, id) in records.iter().zip([1, 2]) {
        let expected = json!({"id": id, "team": "red", "email": null, "pay": null});
        assert_eq!(record.json()["after"], expected);
    }
    assert_eq!(records.len(), 2);
}

/// `millrace check` on the shop's file.
fn check(shop: &Shop) -> Ended {
    let path = shop.write_file();
    run_to_end(&["check", &path.display().to_string()], shop.dir())
}

/// A connector as Kafka Connect is given it, on the tables of the shop.
fn connect(shop: &Shop, more: &Json) -> Json {
    let url = shop.servers.postgres.url_of(shop.database());
    let url = reqwest::Url::parse(&url).expect("the url of a server");
    let mut config = json!({
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "database.hostname": url.host_str(),
        "database.port": url.port(),
        "database.user": url.username(),
        "database.password": url.password(),
        "database.dbname": shop.database(),
        "topic.prefix": shop.name,
        "table.include.list": "public\\.orders,public\\.teams",
        "slot.name": shop.slot(),
        "publication.name": shop.slot(),
        "publication.autocreate.mode": "filtered",
        "snapshot.mode": "no_data",
        "key.converter": "org.apache.kafka.connect.json.JsonConverter",
        "key.converter.schemas.enable": "false",
        "value.converter": "org.apache.kafka.connect.json.JsonConverter",
        "value.converter.schemas.enable": "false",
        "topic.creation.default.partitions": "6",
        "topic.creation.default.replication.factor": "1",
        "producer.override.bootstrap.servers": shop.servers.kafka.bootstrap(),
    });
    for (property, value) in more.as_object().expect("properties") {
        config[property] = value.clone();
    }
    json!({"name": shop.name, "config": config})
}

async fn start(shop: &mut Shop, connector: &Json) {
    let path = shop.dir().join("connector.json");
    std::fs::write(&path, connector.to_string()).expect("a file in a temporary directory");
    let daemon = Daemon::start(&[&path], shop.dir(), "connect").await;
    shop.give_daemon(daemon);
    shop.wait_for_state("RUNNING").await;
}

#[tokio::test]
async fn transforms_of_kafka_connect_behind_the_unwrapping_one_work_on_the_row() {
    let mut shop = shop("connect-steps").await;
    let of = "org.apache.kafka.connect.transforms";
    let connector = connect(
        &shop,
        &json!({
            "transforms": "route,unwrap,fields,mask,insert,header,team,nogen,key,drop",
            "transforms.route.type": "io.debezium.transforms.partitions.PartitionRouting",
            "transforms.route.partition.payload.fields": "change.team",
            "transforms.route.partition.topic.num": "4",
            "transforms.unwrap.type": "io.debezium.transforms.ExtractNewRecordState",
            "transforms.unwrap.add.fields": "op",
            "transforms.fields.type": format!("{of}.ReplaceField$Value"),
            "transforms.fields.exclude": "note,nobody",
            "transforms.fields.renames": "email:mail",
            "transforms.mask.type": format!("{of}.MaskField$Value"),
            "transforms.mask.fields": "mail",
            "transforms.mask.replacement": "hidden",
            "transforms.insert.type": format!("{of}.InsertField$Value"),
            "transforms.insert.static.field": "origin",
            "transforms.insert.static.value": "shop-eu",
            "transforms.header.type": format!("{of}.InsertHeader"),
            "transforms.header.header": "made-by",
            "transforms.header.value.literal": "payments",
            "transforms.team.type": format!("{of}.HeaderFrom$Value"),
            "transforms.team.fields": "team,pay",
            "transforms.team.headers": "team,pay",
            "transforms.team.operation": "move",
            "transforms.team.predicate": "teams",
            "transforms.nogen.type": format!("{of}.DropHeaders"),
            "transforms.nogen.headers": "__debezium.context.runId",
            "transforms.key.type": format!("{of}.ReplaceField$Key"),
            "transforms.key.renames": "id:key",
            "transforms.drop.type": format!("{of}.Filter"),
            "transforms.drop.predicate": "orders",
            "predicates": "teams,orders",
            "predicates.teams.type": format!("{of}.predicates.TopicNameMatches"),
            "predicates.teams.pattern": ".*\\.teams",
            "predicates.orders.type": format!("{of}.predicates.TopicNameMatches"),
            "predicates.orders.pattern": ".*\\.orders",
        }),
    );
    start(&mut shop, &connector).await;
    shop.rows(1..=1).await;
    work(&shop).await;
    let topic = shop.topic("public.teams");
    let records = wait_for_records(&shop.servers.kafka.bootstrap(), &[&topic], 5).await;
    let values: Vec<Json> = records.iter().map(|record| record.json()).collect();
    let row = |id: i32, mail: Option<&str>, op: &str| json!({"id": id, "mail": mail, "__op": op, "origin": "shop-eu"});
    let expected = [
        row(1, Some("hidden"), "c"),
        row(2, None, "c"),
        row(1, Some("hidden"), "u"),
        row(2, None, "u"),
        Json::Null,
    ];
    assert_eq!(values, expected);
    for (record, key) in records.iter().zip(["1", "2", "1", "2", "1"]) {
        assert_eq!(record.key.as_deref(), Some(format!("{{\"key\":{key}}}").as_str()));
        // "red".hashCode() is 112785, and there are four.
        assert_eq!((record.partition, record.header("team")), (112_785 % 4, Some("red")));
        assert_eq!(record.header("made-by"), Some("payments"));
        assert!(record.header("__debezium.context.taskId").is_some(), "{record:?}");
        assert!(record.header("__debezium.context.runId").is_none(), "{record:?}");
    }
    assert_eq!((records[0].header("pay"), records[1].header("pay")), (Some("1000"), None));
    let gone = shop.broker().has_topic(&shop.topic("public.orders")).await;
    assert!(!gone, "what the filter drops needs no topic");
}

#[tokio::test]
async fn transforms_are_for_the_records_that_have_a_header_or_for_those_that_lack_it() {
    let mut shop = shop("connect-headers").await;
    let of = "org.apache.kafka.connect.transforms";
    let connector = connect(
        &shop,
        &json!({
            "transforms": "team,seen,drop",
            "transforms.team.type": format!("{of}.InsertHeader"),
            "transforms.team.header": "team",
            "transforms.team.value.literal": "payments",
            "transforms.team.predicate": "teams",
            "transforms.seen.type": format!("{of}.InsertHeader"),
            "transforms.seen.header": "seen",
            "transforms.seen.value.literal": "yes",
            "transforms.seen.predicate": "marked",
            "transforms.drop.type": format!("{of}.Filter"),
            "transforms.drop.predicate": "marked",
            "transforms.drop.negate": "true",
            "predicates": "teams,marked",
            "predicates.teams.type": format!("{of}.predicates.TopicNameMatches"),
            "predicates.teams.pattern": ".*\\.teams",
            "predicates.marked.type": format!("{of}.predicates.HasHeaderKey"),
            "predicates.marked.name": "team",
        }),
    );
    start(&mut shop, &connector).await;
    shop.rows(1..=1).await;
    work(&shop).await;
    let records = wait_for_records(&shop.servers.kafka.bootstrap(), &[&shop.topic("public.teams")], 5).await;
    for record in &records {
        assert_eq!((record.header("team"), record.header("seen")), (Some("payments"), Some("yes")));
    }
    assert!(!shop.broker().has_topic(&shop.topic("public.orders")).await, "its records lack the header");
}

#[tokio::test]
async fn a_transform_that_cannot_be_had_is_refused_with_the_key_to_use_before_anything_is_touched() {
    let shop = shop("connect-refused").await;
    let of = "org.apache.kafka.connect.transforms";
    let connector = connect(
        &shop,
        &json!({
            "transforms": "fields,cast,script",
            "transforms.fields.type": format!("{of}.ReplaceField$Value"),
            "transforms.fields.exclude": "note",
            "transforms.cast.type": format!("{of}.Cast$Value"),
            "transforms.script.type": "io.debezium.transforms.Filter",
            "transforms.script.condition": "value.op == 'u'",
        }),
    );
    std::fs::write(shop.dir().join("connector.json"), connector.to_string()).expect("a file");
    let ended = run_to_end(&["check", "connector.json"], shop.dir());
    assert_eq!(ended.code, Some(2), "{}", ended.text());
    for part in [
        "transforms.fields.type: without ExtractNewRecordState before it",
        "column.exclude.list",
        "transforms.cast.type: Cast$Value cannot be had",
        "transforms.script.type: Filter cannot be had",
        "set filter in a [[route]]",
    ] {
        assert!(ended.text().contains(part), "{part}: {}", ended.text());
    }
}
