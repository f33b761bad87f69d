//! Records beside those of relations: a topic of their own, a key and a value of fixed schemas. Start at
//! `Aside::of`.

use super::connect::Schema;
use super::plan::frame;
use super::target::Place;
use super::{Encoding, Format, avro_schema};
use crate::batch::{EncodedBatch, Record, Span};
use crate::error::{Error, Result};
use crate::position::Mark;
use crate::route;
use crate::sink::{SchemaType, Targets};

#[derive(Debug)]
pub(crate) struct Aside {
    pub encoding: Encoding,
    place: Place,
    /// What stands before and after keys and values.
    key: (Vec<u8>, &'static [u8]),
    value: (Vec<u8>, &'static [u8]),
}

impl Aside {
    pub(crate) async fn of<T: Targets>(
        targets: &T,
        format: &Format,
        topic: &str,
        key: &Schema,
        value: &Schema,
    ) -> Result<Self> {
        let place = Place::of(targets, topic, format.record_bytes_max).await?;
        let encoding = format.encoding;
        let (mut key_id, mut value_id) = (0, 0);
        if encoding == Encoding::Avro {
            // Their names are legal as they are.
            let text = |schema| avro_schema::text(schema, false);
            key_id = targets.schema(SchemaType::Avro, &format!("{topic}-key"), &text(key)).await?;
            value_id = targets.schema(SchemaType::Avro, &format!("{topic}-value"), &text(value)).await?;
        }
        let (key, value) = (frame(encoding, key, key_id), frame(encoding, value, value_id));
        Ok(Self { encoding, place, key, value })
    }

    /// Adds a record. `partition` as the key decides where it is `None`.
    pub(crate) fn push(
        &self,
        out: &mut EncodedBatch,
        (mark, partition): (Mark, Option<u32>),
        fill_key: impl FnOnce(&mut Vec<u8>),
        fill_value: impl FnOnce(&mut Vec<u8>),
        fill_headers: impl FnOnce(&mut Vec<u8>),
    ) -> Result<()> {
        let framed =
            |out: &mut EncodedBatch, frame: &(Vec<u8>, &[u8]), fill: &mut dyn FnMut(&mut Vec<u8>)| {
                let start = out.bytes.len();
                out.bytes.extend_from_slice(&frame.0);
                fill(&mut out.bytes);
                out.bytes.extend_from_slice(frame.1);
                span(start, out.bytes.len())
            };
        let (mut fill_key, mut fill_value) = (Some(fill_key), Some(fill_value));
        let key =
            framed(out, &self.key, &mut |bytes| fill_key.take().into_iter().for_each(|fill| fill(bytes)))?;
        let value = framed(out, &self.value, &mut |bytes| {
            fill_value.take().into_iter().for_each(|fill| fill(bytes))
        })?;
        let start = out.bytes.len();
        fill_headers(&mut out.bytes);
        let headers = span(start, out.bytes.len())?;
        let by_key = || route::partition(Some(out.slice(key)), self.place.topic.partitions);
        let partition = partition.unwrap_or_else(by_key);
        let topic = self.place.topic.index;
        let (key, value) = (Some(key), Some(value));
        out.records.push(Record { topic, partition, key, value, headers, mark, time_ms: 0 });
        Ok(())
    }
}

fn span(start: usize, end: usize) -> Result<Span> {
    match (u32::try_from(start), u32::try_from(end)) {
        (Ok(start), Ok(end)) => Ok(Span { start, len: end - start }),
        _ => Err(Error::fatal("a batch of records exceeds 4 GiB").hint("make batches smaller")),
    }
}
