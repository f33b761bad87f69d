//! Record sets as a broker sends them, made by hand.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use kafka_protocol::records::{
    Compression, Record as WireRecord, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};

use super::{Aborted, Partition, Taken};
use crate::reader::{Isolation, KafkaTx, Outcome};

const COMMIT: &[u8] = &[0, 0, 0, 1];
const ABORT: &[u8] = &[0, 0, 0, 0];

fn record(offset: i64, producer_id: i64, control: bool, key: &[u8]) -> WireRecord {
    WireRecord {
        transactional: producer_id >= 0,
        control,
        delete_horizon: false,
        partition_leader_epoch: 0,
        producer_id,
        producer_epoch: 3,
        timestamp_type: TimestampType::Creation,
        offset,
        sequence: i32::try_from(offset).unwrap(),
        timestamp: 1000 + offset,
        key: Some(Bytes::copy_from_slice(key)),
        value: Some(Bytes::from(vec![b'v'; 100])),
        headers: [("position".into(), Some(Bytes::from_static(b"p")))].into(),
    }
}

fn batch(records: &[WireRecord], compression: Compression) -> Bytes {
    let mut bytes = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression };
    RecordBatchEncoder::encode(&mut bytes, records, &options).unwrap();
    bytes.freeze()
}

fn data(offsets: std::ops::Range<i64>, producer_id: i64) -> Bytes {
    let records: Vec<_> = offsets.map(|offset| record(offset, producer_id, false, b"k")).collect();
    batch(&records, Compression::None)
}

fn marker(offset: i64, producer_id: i64, key: &[u8]) -> Bytes {
    batch(&[record(offset, producer_id, true, key)], Compression::None)
}

fn take(isolation: Isolation, aborted: &[(i64, i64)], parts: &[Bytes]) -> Taken {
    let aborted = aborted.iter().map(|(producer_id, first_offset)| Aborted {
        producer_id: *producer_id,
        first_offset: *first_offset,
    });
    let mut partition = Partition::new(Arc::from("t"), 0, 0);
    partition.take(parts.concat().into(), isolation, aborted.collect()).unwrap()
}

fn offsets(taken: &Taken) -> Vec<i64> {
    taken.records.iter().map(|record| record.offset).collect()
}

#[test]
fn every_compression_is_read() {
    for compression in
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd]
    {
        let records: Vec<_> = (0..5).map(|offset| record(offset, 7, false, b"key")).collect();
        let taken = take(Isolation::ReadCommitted, &[], &[batch(&records, compression)]);
        assert_eq!(offsets(&taken), [0, 1, 2, 3, 4], "{compression:?}");
        let first = &taken.records[0];
        assert_eq!(first.key.as_deref(), Some(&b"key"[..]));
        assert_eq!(first.value.as_deref().map(<[u8]>::len), Some(100));
        assert_eq!(first.header("position"), Some(&b"p"[..]));
        assert_eq!(first.timestamp_ms, 1000);
    }
}

#[test]
fn an_aborted_transaction_is_left_out_up_to_its_marker() {
    let set = [data(0..2, 7), marker(2, 7, ABORT), data(3..5, 7), marker(5, 7, COMMIT)];
    let taken = take(Isolation::ReadCommitted, &[(7, 0)], &set);
    assert_eq!(offsets(&taken), [3, 4]);
    let outcomes: Vec<_> = taken.markers.iter().map(|m| (m.offset, m.outcome)).collect();
    assert_eq!(outcomes, [(2, Outcome::Abort), (5, Outcome::Commit)]);
}

#[test]
fn an_aborted_transaction_hides_nothing_of_another_producer() {
    let set = [data(0..1, 7), data(1..2, 8), data(2..3, 7), marker(3, 7, ABORT), marker(4, 8, COMMIT)];
    let taken = take(Isolation::ReadCommitted, &[(7, 0)], &set);
    assert_eq!(offsets(&taken), [1]);
}

#[test]
fn an_abort_that_begins_later_hides_nothing_before_it() {
    let set = [data(0..2, 7), marker(2, 7, COMMIT), data(3..5, 7), marker(5, 7, ABORT)];
    let taken = take(Isolation::ReadCommitted, &[(7, 3)], &set);
    assert_eq!(offsets(&taken), [0, 1]);
}

#[test]
fn read_uncommitted_sees_what_was_aborted() {
    let set = [data(0..2, 7), marker(2, 7, ABORT)];
    let taken = take(Isolation::ReadUncommitted, &[], &set);
    assert_eq!(offsets(&taken), [0, 1]);
}

#[test]
fn a_record_lies_in_the_transaction_that_its_producers_markers_count() {
    let set = [
        data(0..1, 7),
        data(1..2, 8),
        marker(2, 7, COMMIT),
        data(3..4, 7),
        data(4..5, 8),
        marker(5, 8, COMMIT),
    ];
    let taken = take(Isolation::ReadCommitted, &[], &set);
    let ordinals: Vec<_> =
        taken.records.iter().map(|r| r.tx.map(|tx| (tx.producer_id, tx.ordinal))).collect();
    assert_eq!(ordinals, [Some((7, 0)), Some((8, 0)), Some((7, 1)), Some((8, 0))]);
    assert_eq!(taken.markers[1].tx, KafkaTx { producer_id: 8, producer_epoch: 3, ordinal: 0 });
}

#[test]
fn a_record_outside_any_transaction_says_so() {
    let taken = take(Isolation::ReadCommitted, &[], &[data(0..1, -1)]);
    assert_eq!(taken.records[0].tx, None);
}

#[test]
fn a_torso_at_the_end_is_left_for_the_next_fetch() {
    let whole = data(0..2, 7);
    let cut = data(2..4, 7);
    let mut partition = Partition::new(Arc::from("t"), 0, 0);
    let set: Bytes = [whole, cut.slice(..cut.len() - 1)].concat().into();
    let taken = partition.take(set, Isolation::ReadCommitted, Vec::new()).unwrap();
    assert_eq!(offsets(&taken), [0, 1]);
    assert_eq!(partition.next, 2);
    let taken = partition.take(cut, Isolation::ReadCommitted, Vec::new()).unwrap();
    assert_eq!(offsets(&taken), [2, 3]);
}

#[test]
fn a_fetch_into_the_middle_of_a_batch_brings_no_record_twice() {
    let mut partition = Partition::new(Arc::from("t"), 0, 2);
    let taken = partition.take(data(0..4, 7), Isolation::ReadCommitted, Vec::new()).unwrap();
    assert_eq!(offsets(&taken), [2, 3]);
}

#[test]
fn a_flipped_bit_is_an_error() {
    let mut bytes = data(0..2, 7).to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    let mut partition = Partition::new(Arc::from("t"), 0, 0);
    assert!(partition.take(bytes.into(), Isolation::ReadCommitted, Vec::new()).is_err());
}

#[test]
fn nothing_from_the_limit_on_is_looked_at() {
    let mut partition = Partition::new(Arc::from("t"), 0, 0);
    partition.limit = 3;
    let set: Bytes =
        [data(0..2, 7), marker(2, 7, COMMIT), data(3..5, 7), marker(5, 7, COMMIT)].concat().into();
    let taken = partition.take(set, Isolation::ReadCommitted, Vec::new()).unwrap();
    assert_eq!((offsets(&taken), taken.markers.len(), partition.next), (vec![0, 1], 1, 3));
    assert!(!partition.due());
}
