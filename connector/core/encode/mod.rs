//! Changes to records: `Encoder::prepare` once per relation version, then `Encoder::encode` per batch.
//!
//! `prepare` may wait: it makes the topic, has the schemas registered and compiles a `plan`. `encode` walks
//! the changes (`change`; those of documents in `document`, messages in `message`), writes their rows by the plan (`row`), and each
//! value (`value`) from its text (`lexical`) in the encoding's form (`avro`, `json`). What the values become is decided in `mapping`;
//! schemas are built in Kafka Connect's model (`connect`) and printed by `avro_schema` and `json_schema`.
//!
//! Headers: `position` (the mark and the record's number within its change) and `unchanged` (columns whose
//! value was neither changed nor sent) in our own dialect; `special` and `special.before` (decimals that are
//! no numbers, where the row after or before has null for them), `__debezium.newkey` and
//! `__debezium.oldkey` (the other key of a row that changed its key, a JSON object) in both.
//!
//! Two things that schemas cannot say are left out on purpose: the dimensions of arrays (elements come in
//! reading order), and tombstones of tables without a key (there is nothing to compact away).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

pub use self::format::{
    Binary, Decimals, Dialect, Encoding, Envelope, Format, Hstore, Intervals, Skipped, Times,
};
pub use self::heartbeat::Heartbeat;
pub use self::hidden::Worn;
pub use self::letter::Letter;
pub use self::misfits::{hides_nothing, misfits};
pub use self::spelling::Spelling;
pub use self::typed::unusable;

use self::change::{Fault, NO_PLAN, Pass, Rejects, Room};
use self::gate::Gates;
use self::heartbeat::Pulse;
use self::notice::Notices;
use self::plan::{Draft, Plan, SchemaIds};
use self::target::{Place, Target, View};
use self::transaction::{Count, Ends};
use crate::batch::{ChangeBatch, EncodedBatch};
use crate::error::{Error, Result};
use crate::hold::{Gate, Lanes, Thing};
use crate::position::Mark;
use crate::progress::{self, OpCounts, Progress};
use crate::relation::Relation;
use crate::sink::{SchemaType, Targets};

mod aside;
mod avro;
mod avro_schema;
mod change;
mod compare;
mod connect;
pub mod disguise;
mod document;
pub mod flat;
mod format;
mod gate;
mod header;
mod heartbeat;
mod hidden;
mod json;
mod json_schema;
pub mod keys;
mod letter;
mod lexical;
mod mapping;
mod message;
mod misfits;
mod notice;
mod object;
mod outbox;
mod plan;
mod reject;
mod routed;
mod row;
mod shapes;
mod short;
pub mod signature;
mod source;
mod spelling;
mod steps;
mod tail;
mod target;
mod transaction;
mod typed;
mod value;

pub(crate) use self::lexical::array::elements;
pub use self::lexical::hex::base64;
pub use self::lexical::number::java_double;

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Encoded {
    Done,
    /// A row does not fit its relation's plan (a NULL where the catalog says NOT NULL): call `prepare` with
    /// the same batch and encode it from the start. Nothing of it is in the output.
    NeedsPrepare,
}

/// Plans kept for relations that the newest batch does not name; the oldest go first.
const PLANS_MAX: usize = 4096;

/// A registry that is restarted is back within this. Longer, and what is new waits alone.
const PATIENCE: Duration = Duration::from_secs(5);

/// Turns batches of changes into batches of records.
pub struct Encoder<T: Targets> {
    format: Format,
    targets: T,
    /// Asked about relations, which may wait alone.
    asked: T,
    /// What is held; `None` where nothing can be.
    lanes: Option<Lanes>,
    progress: Arc<Progress>,
    /// By relation version, rising.
    plans: Vec<Plan>,
    room: Room,
    /// Where dead letters go, once it was asked for.
    dead: Option<Place>,
    /// Where transactions and heartbeats are told, once it was asked for.
    ends: Option<Ends>,
    pulse: Option<Pulse>,
    notices: Option<Notices>,
    /// Notifications that went out, of those that the progress counts.
    told: u64,
    count: Count,
    /// As it was before the batch at hand.
    count_before: Count,
    attempt: u32,
    rejects: Rejects,
    /// Index into `plans` and events counted, by the relations of the batch at hand.
    slots: Vec<usize>,
    counts: Vec<OpCounts>,
    /// Number of the newest batch that was encoded.
    seq: u64,
}

