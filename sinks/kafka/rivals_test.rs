//! Several instances of one connector against a real broker, with nothing between them but the sink: no
//! slot that a source looks at first. Each of these fails without the rule that it names.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use millrace_core::batch::{EncodedBatch, Record, Span};
use millrace_core::encode::{Encoding, Format};
use millrace_core::error::{Error, Kind, Result};
use millrace_core::pipeline;
use millrace_core::position::{Mark, Position};
use millrace_core::progress::{Progress, State};
use millrace_core::report::Report;
use millrace_core::sink::{Sink, Targets, Topic};
use millrace_core::source::{Feed, Source};
use millrace_kafka::{KafkaSink, Settings};
use millrace_ledger::reader::{Isolation, Outcome, Reader};
use tokio::sync::{OnceCell, watch};
use xtask::services::{Home, Kafka, KafkaConfig};

const PATIENCE: Duration = Duration::from_secs(30);
/// The broker looks for transactions that ran out of their time every 10 s.
const TIMED_OUT: Duration = Duration::from_secs(40);
/// The shortest that the file may ask for.
const TIMEOUT_MS: u64 = 5_000;

/// One cluster for all tests of this process.
async fn kafka() -> &'static Kafka {
    static SHARED: OnceCell<Kafka> = OnceCell::const_new();
    let start = async || {
        let home = Home::temporary().expect("a temporary directory");
        Kafka::start_new(&KafkaConfig::default(), &home).await.expect("Kafka starts")
    };
    SHARED.get_or_init(start).await
}

/// A connector that delivers the numbers from 1 on; its position is the newest of them.
#[derive(Clone)]
struct Numbers {
    bootstrap: String,
    connector: String,
}

