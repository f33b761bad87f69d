//! How fast a log that waits is drained into Kafka, against `pg_recvlogical` to /dev/null on the same log
//! in alternating runs. Start at [`run`].

use std::fmt::Write as _;

use crate::database::{Database, Written};
use crate::figures::{greatest, grouped, least, mebibytes, median};
use crate::profile::Recorder;
use crate::pulse::{self, Run};
use crate::report::{self, Goal};
use crate::workload::Load;
use crate::{Bench, Result, machine};

const BASE: &str = "base";

const CPU_US_MAX: f64 = 4.0;
const MEMORY_MIB_MAX: f64 = 64.0;
const RATIO_MIN: f64 = 1.0;

#[derive(Clone, Debug)]
pub struct Options {
    pub rounds: u32,
    /// Rows of the first workload, in transactions of 10,000.
    pub rows: u64,
    /// Transactions of one row, the second workload.
    pub single_rows: u64,
}

/// A log that waits.
pub struct Workload {
    /// Part of the connectors' names.
    name: &'static str,
    /// In words.
    what: String,
    load: Load,
    transactions: u64,
    size: u64,
}

impl Workload {
    /// So many rows at least, in transactions of 10,000 or of all of them.
    pub fn of_large_transactions(name: &'static str, load: Load, rows: u64) -> Self {
        let size = 10_000.min(rows.max(1));
        let transactions = rows.max(1).div_ceil(size);
        let what = format!("{} rows in {}-row transactions", grouped(transactions * size), grouped(size));
        Self { name, what, load, transactions, size }
    }

    pub fn of_single_rows(name: &'static str, load: Load, rows: u64) -> Self {
        Self {
            name,
            what: format!("{} one-row transactions", grouped(rows)),
            load,
            transactions: rows,
            size: 1,
        }
    }
}

/// Two runs over the same log, one right after the other.
struct Round {
    recvlogical: Run,
    millrace: Run,
}

impl Round {
    fn ratio(&self) -> f64 {
        self.millrace.rate() / self.recvlogical.rate()
    }
}

pub async fn run(bench: &Bench, options: &Options) -> Result<()> {
    let workloads = [
        Workload::of_large_transactions("large", Load::Table, options.rows),
        Workload::of_single_rows("single", Load::Table, options.single_rows),
    ];
    compared(bench, "postgres", METHOD, &workloads, options.rounds).await
}

/// Measures these, and writes a section of the report.
pub async fn compared(
    bench: &Bench,
    section: &str,
    method: &str,
    workloads: &[Workload],
    counted: u32,
) -> Result<()> {
    let (mut facts, mut goals, mut details, mut profiles) = (None, Vec::new(), String::new(), String::new());
    for workload in workloads {
        let database = Database::new(&bench.servers).await?;
        if facts.is_none() {
            facts = Some(machine::facts(bench, &database).await?);
        }
        println!("{}: writing", workload.what);
        database.create_slot(BASE).await?;
        let written = database.fill(workload.load, workload.transactions, workload.size).await?;
        let wire_bytes = database.wire_bytes_per_row(BASE).await?;
        let rounds = rounds(bench, &database, &written, workload, counted).await?;
        goals.extend(goals_of(workload, &rounds));
        let _ = write!(details, "\n{}", detail(workload, &rounds, wire_bytes));
        let _ = write!(profiles, "\n{}", profile(bench, &database, &written, workload).await?);
        database.remove(&bench.servers).await?;
    }
    let body = format!(
        "{}\n{}\n{method}\n{details}\n### Where the time goes\n{profiles}",
        report::list(&facts.unwrap_or_default()),
        report::goals(&goals)
    );
    report::write(&bench.report, section, &body)
}

const METHOD: &str = "\
Each round copies one slot twice and reads the same log with both programs; odd rounds the other way \
round. Timed from the slot becoming active (polled every 2 ms) to the exit of `pg_recvlogical`, and to the \
moment when the daemon's `/metrics`, asked every 10 ms, shows the end of the log as durable in Kafka. \
`pg_recvlogical` writes to /dev/null; the daemon writes Avro through the registry in Kafka transactions, \
with its default settings, into a new topic, and after each run an independent `read_committed` reader \
counts that every row is there once. CPU time is that of the whole process between the same two moments, \
the daemon's including what it takes to answer `/metrics`. The first round warms caches and the broker's \
JVM; it is shown and not counted. For scale, on another machine of 2 cores: Debezium 3.6 on Kafka Connect \
with exactly-once, tuned and warm, 53,000 and 47,000 events a second, 31 and 33 us of CPU an event, 1.1 to \
1.4 GB, 0.28 and 0.65 times pg_recvlogical.
";

