//! `[traces]`: where spans go. The daemon's, as `[rest]` is; off without an endpoint.

use std::time::Duration;

use reqwest::Url;
use reqwest::header::HeaderName;

use super::Problems;
use super::environment::Environment;
use super::raw;
use crate::telemetry::traces::Settings;

/// What every program with OpenTelemetry in it takes its collector from.
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const SERVICE: &str = "millrace";

/// Where no file says anything: `None` unless the environment does. What it says is for other programs, too, and no
/// reason not to run.
pub fn of_environment(environment: &Environment) -> Option<Settings> {
    environment.get(ENDPOINT).filter(|text| !text.is_empty())?;
    let mut problems = Problems::default();
    let settings = resolve(&raw::Traces::default(), 0, environment, &mut problems);
    for found in &problems.found {
        let hint = "correct the variable, or give endpoint in [traces]";
        tracing::warn!(hint, "no spans are sent: the url of {ENDPOINT} {}", found.message);
    }
    settings
}

/// `None`, and a problem: it names no collector.
pub fn resolve(
    raw: &raw::Traces,
    fingerprint: u64,
    environment: &Environment,
    problems: &mut Problems,
) -> Option<Settings> {
    let of_environment = environment.get(ENDPOINT).filter(|text| !text.is_empty());
    let Some(endpoint) = raw.endpoint.as_deref().or(of_environment) else {
        problems.add(
            "traces.endpoint",
            format!("is missing, as in \"http://collector:4318\"; or set {ENDPOINT}"),
        );
        return None;
    };
    let mut headers = Vec::new();
    for (name, value) in &raw.headers {
        match name.parse::<HeaderName>() {
            Ok(name) => headers.push((name, value.clone())),
            Err(_) => {
                problems.add("traces.headers", format!("{name:?} cannot be the name of an HTTP header"))
            }
        }
    }
    let ratio = raw.ratio.unwrap_or(1.0);
    if !(0.0..=1.0).contains(&ratio) {
        problems.add("traces.ratio", format!("is {ratio}, and a part of all is 0 to 1"));
    }
    let timeout_s = raw.timeout_s.unwrap_or(10);
    if timeout_s == 0 {
        problems.add("traces.timeout_s", "must be at least 1");
    }
    let service = raw.service.clone().unwrap_or_else(|| SERVICE.to_owned());
    let (ca_file, timeout) = (raw.ca_file.clone(), Duration::from_secs(timeout_s));
    let Some(url) = url(endpoint) else {
        // The text itself is not shown: it may hold a secret, which has its place in a header.
        problems.add(
            "traces.endpoint",
            "is no http or https url without user and query, as \"http://collector:4318\" is; a token goes into \
             [traces.headers]",
        );
        return None;
    };
    Some(Settings { url, headers, ca_file, timeout, ratio, service, fingerprint })
}

/// The path of OTLP behind whatever path there is, as with the variable of the environment.
fn url(endpoint: &str) -> Option<Url> {
    let mut url = Url::parse(endpoint).ok()?;
    let holds_more = !url.username().is_empty() || url.password().is_some();
    let holds_more = holds_more || url.query().is_some() || url.fragment().is_some();
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() || holds_more {
        return None;
    }
    url.path_segments_mut().ok()?.pop_if_empty().extend(["v1", "traces"]);
    Some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_otlp_stands_behind_whatever_path_there_is() {
        let shown = |endpoint| url(endpoint).map(|url| url.to_string());
        assert_eq!(shown("http://a:4318").as_deref(), Some("http://a:4318/v1/traces"));
        assert_eq!(shown("https://a/otlp/").as_deref(), Some("https://a/otlp/v1/traces"));
        let with_secrets = ["http://user:word@a:4318", "http://token@a:4318", "http://a:4318?key=word"];
        for wrong in ["a:4318", "grpc://a:4317", "http://"].into_iter().chain(with_secrets) {
            assert_eq!(shown(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn spans_are_off_until_file_or_environment_name_a_collector() {
        let named = Environment::of(&[(ENDPOINT, "http://of-environment:4318")]);
        let unnamed = Environment::of(&[]);
        let host = |raw: &raw::Traces, environment| {
            let mut problems = Problems::default();
            let settings = resolve(raw, 0, environment, &mut problems);
            (settings.map(|settings| settings.url.host_str().unwrap().to_owned()), problems.found.len())
        };
        let mut raw = raw::Traces::default();
        assert_eq!(of_environment(&unnamed), None);
        assert!(of_environment(&named).is_some());
        assert_eq!(of_environment(&Environment::of(&[(ENDPOINT, "collector:4317")])), None);
        assert_eq!(host(&raw, &named), (Some("of-environment".to_owned()), 0));
        raw.ratio = Some(0.5);
        assert_eq!(host(&raw, &unnamed), (None, 1));
        raw.endpoint = Some("http://of-file:4318".to_owned());
        assert_eq!(host(&raw, &named), (Some("of-file".to_owned()), 0));
        raw.ratio = Some(1.5);
        assert_eq!(host(&raw, &named).1, 1);
    }
}
