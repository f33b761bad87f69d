//! Heartbeats: a small record every so often, whether anything else is to tell or not.

use std::time::Duration;

use super::Encoding;
use super::Format;
use super::aside::Aside;
use super::avro::Avro;
use super::connect::{Base, Field, Schema};
use super::json::Json;
use super::value::{Union, Writer};
use crate::batch::EncodedBatch;
use crate::error::Result;
use crate::position::Mark;
use crate::sink::Targets;

/// How often, and on which topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    pub every: Duration,
    pub topic: String,
}

/// Where they go.
#[derive(Debug)]
pub(crate) struct Pulse {
    aside: Aside,
    name: String,
}

impl Pulse {
    pub(crate) async fn of<T: Targets>(targets: &T, format: &Format, topic: &str) -> Result<Self> {
        let named = |field: &str, base, name: &str| {
            let fields = vec![Field::new(field, Schema::new(base))];
            Schema::named(Base::Struct(fields), &format!("io.debezium.connector.common.{name}"))
        };
        let key = named("serverName", Base::String, "ServerNameKey");
        let value = named("ts_ms", Base::Int64, "Heartbeat");
        let aside = Aside::of(targets, format, topic, &key, &value).await?;
        Ok(Self { aside, name: format.topic_prefix.clone() })
    }

    pub(crate) fn put(&self, out: &mut EncodedBatch, now_ms: i64) -> Result<()> {
        match self.aside.encoding {
            Encoding::Avro => self.put_as::<Avro>(out, now_ms),
            Encoding::Json { .. } => self.put_as::<Json>(out, now_ms),
        }
    }

    fn put_as<W: Writer>(&self, out: &mut EncodedBatch, now_ms: i64) -> Result<()> {
        let key = |out: &mut Vec<u8>| {
            out.extend_from_slice(W::STRUCT_OPEN);
            out.extend(W::lead("serverName", true, Union::Required));
            W::string(out, self.name.as_bytes());
            out.extend_from_slice(W::STRUCT_CLOSE);
        };
        let value = |out: &mut Vec<u8>| {
            out.extend_from_slice(W::STRUCT_OPEN);
            out.extend(W::lead("ts_ms", true, Union::Required));
            W::long(out, now_ms);
            out.extend_from_slice(W::STRUCT_CLOSE);
        };
        // As Debezium: always in the first partition.
        let place = (Mark::default(), Some(0));
        self.aside.push(out, place, key, value, |_| {})
    }
}
