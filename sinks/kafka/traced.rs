//! The span of one Kafka transaction, from its begin to its end, linked to the traces of the events in it. Names of
//! attributes are those of OpenTelemetry's conventions for messaging, and `millrace.*` where they have none.
//!
//! Start at `Traced::begin`: `None` where no spans are wanted, and then no record is looked at.

use std::sync::Arc;

use millrace_core::batch::{EncodedBatch, Record};
use millrace_core::position::Position;
use millrace_core::progress::now_us;
use millrace_core::trace::{self, Context, LINKS_MAX, Span, Spans, Value};
use uuid::Uuid;

use crate::native::{self, Undelivered};
use crate::producer::Trouble;

const TRACEPARENT: &str = "traceparent";
/// An LSN, a slot's name or a cluster time is shorter.
const PLACE_BYTES_MAX: usize = 64;

/// A transaction that has begun. Dropped before anybody says how it ended, it was given up.
pub struct Traced {
    spans: &'static Spans,
    context: Context,
    begun_us: i64,
    connector: Arc<str>,
    transactional_id: String,
    records: u64,
    bytes: u64,
    destination: Destination,
    links: Vec<Context>,
    links_dropped: u64,
    position: Option<Position>,
    outcome: &'static str,
    is_doubtful: bool,
    failure: Option<(String, String)>,
}

#[derive(Default)]
enum Destination {
    #[default]
    None,
    One(u32, Arc<str>),
    Several,
}

impl Traced {
    pub fn begin(connector: &str, transactional_id: &str) -> Option<Self> {
        let spans = trace::wanted()?;
        let trace = Uuid::new_v4().into_bytes();
        // Half of another random number, none of whose bits say its version.
        let [_, _, _, _, _, _, _, _, span @ ..] = Uuid::new_v4().into_bytes();
        spans.keeps(trace).then(|| Self {
            spans,
            context: Context { trace, span },
            begun_us: now_us(),
            connector: connector.into(),
            transactional_id: transactional_id.to_owned(),
            records: 0,
            bytes: 0,
            destination: Destination::None,
            links: Vec::new(),
            links_dropped: 0,
            position: None,
            outcome: "aborted",
            is_doubtful: false,
            failure: None,
        })
    }

    /// A batch whose records are in the transaction.
    pub fn holds(&mut self, batch: &EncodedBatch, name_of: impl Fn(u32) -> Option<Arc<str>>) {
        for record in &batch.records {
            let len = |span: Option<millrace_core::batch::Span>| span.map_or(0, |span| u64::from(span.len));
            self.records += 1;
            self.bytes += len(record.key) + len(record.value) + u64::from(record.headers.len);
            self.destination = match std::mem::take(&mut self.destination) {
                Destination::None => name_of(record.topic)
                    .map_or(Destination::None, |name| Destination::One(record.topic, name)),
                Destination::One(topic, name) if topic == record.topic => Destination::One(topic, name),
                Destination::One(..) | Destination::Several => Destination::Several,
            };
            self.link(batch, record);
        }
    }

    fn link(&mut self, batch: &EncodedBatch, record: &Record) {
        let mut headers = batch.headers(record);
        let found = headers.find_map(|(name, value)| if name == TRACEPARENT { value } else { None });
        let Some(context) = found.and_then(Context::sampled) else { return };
        match () {
            // The copies of an event follow it.
            () if self.links.last() == Some(&context) => {}
            () if self.links.len() < LINKS_MAX => self.links.push(context),
            () => self.links_dropped += 1,
        }
    }

    /// Its commit is asked for, with this position in it.
    pub fn closing(&mut self, position: Option<&Position>) {
        self.position = position.cloned();
        self.outcome = "unknown";
    }

    pub fn committed(mut self, is_doubtful: bool) {
        self.outcome = "committed";
        self.is_doubtful = is_doubtful;
    }

    pub fn failed(mut self, trouble: &Trouble) {
        self.outcome = "aborted";
        self.failure = Some(match trouble {
            Trouble::Call(failure) | Trouble::Undelivered(Undelivered { failure, .. }) => {
                (failure.code.0.to_string(), native::describe(failure.code))
            }
            Trouble::Predecessor => {
                ("predecessor".to_owned(), "the one before it was not committed".to_owned())
            }
        });
    }

    fn span(&mut self) -> Span {
        let text = |text: &str| Value::Text(text.to_owned());
        let mut attributes = vec![
            ("messaging.system", text("kafka")),
            ("messaging.operation.name", text("send")),
            ("messaging.operation.type", text("send")),
            ("messaging.client.id", Value::Text(format!("millrace-{}", self.connector))),
            ("messaging.batch.message_count", Value::Number(self.records)),
            ("millrace.connector", text(&self.connector)),
            ("millrace.transactional_id", text(&self.transactional_id)),
            ("millrace.bytes", Value::Number(self.bytes)),
            ("millrace.outcome", text(self.outcome)),
        ];
        let mut name = "send".to_owned();
        if let Destination::One(_, topic) = &self.destination {
            name = format!("send {topic}");
            attributes.push(("messaging.destination.name", text(topic)));
        }
        if let Some(position) = &self.position {
            attributes.push(("millrace.source.position", Value::Text(place(position))));
        }
        if self.is_doubtful {
            attributes.push(("millrace.doubtful", Value::Flag(true)));
        }
        let failure = match (self.failure.take(), self.outcome) {
            (None, "committed") => None,
            (failure, outcome) => {
                let given_up =
                    || (outcome.to_owned(), "the session with the brokers ended before it".to_owned());
                let (kind, why) = failure.unwrap_or_else(given_up);
                attributes.push(("error.type", Value::Text(kind)));
                Some(why)
            }
        };
        Span {
            context: self.context,
            name,
            begun_us: self.begun_us,
            ended_us: now_us(),
            attributes,
            links: std::mem::take(&mut self.links),
            links_dropped: self.links_dropped,
            failure,
        }
    }
}

/// What is short of a position. A resume token, which is long, holds the key of a document.
fn place(position: &Position) -> String {
    let Ok(serde_json::Value::Object(mut members)) = serde_json::from_str(position.as_str()) else {
        return "{}".to_owned();
    };
    members.retain(|_, value| {
        value.is_number() || value.as_str().is_some_and(|text| text.len() <= PLACE_BYTES_MAX)
    });
    serde_json::Value::Object(members).to_string()
}

impl Drop for Traced {
    fn drop(&mut self) {
        let span = self.span();
        self.spans.hand_over(span);
    }
}
