//! Which columns readers see, which they see in disguise, and which not at all: the same for rows, for letters and
//! for what routes make of a row.

use super::disguise::{self, Disguise, Disguised};
use super::mapping::{is_shown, map};
use super::steps::Made;
use super::{Dialect, Envelope, Format};
use crate::error::{Error, Result};
use crate::pattern::Pattern;
use crate::relation::{Column, Relation, Shape};

/// The columns that are in the events' rows, with their indexes.
pub(crate) fn shown_columns<'a>(
    format: &'a Format,
    relation: &'a Relation,
) -> impl Iterator<Item = (usize, &'a Column)> {
    let is_chosen = move |column: &Column| {
        let name = format!("{}.{}", relation.full_name(), column.name);
        let is_one = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(&name));
        if relation.shape == Shape::Messages {
            return true;
        }
        let is_included = format.columns_included.is_empty() || is_one(&format.columns_included);
        is_included && !is_one(&format.columns_excluded)
    };
    let shown = relation.columns.iter().enumerate();
    shown.filter(move |(_, column)| is_shown(column, format) && is_chosen(column))
}

/// Columns whose texts are disguised already, because they come out of a letter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Worn {
    /// These, by name; none of rows that come from the source.
    By(Vec<String>),
    /// The letter does not say which. It is older than encrypted columns.
    Unsaid,
}

impl Default for Worn {
    fn default() -> Self {
        Self::By(Vec::new())
    }
}

impl Worn {
    fn is_by(&self, column: &str) -> bool {
        matches!(self, Self::By(columns) if columns.iter().any(|worn| worn == column))
    }

    /// Whether the column has yet to put on what the file asks for. A hash of a hash would be equal to nothing; every
    /// other disguise that an old letter may wear is the same the second time, and columns of the key wear none there.
    pub(crate) fn lacks(&self, column: &str, is_key: bool, disguise: &Disguise) -> bool {
        match self {
            Self::By(_) => !self.is_by(column),
            Self::Unsaid => is_key || !matches!(disguise, Disguise::Hash { .. } | Disguise::Hmac { .. }),
        }
    }
}

/// A column that letters do not show as it is.
#[derive(Debug)]
pub(crate) struct Hidden {
    pub index: usize,
    pub how: How,
}

#[derive(Debug)]
pub(crate) enum How {
    LeftOut,
    By(Disguise),
    /// Its text is disguised as it stands.
    Worn,
}

impl Hidden {
    /// Whether the letter's text has a disguise that is not to be put on again. What is cut off may be cut again, or
    /// be hidden by more than that.
    pub fn is_worn(&self) -> bool {
        match &self.how {
            How::LeftOut => false,
            How::By(disguise) => disguise.is_secret(),
            How::Worn => true,
        }
    }
}

/// Keys are here as they are in the records.
pub(crate) fn hidden(format: &Format, relation: &Relation, made: &Made) -> Vec<Hidden> {
    if relation.shape != Shape::Rows {
        return Vec::new();
    }
    let hidden = relation.columns.iter().enumerate().filter_map(|(index, column)| {
        let of_key = made.key_columns.iter().find(|member| member.index == index);
        let member = of_key.or_else(|| made.row.iter().find(|member| member.index == index));
        let how = match member.map(|member| &member.disguise) {
            _ if made.uses(index) => None,
            None => Some(How::LeftOut),
            Some(Some(disguise)) if format.worn.lacks(&column.name, of_key.is_some(), disguise) => {
                Some(How::By(disguise.clone()))
            }
            Some(Some(_)) => Some(How::Worn),
            Some(None) => None,
        };
        // Worn still, where the file asks for no disguise any more.
        let how = how.or_else(|| format.worn.is_by(&column.name).then_some(How::Worn))?;
        Some(Hidden { index, how })
    });
    hidden.collect()
}

/// Whoever hides a column wants it nowhere in the open. Its key is hashed with it; but a key that is another one each
/// time has no order, and one that is the same for several rows is theirs together. Debezium's masks leave keys
/// alone, and so do ours in its dialect. The key of an outbox is not that of its events.
pub(crate) fn keeps_keys_apart(format: &Format, relation: &Relation, made: &Made) -> Result<()> {
    let is_ours = format.dialect == Dialect::Millrace && format.envelope != Envelope::Outbox;
    for key in &made.key_columns {
        let Some(column) = relation.columns.get(key.index) else { continue };
        let by_file = disguise(format, relation, column)?;
        let in_row = made.row.iter().find(|member| member.index == key.index);
        let by_step = in_row.and_then(|member| member.disguise.as_ref()).filter(|_| is_ours);
        let what = match by_step.or(by_file.as_ref()) {
            Some(Disguise::Encrypt(_)) => "encrypted",
            Some(Disguise::Mask { .. }) if is_ours => "masked",
            Some(Disguise::Truncate { .. }) if is_ours => "cut off",
            Some(Disguise::Replace(_)) if is_ours => "replaced by a [[step]]",
            _ => continue,
        };
        let instead = match is_ours {
            true => "hide it with hash_columns or hmac_columns in [format], which keep keys apart",
            false => "take it out of format.encrypt_columns",
        };
        let (table, name) = (relation.full_name(), &column.name);
        return Err(Error::config(format!(
            "column {table}.{name} is of the key, which orders records and cannot be {what}"
        ))
        .hint(format!("{instead}, or give the table another `key` in its [[route]]")));
    }
    Ok(())
}

/// What becomes of this column's text, if anything.
pub(crate) fn disguise(format: &Format, relation: &Relation, column: &Column) -> Result<Option<Disguise>> {
    if format.disguised.is_empty() {
        return Ok(None);
    }
    let name = format!("{}.{}", relation.full_name(), column.name);
    let found = format.disguised.iter().find(|disguised| disguised.columns.matches(&name));
    let Some(Disguised { by, .. }) = found else { return Ok(None) };
    match (disguise::fits(&map(&column.kind, format).0), by.is_secret()) {
        (true, _) if format.dialect == Dialect::Debezium => Ok(Some(by.within(column.declared.length))),
        (true, _) => Ok(Some(by.clone())),
        (false, false) => Ok(None),
        (false, true) => {
            Err(Error::config(format!("column {name} is no text, and only texts are masked or encrypted"))
                .hint("leave it out with format.exclude_columns, or name other columns"))
        }
    }
}
