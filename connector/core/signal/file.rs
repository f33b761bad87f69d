//! Signals that come as lines of a file, each as REST takes them. Start at `SignalFile::next`.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value as Json;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::{Signal, parse};

/// Some thousand signals: nobody writes more of them at once.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A file that is looked at from time to time. It need not be there.
#[derive(Debug)]
pub struct SignalFile {
    path: PathBuf,
    every: Duration,
    /// Lives as long as the file is heard: whoever asks is called away more often than it ticks.
    ticks: Option<Interval>,
    /// Read, and not asked for yet.
    lines: VecDeque<Signal>,
}

#[derive(Deserialize)]
struct Line {
    id: Option<String>,
    r#type: String,
    #[serde(default)]
    data: Json,
}

impl SignalFile {
    pub fn new(path: PathBuf, every: Duration) -> Self {
        Self { path, every, ticks: None, lines: VecDeque::new() }
    }

    /// Waits for the next line that is a signal. Cancel-safe.
    pub async fn next(&mut self) -> Signal {
        loop {
            if let Some(signal) = self.lines.pop_front() {
                return signal;
            }
            let ticks = self.ticks.get_or_insert_with(|| {
                let mut ticks = interval(self.every);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                ticks
            });
            ticks.tick().await;
            self.look();
        }
    }

    fn look(&mut self) {
        match taken(&self.path) {
            Ok(text) => self.lines.extend(signals(&self.path, &text)),
            // Whoever has something to say makes it.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(file = %self.path.display(), "the file of signals is not heard: {error}");
            }
        }
    }
}

/// What the file holds, which is empty from then on.
fn taken(path: &Path) -> std::io::Result<String> {
    let mut file = File::options().read(true).write(true).open(path)?;
    let length = file.metadata()?.len();
    if length > FILE_BYTES_MAX {
        return Err(std::io::Error::other(format!("it is larger than {FILE_BYTES_MAX} bytes")));
    }
    let mut text = String::new();
    if length > 0 {
        (&mut file).take(FILE_BYTES_MAX).read_to_string(&mut text)?;
        file.set_len(0)?;
    }
    Ok(text)
}

/// Each line as in Debezium's file of signals; what is none is told and passed over.
fn signals(path: &Path, text: &str) -> Vec<Signal> {
    let mut found = Vec::new();
    for (line, number) in text.lines().zip(1_u32..).filter(|(line, _)| !line.trim().is_empty()) {
        let parsed = serde_json::from_str::<Line>(line).map_err(|error| error.to_string());
        let signal = parsed.and_then(|line| {
            let id = line.id.unwrap_or_else(|| format!("line {number}"));
            parse(id, &line.r#type, &line.data).map_err(|error| error.to_string())
        });
        match signal {
            Ok(signal) => found.push(signal),
            Err(why) => {
                tracing::warn!(file = %path.display(), line = number, "a line is no signal and is passed over: {why}");
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn lines_of_a_file_are_heard_once_and_nonsense_is_passed_over() {
        let path = std::env::temp_dir().join(format!("millrace-signals-{}", std::process::id()));
        let mut file = SignalFile::new(path.clone(), Duration::from_secs(5));
        file.look();
        let line = r#"{"id": "a", "type": "pause-snapshot", "data": {}}"#;
        let text = format!("{line}\nnonsense\n\n{}\n", line.replace("\"a\"", "\"b\""));
        std::fs::write(&path, &text).unwrap();
        assert_eq!((file.next().await.id, file.next().await.id), ("a".into(), "b".into()));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
        let more = tokio::time::timeout(Duration::from_secs(60), file.next());
        assert!(more.await.is_err());

        // Called away more often than it is looked at.
        std::fs::write(&path, line).unwrap();
        let mut heard = None;
        for _ in 0..3 {
            let soon = tokio::time::timeout(Duration::from_secs(3), file.next());
            heard = heard.or(soon.await.ok());
        }
        assert_eq!(heard.map(|signal| signal.id).as_deref(), Some("a"));

        std::fs::write(&path, vec![b' '; 2 * 1024 * 1024]).unwrap();
        file.look();
        assert!(file.lines.is_empty());
        std::fs::remove_file(&path).unwrap();
    }
}
