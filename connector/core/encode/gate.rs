//! What is held makes no records, and what cannot go out may be held: the encoder's side of `hold`. Start at
//! `Pass::is_stopped` and `Pass::place`.
//!
//! Rows that choose their topic are held by the values that choose it. Rows that choose the same topic by other values
//! are held with them, from their first one on: in one topic, the records of a key keep their order.

use super::change::{Context, Fault, Pass};
use super::plan::Plan;
use super::target::{Choice, Chosen, Place, Target, View};
use crate::batch::Op;
use crate::error::{Error, Kind, Result};
use crate::hold::{Gate, Lanes, REGISTRY_AWAY, Strike, Thing, cut};
use crate::position::Mark;
use crate::relation::Relation;
use crate::route::rule::{OnReject, TopicRule};
use crate::sink::{SCHEMA_INCOMPATIBLE, Targets};

/// The gates of rows that choose their topic.
#[derive(Debug, Default)]
pub(crate) struct Gates {
    /// Of all others.
    rest: Gate,
    /// By the values that choose, each followed by a zero byte.
    own: Vec<(Vec<u8>, Gate)>,
    /// Topics of which something is held.
    shut: Vec<String>,
}

impl Gates {
    /// Fails where the file chooses by other columns than it did when something was held.
    pub(crate) fn of(lanes: &Lanes, relation: &str, rule: &TopicRule) -> Result<Self> {
        let columns = rule.columns();
        let others =
            lanes.held.iter().filter(|lane| lane.gate == Gate::Shut && lane.thing.relation != relation);
        let mut shut: Vec<String> = others.flat_map(|lane| lane.topics.clone()).collect();
        let mut own = Vec::new();
        for lane in lanes.parts(relation) {
            if lane.thing.columns != columns {
                return Err(Error::config(format!(
                    "{} waits, and the file chooses topics by {}",
                    lane.thing,
                    columns.join(", ")
                ))
                .hint("put the route back as it was until nothing is held; then change it"));
            }
            let mut selector = Vec::new();
            for value in &lane.thing.values {
                selector.extend_from_slice(value.as_bytes());
                selector.push(0);
            }
            own.push((selector, lane.gate));
            if lane.gate == Gate::Shut {
                let values: Vec<&str> = lane.thing.values.iter().map(String::as_str).collect();
                shut.extend(lane.topics.clone());
                shut.extend(rule.topic(&values));
            }
        }
        Ok(Self { rest: lanes.gate(relation), own, shut })
    }

    pub(crate) fn gate(&self, selector: Option<&[u8]>) -> Gate {
        let own = selector.and_then(|selector| self.own.iter().find(|(known, _)| known == selector));
        own.map_or(self.rest, |(_, gate)| *gate)
    }
}

/// The gate of a plan all of whose rows have the same one.
pub(crate) fn whole(lanes: &Lanes, relation: &str) -> Gate {
    let gate = lanes.gate(relation);
    if lanes.parts(relation).next().is_some() && gate != Gate::Shut {
        // Each row has to be looked at.
        return Gate::Open;
    }
    gate
}

/// Refuses a relation of which some rows wait, and whose rows no longer choose; one that writes to the topic of something
/// else that waits, waits too.
pub(crate) fn fits(lanes: &Lanes, relation: &Relation, to: (&Target, &[Place])) -> Result<()> {
    let name = relation.full_name();
    let (target, copies) = to;
    if let (Target::Fixed(_), Some(lane)) = (target, lanes.parts(&name).next()) {
        return Err(Error::config(format!("{} waits, and the file sends all rows to one topic", lane.thing))
            .hint("put the route back as it was until nothing is held; then change it"));
    }
    // What rows choose is looked at row by row.
    let mut of_all = target.places().iter().chain(copies);
    if let Some(place) = of_all.find(|place| lanes.shut_topic(&place.name, &name)) {
        let what = format!("{name}: its topic {} is that of a table that waits", place.name);
        let error = Error::record(what).code("topic_held").hint("it goes on with that table");
        return Err(struck(error, whole_of(&name), topics(target, copies)));
    }
    Ok(())
}

/// Every topic that records go to, as far as it is known.
pub(crate) fn topics(target: &Target, copies: &[Place]) -> Vec<String> {
    target.places().iter().chain(copies).map(|place| place.name.clone()).collect()
}

/// Whether it may pass if only what it is about waits: a registry's refusal, or its silence.
pub(crate) fn may_wait(error: &Error) -> bool {
    matches!(error.code_text(), Some(SCHEMA_INCOMPATIBLE | REGISTRY_AWAY))
}

/// Whether an error means that what waits cannot go out yet, whatever the policy is: nothing else depends on a try.
pub(crate) fn is_tried(lanes: Option<&Lanes>, relation: &str, mark: Mark, error: &Error) -> bool {
    is_refusal(error) && lanes.is_some_and(|lanes| lanes.tried(relation, mark).is_some())
}

/// Whether it is about what was to go out, and will not pass by itself.
pub(crate) fn is_refusal(error: &Error) -> bool {
    match error.kind() {
        Kind::Config | Kind::Record | Kind::Fatal => true,
        Kind::Transient | Kind::Fenced => false,
    }
}

/// The error with what may wait because of it.
pub(crate) fn struck(error: Error, thing: Thing, topics: Vec<String>) -> Error {
    let strike = Strike {
        thing,
        topics,
        code: error.code_text().unwrap_or("record").to_owned(),
        why: cut(&error.to_string()),
        hint: error.hint_text().map(cut),
    };
    error.striking(strike)
}

pub(crate) fn whole_of(relation: &str) -> Thing {
    Thing { relation: relation.to_owned(), columns: Vec::new(), values: Vec::new() }
}

