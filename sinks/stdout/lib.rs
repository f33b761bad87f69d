//! The smallest sink: JSON lines on standard output, the position in a file.
//!
//! Output and file are two things, so this sink is at-least-once: after a crash the last batch may come
//! again. Start at `StdoutSink`; `lines` is the shape of a line, `position` the file.

pub mod config;
mod lines;
mod position;

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use millrace_core::batch::EncodedBatch;
use millrace_core::error::{Error, Kind, Result};
use millrace_core::position::{Note, Notes, Position};
use millrace_core::progress::Progress;
use millrace_core::report::Report;
use millrace_core::sink::{SchemaType, Sink, Targets, Topic};

use crate::config::Settings;
use crate::position::PositionFile;

/// While changes keep coming, the file is synced at most this often: a sync takes milliseconds, and after
/// a crash no more than this much output comes again.
const COMMIT_AGE: Duration = Duration::from_millis(100);

/// Largest record of any sink.
const RECORD_BYTES_MAX: u32 = 1_000_000_000;

/// Where lines go and where the position is kept, used by one blocking call at a time.
struct Output {
    out: Box<dyn Write + Send>,
    file: PositionFile,
    /// A write failed in the middle of a line: the next one begins on a line of its own.
    torn: bool,
}

pub struct StdoutSink {
    output: Arc<Mutex<Output>>,
    targets: StdoutTargets,
    progress: Arc<Progress>,
    /// Lines of the batch being written; its memory is used again.
    lines: Vec<u8>,
    /// End of the newest whole batch whose lines are out and whose position is not in the file yet.
    open: Option<Position>,
    /// As they go into the file with `open`, and those of batches that were not whole yet.
    notes: Notes,
    notes_behind: Vec<Note>,
    /// In the file, and not told by `settled` yet.
    untold: Option<Position>,
    /// The newest position in the file.
    durable: Option<Position>,
    committed_at: Instant,
    /// Records written since the last commit.
    records: u64,
}

impl StdoutSink {
    pub fn new(settings: Settings, connector_name: &str, progress: Arc<Progress>) -> Self {
        Self::to(Box::new(std::io::stdout()), settings, connector_name, progress)
    }

    fn to(
        out: Box<dyn Write + Send>,
        settings: Settings,
        connector_name: &str,
        progress: Arc<Progress>,
    ) -> Self {
        let file = PositionFile::new(settings.position_file, connector_name);
        Self {
            output: Arc::new(Mutex::new(Output { out, file, torn: false })),
            targets: StdoutTargets { names: Arc::default(), progress: progress.clone() },
            progress,
            lines: Vec::new(),
            open: None,
            notes: Notes::default(),
            notes_behind: Vec::new(),
            untold: None,
            durable: None,
            committed_at: Instant::now(),
            records: 0,
        }
    }

    /// Puts a position in the place of whatever the file holds, by an operator's decision. `forget` also takes
    /// away what the source noted beside it.
    pub async fn overwrite(&mut self, position: &Position, forget: bool) -> Result<()> {
        if !forget {
            // What cannot be read is what this is there to replace.
            let read = self.blocking(|output| output.file.read()).await.ok().flatten();
            self.notes = read.map(|(_, notes)| notes).unwrap_or_default();
        }
        self.open = Some(position.clone());
        self.commit().await
    }

    /// Runs file work off the runtime. The lock makes a new opening wait for work that was given up.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Output) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let output = self.output.clone();
        let call = move || work(&mut output.lock().unwrap_or_else(PoisonError::into_inner));
        match tokio::task::spawn_blocking(call).await {
            Ok(result) => result,
            Err(_) => Err(Error::fatal("writing to standard output stopped by a panic")),
        }
    }

    async fn commit(&mut self) -> Result<()> {
        let Some(position) = self.open.take() else { return Ok(()) };
        let started = Instant::now();
        let (written, notes) = (position.clone(), self.notes.clone());
        self.blocking(move |output| {
            sync_stdout()?;
            output.file.write(&written, &notes)
        })
        .await?;
        self.progress.commit_latency.observe(started.elapsed());
        self.progress.commits.fetch_add(1, Ordering::Relaxed);
        self.progress.delivered_records.fetch_add(std::mem::take(&mut self.records), Ordering::Relaxed);
        self.committed_at = Instant::now();
        self.durable = Some(position.clone());
        self.untold = Some(position);
        Ok(())
    }
}

impl Sink for StdoutSink {
    type Targets = StdoutTargets;

