//! How the records of a topic are packed, by the files in which a broker keeps them.

use std::collections::BTreeSet;
use std::fs;

use xtask::services::Server;

/// By their numbers in Kafka's format.
const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];
/// A batch begins with its first offset and its length, which counts what follows it.
const LENGTH_AT: usize = 8;
const HEAD: usize = 12;
const ATTRIBUTES_AT: usize = 21;
const CODEC: u16 = 7;
/// It holds the end of a transaction, and no records.
const IS_CONTROL: u16 = 0x20;

/// The codecs of all batches of records of a topic that this broker holds.
pub fn codecs(broker: &Server, topic: &str) -> BTreeSet<&'static str> {
    let mut found = BTreeSet::new();
    for partition in fs::read_dir(broker.dir().join("data")).expect("the broker's data").flatten() {
        let name = partition.file_name().to_string_lossy().into_owned();
        if name.rsplit_once('-').is_some_and(|(of, _)| of == topic) {
            for file in fs::read_dir(partition.path()).expect("a partition").flatten() {
                if file.path().extension().is_some_and(|end| end == "log") {
                    codecs_of(&fs::read(file.path()).expect("a segment"), &mut found);
                }
            }
        }
    }
    found
}

fn codecs_of(mut segment: &[u8], found: &mut BTreeSet<&'static str>) {
    while let Some(length) = segment.get(LENGTH_AT..).and_then(|rest| rest.first_chunk()) {
        let length = usize::try_from(u32::from_be_bytes(*length)).expect("a length");
        let Some(attributes) = segment.get(ATTRIBUTES_AT..).and_then(|rest| rest.first_chunk()) else {
            return;
        };
        let attributes = u16::from_be_bytes(*attributes);
        if attributes & IS_CONTROL == 0 {
            found.insert(CODECS[usize::from(attributes & CODEC)]);
        }
        segment = segment.get(HEAD + length..).unwrap_or_default();
    }
}
