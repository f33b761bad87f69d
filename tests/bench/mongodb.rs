//! How fast a change stream that waits is drained into Kafka, against a bare reader of the same raw replies that
//! throws them away, in alternating runs. Start at [`run`].

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use millrace_ledger::mongodb::connect;
use mongodb::bson::{Document, Timestamp, doc};
use mongodb::{Client, Collection};

use crate::daemon::{Connector, Daemon};
use crate::figures::{greatest, grouped, least, mebibytes, median};
use crate::process::{cpu_seconds, memory_peak_bytes};
use crate::profile::Recorder;
use crate::report::{self, Goal};
use crate::{Bench, Result, machine, topics, verify};

const DATABASE: &str = "bench";
const COLLECTION: &str = "bench";

const CPU_US_MAX: f64 = 4.0;
const MEMORY_MIB_MAX: f64 = 96.0;
const RATIO_MIN: f64 = 0.8;

/// Below the start-up of anything.
const LOOK: Duration = Duration::from_millis(2);
/// The resolution of a run's duration.
const END_POLL: Duration = Duration::from_millis(10);
const STREAMS_WITHIN: Duration = Duration::from_secs(60);
/// Slower than this is not slow, it stands still.
const END_WITHIN: Duration = Duration::from_secs(1800);

#[derive(Clone, Debug)]
pub struct Options {
    pub rounds: u32,
    pub documents: u64,
}

/// What is written, and what is asked for.
#[derive(Clone, Copy)]
enum Workload {
    Inserts,
    /// Updates with the document that each left.
    PostImages,
}

impl Workload {
    fn name(self) -> &'static str {
        match self {
            Self::Inserts => "inserts",
            Self::PostImages => "post-images",
        }
    }

    fn what(self, documents: u64) -> String {
        match self {
            Self::Inserts => format!("{} inserts", grouped(documents)),
            Self::PostImages => format!("{} updates with post-images", grouped(documents)),
        }
    }

    fn op(self) -> &'static str {
        match self {
            Self::Inserts => "c",
            Self::PostImages => "u",
        }
    }

    /// What the server is asked for beside the change.
    fn full_document(self) -> Option<&'static str> {
        match self {
            Self::Inserts => Some("updateLookup"),
            Self::PostImages => Some("whenAvailable"),
        }
    }

    fn keys(self) -> &'static str {
        match self {
            Self::Inserts => "",
            Self::PostImages => "update_document = \"post_image\"\n",
        }
    }
}

/// A part of the server's log, from before the first event to the last.
struct Written {
    from: Timestamp,
    /// Of the last event.
    end: u64,
    events: u64,
    /// Of the server's answers, on the average.
    bytes_per_event: f64,
}

struct Run {
    seconds: f64,
    events: u64,
    cpu: f64,
    server_cpu: f64,
    memory_peak_bytes: u64,
}

impl Run {
    fn rate(&self) -> f64 {
        self.events as f64 / self.seconds
    }

    fn us_per_event(&self, cpu_seconds: f64) -> f64 {
        cpu_seconds * 1e6 / self.events as f64
    }
}

struct Round {
    bare: Run,
    millrace: Run,
}

impl Round {
    fn ratio(&self) -> f64 {
        self.millrace.rate() / self.bare.rate()
    }
}

struct Set<'a> {
    bench: &'a Bench,
    url: &'a str,
    client: Client,
    pids: Vec<u32>,
}

/// `pids`: those of the replica set's members.
pub async fn run(bench: &Bench, pids: &[u32], options: &Options) -> Result<()> {
    let url = bench.servers.mongodb.as_deref().ok_or("there is no MongoDB to measure")?;
    let set = Set { bench, url, client: connect(url).await?, pids: pids.to_vec() };
    let version = set.client.database("admin").run_command(doc! { "buildInfo": 1 }).await?;
    let facts = machine::facts_with(bench, format!("MongoDB {}", version.get_str("version")?));
    let (mut goals, mut details, mut profiles) = (Vec::new(), String::new(), String::new());
    for workload in [Workload::Inserts, Workload::PostImages] {
        let what = workload.what(options.documents);
        println!("{what}: writing");
        let written = set.fill(workload, options.documents).await?;
        let rounds = set.rounds(workload, &written, options.rounds).await?;
        goals.extend(goals_of(&what, &rounds));
        let _ = write!(details, "\n{}", detail(&what, &rounds, written.bytes_per_event));
        let _ = write!(profiles, "\n{}", set.profile(workload, &written).await?);
    }
    set.client.database(DATABASE).drop().await?;
    let (facts, goals) = (report::list(&facts), report::goals(&goals));
    let body = format!("{facts}\n{goals}\n{METHOD}\n{details}\n### Where the time goes\n{profiles}");
    report::write(&bench.report, "mongodb", &body)
}

