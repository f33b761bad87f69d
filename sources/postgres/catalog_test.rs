//! The query side against real servers: catalog, publication, slot and check, and the decoder on what
//! `pgoutput` really writes. Each test has a database of its own on one shared server.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};

use millrace_core::batch::{ChangeBatch, Value};
use millrace_core::error::Kind as Fault;
use millrace_core::progress::State;
use millrace_core::relation::{Kind, Relation};
use millrace_core::report::{Finding, Report, Verdict};
use millrace_postgres::catalog::{self, TableInfo};
use millrace_postgres::check::check;
use millrace_postgres::config::{Raw, Settings};
use millrace_postgres::control::{Control, connect};
use millrace_postgres::lsn::Lsn;
use millrace_postgres::pgoutput::{Message, OldKind, RelationMessage, append_tuple, parse};
use millrace_postgres::relation::Origin;
use millrace_postgres::server::{ServerFacts, facts, preconditions};
use millrace_postgres::types::Types;
use millrace_postgres::{publication, slot};
use tokio::sync::OnceCell;
use tokio_postgres::Client;
use xtask::services::{Home, Postgres, PostgresConfig, PostgresVersion};

/// A database of a test's own, and what connects to it.
struct Shop {
    control: Control,
    settings: Settings,
    url: String,
}

async fn server() -> &'static Postgres {
    static SERVER: OnceCell<Postgres> = OnceCell::const_new();
    SERVER.get_or_init(|| started(PostgresConfig::default())).await
}

async fn started(config: PostgresConfig) -> Postgres {
    Postgres::start_new(&config, &Home::temporary().unwrap()).await.unwrap()
}

fn settings(url: &str, rest: &str) -> Settings {
    let raw: Raw = toml::from_str(&format!("url = '{url}'\n{rest}")).unwrap();
    Settings::resolve(raw, "catalog").unwrap()
}

async fn run(client: &Client, sql: &str) {
    client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {:?}", error.as_db_error()));
}

