//! The session between the real pipeline and a scripted log, with crashes, cuts and replays at any place.

use millrace_testing::{Event, Log, Plant, Reading, drive, log};

use super::*;
use crate::pgoutput::writer::{Writer, Written};
use crate::position::Stored;

const TABLE: u32 = 7;

/// The session as the stream uses it: messages as pgoutput sends them, positions as they are stored.
struct Replayed(Session);

impl Replayed {
    fn message(&mut self, lsn: u64, data: &[u8], batch: &mut ChangeBatch) -> Result<()> {
        self.0.apply(data, Lsn(lsn), batch).map(|_| ())
    }
}

fn stored(position: &millrace_core::position::Position) -> Result<Streamed> {
    match Stored::parse(position)? {
        Stored::Streamed(streamed) => Ok(*streamed),
        Stored::Creating { .. } => Err(Error::fatal("nobody creates a slot here")),
    }
}

impl Reading for Replayed {
    fn open(from: Option<&millrace_core::position::Position>) -> Result<Self> {
        let beginning = || Ok(Streamed::starting_at("1", 1, "s", Lsn(0)));
        let mut replayed =
            Self(Session::new(from.map_or_else(beginning, stored)?, Messages::default(), None));
        replayed.altered();
        Ok(replayed)
    }

    fn begin_batch(&mut self) {
        self.0.begin_batch();
    }

    fn apply(&mut self, log: &Log, event: Event, batch: &mut ChangeBatch) -> Result<()> {
        match event {
            Event::Begin { transaction } => {
                let begun = &log.transactions[transaction];
                let data = Writer::default().tag(b'B').u64(begun.commit).u64(0).u32(begun.xid).0;
                self.message(begun.commit - 9, &data, batch)
            }
            Event::Change { change, .. } => {
                let row = [Written::Text(change.to_string())];
                let data = Writer::default().tag(b'I').u32(TABLE).tag(b'N').tuple(&row).0;
                self.message(log.changes[change].change, &data, batch)
            }
            Event::Commit { transaction } => {
                let done = &log.transactions[transaction];
                let data = Writer::default().tag(b'C').tag(0).u64(done.commit).u64(done.end).u64(0).0;
                self.message(done.end, &data, batch)
            }
            Event::Alive { place } => self.0.advance(Lsn(place)),
        }
    }

    /// A new name makes it another shape, and so another version.
    fn altered(&mut self) {
        let mut relation = log::relation();
        relation.name = format!("t{}", relation.version % 2);
        self.0.define(TABLE, relation, true);
    }

    fn position(&self) -> millrace_core::position::Position {
        self.0.position().to_position()
    }

    fn is_whole(&self) -> bool {
        self.0.is_whole()
    }

    fn place(position: &millrace_core::position::Position) -> u64 {
        stored(position).map_or(0, |streamed| streamed.end_lsn.0)
    }

    fn covered(log: &Log, position: &millrace_core::position::Position) -> usize {
        let Ok(streamed) = stored(position) else { return usize::MAX };
        let is_covered = |mark: &&Mark| {
            let within = streamed.open.is_some_and(|open| {
                mark.commit == open.final_lsn.0 && (mark.change, mark.n) <= (open.change_lsn.0, open.n)
            });
            mark.commit < streamed.end_lsn.0 || within
        };
        log.changes.iter().take_while(is_covered).count()
    }
}

#[test]
fn every_change_comes_once_and_in_order_through_the_session_whatever_goes_wrong() {
    for seed in 0..2_000 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let found = runtime.expect("a runtime").block_on(drive::run::<Replayed>(seed, Plant::Nothing));
        let trace = found.trace.join("\n");
        assert_eq!(found.violation, None, "seed {seed}\n{trace}");
    }
}
