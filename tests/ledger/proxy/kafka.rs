//! Just enough of Kafka's framing to hold the end of a transaction back and deliver it late, and to keep
//! the answer to one from whoever asked. Start at [`Ends::hold`].
//!
//! A held request keeps its connection: the client runs out of patience, closes it and asks again through
//! another, while ours to the broker stays. The held one is delivered from there in the middle of the same
//! producer's next transaction, after its first record and before its second, while nothing else moves.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{RwLock, watch};

use crate::Result;

const PRODUCE: i16 = 0;
const END_TXN: i16 = 26;
/// A request of librdkafka is far smaller, the answer to one too.
const FRAME_BYTES_MAX: usize = 128 << 20;
/// From here on the header ends with tagged fields, and strings are compact.
const PRODUCE_FLEXIBLE: i16 = 9;
const END_TXN_FLEXIBLE: i16 = 3;
/// A broker on this machine answers within milliseconds.
const ANSWERED_WITHIN: Duration = Duration::from_secs(20);

/// What a late end came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lateness {
    pub id: String,
    pub late: Duration,
    /// Kafka's error code; 0: the broker did it.
    pub code: i16,
}

#[derive(Clone, Debug)]
enum Phase {
    /// The next commit is held.
    Armed,
    Held(Instant),
    Released,
    Delivered(Lateness),
}

#[derive(Clone, Debug, Default)]
struct Orders {
    hold: Vec<(String, Phase)>,
    /// Answers to commits are kept back.
    withhold: bool,
    withheld: u32,
}

/// What is ordered to happen to the ends of transactions, and what has happened.
#[derive(Default)]
pub struct Ends {
    orders: watch::Sender<Orders>,
    /// Shared by whoever forwards a request; alone while a late one is delivered.
    traffic: RwLock<()>,
}

/// What to do with a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Pass,
    Hold,
    /// Pass it, and let nothing come back.
    Withhold,
    /// Pass it alone, and when it is answered let the held one go.
    Trigger(String),
}

impl Ends {
    /// Holds the next commit of each of these producers back, each once.
    pub fn hold(&self, ids: &[&str]) {
        self.orders.send_modify(|orders| {
            orders.hold = ids.iter().map(|id| ((*id).to_owned(), Phase::Armed)).collect();
        });
    }

    /// Waits until every held end was delivered, and answers what came of each.
    pub async fn delivered(&self, patience: Duration) -> Result<Vec<Lateness>> {
        let mut orders = self.orders.subscribe();
        let all = |orders: &Orders| orders.hold.iter().all(|(_, phase)| matches!(phase, Phase::Delivered(_)));
        let seen = tokio::time::timeout(patience, orders.wait_for(all)).await;
        let Ok(seen) = seen else {
            let phases = self.orders.borrow().hold.clone();
            self.hold(&[]);
            return Err(format!("no late end was delivered within {patience:?}: {phases:?}").into());
        };
        let seen = seen?;
        let outcomes = seen.hold.iter().filter_map(|(_, phase)| match phase {
            Phase::Delivered(lateness) => Some(lateness.clone()),
            Phase::Armed | Phase::Held(_) | Phase::Released => None,
        });
        Ok(outcomes.collect())
    }

    /// From now on a commit is forwarded and its answer kept back.
    pub fn withhold(&self) {
        self.orders.send_modify(|orders| (orders.withhold, orders.withheld) = (true, 0));
    }

    /// Waits until an answer has been kept back, and lets the next ones through.
    pub async fn withheld(&self, patience: Duration) -> Result<()> {
        let mut orders = self.orders.subscribe();
        // What is seen is let go at once: it is a lock on what is changed next.
        let seen = async { orders.wait_for(|orders| orders.withheld > 0).await.map(drop) };
        let seen = tokio::time::timeout(patience, seen).await;
        self.orders.send_modify(|orders| orders.withhold = false);
        match seen {
            Ok(seen) => Ok(seen?),
            Err(_) => Err(format!("nobody committed within {patience:?}").into()),
        }
    }

    pub(super) fn fate(&self, frame: &[u8]) -> Fate {
        let Some(request) = Request::parse(frame) else { return Fate::Pass };
        let mut fate = Fate::Pass;
        self.orders.send_if_modified(|orders| {
            let found = orders.hold.iter_mut().find(|(id, _)| *id == request.id);
            fate = match (found, request.end) {
                (Some((_, phase @ Phase::Armed)), Some(true)) => {
                    *phase = Phase::Held(Instant::now());
                    Fate::Hold
                }
                (Some((id, Phase::Held(_))), None) => Fate::Trigger(id.clone()),
                (_, Some(true)) if orders.withhold => {
                    orders.withheld += 1;
                    Fate::Withhold
                }
                _ => Fate::Pass,
            };
            fate != Fate::Pass
        });
        fate
    }

