//! Every type that a column can have, and values worth trying: the usual, the ends, the special.

use millrace_ledger::random::Random;
use tokio_postgres::Client;

use super::modes::Modes;
use crate::Result;

/// What the tables stand on. The last row of a run goes into `the_end`.
pub const PREPARE: &str = "\
CREATE TABLE the_end (id int PRIMARY KEY);
CREATE TYPE mood AS ENUM ('sad', 'ok', 'very happy, indeed');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN price AS numeric(12, 3);
CREATE DOMAIN dear AS price CHECK (VALUE > -1000);
CREATE DOMAIN words AS text;
CREATE DOMAIN ints AS int[];
CREATE FUNCTION page_of(words text) RETURNS xml LANGUAGE plpgsql AS $$ BEGIN
  RETURN ('<a>' || words || '</a>')::xml;
EXCEPTION WHEN feature_not_supported THEN RETURN NULL; -- A server may have been built without XML.
END $$;
DO $$ DECLARE name text; BEGIN
  FOREACH name IN ARRAY ARRAY['hstore', 'citext', 'ltree', 'postgis', 'vector', 'isn'] LOOP
    BEGIN EXECUTE format('CREATE EXTENSION IF NOT EXISTS %I', name); EXCEPTION WHEN OTHERS THEN NULL; END;
  END LOOP;
END $$;";

/// Not for Debezium's `precise` mode.
pub const NOT_A_NUMBER: &str = "decimal";

/// Texts in rows of rows.
pub const OF_DIMENSIONS: &str = "pg_catalog.text[]";

/// A type and what to put into it.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    pub sql: &'static str,
    values: &'static [&'static str],
    /// Debezium puts its literal defaults into the schema.
    pub has_default: bool,
}

impl Family {
    /// For the column's name: letters, digits and `_`.
    pub fn name(&self) -> String {
        let letter = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        let name: String = self.sql.replace("[]", "_array").chars().map(letter).collect();
        name.trim_matches('_').to_owned()
    }

    /// An SQL expression.
    pub fn value(&self, random: &mut Random) -> String {
        format!("{}::{}", self.literal(random), self.sql)
    }

    /// The same without its type.
    pub fn literal(&self, random: &mut Random) -> &'static str {
        let value: &&str = random.pick(self.values);
        value
    }
}

/// The types that this server has, of those that these modes take and whose name holds one of `only`.
pub async fn available(client: &Client, only: &[String], modes: &Modes) -> Result<Vec<Family>> {
    let mut found = Vec::new();
    for family in FAMILIES.iter().filter(|family| modes.takes(family)) {
        let wanted = only.is_empty() || only.iter().any(|part| family.sql.contains(part.as_str()));
        let sql = format!("SELECT NULL::{}", family.sql);
        if wanted && client.batch_execute(&sql).await.is_ok() {
            found.push(*family);
        }
    }
    if found.is_empty() { Err("no type of that name".into()) } else { Ok(found) }
}

