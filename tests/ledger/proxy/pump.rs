//! One connection's bytes, both ways and in their order. Start at [`both`].

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::kafka::{self, Ends, Fate};
use super::{End, Mode};

const CHUNK_BYTES: usize = 64 * 1024;
/// On their way with a delay, at most.
const CHUNKS: usize = 256;
/// A broker on this machine answers within milliseconds.
const ANSWERED_WITHIN: Duration = Duration::from_secs(20);
/// A slow link sends so much at once.
const SLOW_BYTES: usize = 1024;

/// How the bytes of a connection came to an end.
pub(super) enum Ended {
    Now(End),
    /// The client has gone, and left a request that is held.
    Held(Bytes),
}

/// What both directions of a connection of Kafka's share.
#[derive(Default)]
struct Answers {
    /// The correlation id whose answer somebody waits for.
    awaited: watch::Sender<Option<i32>>,
    withheld: watch::Sender<bool>,
}

/// Pumps until one side closes or the mode ends the connection. `ends` where the server is Kafka.
pub(super) async fn both(
    client: &mut TcpStream,
    server: &mut TcpStream,
    mode: &mut watch::Receiver<Mode>,
    ends: Option<&Ends>,
) -> Ended {
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let answers = Answers::default();
    let (up, down) = (Pace(mode.clone()), Pace(mode.clone()));
    tokio::select! {
        biased;
        end = ended(mode) => Ended::Now(end),
        ended = requests(from_client, to_server, up, ends, &answers) => ended,
        () = replies(from_server, to_client, down, ends, &answers) => Ended::Now(End::Closed),
    }
}

/// Waits for a mode that no connection outlives; a half-open one stands until that is over.
async fn ended(mode: &mut watch::Receiver<Mode>) -> End {
    loop {
        let now = *mode.borrow_and_update();
        match now {
            Mode::Cut | Mode::Answer(_) => return End::Closed,
            Mode::Reset => return End::Reset,
            Mode::HalfOpen => {
                let _ = mode.wait_for(|mode| *mode != Mode::HalfOpen).await;
                return End::Reset;
            }
            Mode::Pass | Mode::Delay(_) | Mode::Slow(_) => {}
        }
        if mode.changed().await.is_err() {
            return End::Closed;
        }
    }
}

/// When bytes may go on.
struct Pace(watch::Receiver<Mode>);

impl Pace {
    /// When bytes that come now are due.
    async fn due(&mut self) -> Instant {
        // Held for as long as it is half-open: what is on its way then never arrives.
        let mode = self.0.wait_for(|mode| *mode != Mode::HalfOpen).await.map(|mode| *mode);
        match mode {
            Ok(Mode::Delay(delay)) => Instant::now() + delay,
            _ => Instant::now(),
        }
    }

    async fn write(&mut self, to: &mut WriteHalf<'_>, due: Instant, bytes: &[u8]) -> std::io::Result<()> {
        tokio::time::sleep_until(due).await;
        let mode = *self.0.borrow();
        let Mode::Slow(rate) = mode else { return to.write_all(bytes).await };
        for chunk in bytes.chunks(SLOW_BYTES) {
            to.write_all(chunk).await?;
            let size = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
            tokio::time::sleep(Duration::from_secs(1) * size / rate.max(1)).await;
            if *self.0.borrow() != mode {
                self.due().await;
            }
        }
        Ok(())
    }
}

async fn requests(
    from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut pace: Pace,
    ends: Option<&Ends>,
    answers: &Answers,
) -> Ended {
    let (queue, mut queued) = mpsc::channel(CHUNKS);
    let reading = read(from, ends.is_some(), Pace(pace.0.clone()), queue);
    let writing = async move {
        let mut held = BytesMut::new();
        while let Some((due, bytes)) = queued.recv().await {
            let fate = match ends {
                // What comes behind a held request waits behind it.
                _ if !held.is_empty() => Fate::Hold,
                Some(ends) => ends.fate(&bytes),
                None => Fate::Pass,
            };
            if fate == Fate::Hold {
                held.extend_from_slice(&bytes);
                continue;
            }
            let written = match ends {
                None => pace.write(&mut to, due, &bytes).await,
                Some(ends) => forward(&mut to, &mut pace, (due, &bytes), fate, ends, answers).await,
            };
            if written.is_err() {
                break;
            }
        }
        held
    };
    let ((), held) = tokio::join!(reading, writing);
    if held.is_empty() { Ended::Now(End::Closed) } else { Ended::Held(held.freeze()) }
}

async fn forward(
    to: &mut WriteHalf<'_>,
    pace: &mut Pace,
    (due, bytes): (Instant, &[u8]),
    fate: Fate,
    ends: &Ends,
    answers: &Answers,
) -> std::io::Result<()> {
    match fate {
        Fate::Pass | Fate::Hold => {
            let _shared = ends.passing().await;
            pace.write(to, due, bytes).await
        }
        Fate::Withhold => {
            answers.withheld.send_replace(true);
            pace.write(to, due, bytes).await
        }
        Fate::Trigger(producer) => {
            let _alone = ends.alone().await;
            answers.awaited.send_replace(kafka::correlation(bytes));
            let written = pace.write(to, due, bytes).await;
            let mut awaited = answers.awaited.subscribe();
            // A broker that does not answer is told of the late end all the same.
            let _ = tokio::time::timeout(ANSWERED_WITHIN, awaited.wait_for(Option::is_none)).await;
            ends.release(&producer).await;
            written
        }
    }
}

async fn replies(
    from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut pace: Pace,
    ends: Option<&Ends>,
    answers: &Answers,
) {
    let (queue, mut queued) = mpsc::channel(CHUNKS);
    let reading = read(from, ends.is_some(), Pace(pace.0.clone()), queue);
    let writing = async move {
        while let Some((due, bytes)) = queued.recv().await {
            if *answers.withheld.borrow() {
                std::future::pending::<()>().await;
            }
            let id = bytes.get(4..).and_then(|body| body.first_chunk()).map(|id| i32::from_be_bytes(*id));
            answers.awaited.send_if_modified(|awaited| {
                let ours = awaited.is_some() && *awaited == id;
                if ours {
                    *awaited = None;
                }
                ours
            });
            if pace.write(&mut to, due, &bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(reading, writing);
}

/// Reads until the end, or until nobody takes it any more; each piece with when it is due.
async fn read(mut from: ReadHalf<'_>, framed: bool, mut clock: Pace, queue: mpsc::Sender<(Instant, Bytes)>) {
    let mut buffer = BytesMut::with_capacity(CHUNK_BYTES);
    while from.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {
        while let Some(size) = piece(&buffer, framed) {
            let bytes = buffer.split_to(size).freeze();
            if queue.send((clock.due().await, bytes)).await.is_err() {
                return;
            }
        }
    }
}

/// How much of the buffer goes on as one.
fn piece(buffer: &[u8], framed: bool) -> Option<usize> {
    match framed {
        true => kafka::frame(buffer),
        false => Some(buffer.len()).filter(|size| *size > 0),
    }
}

/// Reads a request's head and answers it with this text, whatever it asked.
pub(super) async fn answer(mut client: TcpStream, text: &str) {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match client.read_buf(&mut head).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
    // A client that has gone wants no answer.
    let _ = client.write_all(text.as_bytes()).await;
    let _ = client.shutdown().await;
}
