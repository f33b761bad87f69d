//! A span for each Kafka transaction, sent to a collector that speaks OTLP over HTTP and links the traces of the events.

use std::sync::{Arc, Mutex, PoisonError};

use millrace_e2e::{Shop, until};
use serde_json::Value as Json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const NOT_SAMPLED: &str = "00-1af7651916cd43dd8448eb211c80319c-c7ad6b7169203331-00";
const TOKEN: &str = "Bearer of-this-test";

/// One request that a collector got: its headers, in lower case, and its document.
#[derive(Clone)]
struct Request {
    head: String,
    body: Json,
}

/// Takes what is sent to it. Nobody listens before it is opened.
struct Collector {
    port: u16,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Collector {
    fn new() -> Self {
        let port = xtask::services::free_port().expect("a port");
        Self { port, requests: Arc::default() }
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    async fn open(&self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.expect("the port is free");
        let requests = self.requests.clone();
        tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                let requests = requests.clone();
                tokio::spawn(async move {
                    let mut from = BufReader::new(from);
                    while let Some(request) = receive(&mut from).await {
                        requests.lock().unwrap_or_else(PoisonError::into_inner).push(request);
                        let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
                        // Who does not wait for the answer has been heard all the same.
                        let _ = from.get_mut().write_all(answer.as_bytes()).await;
                    }
                });
            }
        });
    }

    fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Every span that came, whatever its request.
    fn spans(&self) -> Vec<Json> {
        let mut spans = Vec::new();
        for Request { body, .. } in self.requests() {
            for resource in body["resourceSpans"].as_array().expect("a list") {
                for scope in resource["scopeSpans"].as_array().expect("a list") {
                    spans.extend(scope["spans"].as_array().expect("a list").iter().cloned());
                }
            }
        }
        spans
    }

    /// Waits until spans have told of so many records.
    async fn wait_for_records(&self, count: u64) -> Vec<Json> {
        until(&format!("spans of {count} records"), async || {
            let spans = self.spans();
            (spans.iter().map(records).sum::<u64>() >= count).then_some(spans)
        })
        .await
    }
}

/// A request of HTTP/1.1 with a length; `None` where the connection ends.
async fn receive(from: &mut BufReader<TcpStream>) -> Option<Request> {
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if from.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        if line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok()?;
        }
        head += &line;
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body).await.ok()?;
    Some(Request { head, body: serde_json::from_slice(&body).expect("a document of OTLP in JSON") })
}

/// An attribute's one value, whatever its type.
fn attribute<'a>(span: &'a Json, key: &str) -> Option<&'a Json> {
    let of = |list: &'a Json| list.as_array()?.iter().find(|one| one["key"] == key);
    of(&span["attributes"])?["value"].as_object()?.values().next()
}

fn text<'a>(span: &'a Json, key: &str) -> &'a str {
    attribute(span, key).and_then(Json::as_str).unwrap_or_else(|| panic!("{key} is not in {span}"))
}

/// The fields that Jaeger 1.35 knows, by what holds them. It refuses a whole request for one more.
const KNOWN: [(&str, &[&str]); 6] = [
    ("resourceSpans", &["resource", "scopeSpans", "schemaUrl"]),
    ("resource", &["attributes", "droppedAttributesCount"]),
    ("scopeSpans", &["scope", "spans", "schemaUrl"]),
    ("scope", &["name", "version"]),
    (
        "spans",
        &[
            "traceId",
            "spanId",
            "traceState",
            "parentSpanId",
            "name",
            "kind",
            "startTimeUnixNano",
            "endTimeUnixNano",
            "attributes",
            "droppedAttributesCount",
            "events",
            "droppedEventsCount",
            "links",
            "droppedLinksCount",
            "status",
        ],
    ),
    ("links", &["traceId", "spanId", "traceState", "attributes", "droppedAttributesCount"]),
];

fn expect_known(name: &str, value: &Json) {
    let known = KNOWN.iter().find(|(of, _)| *of == name).map(|(_, fields)| *fields);
    for value in value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice) {
        for (field, below) in value.as_object().into_iter().flatten() {
            let is_known = known.is_none_or(|known| known.contains(&&**field));
            assert!(is_known, "{field} of {name} is not known to all collectors: {value}");
            expect_known(field, below);
        }
    }
}

/// Numbers of 64 bits are texts in OTLP's JSON.
fn records(span: &Json) -> u64 {
    text(span, "messaging.batch.message_count").parse().expect("a number")
}