    pub(super) async fn passing(&self) -> tokio::sync::RwLockReadGuard<'_, ()> {
        self.traffic.read().await
    }

    pub(super) async fn alone(&self) -> tokio::sync::RwLockWriteGuard<'_, ()> {
        self.traffic.write().await
    }

    /// Lets the held end of this producer go, and waits until the broker has answered it.
    pub(super) async fn release(&self, producer: &str) {
        self.set(producer, |_| Phase::Released);
        let done = |orders: &Orders| {
            orders.hold.iter().all(|(id, phase)| id != producer || matches!(phase, Phase::Delivered(_)))
        };
        let mut orders = self.orders.subscribe();
        // Whoever waits for the outcome learns that there is none.
        let _ = tokio::time::timeout(ANSWERED_WITHIN, orders.wait_for(done)).await;
    }

    /// Keeps a connection whose client has gone until its held request may go.
    pub(super) async fn deliver(&self, held: &[u8], mut server: TcpStream) {
        let Some(request) = Request::parse(held) else { return };
        let since = self.orders.borrow().hold.iter().find_map(|(id, phase)| match phase {
            Phase::Held(since) if *id == request.id => Some(*since),
            _ => None,
        });
        let gone = |orders: &Orders| {
            orders.hold.iter().all(|(id, phase)| *id != request.id || matches!(phase, Phase::Released))
        };
        let mut orders = self.orders.subscribe();
        if orders.wait_for(gone).await.is_err() {
            return;
        }
        let code = tokio::time::timeout(ANSWERED_WITHIN, ask(held, &mut server, request.flexible)).await;
        let late = since.map_or(Duration::ZERO, |since| since.elapsed());
        if let Ok(Some(code)) = code {
            self.set(&request.id, |id| Phase::Delivered(Lateness { id: id.to_owned(), late, code }));
        }
    }

    fn set(&self, producer: &str, phase: impl Fn(&str) -> Phase) {
        self.orders.send_modify(|orders| {
            for (id, old) in &mut orders.hold {
                if id == producer {
                    *old = phase(id);
                }
            }
        });
    }
}

/// The error code of the answer to an EndTxn.
async fn ask(request: &[u8], server: &mut TcpStream, flexible: bool) -> Option<i16> {
    server.write_all(request).await.ok()?;
    let wanted = correlation(request)?;
    loop {
        let size = usize::try_from(server.read_u32().await.ok()?).ok()?;
        if size > FRAME_BYTES_MAX {
            return None;
        }
        let mut answer = vec![0; size];
        server.read_exact(&mut answer).await.ok()?;
        // Answers to what the client had asked before come first.
        let (id, rest) = answer.split_first_chunk::<4>()?;
        if i32::from_be_bytes(*id) == wanted {
            let (_throttle, code) = rest.get(usize::from(flexible)..)?.split_at_checked(4)?;
            return Some(i16::from_be_bytes(*code.first_chunk()?));
        }
    }
}

/// A request that is about a transaction.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    id: String,
    /// `None`: it sends records.
    end: Option<bool>,
    flexible: bool,
}

impl Request {
    /// `frame` begins with its length.
    fn parse(frame: &[u8]) -> Option<Request> {
        let rest = frame.get(4..)?;
        let (key, rest) = number(rest)?;
        let (version, rest) = number(rest)?;
        let flexible = match key {
            PRODUCE => version >= PRODUCE_FLEXIBLE,
            END_TXN => version >= END_TXN_FLEXIBLE,
            _ => return None,
        };
        let (_client, rest) = text(rest.get(4..)?)?;
        let rest = if flexible { no_tags(rest)? } else { rest };
        let (id, rest) = if flexible { compact(rest)? } else { text(rest)? };
        // Producer id and epoch stand before it.
        let end = if key == END_TXN { Some(*rest.get(10)? != 0) } else { None };
        Some(Request { id: id?, end, flexible })
    }
}

/// The whole frame at the beginning of `bytes`, with its length; `None` while it is not all there.
pub(super) fn frame(bytes: &[u8]) -> Option<usize> {
    let (size, rest) = bytes.split_first_chunk::<4>()?;
    let size = usize::try_from(u32::from_be_bytes(*size)).ok()?;
    (size <= FRAME_BYTES_MAX && rest.len() >= size).then_some(size + 4)
}

/// The correlation id of a request's frame.
pub(super) fn correlation(frame: &[u8]) -> Option<i32> {
    Some(i32::from_be_bytes(*frame.get(8..)?.first_chunk()?))
}

fn number(bytes: &[u8]) -> Option<(i16, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<2>()?;
    Some((i16::from_be_bytes(*head), rest))
}