    async fn check(&self) -> Result<Report> {
        let mut report = Report::default();
        report.warn(
            "standard output",
            "at least once: after a crash the last batch may come again",
            "use [sink.kafka] for exactly once",
        );
        let report = self
            .blocking(move |output| {
                output.file.check(&mut report);
                Ok(report)
            })
            .await?;
        Ok(report)
    }

    async fn open(&mut self) -> Result<Option<Position>> {
        self.open = None;
        self.untold = None;
        self.records = 0;
        self.notes_behind.clear();
        let (position, notes) = self.blocking(|output| output.file.read()).await?.unzip();
        self.notes = notes.unwrap_or_default();
        self.durable = position;
        Ok(self.durable.clone())
    }

    fn notes(&mut self) -> Notes {
        self.notes.clone()
    }

    fn targets(&self) -> StdoutTargets {
        self.targets.clone()
    }

    async fn send(&mut self, batch: &EncodedBatch) -> Result<()> {
        let mut lines = std::mem::take(&mut self.lines);
        lines.clear();
        {
            let names = self.targets.names.lock().unwrap_or_else(PoisonError::into_inner);
            for record in &batch.records {
                let topic = names.get(record.topic as usize).map_or("", String::as_str);
                lines::append(&mut lines, topic, batch, record);
            }
        }
        if !lines.is_empty() {
            lines = self.blocking(move |output| output.write(lines)).await?;
        }
        self.lines = lines;
        self.records += batch.records.len() as u64;
        // A batch that ends inside a transaction is written at once; its position waits for the end.
        self.notes_behind.extend(batch.notes.iter().cloned());
        if batch.whole {
            for Note { key, text } in self.notes_behind.drain(..) {
                match text {
                    Some(text) => self.notes.insert(key.to_string(), text.to_string()),
                    None => self.notes.remove(&*key),
                };
            }
            self.open = batch.end.clone();
        }
        if batch.drained || self.committed_at.elapsed() >= COMMIT_AGE {
            self.commit().await?;
        }
        Ok(())
    }

    async fn settled(&mut self) -> Result<Position> {
        match self.untold.take() {
            Some(position) => Ok(position),
            None => std::future::pending().await,
        }
    }

    async fn idle(&mut self) -> Result<()> {
        self.commit().await
    }

    async fn close(&mut self) -> Result<Option<Position>> {
        self.commit().await?;
        Ok(self.durable.clone())
    }
}

impl Output {
    fn write(&mut self, lines: Vec<u8>) -> Result<Vec<u8>> {
        let newline: &[u8] = if self.torn { b"\n" } else { b"" };
        self.torn = true;
        let written = self
            .out
            .write_all(newline)
            .and_then(|()| self.out.write_all(&lines))
            .and_then(|()| self.out.flush());
        match written {
            Ok(()) => {
                self.torn = false;
                Ok(lines)
            }
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                Err(Error::fatal("the reader of standard output has gone").source(error))
            }
            Err(error) => Err(Error::transient("cannot write to standard output").source(error)),
        }
    }
}

/// Lines that went to a regular file must be on its disk before the position is; pipes and terminals have
/// nothing to sync and say so with EINVAL.
fn sync_stdout() -> Result<()> {
    let synced = std::io::stdout().as_fd().try_clone_to_owned().and_then(|fd| File::from(fd).sync_data());
    match synced {
        Err(error) if error.kind() != std::io::ErrorKind::InvalidInput => {
            Err(Error::transient("cannot sync standard output").source(error))
        }
        _ => Ok(()),
    }
}

/// Every topic is there, in one partition: a name in a line.
#[derive(Clone, Debug)]
pub struct StdoutTargets {
    /// A topic's place in here is its index.
    names: Arc<Mutex<Vec<String>>>,
    progress: Arc<Progress>,
}

impl Targets for StdoutTargets {
    async fn topic(&self, name: &str) -> Result<Topic> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let place = names.iter().position(|known| known == name).unwrap_or_else(|| {
            names.push(name.to_owned());
            names.len() - 1
        });
        self.progress.use_topic(name);
        let index = u32::try_from(place).map_err(|_| Error::fatal("more than 2^32 topics"))?;
        Ok(Topic { index, partitions: 1, record_bytes_max: RECORD_BYTES_MAX })
    }

    async fn schema(&self, _of: SchemaType, subject: &str, _text: &str) -> Result<u32> {
        Err(Error::new(Kind::Config, format!("standard output has no registry for subject {subject}"))
            .hint("schemas need [sink.kafka]; set encoding = \"json\" in [format]"))
    }
}

#[cfg(test)]
mod tests;
