//! Rows that are there before the connector: how fast they reach Kafka, against COPY to /dev/null, and how soon a
//! connector of ten thousand tables streams. Start at [`run`].

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::daemon::{Connector, Daemon, From};
use crate::database::Database;
use crate::figures::{grouped, mebibytes, median};
use crate::process::{Program, command, cpu_seconds, memory_peak_bytes};
use crate::report::{self, Goal};
use crate::{Bench, Result, machine, topics, verify, workload};

/// Rounds that are not counted. A round is a few seconds, and the broker's compiler is busy for ten.
const WARM_UPS: u32 = 3;
/// The resolution of a run's duration.
const POLL: Duration = Duration::from_millis(10);
/// Slower than this is not slow, it stands still.
const END_WITHIN: Duration = Duration::from_secs(1800);

const RATIO_LEAST: f64 = 0.3;
/// Five times what a tuned Debezium on Connect reads.
const RATE_LEAST: f64 = 315_000.0;
const MEMORY_MIB_MAX: f64 = 128.0;
const START_SECONDS_MAX: f64 = 30.0;

#[derive(Clone, Debug)]
pub struct Options {
    pub rounds: u32,
    /// Of all tables together.
    pub rows: u64,
    pub tables: u32,
    /// Of the start with many tables, all of them empty.
    pub many_tables: u32,
}

struct Round {
    copy_seconds: f64,
    /// From the first look at the tables to the last row durable in Kafka.
    seconds: f64,
    cpu: f64,
    broker_cpu: f64,
    memory_peak_bytes: u64,
}

pub async fn run(bench: &Bench, options: &Options) -> Result<()> {
    let database = Database::new(&bench.servers).await?;
    let facts = machine::facts(bench, &database).await?;
    let tables: Vec<String> = (1..=options.tables).map(|nth| format!("rows_{nth}")).collect();
    let each = options.rows / u64::from(options.tables.max(1));
    println!("{} tables of {} rows: writing", tables.len(), grouped(each));
    for table in &tables {
        database.client.batch_execute(&format!("CREATE TABLE {table} (LIKE bench INCLUDING ALL)")).await?;
        let rows = i64::try_from(each)?;
        database.client.execute(&workload::insert_into(table), &[&rows]).await?;
        database.client.batch_execute(&format!("VACUUM (ANALYZE) {table}")).await?;
    }
    database.client.batch_execute("CHECKPOINT").await?;
    let mut rounds = Vec::new();
    for nth in 0..WARM_UPS + options.rounds {
        let round = round(bench, &database, &tables, each, nth).await?;
        let rows = (each * tables.len() as u64) as f64;
        println!(
            "COPY {:.2} s, snapshot {:.2} s, {} rows/s, {:.1} MiB",
            round.copy_seconds,
            round.seconds,
            grouped((rows / round.seconds) as u64),
            mebibytes(round.memory_peak_bytes)
        );
        rounds.push(round);
    }
    let (streaming, through) = many(bench, &database, options.many_tables).await?;
    println!(
        "{} tables: streaming after {streaming:.1} s, through after {through:.1} s",
        options.many_tables
    );
    database.remove(&bench.servers).await?;
    let rows = each * tables.len() as u64;
    let goals = goals(&rounds, rows, (options.many_tables, streaming));
    let body = format!(
        "{}\n{}\n{METHOD}\n{}\nA connector of {} empty tables streamed {streaming:.1} s after its process began, and had \
         looked at the rows of all of them after {through:.1} s.\n",
        report::list(&facts),
        report::goals(&goals),
        table(&rounds, rows),
        grouped(options.many_tables.into()),
    );
    report::write(&bench.report, "snapshot", &body)
}

const METHOD: &str = "\
Rows of ten columns, about 300 bytes each, in four tables that were vacuumed and analysed. *COPY*: `psql` copies \
the tables one after the other to standard output, which is /dev/null. *Snapshot*: a new connector with its \
default settings writes Avro through the registry into new topics of one partition; from the moment when it \
looks at the tables to the moment when its `/metrics`, asked every 10 ms, shows all rows as durable in Kafka. \
Then an independent `read_committed` reader counts that every row is there once. The first three rounds warm caches \
and the broker's JVM, which compiles on one of the two cores until then; they are shown and not counted. For scale, on another machine of 2 cores: Debezium 3.6 on \
Kafka Connect, tuned, 63,000 rows a second, 27 us of CPU a row.
";

async fn round(bench: &Bench, database: &Database, tables: &[String], each: u64, nth: u32) -> Result<Round> {
    let copy_seconds = copy(bench, database, tables)?;
    let name = format!("bench-rows-{nth}");
    let wanted: Vec<String> = tables.iter().map(|table| format!("public.{table}")).collect();
    let connector = Connector::new(&name, &database.url, From::Rows(&wanted), bench)?;
    let rows = each * tables.len() as u64;
    let brokers = || bench.servers.broker_pids.iter().filter_map(|pid| cpu_seconds(*pid)).sum::<f64>();
    let mut daemon = connector.start()?;
    until(&mut daemon, "snapshot_tables", 1).await?;
    let (began, cpu, broker) = (Instant::now(), cpu_seconds(daemon.program.pid()).unwrap_or(0.0), brokers());
    until(&mut daemon, "delivered_records_total", rows).await?;
    let round = Round {
        copy_seconds,
        seconds: began.elapsed().as_secs_f64(),
        cpu: cpu_seconds(daemon.program.pid()).unwrap_or(0.0) - cpu,
        broker_cpu: brokers() - broker,
        memory_peak_bytes: memory_peak_bytes(daemon.program.pid()).unwrap_or(0),
    };
    let slot = database.only_slot().await?;
    daemon.terminate().await?;
    for table in tables {
        let topic = format!("{name}.public.{table}");
        verify::exactly_once_as("r", &bench.servers, &topic, each).await?;
    }
    topics::delete_of(&name, &bench.servers).await?;
    if let Some(slot) = slot {
        database.drop_slot(&slot).await?;
    }
    database.client.batch_execute(&format!("DROP PUBLICATION IF EXISTS \"millrace_{name}\"")).await?;
    Ok(round)
}