fn is_id(text: &Json, digits: usize) -> bool {
    let text = text.as_str().unwrap_or_default();
    text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// A shop whose notes are what its records have as `traceparent`.
async fn traced_shop(collector: &Collector, name: &str) -> Shop {
    let mut shop = Shop::open(name).await;
    shop.file.lay("[[route]]\nrelations = \"public.orders\"\nheaders = { traceparent = \"note?\" }\n");
    shop.file.set("traces/endpoint", collector.endpoint());
    shop
}

#[tokio::test]
async fn each_kafka_transaction_is_a_span_with_links_to_the_sampled_traces_of_its_events() {
    let collector = Collector::new();
    collector.open().await;
    let mut shop = traced_shop(&collector, "spans").await;
    let token = shop.dir().join("token");
    std::fs::write(&token, format!("{TOKEN}\n")).expect("a file in a temporary directory");
    shop.file
        .set("traces/headers/authorization", format!("${{file:{}}}", token.display()))
        .set("traces/service", "shop-cdc");
    shop.start().await;
    let values = format!("(1, '{SAMPLED}'), (2, '{NOT_SAMPLED}'), (3, NULL)");
    shop.sql.run(&format!("INSERT INTO orders VALUES {values}")).await;
    let spans = collector.wait_for_records(3).await;

    let span = spans.iter().find(|span| records(span) > 0).expect("a span with records");
    let topic = shop.topic("public.orders");
    assert!(is_id(&span["traceId"], 32) && is_id(&span["spanId"], 16), "{span}");
    assert_eq!(span["name"], format!("send {topic}"));
    assert_eq!((span["kind"].as_u64(), span["status"]["code"].as_u64()), (Some(3), Some(1)), "{span}");
    let time = |key: &str| span[key].as_str().expect("a text").parse::<u64>().expect("nanoseconds");
    assert!(time("startTimeUnixNano") <= time("endTimeUnixNano"), "{span}");
    for (key, expected) in [
        ("messaging.system", "kafka"),
        ("messaging.operation.type", "send"),
        ("messaging.destination.name", &*topic),
        ("messaging.batch.message_count", "3"),
        ("millrace.connector", &*shop.name),
        ("millrace.outcome", "committed"),
    ] {
        assert_eq!(text(span, key), expected, "{key}");
    }
    let position: Json =
        serde_json::from_str(text(span, "millrace.source.position")).expect("a position is JSON");
    assert!(position.is_object() && text(span, "millrace.bytes") != "0", "{span}");
    let links: Vec<_> = span["links"].as_array().expect("a list").iter().collect();
    assert_eq!(links.len(), 1, "{span}");
    assert_eq!(links[0]["traceId"], "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(links[0]["spanId"], "b7ad6b7169203331");

    for request in collector.requests() {
        expect_known("", &request.body);
    }
    let request = &collector.requests()[0];
    let resource = &request.body["resourceSpans"][0]["resource"];
    let service = attribute(resource, "service.name").and_then(Json::as_str);
    assert_eq!(service, Some("shop-cdc"));
    assert!(request.head.starts_with("POST /v1/traces HTTP/1.1"), "{}", request.head);
    assert!(request.head.contains(&format!("authorization: {TOKEN}")), "{}", request.head);
    let (_, page) = shop.daemon().get("/metrics").await;
    assert!(page.contains("millrace_spans_total{outcome=\"dropped\"} 0"), "{page}");
    let (_, shown) = shop.daemon().get(&format!("/connectors/{}/config", shop.name)).await;
    for seen in [shop.daemon().log(), shown] {
        assert!(!seen.contains("of-this-test"), "the token is shown: {seen}");
    }
}

#[tokio::test]
async fn a_collector_that_is_away_holds_up_no_event_and_gets_the_spans_of_a_moment_later() {
    let collector = Collector::new();
    let mut shop = traced_shop(&collector, "spans-away").await;
    shop.start().await.rows(1..=10).await.expect_rows(1..=10).await;
    let told = async || shop.daemon().log().contains("cannot send spans").then_some(());
    until("the daemon says that the collector is away", told).await;
    shop.wait_for_state("RUNNING").await;
    collector.open().await;
    collector.wait_for_records(10).await;
    shop.rows(11..=20).await.expect_rows(1..=20).await;
}

#[tokio::test]
async fn without_a_collector_there_are_no_spans() {
    let mut shop = Shop::open("no-spans").await;
    shop.start().await.rows(1..=10).await.expect_rows(1..=10).await;
    let (_, page) = shop.daemon().get("/metrics").await;
    assert!(page.contains("millrace_commits_total") && !page.contains("millrace_spans"), "{page}");
}