async fn text(client: &Client, sql: &str) -> String {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

impl Shop {
    async fn open(tables: &[&str]) -> Self {
        Self::open_on(server().await, tables, "").await
    }

    async fn open_on(server: &Postgres, tables: &[&str], more: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("shop_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let admin = connect(&settings(&server.url(), "tables = ['a.b']")).await.unwrap();
        run(&admin.client, &format!("CREATE DATABASE {name}")).await;
        let url = server.url_of(&name);
        // Slots are named across databases.
        let settings = settings(&url, &format!("tables = {tables:?}\nslot = '{name}'\n{more}"));
        Self { control: connect(&settings).await.unwrap(), settings, url }
    }

    fn client(&self) -> &Client {
        &self.control.client
    }

    /// In schema public, as an application; our own sessions see the catalog alone.
    async fn sql(&self, sql: &str) {
        run(self.client(), "SET search_path = public").await;
        run(self.client(), sql).await;
        run(self.client(), "SET search_path = pg_catalog").await;
    }

    async fn facts(&self) -> ServerFacts {
        facts(self.client()).await.unwrap()
    }

    async fn ensure(&self) -> millrace_core::error::Result<Vec<TableInfo>> {
        publication::ensure(self.client(), &self.settings, &self.facts().await).await
    }

    async fn create_slot(&self) -> Lsn {
        slot::create(self.client(), &self.settings, &self.facts().await).await.unwrap()
    }

    /// The tables that the publication lists.
    async fn published(&self) -> String {
        let sql =
            "SELECT coalesce(string_agg(prrelid::regclass::text, ' ' ORDER BY prrelid::regclass::text), '')
                   FROM pg_publication_rel";
        text(self.client(), sql).await
    }

    /// What the plugin wrote since the last call.
    async fn changes(&self) -> Vec<Vec<u8>> {
        let sql = "SELECT data FROM pg_logical_slot_get_binary_changes($1, NULL, NULL,
                   'proto_version', '1', 'publication_names', $2, 'messages', 'true')";
        let rows =
            self.client().query(sql, &[&self.settings.slot, &self.settings.publication]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// The relation of the last row, and all rows as text, old ones before new ones.
    async fn decoded(&self) -> (Relation, Vec<(&'static str, Vec<Option<String>>)>) {
        let (mut relations, mut last, mut rows) = (HashMap::new(), 0, Vec::new());
        for change in self.changes().await {
            let (id, parts) = match parse(&change).unwrap() {
                Message::Relation(message) => {
                    relations.insert(message.id, self.describe(&message).await);
                    continue;
                }
                Message::Insert { relation, new } => (relation, vec![("insert", new)]),
                Message::Update { relation, old, new } => {
                    let old = old.map(|(kind, old)| (if kind == OldKind::Key { "key" } else { "full" }, old));
                    (relation, old.into_iter().chain([("update", new)]).collect())
                }
                Message::Delete { relation, old, .. } => (relation, vec![("delete", old)]),
                _ => continue,
            };
            last = id;
            let columns = relations[&id].columns.len();
            for (what, tuple) in parts {
                let mut batch = ChangeBatch::default();
                let row = append_tuple(&mut batch, &tuple, columns).unwrap();
                let values = batch.cells_of(row).iter().map(|cell| match batch.value(*cell) {
                    Value::Null => None,
                    Value::Unchanged => Some("(unchanged)".to_owned()),
                    Value::Text(text) => Some(String::from_utf8(text.to_vec()).unwrap()),
                });
                rows.push((what, values.collect()));
            }
        }
        (relations.remove(&last).unwrap(), rows)
    }

    async fn describe(&self, message: &RelationMessage) -> Relation {
        let origin = Origin { version: "1".into(), name: "shop".into(), database: "shop".into() };
        let describing = catalog::describing(self.client()).await.unwrap();
        let mut types = Types::default();
        catalog::describe(self.client(), &describing, &mut types, message, &origin).await.unwrap().0
    }
}

fn finding<'a>(report: &'a Report, subject: &str) -> &'a Finding {
    let found = report.findings.iter().find(|finding| finding.subject == subject);
    found.unwrap_or_else(|| panic!("no finding about {subject} in {report:#?}"))
}

#[tokio::test]
async fn every_served_type_is_described_and_its_text_comes_through() {
    let shop = Shop::open(&["public.everything"]).await;
    shop.sql(
        "CREATE TYPE mood AS ENUM ('sad', 'glad');
         ALTER TYPE mood ADD VALUE 'so so' BEFORE 'glad';
         CREATE DOMAIN price AS numeric(10,2);
         CREATE DOMAIN prices AS price[];
         CREATE TABLE everything (id bigint PRIMARY KEY, flag bool, small int2, num numeric, sum numeric(12,3),
           day date, at timestamp(3), attz timestamptz, clock time, clocktz timetz(2), span interval, raw bytea,
           doc jsonb, ref uuid, feeling mood, feelings mood[], cost price, costs prices, letter \"char\", host inet,
           names name[], grid int4[], twice int8 GENERATED ALWAYS AS (id * 2) STORED)",
    )
    .await;
    shop.ensure().await.unwrap();
    shop.create_slot().await;
    shop.sql(
        "INSERT INTO everything VALUES (1, true, -2, 'NaN', 5, '2020-02-03', '2020-02-03 04:05:06.789',
           '2020-02-03 04:05:06.7+02', '24:00', '10:00:00+02', '1 mon 2 days 03:00', '\\x00ff', '{\"a\": \"é\"}',
           'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'so so', '{sad,NULL}', 9.5, '{1,NULL}', 'x', '10.0.0.1/8',
           '{a,\"b c\"}', '[0:1]={1,2}')",
    )
    .await;
    let (relation, rows) = shop.decoded().await;
    let labels = vec!["sad".to_owned(), "so so".into(), "glad".into()];
    let array = |kind| Kind::Array(Box::new(kind));
    let money = Kind::Decimal { precision: 10, scale: 2 };
    let expected = [
        ("id", Kind::Int64, "1"),
        ("flag", Kind::Bool, "t"),
        ("small", Kind::Int16, "-2"),
        ("num", Kind::VariableDecimal, "NaN"),
        ("sum", Kind::Decimal { precision: 12, scale: 3 }, "5.000"),
        ("day", Kind::Date, "2020-02-03"),
        ("at", Kind::Timestamp { precision: 3 }, "2020-02-03 04:05:06.789"),
        ("attz", Kind::TimestampTz { precision: 6 }, "2020-02-03 02:05:06.7+00"),
        ("clock", Kind::Time { precision: 6 }, "24:00:00"),
        ("clocktz", Kind::TimeTz { precision: 2 }, "10:00:00+02"),
        ("span", Kind::Interval, "1 mon 2 days 03:00:00"),
        ("raw", Kind::Bytes, "\\x00ff"),
        ("doc", Kind::Json, "{\"a\": \"é\"}"),
        ("ref", Kind::Uuid, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        ("feeling", Kind::Enum { labels: labels.clone() }, "so so"),
        ("feelings", array(Kind::Enum { labels }), "{sad,NULL}"),
        ("cost", money.clone(), "9.50"),
        ("costs", array(money), "{1.00,NULL}"),
        ("letter", Kind::Text, "x"),
        ("host", Kind::Verbatim, "10.0.0.1/8"),
        ("names", array(Kind::Text), "{a,\"b c\"}"),
        ("grid", array(Kind::Int32), "[0:1]={1,2}"),
    ];
    let described: Vec<_> =
        relation.columns.iter().map(|column| (column.name.as_str(), &column.kind)).collect();
    assert_eq!(described, expected.iter().map(|(name, kind, _)| (*name, kind)).collect::<Vec<_>>());
    let values = expected.iter().map(|(_, _, value)| Some((*value).to_owned())).collect();
    assert_eq!(rows, [("insert", values)]);
}

#[tokio::test]
async fn defaults_are_read_as_the_server_prints_them() {
    let shop = Shop::open(&["public.t"]).await;
    let cases = [
        ("serial", "", Some("0")),
        ("text", "DEFAULT 'it''s'", Some("it's")),
        ("text", r"DEFAULT E'a\\b'", Some(r"a\b")),
        ("varchar(9)", "DEFAULT NULL", None),
        ("int8", "DEFAULT -5", Some("-5")),
        ("numeric(10,2)", "DEFAULT -9.9", Some("-9.90")),
        ("numeric", "DEFAULT 1", None),
        ("float8", "DEFAULT 1e20", Some("100000000000000000000")),
        ("float4", "DEFAULT 'NaN'", None),
        ("bool", "DEFAULT 't'", Some("t")),
        ("uuid", "DEFAULT gen_random_uuid()", Some("00000000-0000-0000-0000-000000000000")),
        ("timestamptz", "DEFAULT now()", Some("1970-01-01 00:00:00+00")),
        ("timestamptz", "DEFAULT CURRENT_TIMESTAMP", None),
        ("timestamptz(0)", "DEFAULT '2020-02-03 04:05:06+02'", Some("2020-02-03 02:05:06+00")),
        ("timestamp", "DEFAULT timezone('utc', now())", Some("1970-01-01 00:00:00")),
        ("date", "DEFAULT '2020-02-03'", Some("2020-02-03")),
        ("interval", "DEFAULT '1 day 2 hours'", Some("1 day 02:00:00")),
        ("jsonb", "DEFAULT '{\"a\":1}'", Some("{\"a\": 1}")),
        ("int4", "DEFAULT 1 + 1", None),
        ("text", "DEFAULT 'a' || 'b'", None),
        ("int4[]", "DEFAULT '{}'", None),
        ("int4", "GENERATED ALWAYS AS IDENTITY", None),
    ];
    let columns: Vec<_> =
        cases.iter().enumerate().map(|(at, (kind, default, _))| format!("c{at} {kind} {default}")).collect();
    shop.sql(&format!("CREATE TABLE t (id int PRIMARY KEY, {})", columns.join(", "))).await;
    shop.ensure().await.unwrap();
    shop.create_slot().await;
    shop.sql("INSERT INTO t (id) VALUES (1)").await;
    let (relation, _) = shop.decoded().await;
    for ((kind, default, expected), column) in cases.iter().zip(&relation.columns[1..]) {
        assert_eq!(column.default.as_deref(), *expected, "{kind} {default}");
    }
    assert!(!relation.columns[0].nullable && !relation.columns[1].nullable && relation.columns[2].nullable);
}

#[tokio::test]
async fn keys_follow_the_primary_key_the_identity_index_or_a_unique_index() {
    for (table, key, old) in [
        ("(a int, b int, c int, PRIMARY KEY (c, a))", vec!["c", "a"], "key"),
        (
            "(a int PRIMARY KEY, b int NOT NULL UNIQUE, c int); ALTER TABLE t REPLICA IDENTITY USING INDEX t_b_key",
            vec!["b"],
            "key",
        ),
        (
            "(a int, b int UNIQUE, c int NOT NULL UNIQUE); ALTER TABLE t REPLICA IDENTITY FULL",
            vec!["c"],
            "full",
        ),
        ("(a int, b int UNIQUE, c int); ALTER TABLE t REPLICA IDENTITY FULL", vec![], "full"),
        (
            "(a int, b int NOT NULL, c int); CREATE UNIQUE INDEX ON t (b) INCLUDE (c); ALTER TABLE t REPLICA IDENTITY FULL",
            vec!["b"],
            "full",
        ),
        (
            "(a int, b int NOT NULL, c int); CREATE UNIQUE INDEX ON t (b) WHERE a > 0; ALTER TABLE t REPLICA IDENTITY FULL",
            vec![],
            "full",
        ),
    ] {
        let shop = Shop::open(&["public.t"]).await;
        shop.sql(&format!("CREATE TABLE t {table}")).await;
        let tables = shop.ensure().await.unwrap();
        assert_eq!(tables[0].key(), key, "{table}");
        shop.create_slot().await;
        shop.sql("INSERT INTO t VALUES (1, 2, 3); UPDATE t SET a = 4, b = 5, c = 6").await;
        let (relation, rows) = shop.decoded().await;
        let named: Vec<_> =
            relation.key.iter().map(|at| relation.columns[usize::from(*at)].name.as_str()).collect();
        assert_eq!(named, key, "{table}");
        assert_eq!(rows[1].0, old, "{table}");
    }
}

#[tokio::test]
async fn rows_older_than_a_change_of_their_table_keep_the_shape_they_had() {
    let shop = Shop::open(&["public.t"]).await;
    shop.sql("CREATE TABLE t (id int PRIMARY KEY, a text NOT NULL DEFAULT 'x', gone int NOT NULL)").await;
    shop.ensure().await.unwrap();
    shop.create_slot().await;
    shop.sql("INSERT INTO t VALUES (1, 'one', 1)").await;
    shop.sql(
        "ALTER TABLE t RENAME id TO number; ALTER TABLE t DROP gone; ALTER TABLE t ALTER a TYPE varchar(9)",
    )
    .await;
    let (relation, rows) = shop.decoded().await;
    let shapes: Vec<_> =
        relation.columns.iter().map(|c| (c.name.as_str(), c.nullable, c.default.as_deref())).collect();
    assert_eq!(shapes, [("id", true, None), ("a", false, None), ("gone", true, None)]);
    assert_eq!(relation.key, [0], "the identity that the message marks");
    assert_eq!(rows.len(), 1);
}

#[tokio::test]
async fn toast_deletes_truncates_and_logical_messages_come_through() {
    let shop = Shop::open(&["public.t"]).await;
    shop.sql(
        "CREATE TABLE t (id int PRIMARY KEY, n int, big text); ALTER TABLE t ALTER big SET STORAGE EXTERNAL",
    )
    .await;
    shop.ensure().await.unwrap();
    shop.create_slot().await;
    shop.sql("INSERT INTO t VALUES (1, 1, repeat('x', 10000))").await;
    shop.sql("UPDATE t SET n = 2").await;
    shop.sql("DELETE FROM t").await;
    let (_, rows) = shop.decoded().await;
    let row = |values: [Option<&str>; 3]| values.map(|value| value.map(str::to_owned)).to_vec();
    let big = "x".repeat(10_000);
    assert_eq!(
        rows,
        [
            ("insert", row([Some("1"), Some("1"), Some(&big)])),
            ("update", row([Some("1"), Some("2"), Some("(unchanged)")])),
            ("delete", row([Some("1"), None, None])),
        ]
    );
    shop.sql("TRUNCATE t RESTART IDENTITY").await;
    shop.sql("SELECT pg_logical_emit_message(false, 'millrace', 'beat')").await;
    // The server writes such a message out when it likes, but no later than the next commit.
    shop.sql("INSERT INTO t VALUES (2)").await;
    let changes = shop.changes().await;
    let messages: Vec<_> = changes.iter().map(|change| parse(change).unwrap()).collect();
    assert!(messages.iter().any(|message| matches!(
        message,
        Message::Truncate { relations, cascade: false, restart: true } if relations.iter().count() == 1
    )));
    assert!(messages.iter().any(|message| matches!(
        message,
        Message::Message { transactional: false, prefix: "millrace", content: b"beat", .. }
    )));
}

#[tokio::test]
async fn tables_of_the_file_join_the_publication() {
    let mut shop = Shop::open(&["public.a", "Sales.Orders"]).await;
    shop.sql(
        "CREATE SCHEMA \"Sales\"; CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY);
         CREATE TABLE \"Sales\".\"Orders\" (id int PRIMARY KEY)",
    )
    .await;
    shop.ensure().await.unwrap();
    assert_eq!(shop.published().await, "\"Sales\".\"Orders\" public.a");
    let before = text(shop.client(), "SELECT xmin::text FROM pg_publication").await;
    shop.ensure().await.unwrap();
    assert_eq!(text(shop.client(), "SELECT xmin::text FROM pg_publication").await, before, "left alone");

    shop.settings = settings(&shop.url, "tables = ['public.*']");
    let tables = shop.ensure().await.unwrap();
    assert_eq!(
        tables.iter().map(|table| table.name().to_string()).collect::<Vec<_>>(),
        ["public.a", "public.b"]
    );
    assert_eq!(shop.published().await, "\"Sales\".\"Orders\" public.a public.b", "nothing is taken out");
}

#[tokio::test]
async fn a_publication_of_all_tables_is_accepted_as_it_is() {
    let shop = Shop::open(&["public.a"]).await;
    shop.sql("CREATE TABLE a (id int PRIMARY KEY); CREATE PUBLICATION millrace_catalog FOR ALL TABLES").await;
    shop.ensure().await.unwrap();
    assert_eq!(shop.published().await, "");
}

#[tokio::test]
async fn a_partitioned_table_is_sent_under_its_own_name() {
    let shop = Shop::open(&["public.*"]).await;
    shop.sql(
        "CREATE TABLE root (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
         CREATE TABLE part PARTITION OF root FOR VALUES FROM ('2020-01-01') TO ('2021-01-01')",
    )
    .await;
    shop.ensure().await.unwrap();
    assert_eq!(shop.published().await, "public.root");
    shop.create_slot().await;
    shop.sql("INSERT INTO root VALUES (1, '2020-02-03')").await;
    let (relation, rows) = shop.decoded().await;
    assert_eq!((relation.full_name().as_str(), relation.key.as_slice()), ("public.root", [0, 1].as_slice()));
    assert_eq!(rows.len(), 1);
}

#[tokio::test]
async fn a_missing_table_passes_by_and_is_named() {
    let shop = Shop::open(&["public.a", "public.later", "nowhere.*"]).await;
    shop.sql("CREATE TABLE a (id int PRIMARY KEY)").await;
    let error = shop.ensure().await.unwrap_err();
    assert_eq!(error.kind(), Fault::Transient);
    assert!(error.message().starts_with("public.later, nowhere.* do not exist"), "{error}");
}

#[tokio::test]
async fn a_table_whose_updates_would_break_is_not_published_unless_it_already_is() {
    let shop = Shop::open(&["public.log"]).await;
    shop.sql("CREATE TABLE log (line text)").await;
    let error = shop.ensure().await.unwrap_err();
    assert_eq!(error.kind(), Fault::Config);
    assert!(error.hint_text().unwrap().contains("REPLICA IDENTITY FULL"), "{error:?}");
    assert_eq!(finding(&check(&shop.settings).await.unwrap(), "table public.log").verdict, Verdict::Fail);
    shop.sql("CREATE PUBLICATION millrace_catalog FOR TABLE log").await;
    shop.ensure().await.unwrap();
    assert_eq!(finding(&check(&shop.settings).await.unwrap(), "table public.log").verdict, Verdict::Warn);
}

#[tokio::test]
async fn a_role_without_rights_is_told_the_statement_to_have_run() {
    let mut shop = Shop::open(&["public.a"]).await;
    shop.sql(
        "CREATE TABLE a (id int PRIMARY KEY);
         DROP ROLE IF EXISTS clerk; CREATE ROLE clerk LOGIN PASSWORD 'secret-word'",
    )
    .await;
    let place = shop.url.rsplit_once('@').unwrap().1.to_owned();
    shop.settings = settings(&format!("postgres://clerk:secret-word@{place}"), "tables = ['public.a']");
    shop.control = connect(&shop.settings).await.unwrap();
    let error = shop.ensure().await.unwrap_err();
    assert_eq!(error.kind(), Fault::Config);
    assert!(
        error
            .hint_text()
            .unwrap()
            .contains("CREATE PUBLICATION \"millrace_catalog\" FOR TABLE \"public\".\"a\"")
    );
    let error = preconditions(shop.client(), &shop.settings).await.unwrap_err();
    assert!(error.hint_text().unwrap().starts_with("ALTER ROLE \"clerk\" REPLICATION;"), "{error:?}");
    let report = check(&shop.settings).await.unwrap();
    assert_eq!(finding(&report, "role").verdict, Verdict::Fail);
    assert_eq!(finding(&report, "publication millrace_catalog").verdict, Verdict::Fail);

    let wrong = settings(&format!("postgres://clerk:wrong-word@{place}"), "tables = ['public.a']");
    let error = connect(&wrong).await.unwrap_err();
    assert_eq!(error.kind(), Fault::Config);
    assert!(error.message().contains(&format!("clerk@{}", place.split('/').next().unwrap())), "{error}");
    assert!(!format!("{error:?}").contains("-word"), "{error:?}");
}

#[tokio::test]
async fn a_slot_is_made_once_read_and_dropped() {
    let shop = Shop::open(&["public.a"]).await;
    let name = &shop.settings.slot;
    assert_eq!(slot::read(shop.client(), name).await.unwrap(), None);
    let start = shop.create_slot().await;
    let found = slot::read(shop.client(), name).await.unwrap().unwrap();
    found.usable(&shop.settings).unwrap();
    found.free(None).unwrap();
    assert_eq!(found.confirmed_flush_lsn, Some(start));
    assert!(found.restart_lsn.unwrap() <= start && found.retained.is_some());
    let again = slot::create(shop.client(), &shop.settings, &shop.facts().await).await.unwrap_err();
    assert_eq!(again.kind(), Fault::Transient, "{again}");
    let elsewhere = settings(&server().await.url(), &format!("tables = ['a.b']\nslot = '{name}'"));
    assert_eq!(found.usable(&elsewhere).unwrap_err().kind(), Fault::Config);
    assert!(slot::drop(shop.client(), name).await.unwrap());
    assert!(!slot::drop(shop.client(), name).await.unwrap());
}

#[tokio::test]
async fn a_slot_whose_log_was_removed_is_position_lost() {
    let limit = ("max_slot_wal_keep_size".to_owned(), "1MB".to_owned());
    let small = ("max_wal_size".to_owned(), "32MB".to_owned());
    let own = started(PostgresConfig { settings: vec![limit, small], ..PostgresConfig::default() }).await;
    let shop = Shop::open_on(&own, &["public.a"], "").await;
    shop.create_slot().await;
    for _ in 0..4 {
        shop.sql("SELECT pg_switch_wal(); CREATE TABLE x (); DROP TABLE x; CHECKPOINT").await;
    }
    let found = slot::read(shop.client(), &shop.settings.slot).await.unwrap().unwrap();
    let error = found.usable(&shop.settings).unwrap_err();
    assert_eq!((error.kind(), error.shown_state()), (Fault::Fatal, State::PositionLost), "{error}");
}

#[tokio::test]
async fn check_passes_where_everything_can_be_made_and_changes_nothing() {
    let shop = Shop::open(&["public.a"]).await;
    shop.sql("CREATE TABLE a (id int PRIMARY KEY)").await;
    let report = check(&shop.settings).await.unwrap();
    assert!(report.findings.iter().all(|finding| finding.verdict == Verdict::Pass), "{report:#?}");
    assert_eq!(shop.published().await, "");
    assert_eq!(slot::read(shop.client(), &shop.settings.slot).await.unwrap(), None);
    shop.ensure().await.unwrap();
    shop.create_slot().await;
    assert!(!check(&shop.settings).await.unwrap().failed());
}

#[tokio::test]
async fn check_lists_generated_columns_and_values_that_updates_leave_out() {
    let shop = Shop::open(&["public.a", "public.b"]).await;
    let columns = "id int PRIMARY KEY, body text, twice int GENERATED ALWAYS AS (id * 2) STORED";
    shop.sql(&format!("CREATE TABLE a ({columns}); CREATE TABLE b ({columns})")).await;
    shop.sql("ALTER TABLE b REPLICA IDENTITY FULL").await;
    let report = check(&shop.settings).await.unwrap();
    let of_tables = report.findings.iter().filter(|finding| finding.subject.starts_with("table public."));
    let details: Vec<&str> = of_tables.map(|finding| finding.detail.as_str()).collect();
    let [of_a, lack_of_a, of_b, lack_of_b] = details[..] else { panic!("{details:?}") };
    assert!(of_a.ends_with("FULL does): body") && of_b == "keyed by id", "{details:?}");
    assert!([lack_of_a, lack_of_b].iter().all(|lack| lack.ends_with("not send them: twice")), "{details:?}");
}

#[tokio::test]
async fn check_names_a_missing_table_and_what_may_not_be_made() {
    let more = "create_slot = false\ncreate_publication = false";
    let shop = Shop::open_on(server().await, &["public.a", "public.b"], more).await;
    shop.sql("CREATE TABLE a (id int PRIMARY KEY)").await;
    let report = check(&shop.settings).await.unwrap();
    for (subject, hint) in [
        ("table public.b", "create it"),
        ("publication millrace_catalog", "CREATE PUBLICATION"),
        (&format!("slot {}", shop.settings.slot), "SELECT pg_create_logical_replication_slot("),
    ] {
        let found = finding(&report, subject);
        assert_eq!(found.verdict, Verdict::Fail);
        assert!(found.hint.as_deref().unwrap_or_default().starts_with(hint), "{found:?}");
    }
}

#[tokio::test]
async fn a_server_without_logical_decoding_is_refused() {
    let level = ("wal_level".to_owned(), "replica".to_owned());
    let own = started(PostgresConfig { settings: vec![level], ..PostgresConfig::default() }).await;
    let shop = Shop::open_on(&own, &["public.a"], "").await;
    let error = preconditions(shop.client(), &shop.settings).await.unwrap_err();
    assert_eq!(error.kind(), Fault::Config);
    assert!(error.hint_text().unwrap().starts_with("ALTER SYSTEM SET wal_level = logical;"));
    assert_eq!(finding(&check(&shop.settings).await.unwrap(), "wal_level").verdict, Verdict::Fail);
}

#[tokio::test]
async fn a_missing_database_is_config_and_an_absent_server_passes_by() {
    let server = server().await;
    let error = connect(&settings(&server.url_of("nowhere"), "tables = ['a.b']")).await.unwrap_err();
    assert_eq!(error.kind(), Fault::Config, "{error}");
    assert!(error.hint_text().unwrap().contains("nowhere"));
    let unbound = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let away = settings(&format!("postgres://bob@{unbound}/shop"), "tables = ['a.b']");
    assert_eq!(connect(&away).await.unwrap_err().kind(), Fault::Transient);
    let report = check(&away).await.unwrap();
    assert!(report.failed(), "{report:#?}");
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_is_given_up() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgres://bob@{}/shop", silent.local_addr().unwrap());
    let error = connect(&settings(&url, "tables = ['a.b']\nconnect_timeout_s = 1")).await.unwrap_err();
    assert_eq!(error.kind(), Fault::Transient);
    assert!(error.message().contains("no answer"), "{error}");
}

#[tokio::test]
async fn the_end_of_a_connection_is_told_with_its_reason() {
    let shop = Shop::open(&["public.a"]).await;
    let pid: i32 = shop.client().query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let other = connect(&shop.settings).await.unwrap();
    other.client.execute("SELECT pg_terminate_backend($1)", &[&pid]).await.unwrap();
    let error = shop.control.ended.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), Fault::Transient);
    assert!(error.to_string().contains("57P01"), "{error}");
}

