//! A session that holds or releases something: where it begins, and what its positions say. Start at `Session::holding`.
//!
//! A session that releases something runs through log that was delivered but for that. Until it has come to the place
//! that its position had, that place stays, and only the marks of what is released move.

use millrace_core::error::{Error, Result};
use millrace_core::position::Mark;

use super::open::lost_open;
use super::{Place as InBatch, Session};
use crate::held::Place;
use crate::lsn::Lsn;
use crate::position::{Open, Streamed};

pub(super) struct Holding {
    /// The position as it was opened.
    main: Streamed,
    /// Which of what waits is released, by its index there.
    released: Vec<bool>,
    /// The transaction that was cut, until it has been seen again by a session that begins before it.
    awaited: Option<Open>,
}

impl Session {
    /// Goes on with what waits in its position; `released` says of each whether it is released.
    pub fn holding(mut self, released: Vec<bool>) -> Self {
        if self.whole.held.is_empty() {
            return self;
        }
        let mut main = self.whole.clone();
        main.open = self.reopened;
        self.whole.held = Vec::new();
        let mut awaited = None;
        if released.contains(&true) {
            let of = main.held.iter().zip(&released).filter(|(_, is_released)| **is_released);
            if let Some((first, _)) = of.min_by_key(|(held, _)| held.end_lsn) {
                self.whole.end_lsn = first.end_lsn;
                (self.whole.lsn_commit, self.whole.lsn_proc) = (first.lsn_commit, first.lsn_commit);
            }
            awaited = self.reopened.take();
            self.opened_at = self.whole.end_lsn;
        }
        self.holding = Some(Holding { main, released, awaited });
        self
    }

    /// Up to where everything was delivered when the session began, what waits too.
    pub fn confirmable(&self) -> Lsn {
        self.holding.as_ref().map_or(self.whole.end_lsn, |holding| holding.main.confirmable())
    }

    /// How many things wait where the session stands now.
    pub fn waiting(&self) -> usize {
        self.holding.as_ref().map_or(0, |_| self.position().held.len())
    }

    /// Whether a change lies behind the position that the session was opened with.
    pub(super) fn is_new(&self, mark: Mark) -> bool {
        let Some(holding) = self.holding.as_ref().filter(|holding| holding.releases()) else { return true };
        mark.commit >= holding.main.end_lsn.0
    }

    /// Why this table's rows cannot be told, for the first of them that makes a record.
    pub fn must_not_tell(&mut self, oid: u32, why: Option<Error>) {
        if let Some(entry) = self.relations.get_mut(&oid) {
            entry.unfit = why;
        }
    }

    /// A change of such a table. Something else that is released brings it again too: then it was told when it could be.
    #[cold]
    pub(super) fn unfit(&mut self, oid: u32, is_new: bool) -> Result<Option<InBatch>> {
        let Some(entry) = self.relations.get_mut(&oid) else { return Ok(None) };
        let relation = entry.relation.full_name();
        let is_wanted = is_new || self.holding.as_ref().is_some_and(|holding| holding.is_released(&relation));
        entry.unfit.take_if(|_| is_wanted).map_or(Ok(None), Err)
    }

    /// The transaction that was cut must come before anything behind it does.
    pub(super) fn must_come(&mut self, final_lsn: Lsn, xid: u32) -> Result<()> {
        let Some(holding) = &mut self.holding else { return Ok(()) };
        match holding.awaited {
            Some(open) if (final_lsn, xid) == (open.final_lsn, open.xid) => holding.awaited = None,
            Some(open) if final_lsn >= open.final_lsn => {
                return Err(lost_open(open, "another transaction came in its place"));
            }
            Some(_) | None => {}
        }
        Ok(())
    }

    pub(super) fn awaited(&self) -> Option<Open> {
        self.holding.as_ref().and_then(|holding| holding.awaited)
    }
}

impl Holding {
    fn releases(&self) -> bool {
        self.released.contains(&true)
    }

    fn is_released(&self, relation: &str) -> bool {
        let mut of = self.main.held.iter().zip(&self.released);
        of.any(|(held, is_released)| *is_released && held.relation == relation)
    }

    /// The end of what is delivered but for what waits.
    pub(super) fn end_lsn(&self, running: Lsn) -> Lsn {
        running.max(self.main.end_lsn)
    }

