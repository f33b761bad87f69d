//! The connector's position topic, read as anybody may read it.

use std::time::Duration;

use serde_json::Value as Json;

use crate::Result;
use crate::checker::Mark;
use crate::reader::{Isolation, Reader, Record, Start};

/// Partition 0 holds the stream's position, the others keys of other kinds.
const STREAM: i32 = 0;

const POLL: Duration = Duration::from_millis(100);

/// The topic's name where the connector's file does not give another.
pub fn topic(connector: &str) -> String {
    format!("millrace-{connector}-position")
}

/// Follows the committed positions of a connector.
pub struct Positions {
    reader: Reader,
    topic: String,
    pub marks: Vec<Mark>,
}

impl Positions {
    pub fn new(bootstrap: &str, topic: String, patience: Duration) -> Positions {
        let reader = Reader::new(bootstrap, Isolation::ReadCommitted, patience);
        Positions { reader, topic, marks: Vec::new() }
    }

    /// Reads all that is committed now; the newest position, if there is one at all.
    ///
    /// Up to the end of the log, not to the last stable offset: a commit is durable before its marker is
    /// written, and what stands between the two is not there yet only for those who do not wait.
    pub async fn newest(&mut self) -> Result<Option<u64>> {
        self.reader.assign(&self.topic, Start::Earliest).await?;
        let extents = self.reader.extents_as(&self.topic, Isolation::ReadUncommitted).await?;
        let until = extents.into_iter().map(|(key, extent)| (key, extent.end)).collect();
        self.reader.limit_to(&until);
        // What was read stays, also when the broker goes away before the end: it is not read again.
        while self.reader.behind() {
            let read = self.reader.poll(POLL).await?;
            self.marks.extend(read.records.iter().filter_map(mark));
        }
        Ok(self.marks.last().map(|mark| mark.end_lsn))
    }
}

/// Whether it is a position of the stream.
pub fn is_position(record: &Record) -> bool {
    mark(record).is_some()
}

/// Claims and marks of a first start carry no `end_lsn` and are no positions.
fn mark(record: &Record) -> Option<Mark> {
    if record.partition != STREAM {
        return None;
    }
    let value: Json = serde_json::from_slice(record.value.as_deref()?).ok()?;
    let end_lsn = parse_lsn(value.get("end_lsn")?.as_str()?)?;
    Some(Mark { offset: record.offset, end_lsn, tx: record.tx? })
}

/// `0/16B3748`, as Postgres prints it.
pub fn parse_lsn(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    let part = |digits: &str| u32::from_str_radix(digits, 16).ok();
    Some(u64::from(part(high)?) << 32 | u64::from(part(low)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reader::KafkaTx;

    fn record(partition: i32, value: &str) -> Record {
        let tx = Some(KafkaTx { producer_id: 1, producer_epoch: 0, ordinal: 0 });
        let value = Some(value.as_bytes().to_vec().into());
        let topic = "t".into();
        Record { topic, partition, offset: 5, timestamp_ms: 0, key: None, value, headers: Vec::new(), tx }
    }

    #[test]
    fn only_records_of_the_stream_with_an_end_are_positions() {
        let found = mark(&record(0, r#"{"v":1,"end_lsn":"1/16B3748","open":null}"#)).unwrap();
        assert_eq!((found.offset, found.end_lsn), (5, 0x1_016B_3748));
        assert!(mark(&record(1, r#"{"end_lsn":"0/1"}"#)).is_none());
        assert!(mark(&record(0, r#"{"instance":"x","id":"y","time":1}"#)).is_none());
        assert!(mark(&record(0, "no json")).is_none());
    }

    #[test]
    fn lsns_are_read_as_postgres_prints_them() {
        assert_eq!(parse_lsn("0/0"), Some(0));
        assert_eq!(parse_lsn("A/FFFFFFFF"), Some(0xA_FFFF_FFFF));
        assert_eq!(parse_lsn("16B3748"), None);
    }
}
