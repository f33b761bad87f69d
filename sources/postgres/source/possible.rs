//! Whether the rows that a start plans to read can be read. Start at `possible`.

use millrace_core::error::{Error, Result};
use millrace_core::source::Feed;
use tokio_postgres::Client;

use crate::catalog::TableInfo;
use crate::config::Settings;
use crate::held;
use crate::server::ServerFacts;
use crate::snapshot::outbox;
use crate::snapshot::table::{Plan, Unread};

/// Says what cannot be read: on a standby nobody knows which transactions a snapshot saw, and an outbox is read in an
/// order that its table has to give.
pub(super) async fn possible(
    plan: &Plan,
    (client, tables): (&Client, &[TableInfo]),
    facts: &ServerFacts,
    settings: &Settings,
) -> Result<()> {
    for table in &plan.again {
        tracing::warn!(
            %table,
            "the table has no key, and the reading of its rows was broken off: all of them come again"
        );
    }
    for unread in &plan.unread {
        let table = tables.iter().find(|table| table.name() == unread.table);
        if let (Some(order_by), Some(table)) = (&unread.order_by, table)
            && !unread.note.ended()
        {
            outbox::order(client, table, order_by).await?;
        }
    }
    match plan.unread.first() {
        Some(unread) if facts.in_recovery && settings.primaries.is_empty() => Err(Error::config(format!(
            "the rows of {} cannot be read from a standby: it does not know which transactions are under way",
            unread.table
        ))
        .hint(
            "name the primary in primary_hosts, or set snapshot = \"no_data\" and first_start = \"from_now\"",
        )),
        _ => Ok(()),
    }
}

/// Refuses what would have to be read first, and says whether rows are read: where something waits, they are after it.
pub(super) fn may_read(unread: &[Unread], feed: &Feed) -> Result<()> {
    if feed.lanes.is_new && !unread.is_empty() {
        return Err(held::met_again(&feed.progress.holds, "rows of tables are still to be read"));
    }
    match unread.iter().find(|unread| unread.is_undrained()) {
        Some(outbox) if !feed.lanes.held.is_empty() => Err(Error::config(format!(
            "the rows of {} are to be sent before its changes, and something else waits",
            outbox.table
        ))
        .hint("take the table out of the file until nothing is held")),
        _ => {
            feed.progress.holds.reads(!unread.is_empty() && feed.lanes.held.is_empty());
            Ok(())
        }
    }
}
