//! The tables under load, and what a row of each is made of.

/// What is written and read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Rows of a table, as change events.
    Table,
    /// Rows of an outbox, each of them an event.
    Outbox,
}

impl Load {
    pub fn table(self) -> &'static str {
        match self {
            Self::Table => "bench",
            Self::Outbox => "outbox",
        }
    }

    /// Inserts the row of one number.
    pub fn insert_one(self) -> &'static str {
        match self {
            Self::Table => INSERT_ONE,
            Self::Outbox => INSERT_ONE_EVENT,
        }
    }
}

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
    CREATE TABLE outbox (
        id uuid PRIMARY KEY,
        aggregatetype varchar(255) NOT NULL,
        aggregateid varchar(255) NOT NULL,
        type varchar(255) NOT NULL,
        payload jsonb NOT NULL);
    CREATE PUBLICATION bench FOR TABLE bench, outbox;";

/// Orders that events are about, each of them one key.
pub const AGGREGATES: u64 = 10_000;

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

/// The event of a number, in Debezium's columns.
macro_rules! event {
    ($id:literal) => {
        concat!(
            "SELECT md5('e' || i)::uuid, 'order', 'order-' || (i % 10000), 'OrderLineUpdated', \
             jsonb_build_object('n', i, 'tag', left(md5('t' || i), 12), 'on', true, 'none', NULL, \
             'lines', jsonb_build_array(i % 7, i % 11), 'amount', (i % 100000000) / 100.0) FROM ",
            $id
        )
    };
}

/// A call of one of them makes `transactions` of `size` rows each, numbered from `first`.
macro_rules! procedure {
    ($table:literal, $row:ident) => {
        concat!(
            "CREATE PROCEDURE fill_",
            $table,
            "(first bigint, transactions bigint, size bigint) LANGUAGE plpgsql AS $$ BEGIN
        FOR t IN 0..transactions - 1 LOOP
            INSERT INTO ",
            $table,
            " ",
            $row!("generate_series(first + t * size, first + (t + 1) * size - 1) AS i"),
            ";
            COMMIT;
        END LOOP;
    END $$;"
        )
    };
}

pub const PROCEDURES: &str = concat!(procedure!("bench", row), procedure!("outbox", event));

/// Inserts the row of one number.
pub const INSERT_ONE: &str = concat!("INSERT INTO bench ", row!("(SELECT $1::bigint AS i) AS one"));

const INSERT_ONE_EVENT: &str = concat!("INSERT INTO outbox ", event!("(SELECT $1::bigint AS i) AS one"));

/// Inserts rows 1 to $1 into a table like `bench`.
pub fn insert_into(table: &str) -> String {
    format!("INSERT INTO {table} {}", row!("generate_series(1, $1::bigint) AS i"))
}