impl<T: Targets> Encoder<T> {
    pub fn new(format: Format, targets: T, progress: Arc<Progress>) -> Self {
        Self {
            // What an attempt before had on its way was not told.
            told: progress.notifications_told.load(Ordering::Relaxed),
            format,
            asked: targets.clone(),
            targets,
            lanes: None,
            progress,
            plans: Vec::new(),
            room: Room::default(),
            dead: None,
            ends: None,
            pulse: None,
            notices: None,
            count: Count::default(),
            count_before: Count::default(),
            attempt: 1,
            rejects: Rejects::default(),
            slots: Vec::new(),
            counts: Vec::new(),
            seq: 0,
        }
    }

    /// Whether what cannot go out may wait alone now.
    fn can_hold(&self) -> bool {
        self.lanes.is_some() && self.progress.holds.can_hold()
    }

    /// What is asked about relations: with less patience where they may wait.
    fn asked(&self) -> &T {
        if self.can_hold() { &self.asked } else { &self.targets }
    }

    /// A relation, or a type of its events, may be held, and these are.
    pub fn holding(self, lanes: Lanes) -> Self {
        Self { asked: self.targets.hasty(PATIENCE), lanes: Some(lanes), ..self }
    }

    /// What the next dead letters say of how often the same was tried.
    pub fn set_attempt(&mut self, attempt: u32) {
        self.attempt = attempt;
    }

    /// Every relation version of the batch has a plan. Cheap: asked for every batch.
    pub fn is_prepared(&self, batch: &ChangeBatch) -> bool {
        let has_ends = self.ends.is_some() || self.format.transactions.is_none();
        let mut relations = (0_u32..).zip(&batch.relations);
        has_ends && relations.all(|(at, relation)| self.slot_of(batch, at, relation).is_some())
    }

    /// Makes the topic, registers the schemas and compiles the plan of each new relation version.
    ///
    /// Fails as `Targets` fails. Plans that were compiled before that stay.
    pub async fn prepare(&mut self, batch: &ChangeBatch) -> Result<()> {
        if self.dead.is_none() && self.format.has_dead_letters() {
            let limit = self.format.record_bytes_max;
            self.dead = Some(Place::of(&self.targets, &self.format.dead_letters, limit).await?);
        }
        if let Some(topic) = self.format.transactions.as_ref().filter(|_| self.ends.is_none()) {
            self.ends = Some(Ends::of(&self.targets, &self.format, topic).await?);
        }
        for (at, relation) in (0_u32..).zip(&batch.relations) {
            if self.slot_of(batch, at, relation).is_none() {
                let plan = self.plan(relation).await;
                let plan = plan.map_err(|error| self.untried(error, (batch, at), relation))?;
                match self.plans.binary_search_by_key(&plan.version, |p| p.version) {
                    Ok(at) => self.plans.splice(at..=at, [plan]).for_each(drop),
                    Err(at) => self.plans.insert(at, plan),
                }
            }
        }
        self.drop_old_plans(batch);
        self.learn(batch).await
    }

    /// Makes sure of every topic and every schema that a row of the batch chooses.
    async fn learn(&mut self, batch: &ChangeBatch) -> Result<()> {
        let (mut cells, mut bytes) = (Vec::new(), Vec::new());
        let asked = self.asked().clone();
        for (at, relation) in (0_u32..).zip(&batch.relations) {
            let Some(slot) = self.slot(relation.version) else { continue };
            let Some(plan) = self.plans.get_mut(slot) else { continue };
            if let Target::Chosen(chosen) = &mut plan.target {
                chosen.make_room();
            } else if let Some(flat) = &mut plan.flat {
                flat.make_room();
            } else if plan.typed.is_none() && !plan.is_routed() {
                continue;
            }
            if let Some(routed) = plan.outbox.as_mut().and_then(|outbox| outbox.routed.as_mut()) {
                routed.make_room();
            }
            for change in batch.changes.iter().filter(|change| change.relation == at) {
                if let Some(flat) = &mut plan.flat {
                    flat.learn(&self.targets, batch, change).await?;
                }
                for row in [change.before, change.after] {
                    let row = View { bytes: &batch.bytes, cells: batch.cells_of(row) };
                    let row = match &plan.outbox {
                        None => row,
                        Some(outbox) if outbox.takes(change.op) => {
                            // What is no event chooses nothing, and is told of when it is encoded.
                            let Ok(row) = outbox.view(row, &mut cells, &mut bytes) else { continue };
                            row
                        }
                        Some(_) => continue,
                    };
                    if self.lanes.is_some() && plan.stops(row, change.mark) {
                        continue;
                    }
                    let (to, room) = ((&self.targets, &asked), &mut self.room.selector);
                    let learned = plan.learn(to, row, (batch.seq, room)).await;
                    if let Err(error) = learned {
                        let Some(plan) = self.plans.get(slot) else { return Err(error) };
                        return Err(self.unlearned(error, plan, (row, change.mark)));
                    }
                }
            }
        }
        Ok(())
    }

