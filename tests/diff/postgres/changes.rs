//! What happens to tables, and beside them, while both sides read: changed definitions, values that are too
//! large to be sent again, messages in the log. Start at [`steps`].

use super::modes::{METADATA, Modes};

/// Tables of their own, which the random workload leaves alone.
pub const TABLES: [&str; 9] = [
    "shifting",
    "heavy",
    "heavy_full",
    "moods",
    "computed",
    "coded",
    "unique_only",
    "inserts_only",
    "empty_one",
];

/// Makes them. Values are stored apart and not compressed, so that an update that leaves them does not send them.
pub const PREPARE: &str = "\
CREATE TABLE shifting (id int PRIMARY KEY, a int, b varchar(10) DEFAULT 'x', c text NOT NULL);
CREATE TABLE partings (id int NOT NULL, at int NOT NULL, note text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE partings_1 PARTITION OF partings FOR VALUES FROM (0) TO (10);
CREATE TABLE partings_2 PARTITION OF partings FOR VALUES FROM (10) TO (20);
CREATE TYPE feeling AS ENUM ('low', 'high');
CREATE TABLE moods (id int PRIMARY KEY, feeling feeling, feelings feeling[]);
CREATE TABLE computed (id int PRIMARY KEY, a int, b int GENERATED ALWAYS AS (a * 2) STORED, c text);
CREATE TABLE coded (id int, code text NOT NULL UNIQUE, n int, PRIMARY KEY (id));
CREATE TABLE unique_only (note text, code int NOT NULL UNIQUE);
ALTER TABLE unique_only REPLICA IDENTITY USING INDEX unique_only_code_key;
CREATE TABLE inserts_only (note text);
CREATE TABLE empty_one (id int PRIMARY KEY, note text DEFAULT 'nothing');
CREATE SCHEMA \"other-place\";
CREATE TABLE \"other-place\".\"Odd Table\" (\"the id\" int PRIMARY KEY, \"with.dot\" text, \"9th\" int, \"grün\" bool);
COMMENT ON COLUMN moods.feeling IS 'how it \"is\", in short';
COMMENT ON COLUMN shifting.b IS 'grün';
COMMENT ON TABLE moods IS 'of today';
CREATE TABLE pulses (side text PRIMARY KEY, n int);
INSERT INTO pulses VALUES ('theirs', 0), ('ours', 0);
CREATE TABLE signals_theirs (id varchar(64) PRIMARY KEY, type varchar(32) NOT NULL, data varchar(2048));
CREATE TABLE signals_ours (LIKE signals_theirs INCLUDING ALL);
CREATE TABLE heavy (id int PRIMARY KEY, n int, words text, line varchar(20000), doc jsonb, plain json, raw bytea,
  page xml, ints int[], longs bigint[], texts text[], must text NOT NULL);
CREATE TABLE heavy_full (LIKE heavy INCLUDING ALL);
ALTER TABLE heavy_full REPLICA IDENTITY FULL;
DO $$ DECLARE c text; t text; BEGIN
  FOREACH t IN ARRAY ARRAY['heavy', 'heavy_full'] LOOP
    FOREACH c IN ARRAY ARRAY['words', 'line', 'doc', 'plain', 'raw', 'page', 'ints', 'longs', 'texts', 'must'] LOOP
      EXECUTE format('ALTER TABLE %I ALTER COLUMN %I SET STORAGE EXTERNAL', t, c);
    END LOOP;
  END LOOP;
END $$;";

/// Rows that are there before both start, in the order of their keys.
pub fn rows() -> String {
    let mut all = heavy("heavy", 101) + &heavy("heavy", 102) + &heavy("heavy_full", 101);
    all += "INSERT INTO shifting VALUES (3001, 1, NULL, 'c'), (3002, NULL, 'b', ''); \
            INSERT INTO partings VALUES (101, 1, 'one'), (102, 11, NULL); \
            INSERT INTO moods VALUES (1, 'low', '{high,low}'), (2, NULL, NULL); \
            INSERT INTO computed VALUES (1, 5, DEFAULT, 'c'), (2, NULL, DEFAULT, NULL); \
            INSERT INTO coded VALUES (1, 'a', 1), (2, 'b', NULL); \
            INSERT INTO unique_only VALUES ('x', 1), (NULL, 2); \
            INSERT INTO inserts_only VALUES ('x'), (NULL), ('x'), ('y'); \
            INSERT INTO \"other-place\".\"Odd Table\" VALUES (1, 'x', 9, true), (2, NULL, NULL, NULL);";
    all
}

/// A row whose values are all stored apart.
fn heavy(table: &str, id: u32) -> String {
    format!(
        "INSERT INTO {table} SELECT {id}, 1, w, left(w, 9000), jsonb_build_object('w', w), json_build_object('w', w), \
         w::bytea, page_of(w), (SELECT array_agg(n) FROM generate_series(1, 3000) n), \
         (SELECT array_agg(n::bigint) FROM generate_series(1, 3000) n), \
         (SELECT array_agg('t' || n) FROM generate_series(1, 2000) n), w \
         FROM (SELECT string_agg(md5(n::text), '') AS w FROM generate_series(1, 300) n) s;"
    )
}

/// Each is written only when both sides have written all before it: Debezium looks a table up in the catalog
/// of now. `publications` list the tables; what is made anew has to be listed anew. Messages are left out where
/// transactions are told: Debezium counts each under the address of a Java object.
pub fn steps(publications: &[String], modes: &Modes) -> Vec<String> {
    let mut all = if modes.get(METADATA) == "true" { Vec::new() } else { messages() };
    all.extend(kinds().map(str::to_owned));
    for table in ["heavy", "heavy_full"] {
        all.push(heavy(table, 1) + &heavy(table, 2));
        all.push(format!(
            "UPDATE {table} SET n = n + 1; UPDATE {table} SET words = 'short' WHERE id = 1; \
             UPDATE {table} SET id = 3 WHERE id = 2; UPDATE {table} SET raw = NULL, ints = '{{1}}' WHERE id = 1; \
             DELETE FROM {table} WHERE id = 1;"
        ));
    }
    all.push("INSERT INTO partings VALUES (1, 1, 'one'), (2, 11, 'two');".into());
    all.push(
        "UPDATE partings SET at = 12, note = 'moved' WHERE id = 1; DELETE FROM partings WHERE id = 2;".into(),
    );
    all.extend(definitions());
    all.push("TRUNCATE partings; TRUNCATE heavy, moods; INSERT INTO moods VALUES (1, 'high');".into());
    let listed: String = publications
        .iter()
        .map(|name| format!("ALTER PUBLICATION \"{name}\" ADD TABLE shifting; "))
        .collect();
    all.push(format!(
        "DROP TABLE shifting; CREATE TABLE shifting (code uuid PRIMARY KEY, amount numeric(8,3) NOT NULL); {listed}"
    ));
    all.push(
        "INSERT INTO shifting VALUES ('00000000-0000-0000-0000-00000000000a', 1.5); \
         UPDATE shifting SET amount = 2; DELETE FROM shifting;"
            .into(),
    );
    all
}

/// Of tables of every kind.
fn kinds() -> impl Iterator<Item = &'static str> {
    [
        "INSERT INTO moods VALUES (11, 'low', '{low}'), (12, NULL, '{}'); UPDATE moods SET feeling = 'high' WHERE id = 12;",
        "ALTER TYPE feeling ADD VALUE 'middling' BEFORE 'high'",
        "INSERT INTO moods VALUES (13, 'middling', '{middling}'); UPDATE moods SET feeling = NULL WHERE id = 11;",
        "INSERT INTO computed VALUES (11, 5); UPDATE computed SET a = 6 WHERE id = 11; DELETE FROM computed WHERE id = 11;",
        "INSERT INTO coded VALUES (11, 'k', 1); UPDATE coded SET n = 2 WHERE id = 11; \
         UPDATE coded SET code = 'l' WHERE id = 11; UPDATE coded SET id = 12 WHERE id = 11; DELETE FROM coded WHERE id = 12;",
        "INSERT INTO unique_only VALUES ('k', 11); UPDATE unique_only SET note = 'l' WHERE code = 11; \
         UPDATE unique_only SET code = 12 WHERE code = 11; DELETE FROM unique_only WHERE code = 12;",
        "INSERT INTO inserts_only VALUES ('k'), (NULL);",
        "INSERT INTO empty_one VALUES (1); INSERT INTO empty_one VALUES (2, NULL);",
        "INSERT INTO \"other-place\".\"Odd Table\" VALUES (11, 'k', 1, false); \
         UPDATE \"other-place\".\"Odd Table\" SET \"the id\" = 12 WHERE \"the id\" = 11; \
         DELETE FROM \"other-place\".\"Odd Table\" WHERE \"the id\" = 12;",
    ]
    .into_iter()
}

