//! The messages of a replication stream around what pgoutput says: where each is, that the server lives, and how far
//! we are. Start at `read_copy_data`.

use millrace_core::error::{Error, Result};

use crate::lsn::Lsn;

/// Bytes of a status update.
const STATUS_BYTES: usize = 34;

/// Microseconds from 1970 to 2000, where Postgres counts from.
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// Bytes of the header of an XLogData message: its kind and three numbers.
const XLOG_DATA_HEADER: usize = 25;

pub enum CopyData<'a> {
    XLog { lsn: Lsn, data: &'a [u8] },
    Keepalive { end: Lsn, reply_requested: bool },
}

/// The replication message inside a CopyData frame. Of the two places in an XLogData header only the first
/// is used, and never as a position: it is the place of a change, which proves nothing about others.
pub fn read_copy_data(data: &[u8]) -> Result<CopyData<'_>> {
    let malformed = |what: &str| Error::fatal(format!("postgres sent a malformed replication frame: {what}"));
    match data.split_first() {
        Some((b'w', rest)) => {
            let lsn = rest.first_chunk::<8>().ok_or_else(|| malformed("XLogData is cut short"))?;
            let data = data.get(XLOG_DATA_HEADER..).ok_or_else(|| malformed("XLogData is cut short"))?;
            Ok(CopyData::XLog { lsn: Lsn(u64::from_be_bytes(*lsn)), data })
        }
        Some((b'k', rest)) => {
            let end = rest.first_chunk::<8>().ok_or_else(|| malformed("a keepalive is cut short"))?;
            let reply = rest.get(16).ok_or_else(|| malformed("a keepalive is cut short"))?;
            Ok(CopyData::Keepalive { end: Lsn(u64::from_be_bytes(*end)), reply_requested: *reply != 0 })
        }
        Some((kind, _)) => Err(malformed(&format!("unknown kind '{}'", char::from(*kind)))),
        None => Err(malformed("it is empty")),
    }
}

/// A standby status update: written, flushed and applied up to the same place.
pub fn status_update(confirmed: Lsn, now_us: i64, reply_requested: bool) -> [u8; STATUS_BYTES] {
    let mut update = [0; STATUS_BYTES];
    let place = confirmed.0.to_be_bytes();
    let time = (now_us - POSTGRES_EPOCH_US).to_be_bytes();
    let parts = [b"r", &place[..], &place, &place, &time, &[u8::from(reply_requested)]].concat();
    for (to, from) in update.iter_mut().zip(parts) {
        *to = from;
    }
    update
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_update_names_one_place_three_times() {
        let update = status_update(Lsn(0x0102), POSTGRES_EPOCH_US + 5, true);
        assert_eq!(update[0], b'r');
        assert_eq!(update[1..9], update[9..17]);
        assert_eq!(update[9..17], update[17..25]);
        assert_eq!((update[24], update[32], update[33]), (2, 5, 1));
    }

    #[test]
    fn a_truncated_or_unknown_replication_frame_is_an_error() {
        for frame in [&b""[..], b"w123", b"k12345678", b"x", b"w123456789012345678901234"] {
            assert!(read_copy_data(frame).is_err() || frame.len() == XLOG_DATA_HEADER, "{frame:?}");
        }
    }
}
