//! Spans: what took how long and for whom, on their way to whoever collects them.
//!
//! Start at `wanted`: `None` until the daemon calls `install`, and then nothing else is done for a span. A span is
//! handed over without waiting: whoever exports them has room for some, and the others are counted.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

/// Spans that may wait for the exporter: some seconds of a busy daemon, in a few megabytes.
const WAITING_MAX: usize = 1024;
/// Links of one span, half of what OpenTelemetry's own libraries allow: they are all that makes a span large.
pub const LINKS_MAX: usize = 64;

/// As in W3C's Trace Context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    pub trace: [u8; 16],
    pub span: [u8; 8],
}

impl Context {
    /// Of a `traceparent` whose trace is sampled: nobody keeps the spans of another, and a link to it leads nowhere.
    pub fn sampled(traceparent: &[u8]) -> Option<Self> {
        // 00-<32 digits>-<16 digits>-<2 digits>; later versions may have more behind it.
        let (version, rest) = digits::<1>(traceparent)?;
        let (trace, rest) = digits::<16>(rest.strip_prefix(b"-")?)?;
        let (span, rest) = digits::<8>(rest.strip_prefix(b"-")?)?;
        let ([flags], rest) = digits::<1>(rest.strip_prefix(b"-")?)?;
        let ends = rest.is_empty() || (version != [0] && rest.starts_with(b"-"));
        let is_valid = version != [0xff] && trace != [0; 16] && span != [0; 8];
        (ends && is_valid && flags & 1 == 1).then_some(Self { trace, span })
    }
}

/// So many bytes in lower-case hexadecimal, and what is behind them.
fn digits<const N: usize>(text: &[u8]) -> Option<([u8; N], &[u8])> {
    let (text, rest) = text.split_at_checked(2 * N)?;
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some((bytes, rest))
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Text(String),
    Number(u64),
    Flag(bool),
}

/// One piece of work that has ended.
#[derive(Clone, Debug)]
pub struct Span {
    pub context: Context,
    pub name: String,
    /// Microseconds since 1970.
    pub begun_us: i64,
    pub ended_us: i64,
    pub attributes: Vec<(&'static str, Value)>,
    /// What it was done for.
    pub links: Vec<Context>,
    pub links_dropped: u64,
    /// `None` where it succeeded.
    pub failure: Option<String>,
}

/// Where spans go.
#[derive(Debug)]
pub struct Spans {
    queue: mpsc::Sender<Span>,
    ratio: f64,
    /// Taken by the collector.
    pub sent: AtomicU64,
    /// For want of room, or because the collector did not take them.
    pub dropped: AtomicU64,
}

static SPANS: OnceLock<Spans> = OnceLock::new();

impl Spans {
    fn new(ratio: f64) -> (Self, mpsc::Receiver<Span>) {
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        (Self { queue, ratio, sent: AtomicU64::new(0), dropped: AtomicU64::new(0) }, waiting)
    }

    /// Whether the trace of this id is one of those that are kept: by its last 56 bits, which are random, as
    /// OpenTelemetry has it.
    pub fn keeps(&self, trace: [u8; 16]) -> bool {
        let number = u128::from_be_bytes(trace) & ((1 << 56) - 1);
        (number as f64) < self.ratio * (1_u64 << 56) as f64
    }

    /// Never waits.
    pub fn hand_over(&self, span: Span) {
        if self.queue.try_send(span).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// From now on spans are wanted, this part of all; gives where they come out. `None` where they were before.
pub fn install(ratio: f64) -> Option<mpsc::Receiver<Span>> {
    let (spans, waiting) = Spans::new(ratio);
    SPANS.set(spans).ok().map(|()| waiting)
}

/// Where spans go, if anybody wants them.
pub fn wanted() -> Option<&'static Spans> {
    SPANS.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sampled_traceparent_is_a_context_and_everything_else_is_none() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let context = Context::sampled(good.as_bytes()).unwrap();
        assert_eq!((context.trace[0], context.span[7]), (0x0a, 0x31));
        for (name, text) in [
            ("not sampled", good.replace("-01", "-00")),
            ("capital letters", good.replace("0af", "0AF")),
            ("cut off", good[..54].to_owned()),
            ("more in version 00", format!("{good}-x")),
            ("no trace", good.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32))),
            ("no span", good.replace("b7ad6b7169203331", &"0".repeat(16))),
            ("the forbidden version", good.replace("00-0", "ff-0")),
            ("empty", String::new()),
        ] {
            assert_eq!(Context::sampled(text.as_bytes()), None, "{name}");
        }
        let later = format!("{}-more", good.replace("00-0", "01-0"));
        assert_eq!(Context::sampled(later.as_bytes()), Some(context), "a later version");
    }

    #[test]
    fn a_ratio_keeps_that_part_of_all_traces() {
        let trace = |number: u64| u128::from(number << 52).to_be_bytes();
        let kept = |ratio| (0..16).filter(|n| Spans::new(ratio).0.keeps(trace(*n))).count();
        assert_eq!([kept(0.0), kept(0.25), kept(1.0)], [0, 4, 16]);
    }

    #[test]
    fn what_finds_no_room_is_counted_and_nobody_waits() {
        let (spans, mut waiting) = Spans::new(1.0);
        let span = Span {
            context: Context { trace: [1; 16], span: [1; 8] },
            name: "send".to_owned(),
            begun_us: 1,
            ended_us: 2,
            attributes: Vec::new(),
            links: Vec::new(),
            links_dropped: 0,
            failure: None,
        };
        for _ in 0..WAITING_MAX + 3 {
            spans.hand_over(span.clone());
        }
        assert_eq!(spans.dropped.load(Ordering::Relaxed), 3);
        assert!(waiting.try_recv().is_ok());
    }
}
