//! What happens to tables, and beside them, while both sides read: changed definitions, values that are too
//! large to be sent again, messages in the log. Start at [`steps`].

/// Tables of their own, which the random workload leaves alone.
pub const TABLES: [&str; 4] = ["shifting", "heavy", "heavy_full", "partings"];

/// Makes them. Values are stored apart and not compressed, so that an update that leaves them does not send them.
pub const PREPARE: &str = "\
CREATE TABLE shifting (id int PRIMARY KEY, a int, b varchar(10) DEFAULT 'x', c text NOT NULL);
CREATE TABLE partings (id int NOT NULL, at int NOT NULL, note text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE partings_1 PARTITION OF partings FOR VALUES FROM (0) TO (10);
CREATE TABLE partings_2 PARTITION OF partings FOR VALUES FROM (10) TO (20);
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

/// A row whose values are all stored apart.
fn heavy(table: &str, id: u32) -> String {
    format!(
        "INSERT INTO {table} SELECT {id}, 1, w, left(w, 9000), jsonb_build_object('w', w), json_build_object('w', w), \
         w::bytea, ('<a>' || w || '</a>')::xml, (SELECT array_agg(n) FROM generate_series(1, 3000) n), \
         (SELECT array_agg(n::bigint) FROM generate_series(1, 3000) n), \
         (SELECT array_agg('t' || n) FROM generate_series(1, 2000) n), w \
         FROM (SELECT string_agg(md5(n::text), '') AS w FROM generate_series(1, 300) n) s;"
    )
}

/// Each is written only when both sides have written all before it: Debezium looks a table up in the catalog
/// of now. `publications` list the tables; what is made anew has to be listed anew. Messages are left out where
/// transactions are told: Debezium counts each under the address of a Java object.
pub fn steps(publications: &[String], with_messages: bool) -> Vec<String> {
    let mut all = if with_messages { messages() } else { Vec::new() };
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
