//! Which rows and which changes are wanted, by the keys that begin with `snapshot`.

use serde::Deserialize;

use super::{Problems, Raw};

/// What becomes of the rows that are there before the changes are, by the names that Debezium gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotMode {
    /// The rows that are there when a table is first seen, and every change after them.
    #[default]
    Initial,
    /// The rows, and no change.
    InitialOnly,
    /// The rows, at every start of the daemon.
    Always,
    /// Nothing: changes from the slot's consistent point on.
    #[serde(alias = "never")]
    NoData,
    /// As `initial`, and once more when the changes after the position are gone.
    WhenNeeded,
    /// As the three keys beside it say.
    ConfigurationBased,
}

/// What a mode means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The rows of a table that is new to the connector are read.
    pub rows: bool,
    /// Those of every table are, at every start of the daemon.
    pub always: bool,
    /// Changes follow.
    pub stream: bool,
    /// A position that the server cannot serve any more is given up, and all tables are read anew.
    pub on_loss: bool,
}

impl Snapshot {
    pub(super) fn resolve(raw: &Raw, problems: &mut Problems) -> Self {
        let mode = raw.snapshot.unwrap_or_default();
        let based = [
            ("snapshot_rows", raw.snapshot_rows),
            ("snapshot_stream", raw.snapshot_stream),
            ("snapshot_on_loss", raw.snapshot_on_loss),
        ];
        let initial = Self { rows: true, always: false, stream: true, on_loss: false };
        if mode != SnapshotMode::ConfigurationBased {
            for (key, _) in based.iter().filter(|(_, value)| value.is_some()) {
                let what = format!("{key} has no effect beside this snapshot mode");
                problems.add(what, "set snapshot = \"configuration_based\", or remove it");
            }
        }
        match mode {
            SnapshotMode::Initial => initial,
            SnapshotMode::InitialOnly => Self { stream: false, ..initial },
            SnapshotMode::Always => Self { always: true, ..initial },
            SnapshotMode::NoData => Self { rows: false, ..initial },
            SnapshotMode::WhenNeeded => Self { on_loss: true, ..initial },
            SnapshotMode::ConfigurationBased => {
                let [rows, stream, on_loss] = based.map(|(_, value)| value.unwrap_or(false));
                if !rows && !stream {
                    problems.add(
                        "snapshot = \"configuration_based\" asks for neither rows nor changes",
                        "set snapshot_rows = true, snapshot_stream = true, or both",
                    );
                }
                Self { rows, always: false, stream, on_loss }
            }
        }
    }
}
