//! The last line of a terminal: how far the rows of tables are that are being read. Log lines go above it. Start at
//! `draw`; nothing is drawn where standard error is no terminal.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use millrace_core::progress::{SnapshotFigures, now_us};

use crate::supervisor::Connectors;

/// Often enough to be seen to move.
const DRAW_EVERY: Duration = Duration::from_millis(200);

/// Signs of the bar itself.
const WIDTH: usize = 20;

/// Back to the beginning of the line, and clear it.
const CLEAR: &[u8] = b"\r\x1b[K";

/// What stands there now.
static LINE: Mutex<String> = Mutex::new(String::new());

/// Standard error, as a log writes to it: whole lines, above the bar.
pub struct AboveTheBar;

impl Write for AboveTheBar {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (line, mut to) = (line(), io::stderr().lock());
        if !line.is_empty() {
            to.write_all(CLEAR)?;
        }
        to.write_all(bytes)?;
        to.write_all(line.as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Nothing panics with the lock in hand.
fn line() -> MutexGuard<'static, String> {
    LINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Draws for as long as the daemon runs; at once over where nobody looks.
pub async fn draw(connectors: Arc<Connectors>) {
    if !io::stderr().is_terminal() {
        return;
    }
    loop {
        let now_ms = now_us() / 1000;
        let all = connectors.all();
        let texts = all.iter().filter_map(|connector| {
            let figures = connector.progress.snapshot()?;
            figures.finished_ms.is_none().then(|| text(connector.name(), &figures, now_ms))
        });
        show(texts.collect::<Vec<_>>().join("  "));
        tokio::time::sleep(DRAW_EVERY).await;
    }
}

fn show(text: String) {
    let mut line = line();
    if *line == text {
        return;
    }
    *line = text;
    let mut to = io::stderr().lock();
    // A terminal that has gone takes no line, and the daemon goes on.
    let _ = to.write_all(&[CLEAR, line.as_bytes()].concat()).and_then(|()| to.flush());
}

fn text(name: &str, figures: &SnapshotFigures, now_ms: i64) -> String {
    let SnapshotFigures { tables, tables_done, rows, rows_estimated, .. } = figures;
    let progress = match rows_estimated {
        // The statistics know nothing yet.
        0 => format!("{rows} rows"),
        _ => {
            let share = rows.saturating_mul(100).checked_div(*rows_estimated).unwrap_or(0).min(100);
            let signs = usize::try_from(share).unwrap_or(0) * WIDTH / 100;
            let bar = format!("{}{}", "#".repeat(signs), "-".repeat(WIDTH - signs));
            format!("[{bar}] {share}% of about {rows_estimated} rows")
        }
    };
    let left = match (&figures.waits_for, figures.seconds_left(now_ms)) {
        (Some(reason), _) => format!(", waits for {reason}"),
        (None, Some(seconds)) => format!(", {seconds} s left"),
        (None, None) => String::new(),
    };
    format!("{name}: {tables_done} of {tables} tables, {progress}{left}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_says_how_far_the_rows_are_and_how_long_the_rest_takes() {
        let figures = SnapshotFigures {
            tables: 4,
            tables_done: 1,
            rows: 250,
            rows_estimated: 1000,
            started_ms: 0,
            ..SnapshotFigures::default()
        };
        assert_eq!(
            text("shop", &figures, 10_000),
            "shop: 1 of 4 tables, [#####---------------] 25% of about 1000 rows, 30 s left"
        );
        let waiting = SnapshotFigures { waits_for: Some("a lock on t".into()), ..figures.clone() };
        assert!(text("shop", &waiting, 10_000).ends_with("rows, waits for a lock on t"));
        // More rows than the statistics promised.
        let more = SnapshotFigures { rows: 1200, ..figures.clone() };
        assert!(text("shop", &more, 10_000).contains("[####################] 100% of about 1000 rows"));
        let unknown = SnapshotFigures { rows_estimated: 0, ..figures };
        assert_eq!(text("shop", &unknown, 10_000), "shop: 1 of 4 tables, 250 rows");
    }
}