const fn with_default(sql: &'static str, values: &'static [&'static str]) -> Family {
    Family { sql, values, has_default: true }
}

const fn plain(sql: &'static str, values: &'static [&'static str]) -> Family {
    Family { sql, values, has_default: false }
}

/// Every type there is a mapping for, and some there is none for.
const FAMILIES: &[Family] = &[
    with_default("bool", &["true", "false"]),
    with_default("int2", &["0", "'-32768'", "32767", "7"]),
    with_default("int4", &["0", "'-2147483648'", "2147483647", "42"]),
    with_default("int8", &["0", "'-9223372036854775808'", "9223372036854775807", "5000000000"]),
    plain("oid", &["0", "26", "4294967295"]),
    with_default("float4", &["0", "'-0'", "1.5", "3.4028235e38", "1e-45", "1e7", "0.001", "123456.7"]),
    with_default(
        "float8",
        &["0", "'-0'", "0.1", "1.7976931348623157e308", "5e-324", "1e21", "1e-7", "12345678.9"],
    ),
    plain("real", &["'NaN'", "'Infinity'", "'-Infinity'", "1"]),
    plain("double precision", &["'NaN'", "'Infinity'", "'-Infinity'", "1"]),
    with_default("numeric(10,2)", &["0", "1.5", "'-99999999.99'", "12345678.9", "0.01"]),
    with_default("numeric(5,0)", &["0", "'-99999'", "12345"]),
    with_default("numeric(38,10)", &["1234567890123456789012345678.0123456789", "'-0.0000000001'", "0"]),
    plain("numeric", &["0", "1.50", "'-123456789012345678901234567890.000001'", "1e30", "1e-20", "100"]),
    plain(NOT_A_NUMBER, &["'NaN'", "'Infinity'", "'-Infinity'", "1.25"]),
    plain("money", &["0", "'-1.5'", "'92233720368547758.07'", "12.34"]),
    with_default(
        "text",
        &["''", "'plain'", "E'quote \" back \\\\ tab \\t line \\n'", "'grün 日本 🦀'", "repeat('x', 300)"],
    ),
    with_default("varchar(20)", &["''", "'it''s'", "'grün'"]),
    with_default("char(5)", &["'a'", "'abcde'", "''"]),
    with_default("\"char\"", &["'a'", "'z'"]),
    plain("bytea", &["''", "'\\x00ff10'", "'\\xdeadbeef'"]),
    with_default(
        "date",
        &["'1970-01-01'", "'2026-11-21'", "'0001-01-01'", "'1582-10-04'", "'1582-10-15'", "'9999-12-31'"],
    ),
    // Under another name of the type, so that it can be told apart.
    plain(
        "pg_catalog.date",
        &[
            "'infinity'",
            "'-infinity'",
            "'12026-01-01'",
            "'0044-03-15 BC'",
            "'5874897-12-31'",
            "'4713-01-01 BC'",
        ],
    ),
    with_default("time", &["'00:00'", "'23:59:59.999999'", "'12:34:56.7'"]),
    with_default("time(0)", &["'00:00'", "'23:59:59'", "'12:34:56'"]),
    with_default("time(3)", &["'00:00'", "'23:59:59.999'", "'12:34:56.7'"]),
    plain("time(6)", &["'24:00'", "'00:00:00.000001'"]),
    plain("timetz", &["'00:00+00'", "'12:34:56.789+05:30'", "'23:59:59.999999-08'", "'12:00:00.5+01'"]),
    with_default(
        "timestamp",
        &["'1970-01-01'", "'2026-11-21 03:10:00.123456'", "'1582-10-10 12:00'", "'1900-01-01 00:00:00.5'"],
    ),
    with_default("timestamp(0)", &["'1970-01-01'", "'2026-11-21 03:10:00'"]),
    with_default("timestamp(3)", &["'2026-11-21 03:10:00.123'", "'1969-12-31 23:59:59.999'"]),
    plain(
        "timestamp(6)",
        &["'infinity'", "'-infinity'", "'12026-01-01 01:02:03'", "'0044-03-15 12:00 BC'", "'0001-01-01'"],
    ),
    with_default(
        "timestamptz",
        &["'1970-01-01 00:00+00'", "'2026-11-21 03:10:00.123456+02'", "'1900-01-01 00:00:00+00'"],
    ),
    with_default("timestamptz(0)", &["'2026-11-21 03:10:00+00'"]),
    with_default("timestamptz(3)", &["'2026-11-21 03:10:00.120+00'"]),
    plain(
        "timestamptz(6)",
        &["'infinity'", "'-infinity'", "'12026-01-01 00:00+00'", "'0044-03-15 12:00:00+00 BC'"],
    ),
    plain(
        "interval",
        &[
            "'0'",
            "'1 year 2 mons 3 days 04:05:06.789'",
            "'-1 day 2 hours'",
            "'100 years'",
            "'-00:00:00.000001'",
        ],
    ),
    plain("name", &["'a name'"]),
    plain("xid", &["'7'"]),
    plain("regclass", &["'pg_class'"]),
    plain("int4multirange", &["'{[1,3),[5,7)}'", "'{}'"]),
    plain("uuid", &["'00000000-0000-0000-0000-000000000000'", "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'"]),
    with_default("json", &["'{\"a\": [1, null,  \"x\"]}'", "'null'", "'\"text\"'"]),
    with_default("jsonb", &["'{\"b\": 1, \"a\": {}}'", "'[]'", "'1.50'"]),
    plain("xml", &["'<a>b</a>'", "'text'"]),
    plain("bit", &["B'0'", "B'1'"]),
    plain("bit(3)", &["B'101'", "B'000'", "B'111'"]),
    plain("bit(17)", &["B'10000000000000001'", "B'00000000000000000'", "B'00000000100000000'"]),
    plain("bit varying", &["B''", "B'1'", "B'1000000001'", "B'00000000'"]),
    plain("bit varying(5)", &["B'1'", "B'10101'", "B''"]),
    plain("inet", &["'192.168.0.1'", "'10.0.0.0/8'", "'::1'", "'2001:db8::/32'"]),
    plain("cidr", &["'10.0.0.0/8'", "'2001:db8::/32'"]),
    plain("macaddr", &["'08:00:2b:01:02:03'"]),
    plain("macaddr8", &["'08:00:2b:01:02:03:04:05'"]),
    plain("int4range", &["'[1,10)'", "'empty'", "'(,5]'"]),
    plain("int8range", &["'[1,10)'", "'(,)'"]),
    plain("numrange", &["'[1.5,2.5]'", "'empty'"]),
    plain("tsrange", &["'[2026-01-01 00:00,2026-02-01 12:00)'", "'(,2026-01-01)'"]),
    plain("tstzrange", &["'[2026-01-01 00:00+00,2026-02-01 12:00+00)'"]),
    plain("daterange", &["'[2026-01-01,2026-02-01)'"]),
    plain("tsvector", &["'a fat cat'", "to_tsvector('simple', 'the cat the mat')", "''"]),
    plain("tsquery", &["'fat & cat'"]),
    plain("point", &["'(1.5,-2)'", "'(0,0)'"]),
    plain("line", &["'{1,2,3}'"]),
    plain("lseg", &["'[(0,0),(1,1)]'"]),
    plain("box", &["'(1,1),(0,0)'"]),
    plain("path", &["'((0,0),(1,1),(2,0))'", "'[(0,0),(1,1)]'"]),
    plain("polygon", &["'((0,0),(1,1),(2,0))'"]),
    plain("circle", &["'<(1,2),3>'"]),
    plain("pg_lsn", &["'16/B374D848'"]),
    plain("txid_snapshot", &["'10:20:10,14,15'"]),
    plain("mood", &["'sad'", "'ok'", "'very happy, indeed'"]),
    plain("pair", &["'(1,\"x, y\")'", "'(,)'"]),
    plain("price", &["1.5", "'-12.345'"]),
    plain("dear", &["1.5", "12.345"]),
    plain("words", &["'a b'"]),
    plain("ints", &["'{1,NULL,3}'"]),
    plain("hstore", &["'a=>1, b=>NULL'", "''", "'\"k \\\"q\"=>\"v, w\"'"]),
    plain("citext", &["'MiXed'"]),
    plain("ltree", &["'Top.Science.Astronomy'"]),
    plain("isbn", &["'978-0-393-04002-9'"]),
    plain("geometry", &["'SRID=4326;POINT(1 2)'", "'LINESTRING(0 0, 1 1)'"]),
    plain("geometry(Point,4326)", &["'SRID=4326;POINT(1 2)'"]),
    plain("geography", &["'SRID=4326;POINT(1 2)'"]),
    plain("vector(3)", &["'[1,2.5,-3]'"]),
    plain("halfvec(3)", &["'[1,2.5,-3]'"]),
    plain("sparsevec(5)", &["'{1:1.5,3:-2}/5'"]),
    plain("int2[]", &["'{1,NULL,3}'", "'{}'"]),
    plain("int4[]", &["'{1,NULL,3}'", "'{}'"]),
    plain("integer[]", &["'{{1,2},{3,4}}'"]),
    plain("int8[]", &["'{1,9223372036854775807}'"]),
    plain("float4[]", &["'{1.5,NULL}'"]),
    plain("float8[]", &["'{1.5,NULL}'"]),
    plain("bool[]", &["'{t,f,NULL}'"]),
    plain("text[]", &["'{a,NULL,\"b, \\\"c\\\"\",\"\"}'", "'{}'"]),
    plain("varchar(10)[]", &["'{a,NULL}'"]),
    plain("char(3)[]", &["'{a,NULL}'"]),
    plain("numeric(10,2)[]", &["'{1.5,NULL,-3}'"]),
    plain("numeric[]", &["'{1.50,NULL,-3}'"]),
    plain("bytea[]", &["'{\"\\\\x00ff\",NULL}'"]),
    plain("uuid[]", &["'{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11,NULL}'"]),
    plain("json[]", &["ARRAY['{\"a\": 1}', NULL]"]),
    plain("jsonb[]", &["ARRAY['{\"a\": 1}', NULL]"]),
    plain("date[]", &["'{2026-11-21,NULL}'"]),
    plain("time[]", &["'{12:34:56.789,NULL}'"]),
    plain("timetz[]", &["'{12:34:56.789+05:30,NULL}'"]),
    plain("timestamp[]", &["'{2026-11-21 03:10:00.123456,NULL}'"]),
    plain("timestamptz[]", &["'{2026-11-21 03:10:00.123456+02,NULL}'"]),
    plain("inet[]", &["'{192.168.0.1,NULL}'"]),
    plain("cidr[]", &["'{10.0.0.0/8,NULL}'"]),
    plain("macaddr[]", &["'{08:00:2b:01:02:03}'"]),
    plain("oid[]", &["'{26,4294967295}'"]),
    plain("int4range[]", &["ARRAY['[1,10)'::int4range, NULL]"]),
    plain("tsrange[]", &["ARRAY['[2026-01-01 00:00,2026-02-01 12:00)'::tsrange, NULL]"]),
    plain("mood[]", &["'{sad,ok}'"]),
    plain("price[]", &["'{1.5,NULL}'"]),
    plain("words[]", &["'{a,NULL}'"]),
    plain("name[]", &["'{a,NULL}'"]),
    plain("xml[]", &["'{<a/>}'"]),
    plain("varbit[]", &["'{101}'"]),
    plain("pair[]", &["'{\"(1,x)\"}'"]),
    plain(OF_DIMENSIONS, &["'{{a,b},{c,NULL}}'"]),
    plain("money[]", &["'{1.5}'"]),
    plain("interval[]", &["'{1 day}'"]),
    plain("bit(3)[]", &["'{101,NULL}'"]),
    plain("point[]", &["ARRAY['(1,2)'::point]"]),
    plain("citext[]", &["'{MiXed,NULL}'"]),
    plain("ltree[]", &["'{Top.Science,NULL}'"]),
    plain("hstore[]", &["ARRAY['a=>1'::hstore, NULL]"]),
];