impl Numbers {
    async fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let bootstrap = kafka().await.bootstrap();
        Self { bootstrap, connector: format!("{name}-{}", COUNT.fetch_add(1, Ordering::Relaxed)) }
    }

    fn topic(&self) -> String {
        format!("{}.numbers", self.connector)
    }

    fn sink(&self, instance: &str) -> KafkaSink {
        let raw = serde_json::json!({
            "bootstrap": [self.bootstrap], "transaction": {"timeout_ms": TIMEOUT_MS},
        });
        let raw = serde_json::from_value(raw).expect("the table parses");
        let settings = Settings::resolve(raw, &self.connector).expect("the settings are right");
        let instance = instance.to_owned();
        KafkaSink::new(settings, None, &self.connector, instance, Arc::default()).expect("a sink")
    }

    fn instance(&self, name: &str) -> Instance {
        Instance { sink: self.sink(name), numbers: self.clone(), topic: None, next: 1, seq: 0 }
    }

    /// What a committed reader sees.
    async fn committed(&self) -> Vec<u64> {
        let mut reader = Reader::new(&self.bootstrap, Isolation::ReadCommitted, PATIENCE);
        let read = reader.read_all(&[&self.topic()]).await.expect("the topic can be read");
        let number = |bytes: &[u8]| std::str::from_utf8(bytes).expect("text").parse().expect("a number");
        read.records.iter().map(|record| number(record.value.as_deref().expect("a value"))).collect()
    }

    /// Fails unless a committed reader sees each number once, in order.
    async fn expect(&self, last: u64) {
        // Whoever was shut out last leaves a marker that the broker may still be writing.
        let deadline = Instant::now() + PATIENCE;
        while self.committed().await.len() < last as usize && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(self.committed().await, (1..=last).collect::<Vec<_>>());
    }

    async fn wait_for_an_abort(&self) {
        let deadline = Instant::now() + TIMED_OUT;
        loop {
            let mut reader = Reader::new(&self.bootstrap, Isolation::ReadUncommitted, PATIENCE);
            let read = reader.read_all(&[&self.topic()]).await.expect("the topic can be read");
            if read.markers.iter().any(|marker| marker.outcome == Outcome::Abort) {
                return;
            }
            assert!(Instant::now() < deadline, "the broker does not end the transaction");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// One process's sink, and a source that always goes on after the position that was read.
struct Instance {
    sink: KafkaSink,
    numbers: Numbers,
    topic: Option<Topic>,
    next: u64,
    seq: u64,
}

impl Instance {
    async fn open(&mut self) -> Result<()> {
        let position = self.sink.open().await?;
        self.next = 1 + position.as_ref().map_or(0, number_of);
        self.topic = Some(self.sink.targets().topic(&self.numbers.topic()).await?);
        Ok(())
    }

    /// Hands the next number over. One that is not whole stays in an open Kafka transaction.
    async fn send(&mut self, whole: bool) -> Result<()> {
        self.seq += 1;
        let mut batch = EncodedBatch { seq: self.seq, whole, drained: whole, ..EncodedBatch::default() };
        batch.bytes = self.next.to_string().into_bytes();
        let all = Span { start: 0, len: batch.bytes.len() as u32 };
        batch.records.push(Record {
            topic: self.topic.expect("opened").index,
            partition: 0,
            key: Some(all),
            value: Some(all),
            headers: Span::default(),
            mark: Mark { commit: self.next, change: self.next, n: 0 },
            time_ms: 0,
        });
        batch.end = Some(position_of(self.next));
        self.sink.send(&batch).await?;
        self.next += 1;
        Ok(())
    }

    /// Delivers up to a number, each in a Kafka transaction of its own.
    async fn deliver(&mut self, last: u64) -> Result<()> {
        while self.next <= last {
            let number = self.next;
            self.send(true).await?;
            while number_of(&self.sink.settled().await?) < number {}
        }
        Ok(())
    }

    /// As the daemon does it: opens again after whatever passes, until it is fenced or all is delivered.
    async fn run(mut self, last: u64) -> (Self, Result<()>) {
        loop {
            let attempt = async {
                self.open().await?;
                self.deliver(last).await
            };
            match attempt.await {
                Err(error) if error.kind() == Kind::Transient => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                ended => return (self, ended),
            }
        }
    }

    /// Opens and delivers, again while only something passing is in the way (a doubtful commit).
    async fn must_deliver(&mut self, last: u64) {
        loop {
            match self.deliver(last).await {
                Ok(()) => return,
                Err(error) if error.kind() == Kind::Transient => self.must_open().await,
                Err(error) => panic!("{error:?}"),
            }
        }
    }

    async fn must_open(&mut self) {
        while let Err(error) = self.open().await {
            assert_eq!(error.kind(), Kind::Transient, "{error:?}");
        }
    }
}

fn position_of(number: u64) -> Position {
    Position::new(format!("{{\"number\":{number}}}"))
}

fn number_of(position: &Position) -> u64 {
    let json: serde_json::Value = serde_json::from_str(position.as_str()).expect("JSON");
    json["number"].as_u64().expect("a number")
}

/// Rule: a stranger's claim after our own is a take-over, and whoever was taken over shuts nobody out.
#[tokio::test]
async fn an_instance_that_a_rival_took_over_from_says_so_and_leaves_it_alone() {
    let numbers = Numbers::new("taken-over").await;
    let (mut old, mut new) = (numbers.instance("old"), numbers.instance("new"));
    old.must_open().await;
    old.must_deliver(3).await;
    new.must_open().await;
    new.must_deliver(5).await;

    let error = old.deliver(6).await.expect_err("it was shut out");
    assert_eq!(error.kind(), Kind::Fenced, "{error:?}");
    assert!(error.message().contains("new"), "it names the rival: {error:?}");
    new.deliver(8).await.expect("nobody shut it out");
    numbers.expect(8).await;
}

/// Rule: a claim is looked for until it is found, however many positions lie after it.
#[tokio::test]
async fn a_rival_that_took_over_long_ago_is_still_seen() {
    let numbers = Numbers::new("long-ago").await;
    let (mut old, mut new) = (numbers.instance("old"), numbers.instance("new"));
    old.must_open().await;
    old.must_deliver(3).await;
    new.must_open().await;
    // Each is a record and a marker in the position topic; the first look back is at 1,000.
    new.must_deliver(600).await;

    let error = old.deliver(4).await.expect_err("it was shut out");
    assert_eq!(error.kind(), Kind::Fenced, "{error:?}");
    new.deliver(601).await.expect("nobody shut it out");
    numbers.expect(601).await;
}

/// Rule: opened again, the source goes on after the position read, whatever was sent or delivered before.
#[tokio::test]
async fn an_old_instance_that_recycles_after_a_new_one_took_over_doubles_nothing() {
    let numbers = Numbers::new("recycles").await;
    let (mut old, mut new) = (numbers.instance("old"), numbers.instance("new"));
    old.must_open().await;
    old.must_deliver(3).await;
    old.send(false).await.expect("number 4 lies in an open transaction");
    new.must_open().await;
    new.must_deliver(6).await;

    // Not fenced yet: whatever broke in it, it opens as after every trouble.
    old.must_open().await;
    assert_eq!(old.next, 7);
    old.must_deliver(8).await;
    let error = new.deliver(7).await.expect_err("now the other one is shut out");
    assert_eq!(error.kind(), Kind::Fenced, "{error:?}");
    numbers.expect(8).await;
}

/// Rule: a fence without a stranger's claim after ours is our own transaction that timed out.
#[tokio::test]
async fn a_transaction_that_ran_out_of_its_time_is_not_taken_for_a_rival() {
    let numbers = Numbers::new("timed-out").await;
    let mut instance = numbers.instance("only");
    instance.must_open().await;
    instance.must_deliver(2).await;
    instance.send(false).await.expect("number 3 lies in an open transaction");
    numbers.wait_for_an_abort().await;

    let error = instance.deliver(4).await.expect_err("its transaction is gone");
    assert_eq!(error.kind(), Kind::Transient, "{error:?}");
    instance.must_open().await;
    assert_eq!(instance.next, 3);
    instance.must_deliver(5).await;
    numbers.expect(5).await;
}

/// Rule: one instance id a process, not one an opening, and the holder of the newest claim goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_openers_that_meet_one_goes_on_and_nothing_is_doubled() {
    for round in 0..3 {
        let numbers = Numbers::new("openers").await;
        let (one, two) = (numbers.instance("one"), numbers.instance("two"));
        let both = async { tokio::join!(one.run(20), two.run(20)) };
        let ((_, one), (_, two)) =
            tokio::time::timeout(PATIENCE * 2, both).await.expect("both come to an end");
        let ended = [one, two].map(|ended| ended.map_err(|error| error.kind()));
        assert!(ended.contains(&Ok(())), "round {round}: nobody went on: {ended:?}");
        assert!(ended.iter().all(|ended| matches!(ended, Ok(()) | Err(Kind::Fenced))), "{ended:?}");
        numbers.expect(20).await;
    }
}

/// A source that judges its position by what it sees, and is late: a rival may have moved on meanwhile.
struct Late<'a> {
    /// What happens between the reading of the position and the judgement.
    meanwhile: Option<&'a mut Instance>,
}

