//! What `millrace check` says about this side: brokers, topics, registry. Changes nothing.

use std::collections::BTreeMap;

use millrace_core::report::Report;

use crate::admin::Presence;
use crate::config::Settings;
use crate::registry::Registry;
use crate::topics::{Topics, position_topic_fits};

/// The broker's setting that keeps a late record of an aborted attempt out of the next transaction.
const VERIFICATION: &str = "transaction.partition.verification.enable";

pub async fn check(settings: &Settings, topics: &Topics, registry: Option<&Registry>) -> Report {
    let mut report = Report::default();
    if let Some(broker) = brokers(&mut report, settings, topics).await {
        let config = broker_config(&mut report, topics, broker).await;
        timeout(&mut report, settings, config.as_ref());
        position_topic(&mut report, settings, topics).await;
        if let Some(heard) = &settings.signals {
            signal_topic(&mut report, settings, topics, &heard.topic).await;
        }
    }
    match registry {
        None => (),
        Some(registry) => match registry.probe().await {
            Ok((url, _)) => report.pass("schema registry", format!("answers at {url}")),
            Err(error) => fail(&mut report, "schema registry", &error),
        },
    }
    report
}

async fn brokers(report: &mut Report, settings: &Settings, topics: &Topics) -> Option<i32> {
    let subject = format!("kafka at {}", settings.brokers());
    match topics.admin.cluster().await {
        Ok(cluster) => {
            report.pass(subject, format!("answers; {} topics to be seen", cluster.partitions.len()));
            Some(cluster.broker)
        }
        Err(error) => {
            fail(report, &subject, &error);
            None
        }
    }
}

async fn broker_config(
    report: &mut Report,
    topics: &Topics,
    broker: i32,
) -> Option<BTreeMap<String, String>> {
    let subject = format!("{VERIFICATION} of the brokers");
    let config = match topics.admin.broker_config(broker).await {
        Ok(Some(config)) => config,
        unread => {
            let refused = "this user may not read the brokers' configuration";
            report.warn(
                subject,
                unread.err().map_or_else(|| refused.to_owned(), |error| error.to_string()),
                "see that the brokers are 3.6 or later and that it is true, or give the user DescribeConfigs on the cluster",
            );
            return None;
        }
    };
    let hint = "use brokers of 3.6 or later with it on: otherwise a late record of an aborted attempt can join the next transaction";
    match config.get(VERIFICATION).map(String::as_str) {
        Some("true") => report.pass(subject, "true"),
        Some(value) => report.warn(subject, value, hint),
        None => report.warn(subject, "not known to the broker, so it is older than 3.6", hint),
    }
    Some(config)
}

fn timeout(report: &mut Report, settings: &Settings, config: Option<&BTreeMap<String, String>>) {
    let allowed = config.and_then(|config| config.get("transaction.max.timeout.ms")?.parse::<u128>().ok());
    let wanted = settings.limits.timeout.as_millis();
    if let Some(allowed) = allowed.filter(|allowed| *allowed < wanted) {
        report.fail(
            "transaction timeout",
            format!("{wanted} ms, and the brokers allow {allowed} ms"),
            format!(
                "timeout_ms = {allowed} in [sink.kafka.transaction], or raise transaction.max.timeout.ms"
            ),
        );
    }
}

async fn position_topic(report: &mut Report, settings: &Settings, topics: &Topics) {
    let name = &settings.position_topic;
    let subject = format!("position topic {name}");
    match topics.admin.presence(name).await {
        Ok(Presence::Missing) => report.pass(subject, "not there yet; it is created at the first start"),
        Ok(Presence::Coming) => report.warn(subject, "has partitions without a leader", "check the brokers"),
        Ok(Presence::Ready { partitions, .. }) => {
            let config = topics.admin.topic_config(name).await.ok().flatten();
            match position_topic_fits(name, partitions, config.as_ref()) {
                Ok(()) if config.is_some() => report.pass(subject, "compacted, two partitions"),
                Ok(()) => report.warn(
                    subject,
                    "this user may not read its configuration",
                    format!("see that cleanup.policy of {name} is compact"),
                ),
                Err(error) => fail(report, &subject, &error),
            }
        }
        Err(error) => fail(report, &subject, &error),
    }
}

async fn signal_topic(report: &mut Report, settings: &Settings, topics: &Topics, name: &str) {
    let subject = format!("signal topic {name}");
    let hint = format!(
        "kafka-topics.sh --bootstrap-server {} --create --topic {name} --partitions 1",
        settings.brokers()
    );
    match topics.admin.presence(name).await {
        Ok(Presence::Missing) => report.fail(subject, "not there: signals are not heard", hint),
        Ok(Presence::Coming) => report.warn(subject, "has partitions without a leader", "check the brokers"),
        Ok(Presence::Ready { partitions: 1, .. }) => report.pass(subject, "one partition"),
        Ok(Presence::Ready { partitions, .. }) => {
            let what = format!("{partitions} partitions: signals would lose their order");
            report.fail(subject, what, format!("name a topic with one: {hint}"));
        }
        Err(error) => fail(report, &subject, &error),
    }
}

fn fail(report: &mut Report, subject: &str, error: &millrace_core::error::Error) {
    report.fail(subject, error.to_string(), error.hint_text().unwrap_or_default());
}
