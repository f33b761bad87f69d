//! What a connector's file says of some of its relations: where their records go and how they look. Compiled
//! once per relation version by the encoder; the first route whose pattern fits a relation is its own.

use std::borrow::Cow;
use std::time::Duration;

use regex_lite::Regex;

use super::filter::Filter;
use super::is_topic_name;
use super::template::Template;
use crate::encode::Format;
use crate::pattern::Pattern;
use crate::relation::Relation;
use crate::sink::SchemaType;

/// Distinct topics that the rows of one relation may choose: a column that holds anything at all must not
/// fill a cluster with topics.
pub const TOPICS_MAX: usize = 1_000;

/// One `[[route]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// `schema.table`, where `*` stands for anything.
    pub relations: Vec<Pattern>,
    pub format: Format,
    /// `None`: the topic of the relation.
    pub topic: Option<TopicRule>,
    /// Patterns of topics that rows may choose; empty: any.
    pub allow: Vec<Pattern>,
    /// Columns of the key; empty: the relation's own, or the aggregate of an outbox.
    pub key: Vec<String>,
    pub headers: Vec<Header>,
    /// Headers that are the same for every record.
    pub header_texts: Vec<(String, String)>,
    /// Rows that it does not take make no event.
    pub filter: Option<Filter>,
    /// Every record goes to these topics too.
    pub copies: Vec<String>,
    pub outbox: Option<Outbox>,
}

/// How a row's topic is found.
#[derive(Clone, Debug)]
pub enum TopicRule {
    Fixed(String),
    /// `outbox.event.{aggregatetype}`
    Template(Template),
    /// The first pattern that fits the column's value.
    Map {
        column: String,
        topics: Vec<(Pattern, String)>,
        fallback: Option<String>,
    },
    /// Where the whole value fits, the replacement; else the value itself.
    Replace {
        column: String,
        regex: Regex,
        replacement: String,
    },
}

// A regular expression is what it was made of.
impl PartialEq for TopicRule {
    fn eq(&self, other: &Self) -> bool {
        format!("{self:?}") == format!("{other:?}")
    }
}
impl Eq for TopicRule {}

impl TopicRule {
    /// The columns that it looks at.
    pub fn columns(&self) -> Vec<&str> {
        match self {
            Self::Fixed(_) => Vec::new(),
            Self::Template(template) => template.columns().collect(),
            Self::Map { column, .. } | Self::Replace { column, .. } => vec![column],
        }
    }

    /// The topics that it names itself.
    pub fn topics(&self) -> Vec<&str> {
        match self {
            Self::Fixed(topic) => vec![topic],
            Self::Map { topics, fallback, .. } => {
                topics.iter().map(|(_, topic)| topic).chain(fallback).map(String::as_str).collect()
            }
            Self::Template(_) | Self::Replace { .. } => Vec::new(),
        }
    }

    /// Whether some row may have this topic.
    fn may_choose(&self, topic: &str) -> bool {
        match self {
            Self::Fixed(_) | Self::Map { .. } => self.topics().contains(&topic),
            Self::Template(template) => Pattern::new(template.fill(std::iter::repeat("*"))).matches(topic),
            Self::Replace { .. } => true,
        }
    }

    /// The topic for these values of `columns`; `None` where no pattern fits and there is no fallback.
    pub fn topic(&self, values: &[&str]) -> Option<String> {
        let value = values.first().copied().unwrap_or_default();
        match self {
            Self::Fixed(topic) => Some(topic.clone()),
            Self::Template(template) => Some(template.fill(values.iter().copied())),
            Self::Map { topics, fallback, .. } => {
                let found = topics.iter().find(|(pattern, _)| pattern.matches(value));
                found.map(|(_, topic)| topic).or(fallback.as_ref()).cloned()
            }
            Self::Replace { regex, replacement, .. } => {
                // The expression alone would take `a` of `ab` where it says `a|ab`.
                let whole = Regex::new(&format!("^(?:{})$", regex.as_str()));
                Some(match whole.is_ok_and(|whole| whole.is_match(value)) {
                    true => regex.replace(value, replacement.as_str()).into_owned(),
                    false => value.to_owned(),
                })
            }
        }
    }
}

/// A header that holds a column's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub name: String,
    pub column: String,
    /// A relation without the column gets no header; otherwise the route does not fit it.
    pub optional: bool,
    /// A time of an outbox's event, written as RFC 3339 in UTC; otherwise the column's text.
    pub is_time: bool,
}

