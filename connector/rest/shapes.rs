//! A connector's state in the words of Kafka Connect, and its status as JSON.

use std::sync::atomic::Ordering;

use millrace_core::hold::Waiting;
use millrace_core::progress::{Progress, Shown, SnapshotFigures, State, now_us};
use serde_json::{Map, Value, json};

use crate::supervisor::Connector;
use crate::telemetry;

/// A state as Connect names it, for the connector and for its one task; no task where it has been stopped.
pub fn connect_states(state: State) -> (&'static str, Option<&'static str>) {
    match state {
        // Waits for a peer and mends itself: what restarts FAILED tasks must leave it alone.
        State::Starting | State::Running | State::Degraded => ("RUNNING", Some("RUNNING")),
        // Somebody must look: alerts on Connect watch the task.
        State::Stalled | State::PositionLost | State::PositionAhead | State::Failed => {
            ("RUNNING", Some("FAILED"))
        }
        State::Paused | State::Standby => ("PAUSED", Some("PAUSED")),
        State::Fenced | State::Stopped => ("STOPPED", None),
    }
}

/// `GET /connectors/{name}/status`.
pub fn status(connector: &Connector, worker_id: &str) -> Value {
    let shown = connector.progress.shown();
    let (state, task) = connect_states(shown.state);
    let mut of_connector = json!({"state": state, "worker_id": worker_id});
    if task.is_none()
        && let Some(trace) = trace(&shown)
    {
        of_connector["trace"] = trace.into();
    }
    json!({
        "name": connector.name(),
        "connector": of_connector,
        "tasks": task_of(&shown, worker_id).into_iter().collect::<Vec<_>>(),
        "type": "source",
        "millrace": own_status(&shown, &connector.progress),
    })
}

/// The one task, where there is one.
pub fn task(connector: &Connector, worker_id: &str) -> Option<Value> {
    task_of(&connector.progress.shown(), worker_id)
}

fn task_of(shown: &Shown, worker_id: &str) -> Option<Value> {
    let (_, state) = connect_states(shown.state);
    let mut task = json!({"id": 0, "state": state?, "worker_id": worker_id});
    if state == Some("FAILED")
        && let Some(trace) = trace(shown)
    {
        task["trace"] = trace.into();
    }
    Some(task)
}

/// What Connect fills with a stack trace: the state, the reason and what to type.
fn trace(shown: &Shown) -> Option<String> {
    let reason = shown.reason.as_deref()?;
    let hint = shown.hint.as_deref().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
    Some(format!("{}: {reason}{hint}", shown.state.name()))
}

fn own_status(shown: &Shown, progress: &Progress) -> Value {
    json!({
        "state": shown.state.name(),
        "reason": shown.reason,
        "hint": shown.hint,
        "since_ms": shown.since_ms,
        "active_instance": progress.active_instance(),
        "received": progress.received.load(Ordering::Relaxed),
        "delivered": progress.delivered.load(Ordering::Relaxed),
        "confirmed": progress.confirmed.load(Ordering::Relaxed),
        "source_end": progress.source_end.load(Ordering::Relaxed),
        "lag_seconds": progress.lag().as_secs_f64(),
        "lag_bytes": telemetry::lag_bytes(progress),
        "retained_bytes": progress.retained_bytes.load(Ordering::Relaxed),
        "received_changes": progress.received_changes.load(Ordering::Relaxed),
        "delivered_records": progress.delivered_records.load(Ordering::Relaxed),
        "failed_events": progress.failed_events.load(Ordering::Relaxed),
        "dead_letters": progress.dead_letters.load(Ordering::Relaxed),
        "commits": progress.commits.load(Ordering::Relaxed),
        "doubtful_commits": progress.doubtful_commits.load(Ordering::Relaxed),
        "commit_backoff_ms": progress.commit_backoff_ms.load(Ordering::Relaxed),
        "restarts": progress.restarts.load(Ordering::Relaxed),
        "held": progress.holds.waiting().iter().map(held).collect::<Vec<_>>(),
        "snapshot": progress.snapshot().map(|figures| snapshot(&figures)),
    })
}

/// What waits while the rest goes on.
fn held(waiting: &Waiting) -> Value {
    let columns = waiting.thing.columns.iter().zip(&waiting.thing.values);
    json!({
        "relation": waiting.thing.relation,
        "where": columns.map(|(column, value)| (column.clone(), json!(value))).collect::<Map<_, _>>(),
        "topics": waiting.topics,
        "since": waiting.since,
        "since_ms": waiting.since_ms,
        "reason": waiting.why,
        "hint": waiting.hint,
    })
}

fn snapshot(figures: &SnapshotFigures) -> Value {
    json!({
        "tables": figures.tables,
        "tables_done": figures.tables_done,
        "rows": figures.rows,
        "rows_estimated": figures.rows_estimated,
        "seconds_left": figures.seconds_left(now_us() / 1000),
        "table": figures.table,
        "waits_for": figures.waits_for,
        "holds_stream": figures.holds_stream,
        "started_ms": figures.started_ms,
        "finished_ms": figures.finished_ms,
    })
}

/// `GET /connectors/{name}`.
pub fn info(connector: &Connector) -> Value {
    let tasks: Vec<Value> = if has_task(connector) {
        vec![json!({"connector": connector.name(), "task": 0})]
    } else {
        Vec::new()
    };
    json!({
        "name": connector.name(),
        "config": connector.settings().shown,
        "tasks": tasks,
        "type": "source",
    })
}

pub fn has_task(connector: &Connector) -> bool {
    connect_states(connector.progress.shown().state).1.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_its_word_in_connect() {
        for (state, connector, task) in [
            (State::Starting, "RUNNING", Some("RUNNING")),
            (State::Running, "RUNNING", Some("RUNNING")),
            (State::Degraded, "RUNNING", Some("RUNNING")),
            (State::Stalled, "RUNNING", Some("FAILED")),
            (State::PositionLost, "RUNNING", Some("FAILED")),
            (State::PositionAhead, "RUNNING", Some("FAILED")),
            (State::Failed, "RUNNING", Some("FAILED")),
            (State::Standby, "PAUSED", Some("PAUSED")),
            (State::Paused, "PAUSED", Some("PAUSED")),
            (State::Fenced, "STOPPED", None),
            (State::Stopped, "STOPPED", None),
        ] {
            assert_eq!(connect_states(state), (connector, task), "{state:?}");
        }
    }
}
