//! Which values are read again from their tables.

use millrace_core::pattern::Pattern;

use super::{Problems, Raw};

/// Columns, as `schema.table.column`.
#[derive(Clone, Debug, Default)]
pub struct Reselected {
    wanted: Vec<Pattern>,
    unwanted: Vec<Pattern>,
    /// Where they are null, too.
    pub nulls: bool,
}

impl Reselected {
    pub(super) fn resolve(raw: &Raw, problems: &mut Problems) -> Self {
        let (wanted, unwanted) = (&raw.reselect_columns, &raw.exclude_reselect_columns);
        let nulls = raw.reselect_nulls;
        for (key, is_set) in
            [("exclude_reselect_columns", !unwanted.is_empty()), ("reselect_nulls", nulls.is_some())]
        {
            if is_set && wanted.is_empty() {
                problems.add(format!("{key} has no effect without reselect_columns"), "remove it");
            }
        }
        let hint = "write schema.table.column with * for anything, or /expression/";
        Self {
            wanted: problems.expressions(("reselect_columns", hint), wanted),
            unwanted: problems.expressions(("exclude_reselect_columns", hint), unwanted),
            nulls: nulls.unwrap_or(false),
        }
    }

    pub fn is_off(&self) -> bool {
        self.wanted.is_empty()
    }

    pub fn names(&self, column: &str) -> bool {
        let any = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(column));
        any(&self.wanted) && !any(&self.unwanted)
    }

    #[cfg(test)]
    pub fn of(wanted: &str, nulls: bool) -> Self {
        Self { wanted: vec![Pattern::new(wanted)], nulls, ..Self::default() }
    }
}
