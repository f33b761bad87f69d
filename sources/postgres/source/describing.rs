//! What the stream asks the catalog of each table that it meets.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio_postgres::{Client, Statement};

use super::{PostgresSource, QUERY_PATIENCE, no_answer};
use crate::pgoutput::RelationMessage;
use crate::snapshot::visibility::Visibility;

use crate::relation::Described;
use crate::stream::Describe;
use crate::tables::TableName;
use crate::types::Types;
use crate::{catalog, relation};

impl PostgresSource {
    /// What the stream's thread calls for each Relation message.
    pub(super) fn describe(&self, client: Arc<Client>, describing: Statement) -> Describe {
        let runtime = Handle::current();
        let (settings, origin) = (self.settings.clone(), self.origin.clone());
        let mut types = Types::default();
        let mut strangers = HashSet::new();
        let mut seen = None;
        Box::new(move |message: &RelationMessage, xid: Option<u32>| {
            if xid != seen {
                let visible = runtime.block_on(tokio::time::timeout(QUERY_PATIENCE, Visibility::of(&client)));
                let visible = visible.unwrap_or_else(|_| Err(no_answer(&settings)))?;
                if xid.is_some_and(|xid| !visible.sees(xid)) {
                    return Ok(None);
                }
                seen = xid;
            }
            let captured = settings.wants(&message.namespace, &message.name);
            if !captured {
                let root = runtime
                    .block_on(tokio::time::timeout(QUERY_PATIENCE, catalog::root_of(&client, message.id)));
                let root = root.unwrap_or_else(|_| Err(no_answer(&settings)))?;
                // A part is described beside its root, under whose name its changes come.
                let table =
                    root.unwrap_or_else(|| TableName::new(message.namespace.as_str(), message.name.as_str()));
                let is_asked_for = settings.signals.is(&table) || settings.wants(&table.schema, &table.table);
                if !is_asked_for && strangers.insert(table.clone()) {
                    tracing::warn!(
                        %table,
                        "the publication sends a table that the file does not name: its changes are passed \
                         over; was it renamed?"
                    );
                }
            }
            let described = catalog::describe(&client, &describing, &mut types, message, &origin);
            let relation = runtime.block_on(tokio::time::timeout(QUERY_PATIENCE, described));
            let (mut relation, info) = relation.unwrap_or_else(|_| Err(no_answer(&settings)))?;
            let key = match settings.message_key(&message.namespace, &message.name) {
                Some(names) => relation::keyed_by(&relation, names).map(|key| relation.key = key),
                None if captured => relation::must_have_its_key(info.as_ref(), message),
                None => Ok(()),
            };
            Ok(Some(Described { oid: message.id, relation, captured, unfit: key.err() }))
        })
    }
}