/// Which columns of an outbox are what, and what becomes of its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outbox {
    /// The column that holds the whole event as one JSON object, whose members stand for columns. A collection
    /// has none: its document is the event.
    pub document: Option<String>,
    /// `None`: `id`, or `_id` of a document.
    pub id: Option<String>,
    pub aggregate: String,
    pub payload: String,
    pub payload_form: PayloadForm,
    /// Sets the record's time.
    pub timestamp: Option<String>,
    /// Names the partition, a number.
    pub partition: Option<String>,
    /// Holds lines `traceparent=...`, which become headers.
    pub tracing: String,
    /// A payload that is NULL or blank makes a record without a value; otherwise it is a reject.
    pub tombstone_on_empty: bool,
    pub on_update: OnUpdate,
    /// Rows that were delivered are deleted once they have been there for so long.
    pub delete_after: Option<Duration>,
    /// Those too that were there before the connector was.
    pub delete_earlier: bool,
    /// What becomes of the rows that were there before the connector was.
    pub first_start: FirstStart,
    /// The value is an object of these; empty: the payload alone.
    pub fields: Vec<Field>,
    /// The value is by one of these; `None`: JSON that nobody declared.
    pub schemas: Option<Schemas>,
    /// Records are those of Debezium's event router behind Kafka Connect's converters; then `payload_form`, `fields`,
    /// `partition` and `schemas` say nothing.
    pub routed: Option<Routed>,
}

/// What becomes of the rows that an outbox holds when a connector first sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum FirstStart {
    /// They stay unread.
    #[default]
    FromNow,
    /// They are events, in the order of these columns and before every new one. None: in any order.
    Drain { order_by: Vec<String> },
}

/// How Debezium's event router and Kafka Connect's converters write a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routed {
    pub key: Converter,
    pub value: Converter,
    /// A payload that is JSON becomes a value with a schema of its own.
    pub expand: bool,
    /// An expanded null is kept, with the schema of bytes; otherwise it is left out.
    pub keeps_nulls: bool,
    /// The column that holds the version of the value's schema.
    pub schema_version: Option<String>,
    /// Columns that go somewhere, in the order of the file.
    pub placed: Vec<Placed>,
    /// Placed columns that a relation lacks are left out.
    pub skips_missing: bool,
}

/// What writes a key or a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Converter {
    /// The value's text, without quotes.
    Text,
    /// Bytes as they are.
    Bytes,
    /// JSON, with or without the schema beside it.
    Json {
        schemas: bool,
    },
    Avro,
}

/// A column beside those that every event has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    pub column: String,
    pub at: Placement,
    /// Of the header or the member.
    pub name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    Header,
    /// A member of the value, beside the payload.
    Envelope,
    Partition,
}

/// By which schema an event is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schemas {
    /// Avro is written by it; JSON is checked and goes out as it is.
    pub of: SchemaType,
    pub subject: Template,
    /// Subjects with the text that is registered there; of others the registry's newest counts.
    pub texts: Vec<(String, String)>,
    /// Of others the schema is made of the route's fields, and registered.
    pub derived: bool,
    /// The schema's id stands in this header; `None`: in Confluent's frame before the value.
    pub id_header: Option<String>,
}

impl Default for Outbox {
    /// The columns of Debezium's event router.
    fn default() -> Self {
        Self {
            document: None,
            id: None,
            aggregate: "aggregateid".into(),
            payload: "payload".into(),
            payload_form: PayloadForm::Json,
            timestamp: None,
            partition: None,
            tracing: "tracingspancontext".into(),
            tombstone_on_empty: false,
            on_update: OnUpdate::Reject,
            delete_after: None,
            delete_earlier: false,
            first_start: FirstStart::FromNow,
            fields: Vec::new(),
            schemas: None,
            routed: None,
        }
    }
}

