//! Which columns readers see, which they see in disguise, and which not at all: the same for rows, for letters and
//! for what routes make of a row.

use super::disguise::{self, Disguise, Disguised};
use super::mapping::{is_shown, map};
use super::steps::Made;
use super::{Dialect, Format};
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

/// A column that letters do not show as it is: left out, or its text in disguise.
#[derive(Debug)]
pub(crate) struct Hidden {
    pub index: usize,
    pub disguise: Option<Disguise>,
}

/// Keys keep theirs, here as in the records.
pub(crate) fn hidden(relation: &Relation, made: &Made) -> Vec<Hidden> {
    if relation.shape != Shape::Rows {
        return Vec::new();
    }
    let is_key = |index: usize| made.key_columns.iter().any(|key| usize::from(*key) == index);
    let columns = (0..relation.columns.len()).filter(|index| !is_key(*index) && !made.uses(*index));
    let hidden = columns.filter_map(|index| {
        match made.row.iter().find(|member| member.index == index).map(|member| &member.disguise) {
            None => Some(Hidden { index, disguise: None }),
            Some(disguise) => disguise.clone().map(|disguise| Hidden { index, disguise: Some(disguise) }),
        }
    });
    hidden.collect()
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
