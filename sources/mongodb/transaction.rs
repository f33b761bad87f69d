//! The transaction that is being read, and one that was delivered in part before. Start at `Open` and `Replay`.
//!
//! Metadata count a transaction's events, and a position cannot hold the counts. So a position inside a transaction
//! says where it began, and a restart reads from there: the events up to the position come again, to be counted,
//! and make no records.

use millrace_core::batch::{Cell, ChangeBatch, Name, Part, SnapshotMark, Transaction, document};
use millrace_core::position::Mark;
use serde::{Deserialize, Serialize};

use crate::bson::{Dialect, Doc, Fault, Malformed, Style, write_document};
use crate::cells::text;
use crate::event::Session;
use crate::position::Streamed;
use crate::resume_token::{ClusterTime, ResumeToken};

/// The newest place before a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// `None` where the stream itself began, at a chosen time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume_token: Option<ResumeToken>,
    pub cluster_time: ClusterTime,
    pub event_time: ClusterTime,
    pub event_n: u32,
}

impl Begun {
    pub fn at(place: &Streamed) -> Self {
        Self {
            resume_token: place.resume_token.clone(),
            cluster_time: place.cluster_time,
            event_time: place.event_time,
            event_n: place.event_n,
        }
    }
}

/// The transaction that the last event belongs to.
pub struct Open {
    /// The logical session, as the server has it.
    session: Vec<u8>,
    number: i64,
    pub cluster_time: ClusterTime,
    commit_ts_us: i64,
    pub begun: Begun,
    /// A change of it has been emitted, in this run or before.
    is_told: bool,
    /// Its index in the batch with this number.
    in_batch: Option<(u64, u32)>,
    /// Its name, session and number in the batch with this number.
    cells: Option<(u64, [Cell; 3])>,
}

impl Open {
    pub fn new(session: Session<'_>, cluster_time: ClusterTime, commit_ts_us: i64, begun: Begun) -> Self {
        Self {
            session: session.id.as_bytes().to_vec(),
            number: session.transaction,
            cluster_time,
            commit_ts_us,
            begun,
            is_told: false,
            in_batch: None,
            cells: None,
        }
    }

    /// Whether an event of this session is one of its.
    pub fn has(&self, session: Session<'_>) -> bool {
        session.transaction == self.number && session.id.as_bytes() == self.session
    }

    /// Session and number, for the source block.
    pub fn session_cells(
        &mut self,
        dialect: Dialect,
        cells: &mut [Cell; document::CELLS],
        (number, batch): (u64, &mut ChangeBatch),
    ) -> Result<(), Fault> {
        let [_, session, transaction] = self.cells_in(dialect, (number, batch))?;
        [cells[document::SESSION], cells[document::TRANSACTION]] = [session, transaction];
        Ok(())
    }

    /// The name is Debezium's: the session, a colon and the number.
    fn cells_in(
        &mut self,
        dialect: Dialect,
        (number, batch): (u64, &mut ChangeBatch),
    ) -> Result<[Cell; 3], Fault> {
        if let Some((_, cells)) = self.cells.filter(|(of, _)| *of == number) {
            return Ok(cells);
        }
        let mut session_len = 0;
        let name = text(batch, |out| {
            let start = out.len();
            write_document(Style::compact(dialect), Doc::of_elements(&self.session), None, out)?;
            session_len = out.len() - start;
            out.push(b':');
            out.extend_from_slice(itoa::Buffer::new().format(self.number).as_bytes());
            Ok(())
        })?;
        let len = u32::try_from(session_len).map_err(|_| Fault::Malformed(Malformed::Length))?;
        let session = Cell { len, ..name };
        let transaction = Cell { start: name.start + len + 1, len: name.len - len - 1, ..name };
        self.cells = Some((number, [name, session, transaction]));
        Ok([name, session, transaction])
    }

    /// Its index in the batch, for a change that is emitted. `delivered`: the change was, up to there.
    pub fn index_in(&mut self, (number, batch): (u64, &mut ChangeBatch), delivered: Option<Mark>) -> u32 {
        if let Some((_, index)) = self.in_batch.filter(|(of, _)| *of == number) {
            return index;
        }
        let begin = (!self.is_told && delivered.is_none()).then_some(self.cluster_time.0);
        self.is_told = true;
        self.push((number, batch), Part { begin, delivered, ..Part::default() })
    }

    fn push(&mut self, (number, batch): (u64, &mut ChangeBatch), part: Part) -> u32 {
        let index = u32::try_from(batch.transactions.len()).unwrap_or(u32::MAX);
        let name = match self.cells.filter(|(of, _)| *of == number) {
            Some((_, [name, ..])) => Name::Text(name),
            None => Name::None,
        };
        batch.transactions.push(Transaction {
            id: self.number,
            commit_ts_us: self.commit_ts_us,
            previous_commit: None,
            snapshot: SnapshotMark::No,
            again: 0,
            origin: None,
            part: Part { name, ..part },
        });
        self.in_batch = Some((number, index));
        index
    }

    /// Tells a batch that it has ended, if anything of it was emitted.
    pub fn end_in(mut self, dialect: Dialect, (number, batch): (u64, &mut ChangeBatch)) -> Result<(), Fault> {
        if !self.is_told {
            return Ok(());
        }
        let index = match self.in_batch.filter(|(of, _)| *of == number) {
            Some((_, index)) => index,
            None => {
                self.cells_in(dialect, (number, &mut *batch))?;
                self.push((number, &mut *batch), Part::default())
            }
        };
        if let Some(transaction) = batch.transactions.get_mut(index as usize) {
            transaction.part.end = Some(self.cluster_time.0);
        }
        Ok(())
    }

    /// Whether there is an end to tell.
    pub fn is_told(&self) -> bool {
        self.is_told
    }
}

/// Until the stream is where it was delivered to before.
pub struct Replay {
    /// The token of the last event that was delivered: tokens rise with the stream, digit by digit.
    until: String,
    /// The last event that came again.
    event_time: ClusterTime,
    event_n: u32,
}

impl Replay {
    /// Of a position that is inside a transaction.
    pub fn of(position: &Streamed) -> Option<Self> {
        let (begun, token) = (position.begun.as_ref()?, position.resume_token.as_ref()?);
        Some(Self { until: token.to_string(), event_time: begun.event_time, event_n: begun.event_n })
    }

    /// Whether what this token names was delivered, or lies before it.
    pub fn covers(&self, token: Doc<'_>) -> Result<bool, Malformed> {
        Ok(token.need("_data")?.text("_data")? <= self.until.as_bytes())
    }

    /// The number of an event of this time, at most that of the last one that was delivered.
    pub fn number(&mut self, time: ClusterTime, last: (ClusterTime, u32)) -> u32 {
        let n = if time == self.event_time { self.event_n + 1 } else { 0 };
        let n = if time == last.0 { n.min(last.1) } else { n };
        (self.event_time, self.event_n) = (time, n);
        n
    }
}