impl Outbox {
    /// `key`: the route's, in the place of the aggregate.
    fn names(&self, key: &[String], column: &str) -> bool {
        let of_fields = self.fields.iter().filter_map(|field| match &field.from {
            FieldFrom::Column { name, .. } => Some(name),
            FieldFrom::Text(_) => None,
        });
        let version = self.routed.as_ref().and_then(|routed| routed.schema_version.as_ref());
        let optional = self.timestamp.iter().chain(&self.partition).chain(version);
        let key = key.first().unwrap_or(&self.aggregate);
        let all = optional.chain([key, &self.payload, &self.tracing]).chain(of_fields);
        let subject = self.schemas.iter().flat_map(|schemas| schemas.subject.columns());
        let placed =
            self.routed.iter().flat_map(|routed| &routed.placed).map(|placed| placed.column.as_str());
        let id = [self.id.as_deref().unwrap_or("id")];
        all.map(String::as_str).chain(id).chain(subject).chain(placed).any(|name| name == column)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadForm {
    /// JSON, checked, and written as it stands.
    Json,
    /// Whatever it is, unchecked; in an object a string.
    Text,
    /// The bytes of a bytea, or of the text.
    Bytes,
}

/// What an UPDATE of a row means that was an event already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUpdate {
    /// Counted and left out.
    Skip,
    /// A reject like any other.
    Reject,
    /// The connector stops, whatever becomes of rejects.
    Stop,
}

/// A member of an outbox's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    pub name: String,
    pub from: FieldFrom,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldFrom {
    /// The same in every event.
    Text(String),
    Column {
        name: String,
        form: FieldForm,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldForm {
    /// By the column's type: numbers and booleans bare, JSON as it is, times in RFC 3339 and UTC, else text. A
    /// document's member as it is written there.
    ByType,
    Text,
    Json,
    /// RFC 3339 in UTC.
    Time,
}

/// What becomes of a record that cannot be encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnReject {
    /// The connector stops at it.
    Stop,
    /// It goes, raw, to the dead letters, in the same Kafka transaction as its neighbours.
    DeadLetter,
    /// Its table, or its type of event, waits at it while the rest goes on.
    Park,
}

impl Route {
    pub fn fits(&self, relation: &Relation) -> bool {
        let name = relation.full_name();
        self.relations.iter().any(|pattern| pattern.matches(&name))
    }

    /// Whether it looks at a column of this name, the key of a table's records aside. What is made of it is shown to
    /// whoever reads the events.
    pub fn names(&self, column: &str) -> bool {
        if self.filter.iter().flat_map(Filter::columns).any(|name| name == column) {
            return true;
        }
        // All other names are those of the document's members.
        if let Some(document) = self.outbox.as_ref().and_then(|outbox| outbox.document.as_ref()) {
            return document == column;
        }
        let rule = self.rule();
        let by_topic = rule.iter().flat_map(|rule| rule.columns()).any(|name| name == column);
        let by_header = self.headers.iter().any(|header| header.column == column);
        let by_outbox = self.outbox.as_ref().is_some_and(|outbox| outbox.names(&self.key, column));
        by_topic || by_header || by_outbox
    }

    /// How rows find their topic; `None`: it is their table's. An outbox of which nothing is said goes where Debezium's
    /// does.
    pub(crate) fn rule(&self) -> Option<Cow<'_, TopicRule>> {
        let of_outbox = || Template::parse("outbox.event.{aggregatetype}").ok().map(TopicRule::Template);
        match &self.topic {
            Some(rule) => Some(Cow::Borrowed(rule)),
            None => self.outbox.as_ref().and_then(|_| of_outbox()).map(Cow::Owned),
        }
    }

    /// Whether the topic may be one of its rows', as far as the file tells; of a table whose topic is its own it does
    /// not.
    pub fn may_choose(&self, topic: &str) -> bool {
        self.rule().is_some_and(|rule| rule.may_choose(topic)) && self.allows(topic)
    }

    /// Whether rows may choose this topic.
    pub fn allows(&self, topic: &str) -> bool {
        is_topic_name(topic) && (self.allow.is_empty() || self.allow.iter().any(|p| p.matches(topic)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fallback: Option<&str>) -> TopicRule {
        let topics = [("order.*", "order-events"), ("*", "rest")].map(|(p, t)| (Pattern::new(p), t.into()));
        TopicRule::Map {
            column: "type".into(),
            topics: topics.into_iter().take(1 + usize::from(fallback.is_none())).collect(),
            fallback: fallback.map(Into::into),
        }
    }

    #[test]
    fn a_map_takes_the_first_pattern_that_fits_and_then_the_fallback() {
        assert_eq!(map(None).topic(&["order.created"]).as_deref(), Some("order-events"));
        assert_eq!(map(None).topic(&["user"]).as_deref(), Some("rest"));
        assert_eq!(map(Some("unknown.events")).topic(&["user"]).as_deref(), Some("unknown.events"));
    }

    #[test]
    fn the_topics_that_rows_may_have_are_told_by_the_rule() {
        let template = TopicRule::Template(Template::parse("shop.{type}.events").unwrap());
        assert!(template.may_choose("shop.order.events") && !template.may_choose("shop.order"));
        assert!(map(None).may_choose("rest") && !map(None).may_choose("user"));
        assert!(
            TopicRule::Fixed("a".into()).may_choose("a") && !TopicRule::Fixed("a".into()).may_choose("b")
        );
    }

    #[test]
    fn a_replacement_needs_the_whole_value_and_leaves_others_as_they_are() {
        let rule = TopicRule::Replace {
            column: "aggregatetype".into(),
            regex: Regex::new("(?<kind>[a-z]+)s").unwrap(),
            replacement: "event.${kind}".into(),
        };
        assert_eq!(rule.topic(&["orders"]).as_deref(), Some("event.order"));
        assert_eq!(rule.topic(&["Orders"]).as_deref(), Some("Orders"));
    }

    #[test]
    fn a_value_fits_an_expression_by_any_of_its_branches() {
        let rule = TopicRule::Replace {
            column: "aggregatetype".into(),
            regex: Regex::new("a|ab").unwrap(),
            replacement: "x".into(),
        };
        // As Java has it: the whole has to fit, and then the first part that fits is replaced.
        assert_eq!(rule.topic(&["ab"]).as_deref(), Some("xb"));
    }
}
