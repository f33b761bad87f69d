//! One run over a slot that waits, timed from the slot becoming active to the last event, with the CPU
//! time of everybody who took part. Start at [`pg_recvlogical`] and [`millrace`].

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::daemon::{Connector, Daemon, From};
use crate::database::{Database, Written};
use crate::process::{Program, command, cpu_seconds, memory_peak_bytes, scheduled_seconds};
use crate::profile::Recorder;
use crate::workload::Load;
use crate::{Bench, Error, Result, outbox, verify};

/// Below the start-up of anything, above what a query costs.
const ACTIVE_POLL: Duration = Duration::from_millis(2);
/// The resolution of a run's duration and of the walsender's CPU time; the same for both programs.
const END_POLL: Duration = Duration::from_millis(10);
const ACTIVE_WITHIN: Duration = Duration::from_secs(60);
/// Slower than this is not slow, it stands still.
const END_WITHIN: Duration = Duration::from_secs(1800);

/// What a run took. CPU times are in seconds.
#[derive(Clone, Debug)]
pub struct Run {
    pub seconds: f64,
    pub events: u64,
    pub client_cpu: f64,
    pub walsender_cpu: f64,
    pub broker_cpu: f64,
    pub memory_peak_bytes: u64,
}

impl Run {
    pub fn rate(&self) -> f64 {
        self.events as f64 / self.seconds
    }

    /// A CPU time of this run in microseconds an event.
    pub fn us_per_event(&self, cpu_seconds: f64) -> f64 {
        cpu_seconds * 1e6 / self.events as f64
    }
}

/// Reads to /dev/null, up to the end of what was written.
pub async fn pg_recvlogical(
    bench: &Bench,
    database: &Database,
    base: &str,
    written: &Written,
) -> Result<Run> {
    let slot = "recvlogical";
    database.copy_slot(base, slot).await?;
    let mut command = command(&bench.servers.pg_recvlogical);
    command.args(["--dbname", &database.url, "--slot", slot, "--start", "--file", "/dev/null"]);
    command.args(["--option", "proto_version=1", "--option", "publication_names=bench"]);
    command.args(["--option", "messages=true", "--endpos", &written.end]);
    command.stdin(Stdio::null());
    let mut program = Program::start(&mut command)?;
    let mut gauge = Gauge::begin(database, slot, &program, &bench.servers.broker_pids).await?;
    while !program.ended()? {
        gauge.look()?;
        tokio::time::sleep(END_POLL).await;
    }
    let run = gauge.end(written.events)?;
    let status = program.wait()?;
    if !status.success() {
        return Err(format!("pg_recvlogical ended with {status}").into());
    }
    database.drop_slot(slot).await?;
    Ok(run)
}

/// Reads into Kafka until the daemon shows the end as durable there; then an independent reader counts.
pub async fn millrace(
    bench: &Bench,
    database: &Database,
    base: &str,
    written: &Written,
    name: &str,
    mut recorder: Option<&mut Recorder>,
) -> Result<Run> {
    let slot = name.replace('-', "_");
    database.copy_slot(base, &slot).await?;
    let connector = Connector::new(name, &database.url, From::Slot(&slot, written.load), bench)?;
    let mut daemon = connector.start()?;
    let begun = Gauge::begin(database, &slot, &daemon.program, &bench.servers.broker_pids).await;
    let mut gauge = begun.map_err(|error| daemon.failure(&error.to_string()))?;
    if let Some(recorder) = &mut recorder {
        recorder.start(daemon.program.pid())?;
    }
    until_delivered(&mut daemon, written.before_end, &mut gauge).await?;
    let run = gauge.end(written.events)?;
    if let Some(recorder) = recorder {
        recorder.stop()?;
    }
    match written.load {
        Load::Table => {
            let topic = format!("{name}.public.bench");
            verify::exactly_once(&bench.servers, &topic, written.events).await?;
        }
        Load::Outbox => {
            outbox::exactly_once(&bench.servers, &format!("{name}.order"), written.events).await?;
        }
    }
    daemon.terminate().await?;
    database.drop_slot(&slot).await?;
    crate::topics::delete_of(name, &bench.servers).await?;
    Ok(run)
}

async fn until_delivered(daemon: &mut Daemon, end: u64, gauge: &mut Gauge) -> Result<()> {
    while daemon.delivered().await? <= end {
        gauge.look()?;
        daemon.must_run()?;
        tokio::time::sleep(END_POLL).await;
    }
    Ok(())
}

/// Clocks of everybody at the moment when the slot became active.
struct Gauge {
    begun: Instant,
    client: u32,
    client_cpu: f64,
    walsender: u32,
    walsender_cpu: f64,
    /// As last seen: a walsender is gone a moment after its client.
    walsender_cpu_now: f64,
    brokers: Vec<u32>,
    brokers_cpu: f64,
}

impl Gauge {
    async fn begin(database: &Database, slot: &str, program: &Program, brokers: &[u32]) -> Result<Gauge> {
        let deadline = Instant::now() + ACTIVE_WITHIN;
        let walsender = loop {
            if let Some(walsender) = database.walsender(slot).await? {
                break walsender;
            }
            if program.ended()? {
                return Err(format!("slot {slot} was never active: its reader has ended").into());
            }
            if Instant::now() >= deadline {
                return Err(format!("nobody reads from slot {slot}").into());
            }
            tokio::time::sleep(ACTIVE_POLL).await;
        };
        let begun = Instant::now();
        let client = program.pid();
        let walsender_cpu = scheduled_seconds(walsender).ok_or("the walsender is gone at once")?;
        Ok(Gauge {
            begun,
            client,
            client_cpu: cpu_seconds(client).ok_or_else(|| gone(client))?,
            walsender,
            walsender_cpu,
            walsender_cpu_now: walsender_cpu,
            brokers: brokers.to_vec(),
            brokers_cpu: all_cpu_seconds(brokers)?,
        })
    }

    fn look(&mut self) -> Result<()> {
        if let Some(cpu) = scheduled_seconds(self.walsender) {
            self.walsender_cpu_now = cpu;
        }
        if self.begun.elapsed() > END_WITHIN {
            return Err(format!("a run takes longer than {} s", END_WITHIN.as_secs()).into());
        }
        Ok(())
    }

    fn end(mut self, events: u64) -> Result<Run> {
        let seconds = self.begun.elapsed().as_secs_f64();
        self.look()?;
        let client_cpu = cpu_seconds(self.client).ok_or_else(|| gone(self.client))?;
        Ok(Run {
            seconds,
            events,
            client_cpu: client_cpu - self.client_cpu,
            walsender_cpu: self.walsender_cpu_now - self.walsender_cpu,
            broker_cpu: all_cpu_seconds(&self.brokers)? - self.brokers_cpu,
            // An ended program has no memory any more; only the daemon's is asked for.
            memory_peak_bytes: memory_peak_bytes(self.client).unwrap_or(0),
        })
    }
}

fn all_cpu_seconds(pids: &[u32]) -> Result<f64> {
    pids.iter().map(|pid| cpu_seconds(*pid).ok_or_else(|| gone(*pid))).sum()
}

fn gone(pid: u32) -> Error {
    format!("process {pid} is gone").into()
}
