//! How much log the server may keep for the connector, and what happens above that. Start at `limit`.

use serde::Deserialize;

use super::{Problems, Raw};

const BYTES_OF_A_GB: f64 = 1_073_741_824.0;

/// Whom a limit on the log that the server keeps protects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WalPolicy {
    /// The changes: above the limit the log says so.
    #[default]
    ProtectData,
    /// The server's disk: above the limit the slot is dropped, and the changes behind it are given up.
    ProtectSource,
}

/// In bytes, with the policy above it.
pub(super) fn limit(raw: &Raw, problems: &mut Problems) -> (Option<u64>, WalPolicy) {
    let policy = raw.wal_policy.unwrap_or_default();
    if raw.wal_policy.is_some() && raw.wal_limit_gb.is_none() {
        problems.add("wal_policy has no effect without a limit", "set wal_limit_gb, or remove it");
    }
    let is_ours = raw.create_slot.unwrap_or(true) && !raw.slot_made_beforehand.unwrap_or(false);
    if policy == WalPolicy::ProtectSource && !is_ours {
        problems.add(
            "wal_policy = \"protect_source\" drops the slot, and a slot that somebody else makes is never dropped",
            "set create_slot = true without slot_made_beforehand; or protect_data here, and max_slot_wal_keep_size \
             on the server",
        );
    }
    let gb = raw.wal_limit_gb.map(|gb| problems.within("wal_limit_gb", Some(gb), gb, 0.01..=1e6));
    (gb.map(|gb| (gb * BYTES_OF_A_GB) as u64), policy)
}

/// For messages.
pub fn gigabytes(bytes: u64) -> String {
    format!("{:.2} GB", bytes as f64 / BYTES_OF_A_GB)
}
