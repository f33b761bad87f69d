//! Copies the documents that are there beside the running stream, so that each event comes once and in order.
//!
//! Start at `collection::plan` (what is to be read) and `reader::Reader::run` (who reads it: several workers, each
//! a collection at a time). The rules, for one chunk:
//!
//! - C is the time up to which the stream has taken everything, and after which nothing (`Session::seen`). The chunk is
//!   read as of C, by a read with the concern `snapshot` and `atClusterTime: C`; nothing has to stand still for it.
//! - From that moment until the chunk's documents are placed, the ids of changes after C are recorded
//!   (`tracker`). Their documents are dropped: the change itself is newer.
//! - The documents that are left are placed between two transactions, in a batch of their own with the note of how
//!   far the collection is, once the stream has passed the server's time at the reading. Every change up to C
//!   has come by then, and where a server can only read what is committed now, or shows a transaction of
//!   several shards before its events, every change that the reading saw has.
//! - A dropped document may be needed, because its change did not carry the whole of it: such ids are listed, in
//!   notes, and read again before the collection is through.
//! - Ids are read in the order of the index on them, which is BSON's across types: `min` begins there, where a
//!   comparison would stay inside one type.
//!
//! Chunks of one collection are placed in the order in which they were opened, and wait for none of another.
//!
//! A crash throws open chunks away with the ids that were recorded; their documents were never delivered.

pub mod collection;
pub mod desk;
pub mod find;
pub mod id;
pub mod reader;
pub mod requests;
pub mod tracker;
mod worker;
