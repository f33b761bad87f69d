//! Copies the rows that are there beside the running stream, so that each event comes once and in order.
//!
//! Start at `table::plan` (what is to be read), `reader::Reader::run` (who reads it) and `worker::Worker` (how).
//! The rules, for one chunk:
//!
//! - S is a snapshot of the database that sees every transaction streamed so far: the stream stands still
//!   between two transactions while it is taken (`desk`).
//! - Until the chunk's rows are placed, the keys that are touched by transactions not in S are recorded
//!   (`tracker`). Their rows are dropped: the change itself is newer.
//! - L is a message written to the log after S. When it comes on the stream, every transaction in S has come,
//!   and the rows that are left are placed between two transactions, in a batch of their own with the note of
//!   how far the table is.
//! - A dropped row may be needed, because the newest change did not carry the whole row (an unchanged TOAST
//!   value): such keys are listed, in notes, and read again before the table is through. After some rounds the
//!   stream stands still while they are read, and a row goes out before the first change that would overtake it.
//! - Until its first S a table is pending: its changes are not emitted, and from then on those in S are not,
//!   until L: the rows hold them.
//!
//! An outbox is drained (`outbox`): its rows are events, so they come in a declared order and before any new one.
//!
//! Tables without a key are read under one S (`keyless`), and so are all tables of a blocking snapshot, for which the
//! stream stands still behind L (`blocking`).
//!
//! A crash throws open chunks away with their S, L and touched keys, and their rows were never delivered.

mod blocking;
pub mod chunk;
pub mod copy;
pub mod desk;
pub mod key;
mod keyless;
pub mod outbox;
pub mod reader;
pub mod requests;
pub mod select;
pub mod sight;
mod statements;
pub mod table;
mod taking;
pub mod tracker;
pub mod visibility;
pub mod window;
mod worker;
