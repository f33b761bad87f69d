//! What routes say of the rows of outboxes, told to the source: which are deleted once they are delivered, and what
//! becomes of those that are there before the connector. What a source cannot do is a problem of the file.

use millrace_core::encode::{Dialect, Format};
use millrace_core::route::rule::{FirstStart, Route};

use super::Source;
use crate::config::Problems;

impl Source {
    /// Has the rows that outboxes hold at a first start be read, or left alone, as routes say. `is_said`: one of them does.
    pub fn begin_outboxes(&mut self, format: &Format, is_said: bool, problems: &mut Problems) {
        let first = |route: &Route| route.outbox.as_ref().map(|outbox| outbox.first_start.clone());
        if format.routes.iter().all(|route| first(route).is_none()) {
            return;
        }
        match self {
            Self::Postgres(settings) => {
                let key = "source.postgres.snapshot";
                let snapshot = &settings.snapshot;
                if snapshot.on_loss {
                    problems.add(
                        key,
                        "reads all tables anew where the log is lost, and of an outbox nobody knows which rows were \
                         sent; set snapshot = \"initial\" or \"no_data\"",
                    );
                } else if !snapshot.stream {
                    problems.add(
                        key,
                        "wants no changes, and those of an outbox are its events; set snapshot = \"initial\"",
                    );
                } else if snapshot.rows && format.dialect == Dialect::Debezium && !is_said {
                    // Debezium sends them, in the order of their keys, which are random.
                    problems.add(
                        key,
                        "reads the rows that an outbox already has by their key, not in the order of their events; \
                         set snapshot = \"no_data\": the outbox begins with what is written after the first start",
                    );
                }
                let is_older = settings.slot_made_beforehand || settings.takes_slot;
                if is_older
                    && format.routes.iter().filter_map(first).any(|first| first != FirstStart::FromNow)
                {
                    problems.add(
                        "route.outbox.first_start",
                        "\"drain_existing\" takes what was written before it for rows that are there, and with a slot \
                         that was made earlier what was deleted again since then is in no row; set \"from_now\": such \
                         a slot has all that was written since it was made",
                    );
                }
                settings.outboxes = format.routes.iter().map(|r| (r.relations.clone(), first(r))).collect();
            }
            Self::Mongodb(settings) => {
                if format.routes.iter().filter_map(first).any(|first| first != FirstStart::FromNow) {
                    problems.add(
                        "route.outbox.first_start",
                        "\"drain_existing\" is for tables: documents are read by several at different times; \
                         insert those of before anew once the connector runs",
                    );
                }
                if settings.snapshot == millrace_mongodb::config::Snapshot::Initial {
                    problems.add(
                        "source.mongodb.snapshot",
                        "reads the documents that an outbox already has by their id, not in the order of their events; \
                         set snapshot = \"no_data\": the outbox begins with what is written after the first start",
                    );
                }
            }
        }
    }

    /// Has rows deleted that were delivered, where routes say so; a problem where nobody could.
    pub fn sweep(&mut self, routes: &[Route], problems: &mut Problems) {
        let keeps = |route: &Route| {
            let outbox = route.outbox.as_ref()?;
            let with_earlier = outbox.delete_earlier;
            outbox.delete_after.map(|rows| millrace_postgres::janitor::Keep { rows, with_earlier })
        };
        match self {
            Self::Postgres(settings) => {
                if settings.snapshot.on_loss && routes.iter().any(|route| keeps(route).is_some()) {
                    problems.add(
                        "route.outbox.delete_after_s",
                        "does not go with snapshot_on_loss: rows whose changes were lost would be deleted unread",
                    );
                }
                settings.swept = routes.iter().map(|r| (r.relations.clone(), keeps(r))).collect();
            }
            Self::Mongodb(_) if routes.iter().any(|route| keeps(route).is_some()) => problems.add(
                "route.outbox.delete_after_s",
                "is for tables; a collection has TTL indexes for that: \
                 db.outbox.createIndex({ created_at: 1 }, { expireAfterSeconds: 86400 })",
            ),
            Self::Mongodb(_) => {}
        }
    }
}
