//! What belongs to Kafka Connect: the connector's name, converters, topics and the producer.

use toml::{Table, Value};

use super::given::{Given, expression};
use super::keys::{Keys, list};
use crate::config::strict::nearest;

const SINK: &str = "sink.kafka";

pub fn connector(beside: Option<String>, given: &mut Given, keys: &mut Keys) {
    let Some(name) = beside.or_else(|| given.get("name").map(str::to_owned)) else {
        given.wrong("name: is missing".to_owned());
        return;
    };
    let legal = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' { c } else { '_' };
    keys.set("", "name", name.to_lowercase().chars().map(legal).collect::<String>(), "name");
}

/// One encoding for keys and values.
pub fn converters(given: &mut Given, keys: &mut Keys) {
    let side = |given: &Given, side: &str| given.get(&format!("{side}.converter")).map(str::to_owned);
    let (key, value) = (side(given, "key"), side(given, "value"));
    let (Some(key), Some(value)) = (key, value) else {
        given.wrong_with_hint(
            "key.converter, value.converter: are missing; what the worker has is not known here".to_owned(),
            "\"io.confluent.connect.avro.AvroConverter\" or \"org.apache.kafka.connect.json.JsonConverter\""
                .to_owned(),
        );
        return;
    };
    if key != value {
        given.wrong(format!(
            "value.converter: {value:?} and {key:?} differ: keys and values have one encoding"
        ));
    }
    match value.rsplit('.').next().unwrap_or_default() {
        "AvroConverter" if value.starts_with("io.confluent.") => avro(given, keys),
        "JsonConverter" => json(given, keys),
        _ => given.wrong(format!(
            "value.converter: {value:?} cannot be had, only io.confluent.connect.avro.AvroConverter and \
             org.apache.kafka.connect.json.JsonConverter"
        )),
    }
}

const BOTH: &[&str] = &["key", "value"];

/// What these sides, all of them, say of their converter.
fn said(given: &mut Given, sides: &[&str], option: &str) -> Option<String> {
    let side = |side: &str| format!("{side}.converter.{option}");
    let all: Vec<Option<&str>> = sides.iter().map(|name| given.get(&side(name))).collect();
    let (first, is_one) = (all.first().copied().flatten(), all.windows(2).all(|pair| pair[0] == pair[1]));
    let first = first.map(str::to_owned);
    if !is_one {
        given.wrong(format!("{}: keys and values have one encoding, and one answer here", side("value")));
        return None;
    }
    first
}

fn json(given: &mut Given, keys: &mut Keys) {
    keys.set("format", "encoding", "json", "value.converter");
    let schemas = said(given, BOTH, "schemas.enable").is_none_or(|text| !text.eq_ignore_ascii_case("false"));
    keys.set("format", "json_schemas", schemas, "value.converter.schemas.enable");
}

fn avro(given: &mut Given, keys: &mut Keys) {
    keys.set("format", "encoding", "avro", "value.converter");
    registry(given, keys, BOTH);
}

/// Where it is and who asks, as the converters of these sides say.
pub fn registry(given: &mut Given, keys: &mut Keys, sides: &[&str]) {
    if let Some(urls) = said(given, sides, "schema.registry.url") {
        let urls = urls.split(',').map(|url| url.trim().to_owned()).collect();
        keys.set("format", "registry", list(urls), "value.converter.schema.registry.url");
    }
    if let Some(info) = said(given, sides, "basic.auth.user.info") {
        match parted(&info) {
            Some((user, password)) => {
                let origin = "value.converter.basic.auth.user.info";
                keys.set("format", "registry_username", user, origin);
                keys.set("format", "registry_password", password, origin);
            }
            None => given.wrong_with_hint(
                "value.converter.basic.auth.user.info: must be user:password".to_owned(),
                "each of the two may be a reference like ${file:/path:property}".to_owned(),
            ),
        }
    }
    let token = said(given, sides, "bearer.auth.token");
    keys.set_some("format", "registry_token", token, "value.converter.bearer.auth.token");
}

/// At the first colon that is not inside a reference.
fn parted(info: &str) -> Option<(&str, &str)> {
    let mut from = 0;
    if info.starts_with("${") {
        from = info.find('}')?;
    }
    let at = from + info.get(from..)?.find(':')?;
    Some((info.get(..at)?, info.get(at + 1..)?))
}

