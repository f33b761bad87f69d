//! Record sets to records: splits, filters and numbers them. Pure; start at [`Partition::take`].
//!
//! The rules of a `read_committed` consumer: batches of an aborted transaction are left out, from
//! its first offset to its abort marker, by the list that the broker sends along. Control batches
//! are never records, but they are counted, because they say in which Kafka transaction of its
//! producer a record lies.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use kafka_protocol::records::RecordBatchDecoder;

use super::{Isolation, KafkaTx, Marker, Outcome, Record};
use crate::Result;

/// Base offset, length, leader epoch, magic, checksum, attributes and the rest, up to the count.
const HEADER_BYTES: usize = 61;
/// Base offset and length themselves, which the length does not count.
const LENGTH_END: usize = 12;

/// What is known of one partition while reading it.
pub struct Partition {
    topic: Arc<str>,
    index: i32,
    /// The next offset to ask for.
    pub next: i64,
    /// Batches from here on are not looked at.
    pub limit: i64,
    /// End markers seen so far, per producer.
    ended: HashMap<i64, u64>,
}

/// One fetch's records and markers of a partition.
#[derive(Debug, Default)]
pub struct Taken {
    pub records: Vec<Record>,
    pub markers: Vec<Marker>,
}

/// A transaction that the broker calls aborted, as it stands in the fetch response.
#[derive(Clone, Copy, Debug)]
pub struct Aborted {
    pub producer_id: i64,
    pub first_offset: i64,
}

struct BatchHeader {
    base_offset: i64,
    last_offset: i64,
    magic: u8,
    transactional: bool,
    control: bool,
    producer_id: i64,
    producer_epoch: i16,
    records: i32,
}

impl Partition {
    pub fn new(topic: Arc<str>, index: i32, next: i64) -> Partition {
        Partition { topic, index, next, limit: i64::MAX, ended: HashMap::new() }
    }

    pub fn due(&self) -> bool {
        self.next < self.limit
    }

    /// Reads the record set of one fetch. A batch cut off at the end is left for the next fetch.
    pub fn take(&mut self, mut set: Bytes, isolation: Isolation, mut aborted: Vec<Aborted>) -> Result<Taken> {
        let mut taken = Taken::default();
        aborted.sort_by_key(|transaction| std::cmp::Reverse(transaction.first_offset));
        let mut aborting: HashSet<i64> = HashSet::new();
        while let Some((header, bytes)) = next_batch(&mut set)? {
            while let Some(transaction) = aborted.pop_if(|a| a.first_offset <= header.last_offset) {
                aborting.insert(transaction.producer_id);
            }
            if header.base_offset >= self.limit {
                break;
            }
            // A fetch from the middle of a batch answers with the whole batch.
            if header.last_offset < self.next {
                continue;
            }
            if header.control {
                self.take_control(&header, bytes, &mut aborting, &mut taken)?;
            } else {
                let skip = isolation == Isolation::ReadCommitted
                    && header.transactional
                    && aborting.contains(&header.producer_id);
                if !skip {
                    self.take_records(&header, bytes, &mut taken)?;
                }
            }
            self.next = header.last_offset + 1;
        }
        Ok(taken)
    }

    fn take_control(
        &mut self,
        header: &BatchHeader,
        mut bytes: Bytes,
        aborting: &mut HashSet<i64>,
        taken: &mut Taken,
    ) -> Result<()> {
        if header.records == 0 {
            return Ok(()); // compaction took the marker and left the batch
        }
        for record in RecordBatchDecoder::decode(&mut bytes).map_err(|e| format!("{e:#}"))?.records {
            let Some(outcome) = outcome(record.key) else { continue };
            let ordinal = self.ended.entry(header.producer_id).or_default();
            taken.markers.push(Marker {
                topic: self.topic.clone(),
                partition: self.index,
                offset: record.offset,
                timestamp_ms: record.timestamp,
                tx: KafkaTx {
                    producer_id: header.producer_id,
                    producer_epoch: header.producer_epoch,
                    ordinal: *ordinal,
                },
                outcome,
            });
            *ordinal += 1;
            if outcome == Outcome::Abort {
                aborting.remove(&header.producer_id);
            }
        }
        Ok(())
    }

    fn take_records(&mut self, header: &BatchHeader, mut bytes: Bytes, taken: &mut Taken) -> Result<()> {
        if header.records == 0 {
            return Ok(());
        }
        let tx = header.transactional.then(|| KafkaTx {
            producer_id: header.producer_id,
            producer_epoch: header.producer_epoch,
            ordinal: self.ended.get(&header.producer_id).copied().unwrap_or(0),
        });
        let set = RecordBatchDecoder::decode(&mut bytes).map_err(|e| format!("{e:#}"))?;
        for record in set.records {
            if record.offset < self.next {
                continue;
            }
            taken.records.push(Record {
                topic: self.topic.clone(),
                partition: self.index,
                offset: record.offset,
                timestamp_ms: record.timestamp,
                key: record.key,
                value: record.value,
                headers: record.headers.into_iter().map(|(k, v)| (k.to_string(), v)).collect(),
                tx,
            });
        }
        Ok(())
    }
}

/// Cuts the next whole batch off the set; `None` when the rest is empty or a torso.
fn next_batch(set: &mut Bytes) -> Result<Option<(BatchHeader, Bytes)>> {
    if set.len() < HEADER_BYTES {
        return Ok(None);
    }
    let mut head = set.slice(..HEADER_BYTES);
    let base_offset = head.get_i64();
    let length = usize::try_from(head.get_i32())?;
    let end = LENGTH_END + length;
    if end < HEADER_BYTES {
        return Err(format!("a batch at offset {base_offset} claims {length} bytes").into());
    }
    if end > set.len() {
        return Ok(None);
    }
    head.advance(4); // leader epoch
    let magic = head.get_u8();
    head.advance(4); // checksum: the decoder verifies it
    let attributes = head.get_i16();
    let last_offset = base_offset + i64::from(head.get_i32());
    head.advance(16); // first and last timestamp
    let header = BatchHeader {
        base_offset,
        last_offset,
        magic,
        transactional: attributes & 0x10 != 0,
        control: attributes & 0x20 != 0,
        producer_id: head.get_i64(),
        producer_epoch: head.get_i16(),
        records: {
            head.advance(4); // base sequence
            head.get_i32()
        },
    };
    if header.magic != 2 {
        return Err(format!("a batch at offset {base_offset} is of version {}", header.magic).into());
    }
    Ok(Some((header, set.split_to(end))))
}

/// A control record's key is a version and a type: 0 aborts, 1 commits, others are not of
/// transactions.
fn outcome(key: Option<Bytes>) -> Option<Outcome> {
    let mut key = key?;
    let _version = key.try_get_i16().ok()?;
    match key.try_get_i16().ok()? {
        0 => Some(Outcome::Abort),
        1 => Some(Outcome::Commit),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