const METHOD: &str = "\
Each round reads the same part of the log with both programs; odd rounds the other way round. The bare reader asks \
for the same events with the same driver, by raw replies, and drops each reply as it comes: it is what the server \
can send. Both are timed from the moment when their stream is open, the daemon to the moment when its `/metrics`, \
asked every 10 ms, shows the last event as durable in Kafka. It writes Avro through the registry in Kafka \
transactions, with its default settings, into a new topic, and after each run an independent `read_committed` reader \
counts that every document is there once. CPU time is that of the whole process between the same two moments. The \
first round warms caches and the broker's JVM; it is shown and not counted. For scale, on another machine of 2 \
cores: Debezium 3.6 on Kafka Connect with exactly-once, tuned and warm, 27,000 inserts a second at 53 us of CPU an \
event.
";

/// About 550 bytes as a change event: what an order looks like.
fn document(number: i64) -> Document {
    doc! {
        "_id": i32::try_from(number).unwrap_or(i32::MAX),
        "customer": format!("customer-{:08}", number % 10_000),
        "status": "paid",
        "amount": number as f64 / 100.0,
        "items": number % 7,
        "created": mongodb::bson::DateTime::from_millis(1_700_000_000_000 + number),
        "note": "a text of some length, as people write it beside an order, with nothing special in it",
        "express": number % 3 == 0,
        "address": { "street": "Long Street 12", "city": "Springfield", "zip": "12345" },
        "version": 0_i64,
    }
}

