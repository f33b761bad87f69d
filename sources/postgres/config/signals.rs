//! Where signals come from beside REST.

use std::path::PathBuf;
use std::time::Duration;

use super::{Problems, Raw};
use crate::tables::{TableName, TablePattern};

/// As Debezium looks at its file.
const FILE_INTERVAL: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, Default)]
pub struct Signals {
    /// Its new rows are signals.
    pub table: Option<TableName>,
    /// Its lines are, and how often it is looked at.
    pub file: Option<(PathBuf, Duration)>,
}

impl Signals {
    pub(super) fn resolve(raw: &Raw, problems: &mut Problems) -> Self {
        let every = problems.seconds("signal_file_interval_s", raw.signal_file_interval_s, FILE_INTERVAL, 1);
        let table = raw.signal_table.as_deref().and_then(|text| match TablePattern::parse(text) {
            Ok(TablePattern::One(name)) => Some(name),
            Ok(TablePattern::Schema(_) | TablePattern::Expression(_)) => {
                problems.add(format!("signal_table {text:?} is not one table"), "write schema.table");
                None
            }
            Err(what) => {
                problems.add(format!("signal_table {text:?} {what}"), "write schema.table");
                None
            }
        });
        Self { table, file: raw.signal_file.clone().map(|file| (file, every)) }
    }

    pub fn is(&self, table: &TableName) -> bool {
        self.table.as_ref() == Some(table)
    }
}
