//! Logs, the bar below them on a terminal (`bar`), spans for a collector (`traces`), and every metric by its name.
//!
//! The page is rendered from `Progress` when it is asked for. A metrics library would hold a second copy of
//! every figure, or need a collector as long as this file: the figures are atomics already.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use millrace_core::error::{Error, Result};
use millrace_core::progress::{LATENCY_BUCKETS, Latency, Progress, SnapshotFigures, State};
use millrace_core::trace;
use tracing_subscriber::EnvFilter;

use crate::supervisor::Connector;

pub mod bar;
mod otlp;
pub mod traces;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Sets logging up, once a process: to standard error, because standard output may carry events.
pub fn init(format: LogFormat, filter: &str) -> Result<()> {
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        Error::config(format!("--log-level {filter:?} is not a filter"))
            .source(error)
            .hint("use error, warn, info, debug or trace, or a list like info,millrace_kafka=debug")
    })?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| bar::AboveTheBar);
    let set = match format {
        LogFormat::Text => logs.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => logs.json().flatten_event(true).with_span_list(false).try_init(),
    };
    set.map_err(|error| Error::fatal("cannot set up logging").source(error))?;
    std::panic::set_hook(Box::new(note_panic));
    Ok(())
}

static LAST_PANIC: Mutex<Option<String>> = Mutex::new(None);

/// Where the last panic was.
pub fn last_panic() -> Option<String> {
    LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// The place only, and words that stand in the source: a formatted message may hold row data.
fn note_panic(info: &PanicHookInfo<'_>) {
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    let words = info.payload().downcast_ref::<&'static str>().copied().unwrap_or_default();
    tracing::error!(place, "panic: {words}");
    *LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner) = Some(place);
}

const STATES: [State; 11] = [
    State::Starting,
    State::Running,
    State::Degraded,
    State::Stalled,
    State::PositionLost,
    State::PositionAhead,
    State::Standby,
    State::Paused,
    State::Fenced,
    State::Failed,
    State::Stopped,
];

const OPERATIONS: [&str; 5] = ["create", "update", "delete", "truncate", "read"];

type Figure = fn(&Progress) -> &AtomicU64;

/// Places in the source's log, what it keeps, and the sink's patience: they may fall when the connector
/// starts anew.
const GAUGES: [(&str, &str, Figure); 10] = [
    ("received_position", "Newest place in the source's log that was read", |p| &p.received),
    ("delivered_position", "Newest place whose data and position are durable in the sink", |p| &p.delivered),
    ("confirmed_position", "Newest place that was told to the source", |p| &p.confirmed),
    ("source_end_position", "Where the source's log ends", |p| &p.source_end),
    ("retained_wal_bytes", "Log that the source keeps for this connector", |p| &p.retained_bytes),
    ("held", "Tables and types of events that wait while the rest goes on", |p| &p.holds.count),
    ("commit_backoff_ms", "Wait before a commit is asked for again; grows with slow commits", |p| {
        &p.commit_backoff_ms
    }),
    ("log_window_seconds", "How far back a log reaches that keeps nothing for us", |p| &p.log_window_s),
    ("log_lag_seconds", "From what is delivered to the end of that log", |p| &p.log_lag_s),
    ("log_headroom_seconds", "Forecast: until that log no longer reaches what is delivered", |p| {
        &p.log_headroom_s
    }),
];