impl Chosen {
    /// Whether a row makes no record now.
    pub(crate) fn stops(&self, row: View<'_>, mark: Mark) -> bool {
        let mut selector = Vec::new();
        let selector = self.selector(row, &mut selector).then_some(selector);
        self.gates.gate(selector.as_deref()).stops(mark)
    }

    /// Those of the relation's rows that wait where this one cannot go out, and their topic; `None`: it chooses none.
    fn part(&self, relation: &str, row: View<'_>) -> Option<(Thing, Vec<String>)> {
        let mut selector = Vec::new();
        if !self.selector(row, &mut selector) {
            return None;
        }
        let topic = match self.known.get(&selector) {
            Some(at) => self.places.get((*at)?).map(|place| place.name.clone()),
            // Its topic could not be had.
            None => None,
        };
        let parts = selector.split(|byte| *byte == 0).take(self.columns.len());
        let values = parts.map(|part| String::from_utf8_lossy(part).into_owned());
        let values: Vec<String> = values.collect();
        let chosen: Vec<&str> = values.iter().map(String::as_str).collect();
        let topics = Vec::from_iter(topic.or_else(|| self.rule.topic(&chosen)));
        let columns = self.rule.columns().into_iter().map(str::to_owned).collect();
        Some((Thing { relation: relation.to_owned(), columns, values }, topics))
    }
}

impl Plan {
    /// Makes sure of the topic of a row's record, and of its schemas, for which a registry may be asked with less patience.
    /// `room` is memory used again for every row.
    pub(crate) async fn learn<T: Targets>(
        &mut self,
        (targets, asked): (&T, &T),
        row: View<'_>,
        (seq, room): (u64, &mut Vec<u8>),
    ) -> Result<()> {
        if let Target::Chosen(chosen) = &mut self.target {
            chosen.learn(targets, row).await?;
        }
        if let Some(routed) = self.outbox.as_mut().and_then(|outbox| outbox.routed.as_mut())
            && let Choice::Place(place) = self.target.choice(row, room)
        {
            routed.learn(asked, &place.name, (row, seq)).await?;
        }
        match &mut self.typed {
            Some(typed) => typed.learn(asked, row, seq).await,
            None => Ok(()),
        }
    }

    /// Whether a row that is looked at before its batch is encoded makes no record.
    pub(crate) fn stops(&self, row: View<'_>, mark: Mark) -> bool {
        match &self.target {
            Target::Fixed(_) => self.gate.stops(mark),
            Target::Chosen(chosen) => self.gate.stops(mark) || chosen.stops(row, mark),
        }
    }

    /// What waits where this row cannot go out, and the topics that it goes to as far as they are known.
    pub(crate) fn thing(&self, row: View<'_>) -> (Thing, Vec<String>) {
        let part = match &self.target {
            // A row of a table may go from one topic to another, and wait in one of them only. Records that go to other
            // topics too would overtake there.
            Target::Chosen(chosen) if self.outbox.is_some() && self.copies.is_empty() => {
                chosen.part(&self.table, row)
            }
            Target::Fixed(_) | Target::Chosen(_) => None,
        };
        part.unwrap_or_else(|| (whole_of(&self.table), topics(&self.target, &self.copies)))
    }
}

impl<'a> Pass<'a> {
    /// The place of a row that chose it, unless that row makes no record now.
    pub(crate) fn gated(
        &self,
        context: Context<'a>,
        (chosen, place): (&'a Chosen, &'a Place),
        row: View<'_>,
    ) -> Result<&'a Place, Fault> {
        let gates = &chosen.gates;
        let mark = context.change.mark;
        let gate = gates.gate(Some(&self.room.selector));
        if gate.stops(mark) {
            return Err(Fault::Stopped);
        }
        if !gates.shut.contains(&place.name) {
            return Ok(place);
        }
        let (thing, topics) = context.plan.thing(row);
        let what = format!("{thing}: its topic {} is that of other rows that wait", place.name);
        let error = Error::record(what).code("topic_held").hint("it goes on with them");
        Err(Fault::Error(struck(error, thing, topics)))
    }

    /// The row by which a change chooses its topic, as the plan sees it, is handed to `look`.
    #[cold]
    fn look<T>(&self, context: Context<'a>, look: impl FnOnce(View<'_>) -> T) -> T {
        let change = context.change;
        let row = if change.op == Op::Delete { change.before } else { change.after };
        let row = View { bytes: &self.batch.bytes, cells: self.batch.cells_of(row) };
        let (mut cells, mut bytes) = (Vec::new(), Vec::new());
        let nothing = View { bytes: &[], cells: &[] };
        match &context.plan.outbox {
            None => look(row),
            Some(outbox) => look(outbox.view(row, &mut cells, &mut bytes).unwrap_or(nothing)),
        }
    }

    /// Whether a change that cannot be a record would have made none anyway.
    #[cold]
    pub(crate) fn is_stopped(&self, context: Context<'a>) -> bool {
        self.look(context, |row| context.plan.stops(row, context.change.mark))
    }

    /// The error of a change that cannot be a record, with what waits for it where that is the policy.
    #[cold]
    pub(crate) fn parked(&self, context: Context<'a>, error: Error) -> Error {
        let policy = context.plan.format.on_reject;
        let waits = policy == OnReject::Park || (policy == OnReject::Stop && may_wait(&error));
        let may_wait = self.can_hold && waits && error.kind() == Kind::Record;
        let is_tried = is_tried(self.lanes, &context.plan.table, context.change.mark, &error);
        if error.strike().is_some() || !(may_wait || is_tried) {
            return error;
        }
        let (thing, topics) = self.look(context, |row| context.plan.thing(row));
        struck(error, thing, topics)
    }
}
