//! Values of every type, ordinary and extreme, as `apache-avro` reads them back.

use std::sync::Arc;

use millrace_e2e::{Event, Own, Servers, Shop};
use serde_json::{Value as Json, json};
use xtask::services::Extension;

/// A type, a value as SQL, and what a consumer reads.
type Case = (&'static str, &'static str, Json);

/// Inserts all the values in one row, with a second row that has nothing but nulls, and compares.
async fn expect(name: &str, prepare: &str, cases: Vec<Case>) {
    expect_of(Shop::open(name).await, prepare, cases).await;
}

async fn expect_of(mut shop: Shop, prepare: &str, cases: Vec<Case>) {
    shop.sql.run(prepare).await;
    let columns: Vec<String> =
        cases.iter().enumerate().map(|(nth, (column, _, _))| format!("c{nth} {column}")).collect();
    shop.table("kinds", &format!("id int PRIMARY KEY, {}", columns.join(", "))).await;
    shop.capture(&["public.kinds"]).start().await;
    let values: Vec<&str> = cases.iter().map(|(_, value, _)| *value).collect();
    shop.sql
        .run(&format!(
            "INSERT INTO kinds VALUES (1, {}); INSERT INTO kinds (id) VALUES (2)",
            values.join(", ")
        ))
        .await;
    let events = shop.wait_for_events("public.kinds", 2).await;
    let column = |event: &Event, nth: usize| event.after(&format!("c{nth}")).clone();
    let wrong: Vec<String> = cases
        .iter()
        .enumerate()
        .map(|(nth, (kind, value, expected))| (kind, value, expected, column(&events[0], nth)))
        .filter(|(_, _, expected, found)| *expected != found)
        .map(|(kind, value, expected, found)| format!("{kind} {value}: {found} and not {expected}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (nth, (kind, ..)) in cases.iter().enumerate() {
        assert_eq!(column(&events[1], nth), Json::Null, "a null of {kind}");
    }
}

#[tokio::test]
async fn numbers_keep_every_digit() {
    let cases = vec![
        ("bool", "true", json!(true)),
        ("bool", "false", json!(false)),
        ("int2", "32767", json!(32767)),
        ("int2", "-32768", json!(-32768)),
        ("int4", "2147483647", json!(i32::MAX)),
        ("int4", "-2147483648", json!(i32::MIN)),
        ("int8", "9223372036854775807", json!(i64::MAX)),
        ("int8", "-9223372036854775808", json!(i64::MIN)),
        ("oid", "4294967295", json!(4_294_967_295_i64)),
        ("float4", "3.4028235e38", json!(f32::MAX)),
        ("float4", "-1.5", json!(-1.5_f32)),
        ("float8", "1.7976931348623157e308", json!(f64::MAX)),
        ("float8", "5e-324", json!(5e-324_f64)),
        ("float8", "0.1", json!(0.1)),
        ("float4", "'NaN'", json!("Float(NaN)")),
        ("float8", "'NaN'", json!("Double(NaN)")),
        ("float8", "'-Infinity'", json!("Double(-inf)")),
        (
            "numeric(38,10)",
            "9999999999999999999999999999.9999999999",
            json!("9999999999999999999999999999.9999999999"),
        ),
        ("numeric(38,10)", "-0.0000000001", json!("-0.0000000001")),
        ("numeric(5)", "-99999", json!("-99999")),
        ("numeric(10,2)", "0", json!("0.00")),
        (
            "numeric",
            "12345678901234567890123456789012345678901234567890.000000000000000000001",
            json!("12345678901234567890123456789012345678901234567890.000000000000000000001"),
        ),
        ("numeric", "-0.10", json!("-0.10")),
        (
            "numeric",
            "100000000000000000000000000000000000000000000000000000000000000000000000000000000",
            json!("100000000000000000000000000000000000000000000000000000000000000000000000000000000"),
        ),
    ];
    expect("numbers", "", cases).await;
}

#[tokio::test]
async fn texts_keep_every_character() {
    let cases = vec![
        ("text", "''", json!("")),
        ("text", r#"E'a"b\\c\n\t\u0001 zażółć 漢字 🚀'"#, json!("a\"b\\c\n\t\u{1} zażółć 漢字 🚀")),
        ("text", "repeat('ab', 500000)", json!("ab".repeat(500_000))),
        ("varchar(3)", "'abc'", json!("abc")),
        ("char(5)", "'ab'", json!("ab   ")),
        ("name", "'a name'", json!("a name")),
        ("uuid", "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", json!("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")),
        ("json", r#"'{"b":  1, "a": [null, 1e400]}'"#, json!(r#"{"b":  1, "a": [null, 1e400]}"#)),
        ("jsonb", r#"'{"b":  1, "a": [null]}'"#, json!(r#"{"a": [null], "b": 1}"#)),
        ("jsonb", "'null'", json!("null")),
        ("bytea", r"'\x00ff10'", json!("00ff10")),
        ("bytea", "''", json!("")),
        ("mood", "'so so'", json!("so so")),
        ("mood", "'sad'", json!("sad")),
    ];
    expect("texts", "CREATE TYPE mood AS ENUM ('sad', 'so so', 'a,\"b\"')", cases).await;
}

#[tokio::test]
async fn dates_and_times_keep_their_whole_range() {
    let cases = vec![
        ("date", "'1970-01-01'", json!(0)),
        ("date", "'4713-01-01 BC'", json!(-2_440_550)),
        ("date", "'5874897-12-31'", json!(2_145_042_905)),
        ("date", "'infinity'", json!(-2_147_472_692)),
        ("date", "'-infinity'", json!(-2_147_472_691)),
        ("time", "'23:59:59.999999'", json!(86_399_999_999_i64)),
        ("time", "'24:00:00'", json!(86_400_000_000_i64)),
        ("time(3)", "'12:00:00.1239'", json!(43_200_124)),
        ("timetz", "'23:59:59.5+02'", json!("21:59:59.5Z")),
        ("timetz", "'00:00:00-15:59'", json!("15:59:00Z")),
        ("timestamp", "'1970-01-01 00:00:00.000001'", json!(1)),
        ("timestamp", "'294247-01-10 04:00:54.775807'", json!(i64::MAX)),
        ("timestamp", "'4713-01-01 00:00:00 BC'", json!(-210_863_520_000_000_000_i64)),
        ("timestamp", "'infinity'", json!(9_223_372_036_825_200_000_i64)),
        ("timestamp(3)", "'2026-01-02 03:04:05.678'", json!(1_767_323_045_678_i64)),
        ("timestamptz", "'2026-01-02 03:04:05.678901+02'", json!("2026-01-02T01:04:05.678901Z")),
        ("timestamptz", "'infinity'", json!("infinity")),
        ("timestamptz(0)", "'0044-03-15 12:00:00+00 BC'", json!("-0043-03-15T12:00:00Z")),
        (
            "interval",
            "'1 year 2 mons 3 days 04:05:06.789'",
            json!(31_557_600_000_000_i64 + 2 * 2_629_800_000_000 + 3 * 86_400_000_000 + 14_706_789_000),
        ),
        ("interval", "'-00:00:00.000001'", json!(-1)),
    ];
    expect("times", "", cases).await;
}

#[tokio::test]
async fn arrays_keep_their_elements_and_their_nulls() {
    let cases = vec![
        ("int4[]", "'{1,NULL,-3}'", json!([1, null, -3])),
        ("int4[]", "'{}'", json!([])),
        ("int8[]", "'{9223372036854775807}'", json!([i64::MAX])),
        (
            "text[]",
            r#"ARRAY['a,b', '"', '\', 'NULL', NULL, '']"#,
            json!(["a,b", "\"", "\\", "NULL", null, ""]),
        ),
        ("bool[]", "'{t,f}'", json!([true, false])),
        ("float8[]", "'{0.5}'", json!([0.5])),
        ("numeric(5,2)[]", "'{1.5,-2}'", json!(["1.50", "-2.00"])),
        (
            "uuid[]",
            "ARRAY['a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid]",
            json!(["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]),
        ),
        ("date[]", "'{1970-01-02}'", json!([1])),
        ("timestamptz[]", "'{2026-01-02 03:04:05+00}'", json!(["2026-01-02T03:04:05.000000Z"])),
        ("jsonb[]", r#"ARRAY['{"a": 1}'::jsonb]"#, json!(["{\"a\": 1}"])),
        ("mood[]", "'{sad}'", json!(["sad"])),
    ];
    expect("arrays", "CREATE TYPE mood AS ENUM ('sad', 'so so')", cases).await;
}

#[tokio::test]
async fn a_type_that_nobody_maps_arrives_as_the_text_that_the_database_prints() {
    let cases = vec![
        ("inet", "'10.0.0.1/8'", json!("10.0.0.1/8")),
        ("path", "'((0,0),(1,1))'", json!("((0,0),(1,1))")),
        ("int4range", "'[1,5)'", json!("[1,5)")),
        ("xml", "'<a>1</a>'", json!("<a>1</a>")),
        ("pair", "ROW(1, 'x y')", json!("(1,\"x y\")")),
        ("tsvector", "'a fat cat'", json!("'a' 'cat' 'fat'")),
    ];
    expect("others", "CREATE TYPE pair AS (a int, b text)", cases).await;
}

/// A geometry in well-known binary: one of an even number of bytes, and in hexadecimal.
fn well_known(srid: Json, wkb: &str) -> Json {
    json!({"wkb": wkb, "srid": srid})
}

#[tokio::test]
async fn shapes_of_postgis_keep_their_bytes_and_their_system() {
    let servers = Arc::new(Servers::with(Own::postgres_with_types_of(Extension::Postgis)).await);
    let point = "0101000000000000000000f03f0000000000000040";
    let marked = "0101000020e6100000000000000000f03f0000000000000040";
    let cases = vec![
        ("geometry", "'POINT(1 2)'", well_known(Json::Null, point)),
        ("geometry", "'SRID=4326;POINT(1 2)'", well_known(json!(4326), marked)),
        ("geometry(Point,4326)", "'SRID=4326;POINT(1 2)'", well_known(json!(4326), marked)),
        ("geography", "'POINT(1 2)'", well_known(json!(4326), marked)),
        ("geometry", "'POINT EMPTY'", well_known(Json::Null, "0101000000000000000000f87f000000000000f87f")),
    ];
    expect_of(Shop::on(&servers, "postgis").await, "CREATE EXTENSION postgis", cases).await;
}

#[tokio::test]
async fn vectors_of_pgvector_keep_their_elements() {
    let servers = Arc::new(Servers::with(Own::postgres_with_types_of(Extension::Pgvector)).await);
    let cases = vec![
        ("vector", "'[1,2.5,-3]'", json!([1.0, 2.5, -3.0])),
        ("vector(2)", "'[1e-30,3.4e38]'", json!([1e-30, 3.4e38])),
        ("halfvec(3)", "'[1,2.5,-3]'", json!([1.0, 2.5, -3.0])),
        (
            "sparsevec(5)",
            "'{1:1.5,3:-2}/5'",
            json!({"dimensions": 5, "vector": [{"key": 1, "value": 1.5}, {"key": 3, "value": -2.0}]}),
        ),
    ];
    expect_of(Shop::on(&servers, "pgvector").await, "CREATE EXTENSION vector", cases).await;
}

#[tokio::test]
async fn bits_money_and_points_keep_their_parts() {
    let cases = vec![
        ("bit", "B'1'", json!(true)),
        ("bit(3)", "B'101'", json!("05")),
        ("bit varying", "B'1000000001'", json!("0102")),
        ("money", "-1234.5", json!("-1234.50")),
        (
            "point",
            "'(1.5,-2)'",
            json!({"x": 1.5, "y": -2.0, "wkb": "0101000000000000000000f83f00000000000000c0", "srid": null}),
        ),
    ];
    expect("shapes", "", cases).await;
}

#[tokio::test]
async fn values_are_written_in_the_way_that_the_file_asks_for() {
    let mut shop = Shop::open("ways").await;
    for (key, word) in
        [("times", "iso_string"), ("intervals", "string"), ("binary", "hex"), ("decimals", "string")]
    {
        shop.file.set(&format!("format/{key}"), word);
    }
    let columns =
        "id int PRIMARY KEY, day date, clock time(3), at timestamp, gap interval, raw bytea, price money";
    shop.table("kinds", columns).await;
    shop.capture(&["public.kinds"]).start().await;
    let values = "'2026-11-21', '12:34:56.7', '2026-11-21 03:10:00.5', '1 year 2 hours', '\\x00ff', '1234.5'";
    shop.sql.run(&format!("INSERT INTO kinds VALUES (1, {values})")).await;
    let events = shop.wait_for_events("public.kinds", 1).await;
    let after = &events[0].value.as_ref().expect("a value")["after"];
    let expected = json!({
        "id": 1,
        "day": "2026-11-21Z",
        "clock": "12:34:56.7Z",
        "at": "2026-11-21T03:10:00.5Z",
        "gap": "P1Y0M0DT2H0M0S",
        "raw": "00ff",
        "price": "1234.50",
    });
    assert_eq!(after, &expected);
}

#[tokio::test]
async fn a_numeric_that_is_no_number_is_told_from_null_by_a_header() {
    let mut shop = Shop::open("nan").await;
    shop.table("kinds", "id int PRIMARY KEY, free numeric, fixed numeric(10,2)").await;
    shop.sql.run("ALTER TABLE kinds REPLICA IDENTITY FULL").await;
    shop.capture(&["public.kinds"]).start().await;
    shop.sql
        .run("INSERT INTO kinds VALUES (1, 'NaN', 'NaN'), (2, 'Infinity', 1), (3, '-Infinity', NULL)")
        .await;
    shop.sql.run("UPDATE kinds SET free = 0 WHERE id = 3").await;
    let events = shop.wait_for_events("public.kinds", 4).await;
    let special: Vec<_> = events.iter().map(|event| event.header("special")).collect();
    let both = r#"{"free":"NaN","fixed":"NaN"}"#;
    let (infinite, negative) = (r#"{"free":"Infinity"}"#, r#"{"free":"-Infinity"}"#);
    assert_eq!(special, [Some(both), Some(infinite), Some(negative), None]);
    assert_eq!(events[3].header("special.before"), Some(negative));
    assert!(events[..3].iter().all(|event| event.after("free").is_null()), "{events:?}");
    assert_eq!((events[1].after("fixed"), events[3].after("free")), (&json!("1.00"), &json!("0")));
}

#[tokio::test]
async fn a_value_that_no_format_holds_stops_the_connector_and_names_the_column() {
    let mut shop = Shop::open("out-of-range").await;
    shop.table("kinds", "id int PRIMARY KEY, at timestamp").await;
    shop.capture(&["public.kinds"]).start().await;
    // Ends 29 years after the last microsecond that a long counts from 1970.
    shop.sql.run("INSERT INTO kinds VALUES (1, now()), (2, '294276-12-31')").await;
    let refusal = shop.not_ready("FAILED").await;
    refusal.expect_reason(&["public.kinds", "at", "range"]);
    assert!(
        shop.daemon().metric("millrace_failed_events_total", &shop.name).await >= Some(1.0),
        "not counted"
    );
}
