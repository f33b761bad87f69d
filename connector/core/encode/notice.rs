//! What happens to snapshots, told on a topic of its own in Debezium's words.

use super::aside::Aside;
use super::avro::Avro;
use super::connect::{Base, Field, Schema};
use super::json::Json;
use super::value::{Union, Writer};
use super::{Encoding, Format};
use crate::batch::EncodedBatch;
use crate::error::Result;
use crate::position::Mark;
use crate::progress::Notification;
use crate::sink::Targets;

/// Where they go.
#[derive(Debug)]
pub(crate) struct Notices(Aside);

impl Notices {
    pub(crate) async fn of<T: Targets>(targets: &T, format: &Format, topic: &str) -> Result<Self> {
        let field = |name: &str, base| Field::new(name, Schema::new(base));
        let named = |fields, name: &str| {
            Schema::named(Base::Struct(fields), &format!("io.debezium.connector.common.{name}"))
        };
        let data = Base::Map(Box::new((Schema::new(Base::String), Schema::new(Base::String))));
        let fields = vec![
            field("id", Base::String),
            field("type", Base::String),
            field("aggregate_type", Base::String),
            Field::new("additional_data", Schema::new(data).optional()),
            field("timestamp", Base::Int64),
        ];
        let key = named(vec![field("id", Base::String)], "NotificationKey");
        let aside = Aside::of(targets, format, topic, &key, &named(fields, "Notification")).await?;
        Ok(Self(aside))
    }

    pub(crate) fn put(&self, told: &Notification, out: &mut EncodedBatch) -> Result<()> {
        match self.0.encoding {
            Encoding::Avro => self.put_as::<Avro>(told, out),
            Encoding::Json { .. } => self.put_as::<Json>(told, out),
        }
    }

    fn put_as<W: Writer>(&self, told: &Notification, out: &mut EncodedBatch) -> Result<()> {
        let key = |out: &mut Vec<u8>| {
            out.extend_from_slice(W::STRUCT_OPEN);
            out.extend(W::lead("id", true, Union::Required));
            W::string(out, told.id.as_bytes());
            out.extend_from_slice(W::STRUCT_CLOSE);
        };
        let value = |out: &mut Vec<u8>| {
            out.extend_from_slice(W::STRUCT_OPEN);
            let texts = [("id", told.id.as_str()), ("type", told.kind), ("aggregate_type", told.aggregate)];
            for (index, (name, text)) in texts.into_iter().enumerate() {
                out.extend(W::lead(name, index == 0, Union::Required));
                W::string(out, text.as_bytes());
            }
            out.extend(W::lead("additional_data", false, Union::NullFirst));
            W::map_start(out, told.data.len());
            for (index, (name, text)) in told.data.iter().enumerate() {
                W::map_key(out, index, name.as_bytes(), None);
                W::string(out, text.as_bytes());
            }
            W::map_end(out, told.data.len());
            out.extend(W::lead("timestamp", false, Union::Required));
            W::long(out, told.at_ms);
            out.extend_from_slice(W::STRUCT_CLOSE);
        };
        self.0.push(out, (Mark::default(), None), key, value, |_| {})
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::Ordering;

    use serde_json::json;

    use super::super::scene::{Desk, debezium, json as in_json};
    use super::*;

    const TOPIC: &str = "orders.notifications";

    fn desk(format: Format) -> Desk {
        Desk::new(Format { notifications: Some(TOPIC.into()), ..format })
    }

    fn notify(desk: &Desk, id: &str) {
        desk.progress.notify(Notification {
            id: id.into(),
            aggregate: "Incremental Snapshot",
            kind: "STARTED",
            data: BTreeMap::from([("connector_name", "orders".to_owned())]),
            at_ms: 5,
        });
    }

    #[test]
    fn each_is_told_once_and_again_by_the_next_attempt_until_it_is_durable() {
        let mut desk = desk(in_json(false, debezium()));
        assert!(!desk.encoder.has_news());
        for id in ["one", "two"] {
            notify(&desk, id);
        }
        assert!(desk.encoder.has_news());
        let (out, seen) = desk.tell();
        let expected = json!({
            "id": "one",
            "type": "STARTED",
            "aggregate_type": "Incremental Snapshot",
            "additional_data": {"connector_name": "orders"},
            "timestamp": 5,
        });
        assert_eq!(
            (seen.len(), &seen[0].key, &seen[0].value),
            (2, &Some(json!({"id": "one"})), &Some(expected))
        );
        assert!(!desk.encoder.has_news());

        let anew = |desk: &Desk| {
            let format = desk.format().clone();
            super::super::Encoder::new(format, desk.registry.clone(), desk.progress.clone()).has_news()
        };
        assert!(anew(&desk));
        desk.progress.notifications_told.fetch_max(out.told, Ordering::Relaxed);
        assert!(!anew(&desk));
        notify(&desk, "three");
        assert_eq!(desk.tell().1.len(), 1);
    }

    #[test]
    fn the_avro_is_that_of_debezium_and_is_read_by_its_schemas() {
        let mut desk = desk(debezium());
        notify(&desk, "one");
        let (_, seen) = desk.tell();
        assert_eq!(
            seen[0].value.as_ref().map(|value| &value["additional_data"]["connector_name"]),
            Some(&json!("orders"))
        );
        let schemas = desk.registry.schemas.lock().unwrap();
        let expected = [
            (format!("{TOPIC}-key"), include_str!("fixtures/notification_key.avsc").trim().to_owned()),
            (format!("{TOPIC}-value"), include_str!("fixtures/notification.avsc").trim().to_owned()),
        ];
        assert_eq!(*schemas, expected);
    }
}