/// Of changes that came from another server.
pub fn from_elsewhere(origin: &str) -> [String; 3] {
    [
        format!(
            "SELECT pg_replication_origin_create('{origin}'); SELECT pg_replication_origin_session_setup('{origin}');"
        ),
        "BEGIN; SELECT pg_replication_origin_xact_setup('16/B374D848', '2026-11-21 03:10:00.123456+00'); \
         INSERT INTO moods VALUES (21, 'low'); UPDATE moods SET feeling = 'high' WHERE id = 21; COMMIT;"
            .to_owned(),
        format!(
            "SELECT pg_replication_origin_session_reset(); SELECT pg_replication_origin_drop('{origin}');"
        ),
    ]
}

fn messages() -> Vec<String> {
    let emit = |inside: bool, prefix: &str, content: &str| {
        format!("SELECT pg_logical_emit_message({inside}, '{prefix}', {content}); ")
    };
    let row = "INSERT INTO shifting VALUES (1, 1, 'm', 'm'); ";
    vec![
        emit(true, "audit", "'a text: grün'") + row + &emit(true, "audit", "''"),
        emit(true, "audit.binary", "'\\xff00'::bytea") + &emit(true, "ignored", "'nobody sees it'"),
        emit(false, "audit", "'outside'"),
        emit(false, "audit", "'outside, followed'") + "DELETE FROM shifting;",
        emit(false, "ignored", "'nobody sees it'") + "INSERT INTO shifting VALUES (2, 2, 'n', 'n');",
    ]
}

