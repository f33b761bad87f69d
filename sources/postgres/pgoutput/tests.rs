//! Recorded shapes of every message, and what random and cut bytes do to the decoder.

use millrace_core::batch::{ChangeBatch, Row, Tag, Value};
use proptest::prelude::*;

use super::writer::{Columns, Writer, Written};
use super::*;

/// 2026-01-01 00:00:00 UTC since 2000 and since 1970.
const TIME_PG: u64 = 820_540_800_000_000;
const TIME_US: i64 = 1_767_225_600_000_000;

fn text(text: &str) -> Written {
    Written::Text(text.to_owned())
}

/// What a row of a batch holds, as it was written.
fn read(batch: &ChangeBatch, row: Row) -> Columns {
    batch
        .cells_of(row)
        .iter()
        .map(|cell| match batch.value(*cell) {
            Value::Null => Written::Null,
            Value::Unchanged => Written::Unchanged,
            Value::Text(bytes) => text(std::str::from_utf8(bytes).unwrap()),
        })
        .collect()
}

/// Parses a message and appends all of its rows, each with its own number of columns.
fn decode(input: &[u8]) -> Result<(ChangeBatch, Vec<Row>), Malformed> {
    let mut batch = ChangeBatch::default();
    let mut rows = Vec::new();
    let tuples = match parse(input)? {
        Message::Insert { new, .. } => vec![new],
        Message::Update { old, new, .. } => old.map(|(_, old)| old).into_iter().chain([new]).collect(),
        Message::Delete { old, .. } => vec![old],
        _ => vec![],
    };
    for tuple in tuples {
        rows.push(append_tuple(&mut batch, &tuple, tuple.columns().into())?);
    }
    Ok((batch, rows))
}

fn insert(columns: &[Written]) -> Vec<u8> {
    Writer::default().tag(b'I').u32(16_385).tag(b'N').tuple(columns).0
}

#[test]
fn a_transaction_s_ends_are_read() {
    let begin = Writer::default().tag(b'B').u64(0x1_0000_0010).u64(TIME_PG).u32(777).0;
    assert_eq!(
        parse(&begin),
        Ok(Message::Begin { final_lsn: 0x1_0000_0010, commit_ts_us: TIME_US, xid: 777 })
    );
    let commit = Writer::default().tag(b'C').tag(0).u64(10).u64(20).u64(TIME_PG).0;
    assert_eq!(
        parse(&commit),
        Ok(Message::Commit { flags: 0, commit_lsn: 10, end_lsn: 20, commit_ts_us: TIME_US })
    );
}

#[test]
fn a_commit_time_that_does_not_fit_is_malformed() {
    let begin = Writer::default().tag(b'B').u64(1).u64(i64::MAX as u64).u32(777).0;
    assert_eq!(parse(&begin), Err(Malformed { what: "a commit time out of range", at: 17 }));
}

#[test]
fn a_relation_is_read_with_its_identity_and_columns() {
    let message = Writer::default()
        .tag(b'R')
        .u32(16_385)
        .string("shop")
        .string("Größen")
        .tag(b'i')
        .u16(2)
        .tag(1)
        .string("id")
        .u32(20)
        .u32(u32::MAX)
        .tag(0)
        .string("price")
        .u32(1700)
        .u32(655_366)
        .0;
    let column =
        |key, name: &str, type_oid, typmod| RelationColumn { key, name: name.into(), type_oid, typmod };
    assert_eq!(
        parse(&message),
        Ok(Message::Relation(RelationMessage {
            id: 16_385,
            namespace: "shop".into(),
            name: "Größen".into(),
            identity: Identity::Index,
            columns: vec![column(true, "id", 20, -1), column(false, "price", 1700, 655_366)],
        }))
    );
}

#[test]
fn a_relation_of_the_catalog_comes_without_its_schema_s_name() {
    let message = Writer::default().tag(b'R').u32(1).string("").string("pg_x").tag(b'n').u16(0).0;
    assert!(matches!(parse(&message), Ok(Message::Relation(relation)) if relation.namespace == "pg_catalog"));
}

