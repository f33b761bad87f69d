//! One transaction that is far larger than any memory set aside for it. Start at [`run`].

use crate::database::Database;
use crate::figures::{grouped, mebibytes};
use crate::pulse;
use crate::report::{self, Goal};
use crate::workload::Load;
use crate::{Bench, Result, machine};

const BASE: &str = "base";
const MEMORY_MIB_MAX: f64 = 256.0;
/// A batch of rows that shows how large a row is.
const SAMPLE_ROWS: u64 = 1000;

#[derive(Clone, Debug)]
pub struct Options {
    /// Of rows on the wire, 10^9 bytes each.
    pub gigabytes: f64,
}

pub async fn run(bench: &Bench, options: &Options) -> Result<()> {
    let rows = rows_for(bench, options.gigabytes).await?;
    let database = Database::new(&bench.servers).await?;
    let facts = machine::facts(bench, &database).await?;
    database.create_slot(BASE).await?;
    println!("one transaction of {} rows: writing", grouped(rows));
    let written = database.fill(Load::Table, 1, rows).await?;
    let bytes = database.wire_bytes_per_row(BASE).await? * rows as f64;
    let theirs = pulse::pg_recvlogical(bench, &database, BASE, &written).await?;
    let ours = pulse::millrace(bench, &database, BASE, &written, "bench-huge", None).await?;
    database.remove(&bench.servers).await?;
    let memory = mebibytes(ours.memory_peak_bytes);
    println!("{} rows in {:.1} s, {memory:.1} MiB", grouped(rows), ours.seconds);

    let goals = [Goal {
        what: format!("one transaction of {:.2} GB: peak resident memory", bytes / 1e9),
        measured: format!("{memory:.1} MiB"),
        target: format!("under {MEMORY_MIB_MAX:.0} MiB"),
        met: memory < MEMORY_MIB_MAX,
    }];
    let mut table = vec![["", "seconds", "rows/s", "MB/s", "CPU us/row"].map(str::to_owned).to_vec()];
    for (name, run) in [("millrace", &ours), ("pg_recvlogical to /dev/null", &theirs)] {
        table.push(vec![
            name.to_owned(),
            format!("{:.1}", run.seconds),
            grouped(run.rate() as u64),
            format!("{:.1}", bytes / 1e6 / run.seconds),
            format!("{:.2}", run.us_per_event(run.client_cpu)),
        ]);
    }
    let body = format!(
        "{}\n{}\n{} rows in one transaction, {:.2} GB on the wire, committed before the run; one run each, from the \
         slot becoming active, so the time that Postgres takes to read the transaction from its log and spill it \
         to disk is in both. Every row was counted in Kafka, once, by an independent `read_committed` reader.\n\n{}",
        report::list(&facts),
        report::goals(&goals),
        grouped(rows),
        bytes / 1e9,
        report::table(&table)
    );
    report::write(&bench.report, "large-transaction", &body)
}

async fn rows_for(bench: &Bench, gigabytes: f64) -> Result<u64> {
    let database = Database::new(&bench.servers).await?;
    database.create_slot(BASE).await?;
    database.fill(Load::Table, 1, SAMPLE_ROWS).await?;
    let bytes = database.wire_bytes_per_row(BASE).await?;
    database.remove(&bench.servers).await?;
    Ok((gigabytes * 1e9 / bytes).ceil() as u64)
}