    async fn plan(&self, relation: &Relation) -> Result<Plan> {
        let stale = self.plans.iter().find(|plan| plan.version == relation.version);
        let widened = stale.map(|plan| plan.widened.clone()).unwrap_or_default();
        let (format, route) = self.format.of(relation);
        let draft = Draft::new(format, route, relation, widened)?;
        let mut asks = draft.asks()?;
        let name = relation.full_name();
        if draft.made.is_discarded {
            // Nothing of it is made that a record would need.
            let nowhere = Target::Fixed(Place::nowhere());
            return Ok(draft.compile(SchemaIds::default(), nowhere, Vec::new(), asks));
        }
        let gate = self.lanes.as_ref().map_or(Gate::Open, |lanes| gate::whole(lanes, &name));
        let target = match (route, asks.choice.take()) {
            (Some(route), Some((rule, columns))) => {
                let gates = self.lanes.as_ref().map(|lanes| Gates::of(lanes, &name, &rule));
                Target::chosen(route, rule, columns, gates.transpose()?.unwrap_or_default())
            }
            _ => {
                let limit = format.record_bytes_max;
                Target::Fixed(Place::of(&self.targets, draft.topic_name(), limit).await?)
            }
        };
        let mut copies = Vec::new();
        for name in route.iter().flat_map(|route| &route.copies) {
            copies.push(Place::of(&self.targets, name, format.record_bytes_max).await?);
        }
        if let Some(lanes) = &self.lanes {
            gate::fits(lanes, relation, (&target, &copies))?;
        }
        if let (Some(spread), Target::Fixed(place)) = (&draft.made.spread, &target) {
            spread.must_fit(place, &relation.full_name())?;
        }
        let registered = self.register(&draft, format).await;
        let ids = registered
            .map_err(|error| self.waiting(error, gate::whole_of(&name), gate::topics(&target, &copies)))?;
        Ok(Plan { gate, ..draft.compile(ids, target, copies, asks) })
    }

    /// The error of a plan; where one was needed only to release something, that waits on.
    fn untried(&self, error: Error, (batch, at): (&ChangeBatch, u32), relation: &Relation) -> Error {
        let Some(lanes) = &self.lanes else { return error };
        let name = relation.full_name();
        let mut marks = batch.changes.iter().filter(|change| change.relation == at).map(|change| change.mark);
        let tried = marks.find_map(|mark| lanes.tried(&name, mark).filter(|_| !lanes.stops(&name, mark)));
        match tried {
            Some(lane) if gate::is_refusal(&error) => {
                let topics = error.strike().map(|strike| strike.topics.clone()).unwrap_or_default();
                gate::struck(error, lane.thing.clone(), topics)
            }
            _ => error,
        }
    }

