//! What Prometheus and Grafana are given in docker/: judged by Prometheus's own tool, and of metrics and states that a
//! daemon has.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value as Json, json};
use xtask::manifests::promtool;
use xtask::services::{finish, repository};

fn folder(name: &str) -> PathBuf {
    repository().join("docker").join(name)
}

fn text(path: &str) -> String {
    fs::read_to_string(folder(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What stands between two marks, wherever the first one stands.
fn between<'a>(text: &'a str, start: &'a str, end: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(start).skip(1).filter_map(move |rest| rest.split(end).next())
}

/// Fails where an alert or the dashboard names a metric or a state that the page has not.
pub fn expect_all_served(page: &str) {
    let used = text("prometheus/alerts.yml") + &text("grafana/dashboards/millrace.json");
    let is_of_name = |c: char| c.is_ascii_lowercase() || c == '_';
    let names = used.match_indices("millrace_").map(|(at, _)| {
        let name = &used[at..];
        &name[..name.find(|c| !is_of_name(c)).unwrap_or(name.len())]
    });
    let names: BTreeSet<&str> = names.collect();
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
        let is_served = page.contains(&format!("# TYPE {name} "))
            || of_histogram.is_some_and(|name| page.contains(&format!("# TYPE {name} histogram")));
        assert!(is_served, "{name} is not on the page");
    }
    let states: BTreeSet<&str> =
        between(&used, "state=~\"", "\"").flat_map(|states| states.split('|')).collect();
    assert!(states.len() > 5, "{states:?}");
    for state in states {
        assert!(page.contains(&format!("state=\"{state}\"")), "no connector is ever {state}");
    }
}

#[test]
fn prometheus_takes_its_files_and_every_alert_fires_when_it_should() {
    let promtool = promtool().expect("promtool");
    let judge = |words: &[&str]| {
        let outcome = finish(Command::new(&promtool).current_dir(folder("prometheus")).args(words));
        outcome.unwrap_or_else(|error| panic!("promtool {words:?}: {error}"));
    };
    // With the alerts that it names.
    judge(&["check", "config", "prometheus.yml"]);
    judge(&["test", "rules", "alerts_test.yml"]);
    let (alerts, tests) = (text("prometheus/alerts.yml"), text("prometheus/alerts_test.yml"));
    for alert in between(&alerts, "- alert: ", "\n") {
        assert!(tests.contains(&format!("alertname: {alert}\n")), "{alert} is never tried");
    }
}

#[test]
fn prometheus_understands_every_question_of_the_dashboard_and_grafana_knows_whom_to_ask() {
    let dashboard: Json = serde_json::from_str(&text("grafana/dashboards/millrace.json")).expect("JSON");
    let source = text("grafana/provisioning/datasources/prometheus.yaml");
    let mut rules = Vec::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        let uid = panel["datasource"]["uid"].as_str().expect("a source");
        assert!(source.contains(&format!("uid: {uid}\n")), "{uid} in {panel}");
        for target in panel["targets"].as_array().expect("targets") {
            rules.push(json!({"record": format!("panel:{}", rules.len()), "expr": target["expr"]}));
        }
    }
    assert!(rules.len() >= 8, "{rules:?}");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("dashboard.yml");
    let rules = json!({"groups": [{"name": "dashboard", "rules": rules}]});
    fs::write(&file, rules.to_string()).expect("JSON is YAML");
    let promtool = promtool().expect("promtool");
    finish(Command::new(promtool).args(["check", "rules"]).arg(&file)).expect("every question is understood");
}