/// New topics, those of no group and those of each.
pub fn topics(given: &Given, keys: &mut Keys) {
    for (option, value) in given.under("topic.creation.default.") {
        let origin = format!("topic.creation.default.{option}");
        topic(&format!("{SINK}.topic_defaults"), &option, &value, &origin, keys);
    }
    for group in given.list("topic.creation.groups") {
        let own = given.under(&format!("topic.creation.{group}."));
        let include = given.list(&format!("topic.creation.{group}.include"));
        for pattern in include {
            let mut declared = Table::new();
            for (option, value) in own.iter().filter(|(option, _)| option != "include" && option != "exclude")
            {
                declare(&mut declared, option, value);
            }
            let origin = format!("topic.creation.{group}.include");
            keys.set(&format!("{SINK}.topics"), &expression(&pattern), Value::Table(declared), &origin);
        }
    }
}

fn topic(section: &str, option: &str, value: &str, origin: &str, keys: &mut Keys) {
    match (option, value.parse::<i64>()) {
        // The broker's own.
        ("partitions" | "replication.factor", Ok(..=0)) => {}
        ("partitions", Ok(count)) => keys.set(section, "partitions", count, origin),
        ("replication.factor", Ok(count)) => keys.set(section, "replication", count, origin),
        _ => keys.set(&format!("{section}.config"), option, value, origin),
    }
}

fn declare(declared: &mut Table, option: &str, value: &str) {
    match (option, value.parse::<i64>()) {
        ("partitions" | "replication.factor", Ok(..=0)) => {}
        ("partitions", Ok(count)) => drop(declared.insert("partitions".into(), count.into())),
        ("replication.factor", Ok(count)) => drop(declared.insert("replication".into(), count.into())),
        _ => {
            let config = declared.entry("config").or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(config) = config {
                config.insert(option.to_owned(), value.into());
            }
        }
    }
}

pub fn producer(given: &mut Given, keys: &mut Keys) {
    // The section is there even if everything in it comes from elsewhere.
    let brokers = given.get("producer.override.bootstrap.servers").unwrap_or_default();
    let brokers: Vec<String> =
        brokers.split(',').map(|b| b.trim().to_owned()).filter(|b| !b.is_empty()).collect();
    keys.set(SINK, "bootstrap", list(brokers), "producer.override.bootstrap.servers");
    for name in ["batch.size", "linger.ms", "compression.type", "client.id"] {
        let origin = format!("producer.override.{name}");
        let value = given.get(&origin).map(str::to_owned);
        keys.set_some(&format!("{SINK}.client"), name, value, &origin);
    }
    let security = given.get("producer.override.security.protocol").map(str::to_ascii_lowercase);
    let has_sasl = security.as_deref().is_some_and(|security| security.starts_with("sasl"));
    keys.set_some(SINK, "security", security, "producer.override.security.protocol");
    let truststore = "producer.override.ssl.truststore.location";
    let ca = given.get(truststore).map(str::to_owned);
    if ca.is_some() && given.get("producer.override.ssl.truststore.type").is_none() {
        given.wrong(format!("{truststore}: a key store of Java cannot be read here, only a PEM file"));
    }
    keys.set_some(&format!("{SINK}.tls"), "ca_file", ca, truststore);
    if has_sasl {
        sasl(given, keys);
    }
}

fn sasl(given: &mut Given, keys: &mut Keys) {
    let (section, jaas) = (format!("{SINK}.sasl"), "producer.override.sasl.jaas.config");
    let mechanism = given.required("producer.override.sasl.mechanism");
    if nearest(&mechanism, &["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]) != Some(mechanism.as_str()) {
        given.wrong(format!("producer.override.sasl.mechanism: {mechanism:?} cannot be had"));
    }
    keys.set(&section, "mechanism", mechanism, "producer.override.sasl.mechanism");
    let text = given.required(jaas);
    let option = |name: &str| {
        let (_, rest) = text.split_once(&format!("{name}=\""))?;
        rest.split_once('"').map(|(value, _)| value.to_owned())
    };
    match (option("username"), option("password")) {
        (Some(user), Some(password)) => {
            keys.set(&section, "username", user, jaas);
            keys.set(&section, "password", password, jaas);
        }
        _ => given.wrong(format!("{jaas}: has no username=\"...\" and password=\"...\"")),
    }
}
