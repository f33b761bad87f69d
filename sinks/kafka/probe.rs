//! Measures the sink on a real broker: commit latency, records a second, CPU a record.
//! `MILLRACE_TEST_BOOTSTRAP=127.0.0.1:9092 cargo run --release -p millrace-kafka --example probe`

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use millrace_core::batch::{EncodedBatch, Record, Span};
use millrace_core::position::{Mark, Position};
use millrace_core::progress::Progress;
use millrace_core::sink::{Sink, Targets};
use millrace_kafka::{KafkaSink, Raw, Settings, read_position};

fn number(name: &str, otherwise: usize) -> usize {
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().expect("a number"))
}

fn settings(name: &str) -> Settings {
    let bootstrap = std::env::var("MILLRACE_TEST_BOOTSTRAP").expect("MILLRACE_TEST_BOOTSTRAP");
    let client: serde_json::Value =
        serde_json::from_str(&std::env::var("PROBE_CLIENT").unwrap_or("{}".to_owned())).unwrap();
    let raw: Raw = serde_json::from_value(serde_json::json!({
        "client": client,
        "bootstrap": [bootstrap], "topic_defaults": {"partitions": 4, "replication": 1},
    }))
    .unwrap();
    Settings::resolve(raw, name).unwrap()
}

fn sink(name: &str, instance: &str) -> (KafkaSink, Arc<Progress>) {
    let progress = Arc::new(Progress::default());
    (KafkaSink::new(settings(name), None, "shop", instance.to_owned(), progress.clone()).unwrap(), progress)
}

fn fill(batch: &mut EncodedBatch, topic: u32, records: u32, lsn: u64, bytes: usize) {
    batch.clear();
    for n in 0..records {
        let mut put = |bytes: &[u8]| {
            let start = batch.bytes.len() as u32;
            batch.bytes.extend_from_slice(bytes);
            Span { start, len: bytes.len() as u32 }
        };
        let key = put(&[n as u8; 12]);
        let value = put(&vec![b'x'; bytes]);
        let mut headers = Vec::new();
        let all = [("position", "0000000/16B3748/16B3700/12/0"), ("op", "c")];
        for (name, value) in all.iter().take(number("PROBE_HEADERS", 2)) {
            headers.extend_from_slice(&(name.len() as u16).to_le_bytes());
            headers.extend_from_slice(name.as_bytes());
            headers.extend_from_slice(&(value.len() as u32).to_le_bytes());
            headers.extend_from_slice(value.as_bytes());
        }
        let headers = put(&headers);
        let mark = Mark { commit: lsn, change: lsn, n };
        batch.records.push(Record {
            topic,
            partition: n % 4,
            key: Some(key),
            value: Some(value),
            headers,
            mark,
        });
    }
    batch.end = Some(Position::new(format!("{{\"lsn\":{lsn}}}")));
    batch.whole = true;
    batch.drained = true;
}

fn cpu_us() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let rest: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (rest[11].parse::<u64>().unwrap() + rest[12].parse::<u64>().unwrap()) * 10_000
}

fn rss_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn report(name: &str, mut took: Vec<Duration>) {
    took.sort();
    let at = |q: f64| took[((took.len() - 1) as f64 * q) as usize];
    println!(
        "{name}: n={} p50 {:?} p90 {:?} p99 {:?} max {:?}",
        took.len(),
        at(0.5),
        at(0.9),
        at(0.99),
        at(1.0)
    );
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let name = std::env::var("PROBE_NAME").unwrap_or_else(|_| format!("probe{}", std::process::id()));
    let started = Instant::now();
    let (mut sink, progress) = sink(&name, "one");
    println!("first open: {:?} in {:?}", sink.open().await, started.elapsed());
    let topic = sink.targets().topic(&format!("{name}.data")).await.unwrap();
    println!("topic {topic:?}; rss {} kB", rss_kb());

    let mut batch = EncodedBatch::default();
    let mut lsn = 1000;
    for pause in [0, 2, 20] {
        let mut took = Vec::new();
        let cpu = cpu_us();
        let n = if pause == 20 { 200 } else { number("PROBE_SMALL", 1000) as u64 };
        for _ in 0..n {
            lsn += 1;
            fill(&mut batch, topic.index, 1, lsn, 500);
            let at = Instant::now();
            sink.send(&batch).await.unwrap();
            sink.settled().await.unwrap();
            took.push(at.elapsed());
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        report(&format!("1-record transactions, {pause} ms apart"), took);
        println!("  cpu per transaction {} us", (cpu_us() - cpu) / n);
    }

    for (records, drained) in [(5000, true), (5000, false), (100, true)] {
        let cpu = cpu_us();
        let at = Instant::now();
        let total = if records == 5000 { 1_000_000 } else { 100_000 };
        let mut sent = 0;
        let before = progress.delivered_records.load(Ordering::Relaxed);
        let commits = progress.commits.load(Ordering::Relaxed);
        while sent < total {
            lsn += 1;
            fill(&mut batch, topic.index, records, lsn, 500);
            batch.drained = drained;
            tokio::select! { biased;
                sent = sink.send(&batch) => sent.unwrap(),
            }
            sent += u64::from(records);
        }
        sink.idle().await.unwrap();
        while progress.delivered_records.load(Ordering::Relaxed) - before < total {
            sink.settled().await.unwrap();
        }
        let took = at.elapsed();
        println!(
            "{records} records a batch, drained {drained}: {:.0}/s, {} commits, cpu {:.2} us a record, rss {} kB",
            total as f64 / took.as_secs_f64(),
            progress.commits.load(Ordering::Relaxed) - commits,
            (cpu_us() - cpu) as f64 / total as f64,
            rss_kb(),
        );
    }
    // What filling the batches costs.
    let cpu = cpu_us();
    for _ in 0..200 {
        fill(&mut batch, topic.index, 5000, lsn, 500);
    }
    println!("fill alone: cpu {:.2} us a record", (cpu_us() - cpu) as f64 / 1e6);

    let at = Instant::now();
    println!("close: {:?} in {:?}", sink.close().await, at.elapsed());
    println!("read: {:?}", read_position(&settings(&name), "shop").await);
    let at = Instant::now();
    println!("open again: {:?} in {:?}", sink.open().await, at.elapsed());
    println!(
        "latencies {:?}, doubtful {}",
        progress.commit_latency.read(),
        progress.doubtful_commits.load(Ordering::Relaxed)
    );

    // Another instance takes over.
    let (mut other, _) = self::sink(&name, "two");
    println!("other open: {:?}", other.open().await);
    sink.targets().topic(&format!("{name}.data")).await.unwrap();
    fill(&mut batch, topic.index, 1, lsn + 1, 500);
    let sent = sink.send(&batch).await;
    println!("fenced send: {sent:?}");
    println!("fenced settled: {:?}", sink.settled().await);
    let topic = other.targets().topic(&format!("{name}.data")).await.unwrap();
    fill(&mut batch, topic.index, 1, lsn + 1, 500);
    other.send(&batch).await.unwrap();
    println!("other settled: {:?}", other.settled().await);
    println!("{:?}", other.check().await);
    println!("close: {:?}", other.close().await);
}