#[tokio::test]
async fn every_served_version_answers_the_same_questions() {
    for version in [PostgresVersion::V14, PostgresVersion::V16, PostgresVersion::V17, PostgresVersion::V18] {
        let own = started(PostgresConfig { version, ..PostgresConfig::default() }).await;
        let shop = Shop::open_on(&own, &["public.a"], "").await;
        shop.sql("CREATE TYPE mood AS ENUM ('sad'); CREATE TABLE a (id int PRIMARY KEY, m mood)").await;
        let facts = preconditions(shop.client(), &shop.settings).await.unwrap();
        assert_eq!(facts.version / 10_000, u32::from(version.major()));
        assert!(
            facts.timeline == 1 && facts.system_identifier > 0 && facts.end > Lsn::ZERO && !facts.in_recovery
        );
        shop.ensure().await.unwrap();
        shop.create_slot().await;
        let found = slot::read(shop.client(), &shop.settings.slot).await.unwrap().unwrap();
        found.usable(&shop.settings).unwrap();
        assert_eq!(found.failover, (version.major() >= 17).then_some(true), "{found:?}");
        shop.sql("INSERT INTO a VALUES (1, 'sad')").await;
        let (relation, rows) = shop.decoded().await;
        assert_eq!(relation.columns[1].kind, Kind::Enum { labels: vec!["sad".into()] });
        assert_eq!(rows.len(), 1);
        assert!(!check(&shop.settings).await.unwrap().failed());
    }
}