const COUNTERS: [(&str, &str, Figure); 12] = [
    ("received_changes_total", "Changes read from the source", |p| &p.received_changes),
    ("received_bytes_total", "Bytes of values read from the source", |p| &p.received_bytes),
    ("transactions_total", "Transactions read from the source", |p| &p.transactions),
    ("delivered_records_total", "Records durable in the sink", |p| &p.delivered_records),
    ("failed_events_total", "Records that could not be encoded or accepted", |p| &p.failed_events),
    ("dead_letters_total", "Rejects that went to the dead letters", |p| &p.dead_letters),
    ("cut_transactions_total", "Source transactions in several Kafka transactions", |p| &p.cut_transactions),
    ("commits_total", "Commits of the sink", |p| &p.commits),
    ("aborts_total", "Kafka transactions given up", |p| &p.aborts),
    ("recycles_total", "Times that the producers were opened anew", |p| &p.recycles),
    ("doubtful_commits_total", "Commits that took long enough to hide a retry", |p| &p.doubtful_commits),
    ("restarts_total", "Attempts after the first one", |p| &p.restarts),
];

type Histogram = fn(&Progress) -> &Latency;

const HISTOGRAMS: [(&str, &str, Histogram); 2] = [
    ("commit_latency_seconds", "Duration of a commit of the sink", |p| &p.commit_latency),
    ("end_to_end_latency_seconds", "From the source's commit to the sink's", |p| &p.end_to_end),
];

