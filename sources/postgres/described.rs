//! The captured tables as the stream would describe them now: for those who judge, before there is a row, whether the
//! file fits them.

use millrace_core::error::Result;
use millrace_core::relation::Relation;

use crate::config::Settings;
use crate::relation::{self, Origin};
use crate::snapshot::select::{Published, described};
use crate::types::Types;
use crate::{catalog, control, publication};

/// All of them, on a connection of its own.
pub async fn now(settings: &Settings, origin: &Origin) -> Result<Vec<Relation>> {
    let control = control::connect(settings).await?;
    let tables = publication::captured(&control.client, settings).await?;
    let mut types = Types::default();
    let oids: Vec<u32> =
        tables.iter().flat_map(|table| &table.columns).map(|column| column.type_oid).collect();
    catalog::load_types(&control.client, &mut types, &oids).await?;
    let mut relations = Vec::new();
    for table in &tables {
        let message = described(table, &Published::default());
        let mut relation = relation::build(&types, Some(table), &message, origin);
        if let Some(names) = settings.message_key(&relation.namespace, &relation.name) {
            relation.key = relation::keyed_by(&relation, names)?;
        }
        relations.push(relation);
    }
    Ok(relations)
}
