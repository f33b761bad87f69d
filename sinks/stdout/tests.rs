//! The sink as the pipeline uses it, with memory in place of standard output.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use millrace_core::batch::{EncodedBatch, Record, Span};
use millrace_core::error::Kind;
use millrace_core::position::{Mark, Note, Position};
use millrace_core::progress::{Progress, State};
use millrace_core::sink::{SchemaType, Sink, Targets};

use crate::StdoutSink;
use crate::config::Settings;

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Memory {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

fn sink(folder: &Path, memory: &Memory) -> StdoutSink {
    let settings = Settings { position_file: folder.join("orders.position") };
    StdoutSink::to(Box::new(memory.clone()), settings, "orders", Arc::new(Progress::default()))
}

fn position(lsn: u64) -> Position {
    Position::new(format!("{{\"lsn\":{lsn}}}"))
}

fn batch(lsn: u64) -> EncodedBatch {
    EncodedBatch { end: Some(position(lsn)), whole: true, drained: true, ..EncodedBatch::default() }
}

fn with_record(mut batch: EncodedBatch, key: &str, value: Option<&str>) -> EncodedBatch {
    let mut put = |text: &[u8]| {
        let start = batch.bytes.len() as u32;
        batch.bytes.extend_from_slice(text);
        Span { start, len: text.len() as u32 }
    };
    let key = Some(put(key.as_bytes()));
    let value = value.map(|value| put(value.as_bytes()));
    let headers = put(b"\x08\0position\x03\0\0\0a\"b");
    batch.records.push(Record {
        topic: 0,
        partition: 0,
        key,
        value,
        headers,
        mark: Mark::default(),
        time_ms: 0,
    });
    batch
}

#[tokio::test]
async fn a_record_becomes_a_line_of_json() {
    let folder = tempfile::tempdir().unwrap();
    let memory = Memory::default();
    let mut sink = sink(folder.path(), &memory);
    sink.open().await.unwrap();
    sink.targets().topic("shop.public.orders").await.unwrap();
    sink.send(&with_record(batch(1), r#"{"id":1}"#, Some(r#"{"op":"c"}"#))).await.unwrap();
    assert_eq!(
        memory.text(),
        concat!(
            r#"{"topic":"shop.public.orders","key":{"id":1},"value":{"op":"c"},"#,
            r#""headers":{"position":"a\"b"}}"#,
            "\n"
        )
    );
}

#[tokio::test]
async fn a_tombstone_is_a_null_value() {
    let folder = tempfile::tempdir().unwrap();
    let memory = Memory::default();
    let mut sink = sink(folder.path(), &memory);
    sink.open().await.unwrap();
    sink.targets().topic("t").await.unwrap();
    sink.send(&with_record(batch(1), "1", None)).await.unwrap();
    assert!(memory.text().contains(r#""key":1,"value":null"#), "{}", memory.text());
}

#[tokio::test]
async fn a_drained_batch_is_settled_and_read_back_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let memory = Memory::default();
    let mut first = sink(folder.path(), &memory);
    assert_eq!(first.open().await.unwrap(), None);
    first.send(&batch(7)).await.unwrap();
    assert_eq!(first.settled().await.unwrap(), position(7));
    drop(first);
    assert_eq!(sink(folder.path(), &memory).open().await.unwrap(), Some(position(7)));
}

#[tokio::test]
async fn notes_are_durable_with_the_position_of_a_whole_batch_and_not_before() {
    let note = |text: Option<&str>| Note { key: "a".into(), text: text.map(Into::into) };
    let folder = tempfile::tempdir().unwrap();
    let kept = async || {
        let mut sink = sink(folder.path(), &Memory::default());
        sink.open().await.unwrap();
        sink.notes().into_values().collect::<Vec<_>>()
    };
    let mut first = sink(folder.path(), &Memory::default());
    first.open().await.unwrap();
    first.send(&EncodedBatch { notes: vec![note(Some(r#"{"n":1}"#))], ..batch(1) }).await.unwrap();
    first.send(&EncodedBatch { notes: vec![note(None)], whole: false, ..batch(2) }).await.unwrap();
    assert_eq!(kept().await, [r#"{"n":1}"#]);
    first.send(&batch(3)).await.unwrap();
    assert_eq!(kept().await, [] as [&str; 0]);
}

#[tokio::test]
async fn a_crash_between_write_and_rename_keeps_the_old_position() {
    let folder = tempfile::tempdir().unwrap();
    let memory = Memory::default();
    let mut first = sink(folder.path(), &memory);
    first.open().await.unwrap();
    first.send(&batch(7)).await.unwrap();
    // What a crash leaves behind: the new file written, in part, and not renamed.
    std::fs::write(folder.path().join("orders.position.new"), "{\"connector\":\"ord").unwrap();
    let mut second = sink(folder.path(), &memory);
    assert_eq!(second.open().await.unwrap(), Some(position(7)));
    second.send(&batch(8)).await.unwrap();
    assert_eq!(second.settled().await.unwrap(), position(8));
}

#[tokio::test]
async fn lines_before_a_crash_come_again_and_none_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let memory = Memory::default();
    let mut first = sink(folder.path(), &memory);
    first.open().await.unwrap();
    first.targets().topic("t").await.unwrap();
    first.send(&with_record(batch(1), "1", None)).await.unwrap();
    let unfinished = EncodedBatch { drained: false, ..with_record(batch(2), "2", None) };
    first.send(&unfinished).await.unwrap();
    drop(first);
    let mut second = sink(folder.path(), &memory);
    assert_eq!(second.open().await.unwrap(), Some(position(1)));
    second.targets().topic("t").await.unwrap();
    second.send(&with_record(batch(2), "2", None)).await.unwrap();
    let keys: Vec<i64> = memory
        .text()
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["key"].as_i64().unwrap())
        .collect();
    assert_eq!(keys, [1, 2, 2]);
}

#[tokio::test]
async fn a_position_inside_a_transaction_is_never_stored() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = sink(folder.path(), &Memory::default());
    sink.open().await.unwrap();
    sink.send(&batch(1)).await.unwrap();
    sink.send(&EncodedBatch { whole: false, ..batch(2) }).await.unwrap();
    sink.idle().await.unwrap();
    assert_eq!(sink.close().await.unwrap(), Some(position(1)));
}

#[tokio::test]
async fn a_damaged_file_is_a_lost_position_and_not_a_first_start() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("orders.position"), "{\"connector\"").unwrap();
    let error = sink(folder.path(), &Memory::default()).open().await.unwrap_err();
    assert_eq!((error.kind(), error.shown_state()), (Kind::Fatal, State::PositionLost));
}

#[tokio::test]
async fn the_position_of_another_connector_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let text = r#"{"connector":"items","position":{"lsn":1}}"#;
    std::fs::write(folder.path().join("orders.position"), text).unwrap();
    let error = sink(folder.path(), &Memory::default()).open().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
    assert!(error.to_string().contains("belongs to connector items"), "{error}");
}

#[tokio::test]
async fn avro_is_refused_with_what_to_set() {
    let folder = tempfile::tempdir().unwrap();
    let error = sink(folder.path(), &Memory::default())
        .targets()
        .schema(SchemaType::Avro, "t-value", "{}")
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
    assert!(error.hint_text().unwrap().contains("encoding = \"json\""));
}

#[tokio::test]
async fn a_missing_folder_fails_the_check() {
    let folder = tempfile::tempdir().unwrap();
    let report = sink(&folder.path().join("away"), &Memory::default()).check().await.unwrap();
    assert!(report.failed(), "{report:?}");
}