fn text(bytes: &[u8]) -> Option<(Option<String>, &[u8])> {
    let (size, rest) = number(bytes)?;
    let Ok(size) = usize::try_from(size) else { return Some((None, rest)) };
    let (text, rest) = rest.split_at_checked(size)?;
    Some((Some(String::from_utf8(text.to_vec()).ok()?), rest))
}

/// A length that does not fit seven bits is of no transactional id.
fn compact(bytes: &[u8]) -> Option<(Option<String>, &[u8])> {
    let (size, rest) = bytes.split_first()?;
    let Some(size) = usize::from(*size).checked_sub(1).filter(|size| *size < 127) else {
        return Some((None, rest));
    };
    let (text, rest) = rest.split_at_checked(size)?;
    Some((Some(String::from_utf8(text.to_vec()).ok()?), rest))
}

fn no_tags(bytes: &[u8]) -> Option<&[u8]> {
    bytes.split_first().filter(|(count, _)| **count == 0).map(|(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(body: &[u8]) -> Vec<u8> {
        let size = u32::try_from(body.len()).unwrap();
        [&size.to_be_bytes()[..], body].concat()
    }

    fn end_txn(version: u8, id: &str, commit: u8) -> Vec<u8> {
        let flexible = i16::from(version) >= END_TXN_FLEXIBLE;
        let size = u8::try_from(id.len()).unwrap();
        let mut body = vec![0, 26, 0, version, 0, 0, 0, 9, 0, 2, b'c', b'l'];
        body.extend_from_slice(if flexible { &[0] } else { &[] });
        body.extend(if flexible { vec![size + 1] } else { vec![0, size] });
        body.extend_from_slice(id.as_bytes());
        body.extend([0, 0, 0, 0, 0, 0, 0, 7, 0, 3, commit]);
        framed(&body)
    }

    fn produce(id: &str) -> Vec<u8> {
        let mut body = vec![0, 0, 0, 7, 0, 0, 0, 10, 0xff, 0xff, 0, u8::try_from(id.len()).unwrap()];
        body.extend_from_slice(id.as_bytes());
        framed(&body)
    }

    #[test]
    fn the_end_of_a_transaction_is_read_in_both_forms_of_the_header() {
        for version in [1, 3] {
            let request = Request::parse(&end_txn(version, "a-0", 1)).unwrap();
            assert_eq!(request, Request { id: "a-0".into(), end: Some(true), flexible: version == 3 });
            assert_eq!(Request::parse(&end_txn(version, "a-0", 0)).unwrap().end, Some(false));
        }
    }

    #[test]
    fn a_frame_is_taken_only_when_all_of_it_is_there() {
        let whole = end_txn(1, "a-0", 1);
        assert_eq!(frame(&whole), Some(whole.len()));
        assert_eq!(frame(&whole[..whole.len() - 1]), None);
        assert_eq!(correlation(&whole), Some(9));
    }

    #[test]
    fn one_commit_of_one_producer_is_held_and_its_next_records_let_it_go() {
        let ends = Ends::default();
        ends.hold(&["a-0"]);
        assert_eq!(ends.fate(&end_txn(1, "a-1", 1)), Fate::Pass);
        assert_eq!(ends.fate(&end_txn(1, "a-0", 0)), Fate::Pass, "an abort is not held");
        assert_eq!(ends.fate(&produce("a-0")), Fate::Pass, "nothing is held yet");
        assert_eq!(ends.fate(&end_txn(1, "a-0", 1)), Fate::Hold);
        assert_eq!(ends.fate(&end_txn(1, "a-0", 1)), Fate::Pass, "asked for again");
        assert_eq!(ends.fate(&produce("a-1")), Fate::Pass);
        assert_eq!(ends.fate(&produce("a-0")), Fate::Trigger("a-0".into()));
    }

    #[tokio::test]
    async fn an_answer_is_kept_back_once_and_whoever_waits_for_that_goes_on() {
        let ends = Ends::default();
        ends.withhold();
        assert_eq!(ends.fate(&end_txn(1, "a-0", 1)), Fate::Withhold);
        ends.withheld(Duration::from_secs(5)).await.unwrap();
        assert_eq!(ends.fate(&end_txn(1, "a-0", 1)), Fate::Pass);
        assert!(ends.withheld(Duration::from_millis(1)).await.is_ok(), "it has happened");
    }

    #[test]
    fn requests_about_anything_else_pass() {
        let ends = Ends::default();
        ends.hold(&["a-0"]);
        ends.withhold();
        let metadata = framed(&[0, 3, 0, 4, 0, 0, 0, 1, 0xff, 0xff, 0, 0, 0, 0, 0]);
        assert_eq!(ends.fate(&metadata), Fate::Pass);
        assert_eq!(ends.fate(&framed(&[0, 26, 0])), Fate::Pass);
    }
}