/// The page that Prometheus reads, text format 0.0.4.
pub fn render(connectors: &[Arc<Connector>]) -> String {
    let mut page = Page(String::with_capacity(4096 * (1 + connectors.len())));
    page.family("build_info", "gauge", "The daemon's version");
    page.sample("build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    page.family("connector_state", "gauge", "1 for the state that the connector is in");
    for connector in connectors {
        let now = connector.progress.shown().state;
        for state in STATES {
            let labels = [("connector", connector.name()), ("state", state.name())];
            page.sample("connector_state", &labels, u8::from(state == now));
        }
    }
    for (kind, figures) in [("gauge", &GAUGES[..]), ("counter", &COUNTERS[..])] {
        for (name, help, figure) in figures {
            page.family(name, kind, help);
            for connector in connectors {
                let value = figure(&connector.progress).load(Ordering::Relaxed);
                page.sample(name, &[("connector", connector.name())], value);
            }
        }
    }
    page.family("lag_bytes", "gauge", "Log between the source's end and what is delivered; 0 when drained");
    for connector in connectors {
        page.sample("lag_bytes", &[("connector", connector.name())], lag_bytes(&connector.progress));
    }
    page.family("lag_seconds", "gauge", "Age of the oldest change that is not delivered; 0 when drained");
    for connector in connectors {
        page.sample(
            "lag_seconds",
            &[("connector", connector.name())],
            connector.progress.lag().as_secs_f64(),
        );
    }
    events(&mut page, connectors);
    snapshots(&mut page, connectors);
    for (name, help, latency) in HISTOGRAMS {
        page.family(name, "histogram", help);
        for connector in connectors {
            page.histogram(name, connector.name(), latency(&connector.progress));
        }
    }
    figures(&mut page, connectors);
    spans(&mut page);
    page.0
}

/// Log that lies between the source's end and what is delivered, in bytes; 0 when drained.
pub fn lag_bytes(progress: &Progress) -> u64 {
    let of = |place: &AtomicU64| place.load(Ordering::Relaxed);
    // What was confirmed was delivered, by this process or by one before it.
    let mut done = of(&progress.delivered).max(of(&progress.confirmed));
    // With no change on its way, whatever was read is done: the log of others, which nobody delivers.
    if progress.pending_since_us.load(Ordering::Relaxed) == 0 {
        done = done.max(of(&progress.received));
    }
    of(&progress.source_end).saturating_sub(done)
}

/// Nothing where nobody wants spans.
fn spans(page: &mut Page) {
    let Some(spans) = trace::wanted() else { return };
    page.family("spans_total", "counter", "Spans of Kafka transactions, by what became of them");
    for (outcome, count) in [("sent", &spans.sent), ("dropped", &spans.dropped)] {
        page.sample("spans_total", &[("outcome", outcome)], count.load(Ordering::Relaxed));
    }
}

fn events(page: &mut Page, connectors: &[Arc<Connector>]) {
    page.family(
        "events_total",
        "counter",
        "Events by table and operation, as they are encoded: what is sent once more counts once more",
    );
    for connector in connectors {
        for (table, counts) in connector.progress.events() {
            for (operation, count) in OPERATIONS.iter().zip(counts) {
                let labels = [("connector", connector.name()), ("table", &*table), ("operation", *operation)];
                page.sample("events_total", &labels, count);
            }
        }
    }
}

type SnapshotFigure = fn(&SnapshotFigures) -> u64;

const SNAPSHOT: [(&str, &str, SnapshotFigure); 6] = [
    ("snapshot_running", "1 while rows of tables are read", |s| u64::from(s.finished_ms.is_none())),
    ("snapshot_holds_stream", "1 while changes wait until rows are out", |s| {
        u64::from(s.holds_stream.is_some())
    }),
    ("snapshot_tables", "Tables of the snapshot", |s| s.tables),
    ("snapshot_tables_done", "Tables of the snapshot that are through", |s| s.tables_done),
    ("snapshot_rows", "Rows that the snapshot has handed over since the start", |s| s.rows),
    ("snapshot_rows_estimated", "Rows that the source's statistics promise", |s| s.rows_estimated),
];

/// Nothing of a connector that has read no rows in this process.
fn snapshots(page: &mut Page, connectors: &[Arc<Connector>]) {
    for (name, help, figure) in SNAPSHOT {
        page.family(name, "gauge", help);
        for connector in connectors {
            if let Some(figures) = connector.progress.snapshot() {
                page.sample(name, &[("connector", connector.name())], figure(&figures));
            }
        }
    }
}

/// Gauges under the names that the file's reader gave them. Connectors that watch the same share a line.
fn figures(page: &mut Page, connectors: &[Arc<Connector>]) {
    let mut by_name: BTreeMap<String, (&str, BTreeMap<Labels, f64>)> = BTreeMap::new();
    for figure in connectors.iter().flat_map(|connector| connector.progress.figures()) {
        let (_, samples) = by_name.entry(figure.name).or_insert_with(|| (figure.help, BTreeMap::new()));
        samples.insert(figure.labels, figure.value);
    }
    for (name, (help, samples)) in by_name {
        // Writing to a string cannot fail.
        let _ = write!(page.0, "# HELP {name} {help}.\n# TYPE {name} gauge\n");
        for (labels, value) in samples {
            let labels: Vec<_> = labels.iter().map(|(label, text)| (*label, text.as_str())).collect();
            page.named(&name, &labels, value);
        }
    }
}

type Labels = Vec<(&'static str, String)>;

struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = write!(self.0, "# HELP millrace_{name} {help}.\n# TYPE millrace_{name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.named(&format!("millrace_{name}"), labels, value);
    }

    fn named(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.0.push_str(name);
        for (nth, (label, text)) in labels.iter().enumerate() {
            let open = if nth == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{open}{label}=\"{}\"", escaped(text));
        }
        let _ = writeln!(self.0, "}} {value}");
    }

    fn histogram(&mut self, name: &str, connector: &str, latency: &Latency) {
        let (counts, sum) = latency.read();
        let bounds = LATENCY_BUCKETS.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
        let bucket = format!("{name}_bucket");
        let mut total = 0;
        for (bound, count) in bounds.zip(counts) {
            total += count;
            self.sample(&bucket, &[("connector", connector), ("le", &bound)], total);
        }
        self.sample(&format!("{name}_sum"), &[("connector", connector)], sum);
        self.sample(&format!("{name}_count"), &[("connector", connector)], total);
    }
}