    /// The error of a row that is looked at before its batch is encoded.
    fn unlearned(&self, error: Error, plan: &Plan, (row, mark): (View<'_>, Mark)) -> Error {
        let (thing, topics) = plan.thing(row);
        match gate::is_tried(self.lanes.as_ref(), &plan.table, mark, &error) {
            true => gate::struck(error, thing, topics),
            false => self.waiting(error, thing, topics),
        }
    }

    /// The error, with what may wait because of it.
    fn waiting(&self, error: Error, thing: Thing, topics: Vec<String>) -> Error {
        let can_wait = self.can_hold() && gate::may_wait(&error) && error.strike().is_none();
        if can_wait { gate::struck(error, thing, topics) } else { error }
    }

    async fn register(&self, draft: &Draft<'_>, format: &Format) -> Result<SchemaIds> {
        let mut ids = SchemaIds::default();
        // Each flat document has a schema of its own.
        if format.encoding == Encoding::Avro && draft.flat.is_none() {
            let (of, topic) = (SchemaType::Avro, draft.topic_name());
            if let Some(text) = draft.key_text() {
                ids.key = self.asked().schema(of, &format!("{topic}-key"), &text).await?;
            }
            ids.value = self.asked().schema(of, &format!("{topic}-value"), &draft.value_text()).await?;
        }
        Ok(ids)
    }

    /// A table's older versions go with the newer one that the batch brought, unless it still has rows of both.
    fn drop_old_plans(&mut self, batch: &ChangeBatch) {
        let is_used = |plan: &Plan| batch.relations.iter().any(|r| r.version == plan.version);
        // With ten thousand tables, to hold each plan against each other one took longer than all the rest.
        let brought = self.plans.iter().filter(|plan| is_used(plan));
        let brought: Vec<_> = brought.map(|plan| (plan.table.clone(), plan.version)).collect();
        let is_old = |plan: &Plan| {
            brought.iter().any(|(table, version)| *version > plan.version && *table == plan.table)
        };
        self.plans.retain(|plan| is_used(plan) || !is_old(plan));
        let mut surplus = self.plans.len().saturating_sub(PLANS_MAX);
        self.plans.retain(|plan| {
            let goes = surplus > 0 && !is_used(plan);
            surplus -= usize::from(goes);
            !goes
        });
    }

    /// The index of a relation's plan. It needs none where none of its changes in the batch makes a record, and nothing
    /// of it has to fit the file then: it may be as it was long ago, or as the file does not want it.
    fn slot_of(&self, batch: &ChangeBatch, at: u32, relation: &Relation) -> Option<usize> {
        let slot = self.slot(relation.version);
        let (None, Some(lanes)) = (slot, self.lanes.as_ref().filter(|lanes| !lanes.held.is_empty())) else {
            return slot;
        };
        let name = relation.full_name();
        let mut changes = batch.changes.iter().filter(|change| change.relation == at);
        let is_idle =
            lanes.shuts(&name) || (lanes.releases() && changes.all(|change| lanes.stops(&name, change.mark)));
        is_idle.then_some(NO_PLAN)
    }

    fn slot(&self, version: u64) -> Option<usize> {
        let at = self.plans.binary_search_by_key(&version, |plan| plan.version).ok()?;
        self.plans.get(at).is_some_and(|plan| !plan.is_stale).then_some(at)
    }

    /// Fills `out` with the batch's records. Never waits, and in the steady state allocates nothing.
    ///
    /// `Kind::Record` where one record cannot be written: `out` is then not to be sent.
    pub fn encode(&mut self, batch: &ChangeBatch, out: &mut EncodedBatch) -> Result<Encoded> {
        out.clear();
        if batch.seq > 1 && self.seq > 0 && batch.seq != self.seq + 1 {
            let message = format!("batch {} came to the encoder after batch {}", batch.seq, self.seq);
            return Err(Error::fatal(message));
        }
        self.slots.clear();
        for (at, relation) in (0_u32..).zip(&batch.relations) {
            let Some(slot) = self.slot_of(batch, at, relation) else {
                return Ok(Encoded::NeedsPrepare);
            };
            self.slots.push(slot);
        }
        let counts = self.format.transactions.is_some();
        if counts {
            self.count_before.clone_from(&self.count);
        }
        self.counts.clear();
        self.counts.resize(self.slots.len(), OpCounts::default());
        let written = self.write_records(batch, out);
        if counts && written.is_err() {
            self.count.clone_from(&self.count_before);
        }
        match written {
            Ok(()) => {}
            Err(Fault::Error(error)) => return Err(error),
            Err(Fault::Widen) => {
                out.clear();
                if !row::widen(batch, &mut self.plans, &self.slots) {
                    return Err(Error::fatal("a NULL was refused in a column that already takes it"));
                }
                return Ok(Encoded::NeedsPrepare);
            }
            // None of either is left over; and what is learned anew does no harm.
            Err(Fault::Unlearned | Fault::Stopped) => {
                out.clear();
                return Ok(Encoded::NeedsPrepare);
            }
        }
        out.notes.clone_from(&batch.notes);
        out.end.clone_from(&batch.end);
        out.whole = batch.whole;
        out.drained = batch.drained;
        out.seq = batch.seq;
        out.commit_ts_us = batch.transactions.last().map_or(0, |transaction| transaction.commit_ts_us);
        out.buried = self.rejects.count;
        self.seq = batch.seq;
        self.show_counts();
        Ok(Encoded::Done)
    }

    fn write_records(&mut self, batch: &ChangeBatch, out: &mut EncodedBatch) -> Result<(), Fault> {
        self.room.source.forget();
        self.room.tail_of = None;
        self.rejects = Rejects::default();
        let can_hold = self.can_hold();
        let mut pass = Pass {
            now_us: progress::now_us(),
            batch,
            plans: &self.plans,
            slots: &self.slots,
            room: &mut self.room,
            out,
            dead: self.dead.as_ref(),
            attempt: self.attempt,
            rejects: &mut self.rejects,
            can_hold,
            lanes: self.lanes.as_ref(),
            ends: self.ends.as_ref(),
            count: self.format.transactions.is_some().then_some(&mut self.count),
            silent: None,
            under_way: None,
        };
        pass.run(&mut self.counts)
    }

    /// Makes sure of the topics of heartbeats and notifications. Waits as `prepare` does.
    pub async fn prepare_beside(&mut self) -> Result<()> {
        if let Some(heartbeat) = self.format.heartbeat.as_ref().filter(|_| self.pulse.is_none()) {
            self.pulse = Some(Pulse::of(&self.targets, &self.format, &heartbeat.topic).await?);
        }
        if let Some(topic) = self.format.notifications.as_ref().filter(|_| self.notices.is_none()) {
            self.notices = Some(Notices::of(&self.targets, &self.format, topic).await?);
        }
        Ok(())
    }

    /// Whether `prepare_beside` has nothing to do.
    pub fn is_prepared_beside(&self) -> bool {
        (self.pulse.is_some() || self.format.heartbeat.is_none())
            && (self.notices.is_some() || self.format.notifications.is_none())
    }

    /// Whether there is something to tell on the topic of notifications.
    pub fn has_news(&self) -> bool {
        self.format.notifications.is_some() && self.progress.notified() > self.told
    }

    /// Adds it to a batch of records, once `prepare_beside` has been called.
    pub fn tell(&mut self, out: &mut EncodedBatch) -> Result<()> {
        let Some(notices) = &self.notices else { return Ok(()) };
        let (new, notified) = self.progress.notifications_after(self.told);
        for notification in &new {
            notices.put(notification, out)?;
        }
        (self.told, out.told) = (notified, notified);
        Ok(())
    }

    /// Adds a heartbeat to a batch of records, once `prepare_beside` has been called.
    pub fn heartbeat(&self, out: &mut EncodedBatch) -> Result<()> {
        match &self.pulse {
            Some(pulse) => pulse.put(out, progress::now_us() / 1000),
            None => Ok(()),
        }
    }

    fn show_counts(&self) {
        for (slot, counts) in self.slots.iter().zip(&self.counts) {
            if let Some(plan) = self.plans.get(*slot).filter(|_| counts.iter().any(|count| *count > 0)) {
                self.progress.count_events(&plan.table, counts);
                plan.target.places().iter().for_each(|place| self.progress.use_topic(&place.name));
            }
        }
        if let Some(first) = &self.rejects.first {
            let count = self.rejects.count;
            let code = first.code_text();
            tracing::warn!(count, code, %first, topic = self.format.dead_letters, "records became dead letters");
        }
    }
}

#[cfg(test)]
mod change_test;
#[cfg(test)]
mod document_test;
#[cfg(test)]
mod flat_rows_test;
#[cfg(test)]
mod flat_test;
#[cfg(test)]
mod gate_test;
#[cfg(test)]
mod letter_test;
#[cfg(test)]
mod oracle_test;
#[cfg(test)]
mod outbox_test;
#[cfg(test)]
mod rename_test;
#[cfg(test)]
mod routed_test;
#[cfg(test)]
mod scene;
#[cfg(test)]
mod schema_test;
#[cfg(test)]
mod steps_test;
#[cfg(test)]
mod transaction_test;
#[cfg(test)]
mod typed_test;