impl Source for Late<'_> {
    async fn check(&self) -> Result<Report> {
        Ok(Report::default())
    }

    async fn preconditions(&self, _progress: &Progress) -> Result<()> {
        Ok(())
    }

    async fn run(&mut self, _from: Option<Position>, _feed: Feed) -> Result<()> {
        if let Some(rival) = self.meanwhile.take() {
            rival.must_open().await;
            rival.must_deliver(5).await;
        }
        Err(Error::fatal("the slot moved past the position").state(State::PositionLost))
    }
}

async fn judged(numbers: &Numbers, rival: Option<&mut Instance>) -> Error {
    let (_go_on, stopping) = watch::channel(false);
    let format = Format { encoding: Encoding::Json { schemas: false }, ..Format::new(&numbers.connector) };
    let (mut source, mut sink) = (Late { meanwhile: rival }, numbers.sink("late"));
    let progress = Arc::<Progress>::default();
    pipeline::run(&mut source, &mut sink, format, progress, stopping).await.expect_err("it cannot go on")
}

/// Rule: nothing is lost before position and claims were read once more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_that_looks_lost_because_a_rival_moved_on_is_a_take_over() {
    let numbers = Numbers::new("late").await;
    let mut rival = numbers.instance("rival");
    rival.must_open().await;
    rival.must_deliver(3).await;
    let error = judged(&numbers, Some(&mut rival)).await;
    assert_eq!(error.kind(), Kind::Fenced, "{error:?}");
    rival.deliver(8).await.expect("the rival goes on");
    numbers.expect(8).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_that_is_lost_with_nobody_else_at_work_is_lost() {
    let numbers = Numbers::new("lost").await;
    let mut before = numbers.instance("before");
    before.must_open().await;
    before.must_deliver(3).await;
    let error = judged(&numbers, None).await;
    assert_eq!((error.kind(), error.shown_state()), (Kind::Fatal, State::PositionLost), "{error:?}");
}