/// A table's name may hold anything.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use millrace_core::progress::Figure;

    use super::*;
    use crate::config::test_connector;

    fn page(set: impl Fn(&Progress)) -> String {
        let connector = Arc::new(Connector::new(test_connector("orders")));
        set(&connector.progress);
        render(&[connector])
    }

    #[test]
    fn a_figure_of_its_own_name_is_shown_once_whoever_watches_it() {
        let figure = |value| Figure {
            name: "consumer_lag".into(),
            help: "Records behind",
            labels: vec![("consumer_group", "g".into())],
            value,
        };
        let page = page(|progress| progress.set_figures(vec![figure(3.0), figure(4.0)]));
        let lines: Vec<&str> = page.lines().filter(|line| line.contains("consumer_lag")).collect();
        let expected = [
            "# HELP consumer_lag Records behind.",
            "# TYPE consumer_lag gauge",
            "consumer_lag{consumer_group=\"g\"} 4",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn every_line_is_a_comment_or_a_sample_of_a_declared_family() {
        let page = page(|progress| progress.count_events("public.orders", &[1, 2, 3, 4, 0]));
        let mut families = Vec::new();
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                families.push(rest.split(' ').next().unwrap().to_owned());
            } else if !line.starts_with("# HELP ") {
                let (name, value) = line.rsplit_once(' ').unwrap();
                assert!(families.iter().any(|family| name.starts_with(family.as_str())), "{line}");
                assert!(value.parse::<f64>().is_ok(), "{line}");
            }
        }
        let mut once = families.clone();
        once.dedup();
        assert_eq!(once, families);
    }

    #[test]
    fn events_are_counted_by_table_and_operation() {
        let page = page(|progress| progress.count_events("public.orders", &[1, 2, 3, 0, 0]));
        let line = r#"millrace_events_total{connector="orders",table="public.orders",operation="update"} 2"#;
        assert!(page.contains(line), "{page}");
    }

    #[test]
    fn a_histogram_counts_upwards_and_ends_with_all() {
        let page = page(|progress| {
            progress.commit_latency.observe(Duration::from_millis(4));
            progress.commit_latency.observe(Duration::from_secs(100));
        });
        for line in [
            r#"millrace_commit_latency_seconds_bucket{connector="orders",le="0.003"} 0"#,
            r#"millrace_commit_latency_seconds_bucket{connector="orders",le="0.005"} 1"#,
            r#"millrace_commit_latency_seconds_bucket{connector="orders",le="+Inf"} 2"#,
            r#"millrace_commit_latency_seconds_sum{connector="orders"} 100.004"#,
            r#"millrace_commit_latency_seconds_count{connector="orders"} 2"#,
        ] {
            assert!(page.contains(line), "{line} in {page}");
        }
    }

    #[test]
    fn exactly_one_state_is_set() {
        let page = page(|progress| progress.show(State::Degraded, None, None));
        let set: Vec<_> = page
            .lines()
            .filter(|line| line.starts_with("millrace_connector_state") && line.ends_with(" 1"))
            .collect();
        assert_eq!(set, [r#"millrace_connector_state{connector="orders",state="DEGRADED"} 1"#]);
    }

    #[test]
    fn a_strange_table_name_cannot_break_out_of_its_label() {
        let page = page(|progress| progress.count_events("a\"}\n\\b", &[1, 0, 0, 0, 0]));
        assert!(page.contains(r#"table="a\"}\n\\b""#), "{page}");
    }

    #[test]
    fn lag_is_zero_when_drained_though_the_log_grows() {
        let progress = Progress::default();
        progress.source_end.store(500, Ordering::Relaxed);
        progress.delivered.store(100, Ordering::Relaxed);
        assert_eq!(lag_bytes(&progress), 400);
        progress.confirmed.store(200, Ordering::Relaxed);
        assert_eq!(lag_bytes(&progress), 300);
        progress.pending_since_us.store(1, Ordering::Relaxed);
        progress.received.store(500, Ordering::Relaxed);
        assert_eq!(lag_bytes(&progress), 300);
        progress.pending_since_us.store(0, Ordering::Relaxed);
        assert_eq!(lag_bytes(&progress), 0);
    }
}