    /// The position of a session that stands at `running`.
    pub(super) fn position(&self, running: Streamed) -> Streamed {
        if !self.releases() {
            return Streamed { held: self.main.held.clone(), ..running };
        }
        let at = running.place();
        let main = self.main.place().join(at);
        let mut held = Vec::with_capacity(self.main.held.len());
        for (one, is_released) in self.main.held.iter().zip(&self.released) {
            let mut one = one.clone();
            if *is_released {
                let Place { end_lsn, open } = one.place().join(at);
                if end_lsn > one.end_lsn {
                    one.lsn_commit = running.lsn_commit;
                }
                (one.end_lsn, one.open) = (end_lsn, open);
                if one.place() == main {
                    continue;
                }
            }
            held.push(one);
        }
        let timeline = running.timeline;
        // From there on it says all that the position does, and has counted on.
        let base = if at.end_lsn < self.main.end_lsn { self.main.clone() } else { running };
        let lsn_commit = base.lsn_commit.max(self.main.lsn_commit);
        Streamed { end_lsn: main.end_lsn, open: main.open, timeline, lsn_commit, held, ..base }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::held::Held;
    use crate::messages::Messages;

    fn held(end: u64) -> Held {
        Held {
            relation: format!("public.t{end}"),
            columns: Vec::new(),
            values: Vec::new(),
            topics: Vec::new(),
            end_lsn: Lsn(end),
            open: None,
            lsn_commit: Some(end),
            since_ms: 0,
            why: "refused".into(),
            hint: None,
        }
    }

    fn session(end: u64, waits: &[u64], released: &[bool]) -> Session {
        let mut main = Streamed::starting_at("7", 1, "s", Lsn(end));
        main.held = waits.iter().map(|end| held(*end)).collect();
        Session::new(main, Messages::default(), None).holding(released.to_vec())
    }

    fn marks(session: &Session) -> Vec<u64> {
        session.position().held.iter().map(|held| held.end_lsn.0).collect()
    }

    #[test]
    fn what_waits_stays_where_it_is_while_the_rest_goes_on() {
        let mut session = session(100, &[50], &[false]);
        session.advance(Lsn(120)).expect("advance");
        assert_eq!(
            (session.end_lsn(), session.confirmable(), marks(&session)),
            (Lsn(120), Lsn(50), vec![50])
        );
        assert_eq!(session.position().end_lsn, Lsn(120));
    }

    #[test]
    fn what_is_released_moves_up_to_the_position_and_is_gone_there() {
        let mut session = session(100, &[50, 70, 20], &[true, true, false]);
        assert_eq!((session.whole.end_lsn, session.end_lsn()), (Lsn(50), Lsn(100)));
        session.advance(Lsn(60)).expect("advance");
        assert_eq!((session.position().end_lsn, marks(&session)), (Lsn(100), vec![60, 70, 20]));
        session.advance(Lsn(80)).expect("advance");
        assert_eq!((session.position().end_lsn, marks(&session)), (Lsn(100), vec![80, 80, 20]));
        session.advance(Lsn(130)).expect("advance");
        assert_eq!((session.position().end_lsn, marks(&session)), (Lsn(130), vec![20]));
    }

    #[test]
    fn a_chunk_that_is_placed_where_the_release_ended_is_counted() {
        let mut session = session(100, &[50], &[true]);
        session.advance(Lsn(100)).expect("advance");
        session.whole.snapshot_chunk = Some(1);
        session.whole.snapshot_lsn = Some(Lsn(100));
        let position = session.position();
        assert_eq!((position.end_lsn, position.snapshot_chunk), (Lsn(100), Some(1)));
        assert_eq!((position.snapshot_lsn, position.held.len()), (Some(Lsn(100)), 0));
    }

    #[test]
    fn a_position_that_is_read_back_halfway_goes_on_from_there() {
        let mut first = session(100, &[50], &[true]);
        first.advance(Lsn(60)).expect("advance");
        let again = Session::new(first.position(), Messages::default(), None).holding(vec![true]);
        assert_eq!((again.whole.end_lsn, again.end_lsn(), again.waiting()), (Lsn(60), Lsn(100), 1));
        assert_eq!(again.whole.lsn_commit, first.whole.lsn_commit);
    }

    #[test]
    fn a_transaction_that_was_cut_must_still_come_when_something_before_it_is_released() {
        let open = Open { final_lsn: Lsn(120), xid: 5, change_lsn: Lsn(110), n: 0 };
        let mut main = Streamed::starting_at("7", 1, "s", Lsn(100));
        (main.open, main.held) = (Some(open), vec![held(50)]);
        let mut session = Session::new(main, Messages::default(), None).holding(vec![true]);
        assert_eq!((session.position().open, session.position().end_lsn), (Some(open), Lsn(100)));
        assert!(session.must_come(Lsn(90), 4).is_ok());
        assert!(session.must_come(Lsn(130), 6).is_err());
        assert!(session.must_come(Lsn(120), 5).is_ok() && session.must_come(Lsn(130), 6).is_ok());
    }
}
