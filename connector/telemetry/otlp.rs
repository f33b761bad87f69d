//! Spans as OTLP has them in JSON (opentelemetry-proto, `ExportTraceServiceRequest`), and what a collector answers.
//! Ids are hexadecimal there, and numbers of 64 bits are texts. Only fields of its first stable form: collectors of
//! that time (Jaeger 1.35) refuse the whole request for a field that came later, as `flags` of spans and links did.

use millrace_core::trace::{Context, Span, Value};
use serde_json::{Value as Json, json};

/// `SPAN_KIND_CLIENT`: the records of a transaction have traces of their own, and none begins here.
const KIND_CLIENT: u8 = 3;
const STATUS_OK: u8 = 1;
const STATUS_ERROR: u8 = 2;

/// Who sends them.
pub struct Resource {
    pub service: String,
    /// Another one for each process.
    pub instance: String,
}

pub fn request(resource: &Resource, spans: &[Span]) -> Json {
    let version = env!("CARGO_PKG_VERSION");
    let text = |key, text: &str| attribute(key, &Value::Text(text.to_owned()));
    json!({"resourceSpans": [{
        "resource": {"attributes": [
            text("service.name", &resource.service),
            text("service.version", version),
            text("service.instance.id", &resource.instance),
        ]},
        "scopeSpans": [{
            "scope": {"name": "millrace", "version": version},
            "spans": spans.iter().map(span).collect::<Vec<_>>(),
        }],
    }]})
}

fn span(span: &Span) -> Json {
    let Context { trace, span: id } = &span.context;
    let attributes: Vec<Json> = span.attributes.iter().map(|(key, value)| attribute(key, value)).collect();
    let status = match &span.failure {
        None => json!({"code": STATUS_OK}),
        Some(why) => json!({"code": STATUS_ERROR, "message": why}),
    };
    json!({
        "traceId": hexadecimal(trace),
        "spanId": hexadecimal(id),
        "name": span.name,
        "kind": KIND_CLIENT,
        "startTimeUnixNano": nanoseconds(span.begun_us),
        // A clock that was set back meanwhile makes no span of less than nothing.
        "endTimeUnixNano": nanoseconds(span.ended_us.max(span.begun_us)),
        "attributes": attributes,
        "links": span.links.iter().map(link).collect::<Vec<_>>(),
        "droppedLinksCount": u32::try_from(span.links_dropped).unwrap_or(u32::MAX),
        "status": status,
    })
}

fn link(context: &Context) -> Json {
    json!({"traceId": hexadecimal(&context.trace), "spanId": hexadecimal(&context.span)})
}

fn attribute(key: &str, value: &Value) -> Json {
    let value = match value {
        Value::Text(text) => json!({"stringValue": text}),
        Value::Number(number) => json!({"intValue": number.to_string()}),
        Value::Flag(flag) => json!({"boolValue": flag}),
    };
    json!({"key": key, "value": value})
}

fn nanoseconds(us: i64) -> String {
    (i128::from(us) * 1000).to_string()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How many spans a collector did not take though it took the request, and why.
pub fn rejected(answer: &str) -> Option<(u64, String)> {
    let answer: Json = serde_json::from_str(answer).ok()?;
    let partial = answer.get("partialSuccess")?;
    let count = partial.get("rejectedSpans")?;
    let count = count.as_u64().or_else(|| count.as_str()?.parse().ok())?;
    let why = partial.get("errorMessage").and_then(Json::as_str).unwrap_or_default();
    (count > 0).then(|| (count, why.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_has_the_names_and_forms_of_the_specification() {
        let link = Context { trace: [0xab; 16], span: [0xcd; 8] };
        let span = Span {
            context: Context { trace: [1; 16], span: [2; 8] },
            name: "send orders".to_owned(),
            begun_us: 1_700_000_000_000_001,
            ended_us: 1_700_000_000_000_000,
            attributes: vec![
                ("messaging.batch.message_count", Value::Number(u64::MAX)),
                ("millrace.doubtful", Value::Flag(true)),
            ],
            links: vec![link],
            links_dropped: 7,
            failure: Some("fenced".to_owned()),
        };
        let resource = Resource { service: "millrace".to_owned(), instance: "a".to_owned() };
        let request = request(&resource, &[span]);
        let seen = &request["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
        assert_eq!(
            *seen,
            json!({
                "traceId": "01".repeat(16), "spanId": "02".repeat(8), "name": "send orders", "kind": 3,
                "startTimeUnixNano": "1700000000000001000", "endTimeUnixNano": "1700000000000001000",
                "attributes": [
                    {"key": "messaging.batch.message_count", "value": {"intValue": "18446744073709551615"}},
                    {"key": "millrace.doubtful", "value": {"boolValue": true}},
                ],
                "links": [{"traceId": "ab".repeat(16), "spanId": "cd".repeat(8)}],
                "droppedLinksCount": 7,
                "status": {"code": 2, "message": "fenced"},
            })
        );
        let service = &request["resourceSpans"][0]["resource"]["attributes"][0];
        assert_eq!(*service, json!({"key": "service.name", "value": {"stringValue": "millrace"}}));
    }

    #[test]
    fn what_a_collector_rejects_is_read_as_number_and_as_text() {
        let why = |count: &str| {
            format!("{{\"partialSuccess\":{{\"rejectedSpans\":{count},\"errorMessage\":\"full\"}}}}")
        };
        assert_eq!(rejected(&why("\"3\"")), Some((3, "full".to_owned())));
        assert_eq!(rejected(&why("3")), Some((3, "full".to_owned())));
        for nothing in [why("0"), "{}".to_owned(), "{\"partialSuccess\":{}}".to_owned(), String::new()] {
            assert_eq!(rejected(&nothing), None, "{nothing}");
        }
    }
}