#[test]
fn types_origins_truncates_and_logical_messages_are_read() {
    let message = Writer::default().tag(b'Y').u32(99).string("public").string("mood").0;
    assert_eq!(parse(&message), Ok(Message::Type { oid: 99, namespace: "public", name: "mood" }));
    let message = Writer::default().tag(b'O').u64(5).string("far").0;
    assert_eq!(parse(&message), Ok(Message::Origin { commit_lsn: 5, name: "far" }));
    let message = Writer::default().tag(b'T').u32(2).tag(3).u32(7).u32(8).0;
    match parse(&message) {
        Ok(Message::Truncate { relations, cascade: true, restart: true }) => {
            assert_eq!(relations.iter().collect::<Vec<_>>(), [7, 8]);
        }
        other => panic!("{other:?}"),
    }
    let message = Writer::default().tag(b'M').tag(1).u64(9).string("millrace").u32(2).bytes(b"\xff\0").0;
    assert_eq!(
        parse(&message),
        Ok(Message::Message { transactional: true, lsn: 9, prefix: "millrace", content: b"\xff\0" })
    );
}

#[test]
fn an_update_carries_no_old_row_or_the_key_or_all_of_it() {
    let new = [text("2"), text("b"), Written::Unchanged];
    let key = [text("1"), Written::Null, Written::Null];
    let update = || Writer::default().tag(b'U').u32(7);
    let message = update().tag(b'N').tuple(&new).0;
    assert!(matches!(parse(&message), Ok(Message::Update { relation: 7, old: None, .. })));
    for (tag, kind) in [(b'K', OldKind::Key), (b'O', OldKind::Full)] {
        let message = update().tag(tag).tuple(&key).tag(b'N').tuple(&new).0;
        assert!(
            matches!(parse(&message), Ok(Message::Update { old: Some((found, _)), .. }) if found == kind)
        );
        let (batch, rows) = decode(&message).unwrap();
        assert_eq!((read(&batch, rows[0]), read(&batch, rows[1])), (key.to_vec(), new.to_vec()));
    }
}

#[test]
fn a_delete_says_which_columns_its_old_row_has() {
    for (tag, expected) in [(b'K', OldKind::Key), (b'O', OldKind::Full)] {
        let message = Writer::default().tag(b'D').u32(7).tag(tag).tuple(&[text("1")]).0;
        assert!(matches!(parse(&message), Ok(Message::Delete { relation: 7, kind, .. }) if kind == expected));
    }
    let message = Writer::default().tag(b'D').u32(7).tag(b'N').tuple(&[text("1")]).0;
    assert!(parse(&message).is_err());
}

#[test]
fn rows_that_share_a_batch_keep_their_own_values() {
    let first = insert(&[text("1"), text("é"), Written::Null]);
    let second = insert(&[text("22"), text(""), text(&"x".repeat(300))]);
    let mut batch = ChangeBatch::default();
    let mut rows = Vec::new();
    for message in [&first, &second] {
        let Ok(Message::Insert { new, .. }) = parse(message) else { panic!() };
        rows.push(append_tuple(&mut batch, &new, 3).unwrap());
    }
    assert_eq!(read(&batch, rows[0]), [text("1"), text("é"), Written::Null]);
    assert_eq!(read(&batch, rows[1]), [text("22"), text(""), text(&"x".repeat(300))]);
    assert_eq!(batch.cells_of(rows[0])[2].tag, Tag::Null);
}

#[test]
fn a_warm_batch_takes_the_same_rows_again_without_growing() {
    let message = insert(&[text("1"), text("é"), Written::Null, text(&"x".repeat(300))]);
    let Ok(Message::Insert { new, .. }) = parse(&message) else { panic!() };
    let mut batch = ChangeBatch::default();
    let mut places = Vec::new();
    for _ in 0..2 {
        for _ in 0..1000 {
            append_tuple(&mut batch, &new, 4).unwrap();
        }
        let (bytes, cells) = (&batch.bytes, &batch.cells);
        places.push((bytes.as_ptr(), bytes.capacity(), cells.as_ptr(), cells.capacity()));
        batch.clear();
    }
    assert_eq!(places[0], places[1]);
}

#[test]
fn a_row_with_another_number_of_columns_than_its_relation_is_malformed() {
    let message = insert(&[text("1")]);
    let Ok(Message::Insert { new, .. }) = parse(&message) else { panic!() };
    let error = append_tuple(&mut ChangeBatch::default(), &new, 2).unwrap_err();
    assert_eq!(error, Malformed { what: "a row has another number of columns than its relation", at: 8 });
}

#[test]
fn bytes_after_the_last_column_are_malformed() {
    let mut message = insert(&[text("1")]);
    message.push(0);
    assert_eq!(
        decode(&message).unwrap_err(),
        Malformed { what: "bytes after the end of the message", at: 14 }
    );
}

#[test]
fn text_that_is_not_utf8_is_malformed_even_where_two_columns_would_join_to_a_letter() {
    let row = Writer::default().u16(2).tag(b't').u32(1).tag(0xC3).tag(b't').u32(1).tag(0xA9).0;
    let message = Writer::default().tag(b'I').u32(1).tag(b'N').bytes(&row).0;
    assert_eq!(decode(&message).unwrap_err(), Malformed { what: "text that is not UTF-8", at: 14 });
}

