//! The table under load, and what a row of it is made of.

/// Ten columns of the usual types, a row of about 300 bytes on the wire.
pub const CREATE: &str = "
    CREATE TABLE bench (
        id bigint PRIMARY KEY,
        name text NOT NULL,
        amount numeric(12,2) NOT NULL,
        created timestamptz NOT NULL,
        active boolean NOT NULL,
        ref uuid NOT NULL,
        doc jsonb NOT NULL,
        score double precision NOT NULL,
        blob bytea NOT NULL,
        note integer);
    CREATE PUBLICATION bench FOR TABLE bench;";

/// The row of a number, so that a run can be repeated.
macro_rules! row {
    ($id:literal) => {
        concat!(
            "SELECT i, md5(i::text), (i % 100000000) / 100.0, \
             timestamptz '2026-01-01 00:00:00.000123+00' + i * interval '1.000001 second', i % 2 = 0, \
             md5('r' || i)::uuid, \
             jsonb_build_object('n', i, 'on', true, 'tag', left(md5('t' || i), 12)), sqrt(i), \
             decode(md5(i::text) || left(md5('b' || i), 16), 'hex'), \
             CASE WHEN i % 3 = 0 THEN NULL ELSE (i % 100000)::integer END FROM ",
            $id
        )
    };
}

/// A call of it makes `transactions` of `size` rows each, numbered from `first`.
pub const PROCEDURE: &str = concat!(
    "CREATE PROCEDURE fill(first bigint, transactions bigint, size bigint) LANGUAGE plpgsql AS $$ BEGIN
        FOR t IN 0..transactions - 1 LOOP
            INSERT INTO bench ",
    row!("generate_series(first + t * size, first + (t + 1) * size - 1) AS i"),
    ";
            COMMIT;
        END LOOP;
    END $$"
);

/// Inserts the row of one number.
pub const INSERT_ONE: &str = concat!("INSERT INTO bench ", row!("(SELECT $1::bigint AS i) AS one"));

/// Inserts rows 1 to $1 into a table like `bench`.
pub fn insert_into(table: &str) -> String {
    format!("INSERT INTO {table} {}", row!("generate_series(1, $1::bigint) AS i"))
}