/// One round more than asked for: the first is for warming up.
async fn rounds(
    bench: &Bench,
    database: &Database,
    written: &Written,
    workload: &Workload,
    count: u32,
) -> Result<Vec<Round>> {
    let mut rounds = Vec::new();
    for round in 0..=count {
        let name = format!("bench-{}-{round}", workload.name);
        let reference = || pulse::pg_recvlogical(bench, database, BASE, written);
        let ours = || pulse::millrace(bench, database, BASE, written, &name, None);
        let round_now = if round % 2 == 0 {
            let recvlogical = reference().await?;
            Round { recvlogical, millrace: ours().await? }
        } else {
            let millrace = ours().await?;
            Round { recvlogical: reference().await?, millrace }
        };
        println!(
            "{}, round {round}: pg_recvlogical {:.0}/s, millrace {:.0}/s, ratio {:.2}, {:.2} us an event",
            workload.what,
            round_now.recvlogical.rate(),
            round_now.millrace.rate(),
            round_now.ratio(),
            round_now.millrace.us_per_event(round_now.millrace.client_cpu)
        );
        rounds.push(round_now);
    }
    Ok(rounds)
}

fn counted(rounds: &[Round]) -> &[Round] {
    rounds.get(1..).unwrap_or_default()
}

fn goals_of(workload: &Workload, rounds: &[Round]) -> Vec<Goal> {
    let of = |figure: fn(&Round) -> f64| counted(rounds).iter().map(figure).collect::<Vec<f64>>();
    let ratio = median(&of(Round::ratio));
    let cpu = median(&of(|round| round.millrace.us_per_event(round.millrace.client_cpu)));
    let memory = greatest(&of(|round| mebibytes(round.millrace.memory_peak_bytes)));
    let rate = median(&of(|round| round.millrace.rate()));
    vec![
        Goal {
            what: format!("{}: rate, times pg_recvlogical's", workload.what),
            measured: format!("{ratio:.2} (paired median; {} events/s)", grouped(rate as u64)),
            target: format!("at least {RATIO_MIN:.1}"),
            met: ratio >= RATIO_MIN,
        },
        Goal {
            what: format!("{}: CPU of the daemon", workload.what),
            measured: format!("{cpu:.2} us an event (median)"),
            target: format!("at most {CPU_US_MAX:.0} us"),
            met: cpu <= CPU_US_MAX,
        },
        Goal {
            what: format!("{}: peak resident memory", workload.what),
            measured: format!("{memory:.1} MiB (of all runs)"),
            target: format!("at most {MEMORY_MIB_MAX:.0} MiB"),
            met: memory <= MEMORY_MIB_MAX,
        },
    ]
}

fn detail(workload: &Workload, rounds: &[Round], wire_bytes: f64) -> String {
    let head = [
        "round",
        "pg_recvlogical events/s",
        "CPU us/event",
        "its walsender",
        "millrace events/s",
        "CPU us/event",
        "its walsender",
        "broker",
        "peak MiB",
        "ratio",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for (nth, round) in rounds.iter().enumerate() {
        let name = if nth == 0 { "warm-up".to_owned() } else { nth.to_string() };
        rows.push(
            std::iter::once(name).chain(figures(round).iter().zip(PRINT).map(|(f, p)| p(*f))).collect(),
        );
    }
    let all: Vec<[f64; 9]> = counted(rounds).iter().map(figures).collect();
    type Summary = fn(&[f64]) -> f64;
    for (name, summary) in [("median", median as Summary), ("min", least), ("max", greatest)] {
        let mut row = vec![format!("**{name}**")];
        for (nth, print) in PRINT.iter().enumerate() {
            let column: Vec<f64> = all.iter().map(|figures| figures[nth]).collect();
            row.push(print(summary(&column)));
        }
        rows.push(row);
    }
    format!(
        "### {}\n\n{wire_bytes:.0} bytes a row on the wire (pgoutput in CopyData, average of 1,000).\n\n{}",
        workload.what,
        report::table(&rows)
    )
}

/// A row of the table.
fn figures(round: &Round) -> [f64; 9] {
    let (theirs, ours) = (&round.recvlogical, &round.millrace);
    [
        theirs.rate(),
        theirs.us_per_event(theirs.client_cpu),
        theirs.us_per_event(theirs.walsender_cpu),
        ours.rate(),
        ours.us_per_event(ours.client_cpu),
        ours.us_per_event(ours.walsender_cpu),
        ours.us_per_event(ours.broker_cpu),
        mebibytes(ours.memory_peak_bytes),
        round.ratio(),
    ]
}

const PRINT: [fn(f64) -> String; 9] =
    [rate, hundredths, hundredths, rate, hundredths, hundredths, hundredths, tenths, hundredths];

fn rate(value: f64) -> String {
    grouped(value as u64)
}

fn hundredths(value: f64) -> String {
    format!("{value:.2}")
}

fn tenths(value: f64) -> String {
    format!("{value:.1}")
}

async fn profile(
    bench: &Bench,
    database: &Database,
    written: &Written,
    workload: &Workload,
) -> Result<String> {
    let mut recorder = match Recorder::new(bench)? {
        Ok(recorder) => recorder,
        Err(why) => return Ok(format!("{}: `perf` was not available ({why}).\n", workload.what)),
    };
    let name = format!("bench-{}-perf", workload.name);
    let run = pulse::millrace(bench, database, BASE, written, &name, Some(&mut recorder)).await?;
    Ok(format!(
        "#### {}\n\nSamples of `perf record -g` over the daemon in a run of its own ({} events/s, {:.2} us of \
         CPU an event while sampled), by thread and by the time that a symbol spends in itself:\n\n{}",
        workload.what,
        grouped(run.rate() as u64),
        run.us_per_event(run.client_cpu),
        recorder.tables()?
    ))
}