/// Every change of a definition alone, and with rows in the same transaction.
fn definitions() -> Vec<String> {
    let mut id = 10;
    let mut all = Vec::new();
    for (change, names, values) in [
        ("ADD COLUMN d timestamptz", "a, b, c, d", "1, 'b', 'c', '2026-11-21 00:00+00'"),
        ("ADD COLUMN e int NOT NULL DEFAULT 7", "a, c", "1, 'c'"),
        ("ALTER COLUMN e SET DEFAULT 8", "a, c", "1, 'c'"),
        ("DROP COLUMN a", "c, d", "'c', NULL"),
        ("RENAME COLUMN c TO cc", "cc, e", "'c', 3"),
        ("ALTER COLUMN b TYPE text", "cc, b", "'c', 'longer than ten letters'"),
        ("ALTER COLUMN cc DROP NOT NULL", "cc, b", "NULL, NULL"),
        ("ALTER COLUMN id TYPE bigint", "cc", "'c'"),
        ("ALTER COLUMN e TYPE numeric(6,2)", "cc, e", "'c', 1.25"),
        ("DROP CONSTRAINT shifting_pkey, ADD PRIMARY KEY (id, e)", "cc, e", "'c', 9.5"),
        ("REPLICA IDENTITY FULL", "cc, e", "'c', 9.75"),
        ("REPLICA IDENTITY DEFAULT", "cc, e", "'c', 9.5"),
    ] {
        let mut rows = || {
            id += 1;
            let update = "UPDATE shifting SET b = 'changed' WHERE id";
            format!(
                "INSERT INTO shifting (id, {names}) VALUES ({id}, {values}); {update} = {id}; \
                 UPDATE shifting SET id = id + 1000 WHERE id = {id}; DELETE FROM shifting WHERE id = {id} - 1;"
            )
        };
        all.push(format!("ALTER TABLE shifting {change}; {}", rows()));
        all.push(rows());
    }
    all
}
