//! A collection as the encoder sees it, with the constant part of its source block.

use millrace_core::batch::document;
use millrace_core::relation::{Column, Kind, Relation, Shape, SourceBlock, SourceField, SourceValue};

/// What every event says of where it comes from.
#[derive(Clone, Debug)]
pub struct Origin {
    /// What the block shows as its version.
    pub version: String,
    /// The topic prefix.
    pub name: String,
}

pub fn build(origin: &Origin, database: &str, collection: &str) -> Relation {
    let id = Column::new("id", Kind::Text, false);
    Relation {
        version: Relation::next_version(),
        namespace: database.to_owned(),
        name: collection.to_owned(),
        columns: vec![id],
        key: vec![0],
        identity: vec![0],
        source: source_block(origin, database, collection),
        shape: Shape::Documents,
    }
}

/// In Debezium's order.
fn source_block(origin: &Origin, database: &str, collection: &str) -> SourceBlock {
    let text = |text: &str| SourceValue::Text(text.to_owned());
    let fields = [
        ("version", text(&origin.version)),
        ("connector", text("mongodb")),
        ("name", text(&origin.name)),
        ("ts_ms", SourceValue::CommitMs),
        ("snapshot", SourceValue::Snapshot),
        ("db", text(database)),
        ("sequence", SourceValue::NoText),
        ("ts_us", SourceValue::CommitUs),
        ("ts_ns", SourceValue::CommitNs),
        ("collection", text(collection)),
        ("ord", SourceValue::Increment),
        ("lsid", SourceValue::CellText(document::SESSION)),
        ("txnNumber", SourceValue::CellLong(document::TRANSACTION)),
        ("wallTime", SourceValue::CellLong(document::WALL_MS)),
    ];
    SourceBlock {
        schema_name: "io.debezium.connector.mongo.Source",
        fields: fields.map(|(name, value)| SourceField { name, value }).into(),
    }
}
