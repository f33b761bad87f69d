//! The constant parts of envelopes: what stands around the rows, and between the fields of the source block.

use crate::batch::document;
use crate::encode::Dialect;
use crate::encode::short::Lead;
use crate::encode::transaction::BlockPlan;
use crate::encode::value::{Union, Writer};
use crate::relation::{Relation, Shape, SourceBlock, SourceValue};

/// The envelope around the rows, up to the operation; what follows is the same for a whole batch.
#[derive(Debug)]
pub(crate) struct EnvelopePlan {
    pub before_null: Lead,
    pub before_lead: Lead,
    pub after_null: Lead,
    pub after_lead: Lead,
    pub source: Vec<SourceStep>,
    /// Cells of a change.
    pub cells: usize,
    /// From the last changing field of the source block to the operation's letter, or to the message.
    pub op_lead: Lead,
    /// Where events tell of their transactions.
    pub block: Option<BlockPlan>,
}

/// Constant bytes, then one field of the source block that changes from row to row.
#[derive(Debug)]
pub(crate) struct SourceStep {
    pub lead: Lead,
    /// Instead of lead and value, where there may be none.
    pub null: Option<Lead>,
    pub field: SourceField,
}

#[derive(Debug)]
pub(crate) enum SourceField {
    Snapshot,
    CommitMs,
    CommitUs,
    CommitNs,
    Sequence,
    TransactionId,
    Place,
    Increment,
    /// The whole field, by whether the cell holds something.
    Cell {
        index: usize,
        is_long: bool,
        value: Lead,
        null: Lead,
    },
    /// The whole field, by whether the transaction has an origin.
    Origin {
        is_place: bool,
        value: Lead,
        null: Lead,
    },
}

impl EnvelopePlan {
    pub(super) fn compile<W: Writer>(
        relation: &Relation,
        head: &[u8],
        has_block: bool,
        dialect: Dialect,
    ) -> Self {
        let open = [head, W::STRUCT_OPEN].concat();
        let (source, mut constant) = Self::source::<W>(&relation.source, dialect);
        constant.extend_from_slice(W::STRUCT_CLOSE);
        let block = has_block.then(|| BlockPlan::of::<W>(relation.shape, &constant));
        let (op, cells) = match relation.shape {
            Shape::Rows => {
                constant.extend(W::null("transaction", false, Union::NullFirst));
                (Union::Required, relation.columns.len())
            }
            Shape::Messages => {
                constant.extend(W::null("transaction", false, Union::NullFirst));
                constant.extend(W::lead("message", false, Union::Required));
                (Union::Required, relation.columns.len())
            }
            Shape::Documents => (Union::NullFirst, document::CELLS),
        };
        if relation.shape != Shape::Messages {
            constant.extend(W::lead("op", false, op));
            constant.extend_from_slice(W::OP_OPEN);
        }
        Self {
            before_null: [open.clone(), W::null("before", true, Union::NullFirst)].concat().into(),
            before_lead: [open, W::lead("before", true, Union::NullFirst)].concat().into(),
            after_null: W::null("after", false, Union::NullFirst).into(),
            after_lead: W::lead("after", false, Union::NullFirst).into(),
            source,
            cells,
            op_lead: constant.into(),
            block,
        }
    }

    /// The block's changing fields, and the constant bytes after the last of them.
    fn source<W: Writer>(block: &SourceBlock, dialect: Dialect) -> (Vec<SourceStep>, Vec<u8>) {
        let mut steps = Vec::new();
        let mut constant = [W::lead("source", false, Union::Required), W::STRUCT_OPEN.into()].concat();
        for (place, field) in block.fields.iter().enumerate() {
            let is_first = place == 0;
            let (value, null) = (
                || W::lead(field.name, is_first, Union::NullFirst).into(),
                || W::null(field.name, is_first, Union::NullFirst).into(),
            );
            let mut lead = |union| constant.extend(W::lead(field.name, is_first, union));
            let changing = match &field.value {
                SourceValue::Text(text) => {
                    lead(Union::Required);
                    W::string(&mut constant, text.as_bytes());
                    continue;
                }
                SourceValue::NoLong | SourceValue::NoText => {
                    constant.extend(W::null(field.name, is_first, Union::NullFirst));
                    continue;
                }
                SourceValue::Snapshot => SourceField::Snapshot,
                SourceValue::CommitMs => SourceField::CommitMs,
                SourceValue::CommitUs => SourceField::CommitUs,
                SourceValue::CommitNs => SourceField::CommitNs,
                SourceValue::Sequence => SourceField::Sequence,
                SourceValue::TransactionId => SourceField::TransactionId,
                SourceValue::Place => SourceField::Place,
                SourceValue::Increment => SourceField::Increment,
                SourceValue::CellText(index) | SourceValue::CellLong(index) => SourceField::Cell {
                    index: *index,
                    is_long: matches!(field.value, SourceValue::CellLong(_)),
                    value: value(),
                    null: null(),
                },
                SourceValue::Origin | SourceValue::OriginPlace => SourceField::Origin {
                    is_place: field.value == SourceValue::OriginPlace,
                    value: value(),
                    null: null(),
                },
            };
            let null = match (&changing, dialect) {
                // Debezium's rows that somebody asked for are of no transaction.
                (SourceField::Place | SourceField::TransactionId, Dialect::Debezium) => {
                    let null = W::null(field.name, is_first, Union::NullFirst);
                    Some([constant.as_slice(), &null].concat().into())
                }
                _ => None,
            };
            let mut lead = |union| constant.extend(W::lead(field.name, is_first, union));
            match changing {
                SourceField::Snapshot => lead(Union::NullLast),
                SourceField::CommitMs | SourceField::Increment => lead(Union::Required),
                // Whether it is null is known with the change only, or with the transaction.
                SourceField::Cell { .. } | SourceField::Origin { .. } => {}
                _ => lead(Union::NullFirst),
            }
            let lead = std::mem::take(&mut constant).into();
            steps.push(SourceStep { lead, null, field: changing });
        }
        (steps, constant)
    }
}