#[test]
fn a_binary_column_is_refused() {
    let message = Writer::default().tag(b'I').u32(1).tag(b'N').u16(1).tag(b'b').u32(1).tag(0).0;
    assert_eq!(
        decode(&message).unwrap_err(),
        Malformed { what: "a binary column, which was never asked for", at: 9 }
    );
}

#[test]
fn a_length_beyond_the_message_allocates_nothing_and_is_malformed() {
    let message = Writer::default().tag(b'I').u32(1).tag(b'N').u16(1).tag(b't').u32(u32::MAX).0;
    assert_eq!(decode(&message).unwrap_err().what, "value of a column");
    let message = Writer::default().tag(b'T').u32(u32::MAX).tag(0).0;
    assert_eq!(parse(&message).unwrap_err().what, "truncated relations");
}

#[test]
fn messages_of_later_protocols_are_unknown() {
    for tag in *b"SEcAbPKrXZ" {
        assert_eq!(parse(&[tag, 0, 0, 0, 0]), Err(Malformed { what: "unknown tag of the message", at: 0 }));
    }
    assert_eq!(parse(&[]).unwrap_err().at, 0);
}

fn columns() -> impl Strategy<Value = Columns> {
    let column = prop_oneof![
        Just(Written::Null),
        Just(Written::Unchanged),
        "[ -~]{0,200}".prop_map(Written::Text),
        any::<String>().prop_map(Written::Text),
    ];
    prop::collection::vec(column, 0..20)
}

/// Valid messages of every kind.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let name = "[a-zé]{0,8}";
    let update = || Writer::default().tag(b'U').u32(7);
    prop_oneof![
        columns().prop_map(|row| insert(&row)),
        columns().prop_map(move |row| update().tag(b'N').tuple(&row).0),
        (columns(), columns()).prop_map(move |(old, new)| update()
            .tag(b'O')
            .tuple(&old)
            .tag(b'N')
            .tuple(&new)
            .0),
        columns().prop_map(|row| Writer::default().tag(b'D').u32(7).tag(b'K').tuple(&row).0),
        any::<u32>().prop_map(|xid| Writer::default().tag(b'B').u64(1).u64(TIME_PG).u32(xid).0),
        any::<u64>().prop_map(|end| Writer::default().tag(b'C').tag(0).u64(1).u64(end).u64(TIME_PG).0),
        name.prop_map(|name| Writer::default().tag(b'O').u64(5).string(&name).0),
        name.prop_map(|name| Writer::default().tag(b'Y').u32(5).string(&name).string(&name).0),
        name.prop_map(|name| {
            let head = Writer::default().tag(b'R').u32(5).string(&name).string(&name).tag(b'd').u16(1);
            head.tag(1).string(&name).u32(25).u32(u32::MAX).0
        }),
        any::<u32>().prop_map(|oid| Writer::default().tag(b'T').u32(1).tag(0).u32(oid).0),
        (name, prop::collection::vec(any::<u8>(), 0..50)).prop_map(|(prefix, content)| {
            let head = Writer::default().tag(b'M').tag(0).u64(9).string(&prefix);
            head.u32(content.len() as u32).bytes(&content).0
        }),
    ]
}

proptest! {
    #[test]
    fn what_was_written_is_read(old in columns(), new in columns()) {
        let message = Writer::default().tag(b'U').u32(7).tag(b'O').tuple(&old).tag(b'N').tuple(&new).0;
        let (batch, rows) = decode(&message).unwrap();
        prop_assert_eq!(read(&batch, rows[0]), old);
        prop_assert_eq!(read(&batch, rows[1]), new);
    }

    #[test]
    fn random_bytes_never_panic(tag in prop::sample::select(b"BCRTMYOIUD".to_vec()), mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&bytes);
        bytes.insert(0, tag);
        let _ = decode(&bytes);
    }

    #[test]
    fn a_damaged_byte_never_panics(message in message(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut message = message;
        let at = at.index(message.len());
        message[at] = byte;
        let _ = decode(&message);
    }

    #[test]
    fn a_message_cut_short_or_grown_is_malformed(message in message(), at in any::<prop::sample::Index>()) {
        prop_assert!(decode(&message).is_ok());
        prop_assert!(decode(&message[..at.index(message.len())]).is_err());
        let grown = [message.as_slice(), b"\0"].concat();
        prop_assert!(decode(&grown).is_err());
    }
}