impl Set<'_> {
    fn collection(&self) -> Collection<Document> {
        self.client.database(DATABASE).collection(COLLECTION)
    }

    /// Writes what is read in every round.
    async fn fill(&self, workload: Workload, documents: u64) -> Result<Written> {
        let database = self.client.database(DATABASE);
        database.drop().await?;
        let images = matches!(workload, Workload::PostImages);
        let create = doc! { "create": COLLECTION, "changeStreamPreAndPostImages": { "enabled": images } };
        database.run_command(create).await?;
        let count = i64::try_from(documents)?;
        let mut from = self.now().await?;
        for first in (1..=count).step_by(1_000) {
            let chunk = (first..(first + 1_000).min(count + 1)).map(document);
            self.collection().insert_many(chunk).await?;
        }
        if images {
            // Behind the last insert, which is the newest operation by now.
            from = self.now().await?;
            from.increment += 1;
            self.collection().update_many(doc! {}, doc! { "$set": { "version": 1_i64 } }).await?;
        }
        let end = self.now().await?;
        let mut written = Written { from, end: place(end), events: documents, bytes_per_event: f64::NAN };
        // Behind the last event, so that a place beyond the end is one that was passed.
        database.collection::<Document>("behind").insert_one(doc! {}).await?;
        let (_, bytes) = self.read(workload, &written).await?;
        written.bytes_per_event = bytes as f64 / documents as f64;
        Ok(written)
    }

    async fn now(&self) -> Result<Timestamp> {
        let hello = self.client.database("admin").run_command(doc! { "hello": 1 }).await?;
        Ok(hello.get_timestamp("operationTime")?)
    }

    fn server_cpu(&self) -> Result<f64> {
        self.pids.iter().map(|pid| cpu_seconds(*pid).ok_or_else(|| "the server is gone".into())).sum()
    }

    /// Reads and throws away; how many bytes the answers had.
    async fn read(&self, workload: Workload, written: &Written) -> Result<(Run, u64)> {
        let mut stream = doc! { "allChangesForCluster": true, "startAtOperationTime": written.from };
        if let Some(full) = workload.full_document() {
            stream.insert("fullDocument", full);
        }
        let wanted = doc! { "ns.db": DATABASE, "ns.coll": COLLECTION, "operationType": match workload {
            Workload::Inserts => "insert",
            Workload::PostImages => "update",
        } };
        let stages = vec![doc! { "$changeStream": stream }, doc! { "$match": wanted }];
        let admin = self.client.database("admin");
        let mut cursor = admin.aggregate(stages).max_await_time(Duration::from_millis(100)).batch().await?;
        let (begun, server_cpu) = (Instant::now(), self.server_cpu()?);
        let this = std::process::id();
        let cpu = cpu_seconds(this).unwrap_or_default();
        let mut bytes = 0;
        loop {
            let reply = cursor.next().await.ok_or("the stream has ended")??;
            let raw = reply.as_raw_document();
            bytes += raw.as_bytes().len() as u64;
            let token = raw.get_document("cursor")?.get_document("postBatchResumeToken")?;
            let token = u64::from_str_radix(&token.get_str("_data")?[2..18], 16)?;
            if token > written.end {
                break;
            }
            if begun.elapsed() > END_WITHIN {
                return Err("the bare reader does not come to an end".into());
            }
        }
        let run = Run {
            seconds: begun.elapsed().as_secs_f64(),
            events: written.events,
            cpu: cpu_seconds(this).unwrap_or_default() - cpu,
            server_cpu: self.server_cpu()? - server_cpu,
            memory_peak_bytes: 0,
        };
        Ok((run, bytes))
    }

    /// Reads into Kafka until the daemon shows the end as durable there; then an independent reader counts.
    async fn millrace(
        &self,
        workload: Workload,
        written: &Written,
        name: &str,
        mut recorder: Option<&mut Recorder>,
    ) -> Result<Run> {
        let source = format!(
            "[source.mongodb]\nurl = {:?}\ncollections = [\"{DATABASE}.{COLLECTION}\"]\nsnapshot = \"no_data\"\n{}",
            self.url,
            workload.keys()
        );
        let connector = Connector::of_source(name, &source, self.bench)?;
        let from = written.from;
        connector.set_position(&format!("{}.{}", from.time, from.increment))?;
        let mut daemon = connector.start()?;
        self.until_it_streams(&daemon).await?;
        let (begun, server_cpu) = (Instant::now(), self.server_cpu()?);
        let pid = daemon.program.pid();
        let cpu = cpu_seconds(pid).ok_or("the daemon is gone")?;
        if let Some(recorder) = &mut recorder {
            recorder.start(pid)?;
        }
        while daemon.delivered().await? < written.end {
            daemon.must_run()?;
            if begun.elapsed() > END_WITHIN {
                return Err(daemon.failure("the daemon does not come to the end"));
            }
            tokio::time::sleep(END_POLL).await;
        }
        let run = Run {
            seconds: begun.elapsed().as_secs_f64(),
            events: written.events,
            cpu: cpu_seconds(pid).ok_or("the daemon is gone")? - cpu,
            server_cpu: self.server_cpu()? - server_cpu,
            memory_peak_bytes: memory_peak_bytes(pid).unwrap_or(0),
        };
        if let Some(recorder) = recorder {
            recorder.stop()?;
        }
        let topic = format!("{name}.{DATABASE}.{COLLECTION}");
        verify::exactly_once_as(workload.op(), &self.bench.servers, &topic, written.events).await?;
        daemon.terminate().await?;
        topics::delete_of(name, &self.bench.servers).await?;
        Ok(run)
    }

    async fn until_it_streams(&self, daemon: &Daemon) -> Result<()> {
        let deadline = Instant::now() + STREAMS_WITHIN;
        while !daemon.streams()? {
            daemon.must_run()?;
            if Instant::now() >= deadline {
                return Err(daemon.failure("the daemon opens no stream"));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// One round more than asked for: the first is for warming up.
    async fn rounds(&self, workload: Workload, written: &Written, count: u32) -> Result<Vec<Round>> {
        let mut rounds = Vec::new();
        for round in 0..=count {
            let name = format!("bench-{}-{round}", workload.name());
            let bare = async || self.read(workload, written).await.map(|(run, _)| run);
            let ours = async || self.millrace(workload, written, &name, None).await;
            let now = if round % 2 == 0 {
                let bare = bare().await?;
                Round { bare, millrace: ours().await? }
            } else {
                let millrace = ours().await?;
                Round { bare: bare().await?, millrace }
            };
            println!(
                "{}, round {round}: bare {:.0}/s, millrace {:.0}/s, ratio {:.2}, {:.2} us an event, {:.1} MiB",
                workload.name(),
                now.bare.rate(),
                now.millrace.rate(),
                now.ratio(),
                now.millrace.us_per_event(now.millrace.cpu),
                mebibytes(now.millrace.memory_peak_bytes),
            );
            rounds.push(now);
        }
        Ok(rounds)
    }

    async fn profile(&self, workload: Workload, written: &Written) -> Result<String> {
        let mut recorder = match Recorder::new(self.bench)? {
            Ok(recorder) => recorder,
            Err(why) => return Ok(format!("{}: `perf` was not available ({why}).\n", workload.name())),
        };
        let name = format!("bench-{}-perf", workload.name());
        let run = self.millrace(workload, written, &name, Some(&mut recorder)).await?;
        Ok(format!(
            "#### {}\n\nSamples of `perf record -g` over the daemon in a run of its own ({} events/s, {:.2} us of \
             CPU an event while sampled), by thread and by the time that a symbol spends in itself:\n\n{}",
            workload.what(written.events),
            grouped(run.rate() as u64),
            run.us_per_event(run.cpu),
            recorder.tables()?
        ))
    }
}

fn place(time: Timestamp) -> u64 {
    u64::from(time.time) << 32 | u64::from(time.increment)
}

fn counted(rounds: &[Round]) -> &[Round] {
    rounds.get(1..).unwrap_or_default()
}

fn goals_of(what: &str, rounds: &[Round]) -> Vec<Goal> {
    let of = |figure: fn(&Round) -> f64| counted(rounds).iter().map(figure).collect::<Vec<f64>>();
    let ratio = median(&of(Round::ratio));
    let cpu = median(&of(|round| round.millrace.us_per_event(round.millrace.cpu)));
    let memory = greatest(&of(|round| mebibytes(round.millrace.memory_peak_bytes)));
    let rate = median(&of(|round| round.millrace.rate()));
    vec![
        Goal {
            what: format!("{what}: rate, times a bare reader's"),
            measured: format!("{ratio:.2} (paired median; {} events/s)", grouped(rate as u64)),
            target: format!("at least {RATIO_MIN:.1}"),
            met: ratio >= RATIO_MIN,
        },
        Goal {
            what: format!("{what}: CPU of the daemon"),
            measured: format!("{cpu:.2} us an event (median)"),
            target: format!("at most {CPU_US_MAX:.0} us"),
            met: cpu <= CPU_US_MAX,
        },
        Goal {
            what: format!("{what}: peak resident memory"),
            measured: format!("{memory:.1} MiB (of all runs)"),
            target: format!("at most {MEMORY_MIB_MAX:.0} MiB"),
            met: memory <= MEMORY_MIB_MAX,
        },
    ]
}

fn detail(what: &str, rounds: &[Round], bytes_per_event: f64) -> String {
    let head = [
        "round",
        "bare events/s",
        "CPU us/event",
        "its server",
        "millrace events/s",
        "CPU us/event",
        "its server",
        "peak MiB",
        "ratio",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let print = |figures: [f64; 8]| {
        figures.into_iter().enumerate().map(|(nth, figure)| match nth {
            0 | 3 => grouped(figure as u64),
            6 => format!("{figure:.1}"),
            _ => format!("{figure:.2}"),
        })
    };
    for (nth, round) in rounds.iter().enumerate() {
        let name = if nth == 0 { "warm-up".to_owned() } else { nth.to_string() };
        rows.push(std::iter::once(name).chain(print(figures(round)).collect::<Vec<_>>()).collect());
    }
    let all: Vec<[f64; 8]> = counted(rounds).iter().map(figures).collect();
    type Summary = fn(&[f64]) -> f64;
    for (name, summary) in [("median", median as Summary), ("min", least), ("max", greatest)] {
        let column = |nth: usize| summary(&all.iter().map(|figures| figures[nth]).collect::<Vec<_>>());
        let summed = std::array::from_fn(column);
        let name = format!("**{name}**");
        rows.push(std::iter::once(name).chain(print(summed).collect::<Vec<_>>()).collect());
    }
    format!(
        "### {what}\n\n{bytes_per_event:.0} bytes an event in the server's answers.\n\n{}",
        report::table(&rows)
    )
}

/// A row of the table.
fn figures(round: &Round) -> [f64; 8] {
    let (theirs, ours) = (&round.bare, &round.millrace);
    [
        theirs.rate(),
        theirs.us_per_event(theirs.cpu),
        theirs.us_per_event(theirs.server_cpu),
        ours.rate(),
        ours.us_per_event(ours.cpu),
        ours.us_per_event(ours.server_cpu),
        mebibytes(ours.memory_peak_bytes),
        round.ratio(),
    ]
}