/// Seconds that psql takes for all tables.
fn copy(bench: &Bench, database: &Database, tables: &[String]) -> Result<f64> {
    let mut command = command(bench.servers.pg_recvlogical.with_file_name("psql"));
    command.args(["--no-psqlrc", "--quiet", "--dbname", &database.url]);
    for table in tables {
        command.arg("--command").arg(format!("COPY {table} TO STDOUT"));
    }
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let began = Instant::now();
    let status = Program::start(&mut command)?.wait()?;
    match status.success() {
        true => Ok(began.elapsed().as_secs_f64()),
        false => Err(format!("psql ended with {status}").into()),
    }
}

async fn until(daemon: &mut Daemon, metric: &str, least: u64) -> Result<()> {
    let deadline = Instant::now() + END_WITHIN;
    while daemon.metric(metric).await?.unwrap_or(0) < least {
        daemon.must_run()?;
        if Instant::now() >= deadline {
            return Err(daemon.failure(&format!("{metric} does not come to {least}")));
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Seconds from the start of the process until it streams, and until it is through with the rows.
async fn many(bench: &Bench, database: &Database, tables: u32) -> Result<(f64, f64)> {
    const AT_ONCE: u32 = 200;
    println!("{tables} tables: making them");
    database.client.batch_execute("CREATE SCHEMA many").await?;
    for first in (0..tables).step_by(AT_ONCE as usize) {
        let last = (first + AT_ONCE).min(tables);
        let statements = (first..last)
            .map(|nth| format!("CREATE TABLE many.t{nth} (id bigint PRIMARY KEY, note text);"))
            .collect::<String>();
        database.client.batch_execute(&statements).await?;
    }
    let name = "bench-many";
    let wanted = ["many.*".to_owned()];
    let connector = Connector::new(name, &database.url, From::Rows(&wanted), bench)?;
    let began = Instant::now();
    let mut daemon = connector.start()?;
    until(&mut daemon, "snapshot_tables", 1).await?;
    let streaming = began.elapsed().as_secs_f64();
    until(&mut daemon, "snapshot_tables_done", tables.into()).await?;
    let through = began.elapsed().as_secs_f64();
    let slot = database.only_slot().await?;
    daemon.terminate().await?;
    topics::delete_of(name, &bench.servers).await?;
    if let Some(slot) = slot {
        database.drop_slot(&slot).await?;
    }
    Ok((streaming, through))
}

fn goals(rounds: &[Round], rows: u64, (tables, streaming): (u32, f64)) -> Vec<Goal> {
    let counted = || rounds.iter().skip(WARM_UPS as usize);
    let rate = median(&counted().map(|round| rows as f64 / round.seconds).collect::<Vec<_>>());
    let ratio = median(&counted().map(|round| round.copy_seconds / round.seconds).collect::<Vec<_>>());
    let memory = rounds.iter().map(|round| mebibytes(round.memory_peak_bytes)).fold(0.0, f64::max);
    vec![
        Goal {
            what: format!("{} rows into Kafka: rate, times COPY's to /dev/null", grouped(rows)),
            measured: format!("{ratio:.2} (paired median)"),
            target: format!("at least {RATIO_LEAST}"),
            met: ratio >= RATIO_LEAST,
        },
        Goal {
            what: format!("{} rows into Kafka: rate", grouped(rows)),
            measured: format!("{} rows/s (median)", grouped(rate as u64)),
            target: format!("at least {} rows/s", grouped(RATE_LEAST as u64)),
            met: rate >= RATE_LEAST,
        },
        Goal {
            what: format!("{} rows into Kafka: peak resident memory", grouped(rows)),
            measured: format!("{memory:.1} MiB (of all runs)"),
            target: format!("under {MEMORY_MIB_MAX:.0} MiB"),
            met: memory < MEMORY_MIB_MAX,
        },
        Goal {
            what: format!(
                "{} tables: from the start of the process until it streams",
                grouped(tables.into())
            ),
            measured: format!("{streaming:.1} s"),
            target: format!("under {START_SECONDS_MAX:.0} s"),
            met: streaming < START_SECONDS_MAX,
        },
    ]
}

fn table(rounds: &[Round], rows: u64) -> String {
    let head = ["round", "COPY rows/s", "snapshot rows/s", "ratio", "CPU us/row", "broker", "peak MiB"];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    for (nth, round) in rounds.iter().enumerate() {
        let us = |seconds: f64| format!("{:.2}", seconds * 1e6 / rows as f64);
        lines.push(vec![
            match nth.checked_sub(WARM_UPS as usize) {
                None => "warm-up".to_owned(),
                Some(counted) => (counted + 1).to_string(),
            },
            grouped((rows as f64 / round.copy_seconds) as u64),
            grouped((rows as f64 / round.seconds) as u64),
            format!("{:.2}", round.copy_seconds / round.seconds),
            us(round.cpu),
            us(round.broker_cpu),
            format!("{:.1}", mebibytes(round.memory_peak_bytes)),
        ]);
    }
    report::table(&lines)
}
