//! What both of Debezium's connectors know: how records look, transactions, heartbeats.

use super::given::Given;
use super::keys::{Keys, seconds};

const FORMAT: &str = "format";

pub fn format(given: &mut Given, keys: &mut Keys) {
    keys.set(FORMAT, "dialect", "debezium", "connector.class");
    let prefix = given.required("topic.prefix");
    keys.set(FORMAT, "topic_prefix", prefix.clone(), "topic.prefix");
    let tombstones = given.flag("tombstones.on.delete", true);
    keys.set(FORMAT, "tombstones", tombstones, "tombstones.on.delete");
    let headers = given.flag("extended.headers.enabled", true);
    keys.set(FORMAT, "context_headers", headers, "extended.headers.enabled");
    operations(given, keys);
    if given.flag("provide.transaction.metadata", false) {
        keys.set(FORMAT, "transactions", true, "provide.transaction.metadata");
        let topic = given.get("topic.transaction").unwrap_or("transaction");
        keys.set(FORMAT, "transaction_topic", format!("{prefix}.{topic}"), "topic.transaction");
    }
    if let Some(every) = given.number("heartbeat.interval.ms").and_then(seconds) {
        keys.set(FORMAT, "heartbeat_topic_interval_s", every, "heartbeat.interval.ms");
        let of_prefix = || {
            let before = given.get("topic.heartbeat.prefix").unwrap_or("__debezium-heartbeat");
            format!("{before}.{prefix}")
        };
        let topic = given.get("topic.heartbeat.name").map_or_else(of_prefix, str::to_owned);
        keys.set(FORMAT, "heartbeat_topic", topic, "topic.heartbeat.prefix");
    }
    let channels = given.list("notification.enabled.channels");
    for channel in channels.iter().filter(|channel| !matches!(channel.as_str(), "sink" | "log")) {
        let origin = "notification.enabled.channels";
        given.wrong(format!("{origin}: {channel:?} cannot be had, only sink and log; REST tells them too"));
    }
    if channels.iter().any(|channel| channel == "sink") {
        let topic = given.required("notification.sink.topic.name");
        keys.set(FORMAT, "notification_topic", topic, "notification.sink.topic.name");
    }
    for (property, key) in
        [("schema.name.adjustment.mode", "schema_names"), ("field.name.adjustment.mode", "field_names")]
    {
        let words = [("none", "as_they_are"), ("avro", "legal"), ("avro_unicode", "escaped")];
        let word = given.word(property, &words);
        keys.set(FORMAT, key, word, property);
    }
}

/// Without a word only truncates are passed over.
fn operations(given: &mut Given, keys: &mut Keys) {
    let skipped = given.list("skipped.operations");
    let skipped = if skipped.is_empty() { vec!["t".to_owned()] } else { skipped };
    let mut ours = Vec::new();
    for operation in &skipped {
        match operation.as_str() {
            "c" => ours.push("insert".to_owned()),
            "u" => ours.push("update".to_owned()),
            "d" => ours.push("delete".to_owned()),
            "t" | "none" => {}
            other => given.wrong(format!("skipped.operations: {other:?} is none of c, u, d, t and none")),
        }
    }
    let origin = "skipped.operations";
    keys.set(FORMAT, "skip_operations", super::keys::list(ours), origin);
    keys.set(FORMAT, "truncates", !skipped.iter().any(|operation| operation == "t"), origin);
}

/// For a url. A reference stays as it is: what stands for it comes later.
pub fn escaped(text: &str) -> String {
    if text.contains("${") {
        return text.to_owned();
    }
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~,".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out += &format!("%{byte:02X}");
        }
    }
    out
}

/// A topic of signals, for either kind of source.
pub fn signal_topic(given: &Given, keys: &mut Keys) {
    const SECTION: &str = "sink.kafka";
    if !given.list("signal.enabled.channels").iter().any(|channel| channel.eq_ignore_ascii_case("kafka")) {
        return;
    }
    let usual = || format!("{}-signal", given.get("topic.prefix").unwrap_or_default());
    let topic = given.get("signal.kafka.topic").map_or_else(usual, str::to_owned);
    keys.set(SECTION, "signal_topic", topic, "signal.kafka.topic");
    // Debezium's own default would be one offset for all connectors that share a topic.
    let group = given.get("signal.kafka.groupId").map(str::to_owned);
    keys.set_some(SECTION, "signal_group", group, "signal.kafka.groupId");
}
