//! Which transactions a snapshot of the database saw: the answer of `pg_current_snapshot()`, held against the
//! transaction ids of the stream.

use std::fmt;

use millrace_core::error::{Error, Result};
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::errors;

/// `xmin:xmax:xip,xip,...`, with ids that never wrap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visibility {
    /// Everything below has ended.
    xmin: u64,
    /// Nothing from here on has begun.
    xmax: u64,
    /// Those between that are still under way, rising.
    in_progress: Vec<u64>,
}

impl Visibility {
    /// That of the transaction under way, or of now.
    pub async fn of(client: &Client) -> Result<Self> {
        let what = "cannot take a snapshot";
        let answer = client.simple_query("SELECT pg_current_snapshot()").await;
        let answer = answer.map_err(|error| errors::query(what, error))?;
        let text = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        let seen = text.and_then(Self::parse);
        seen.ok_or_else(|| Error::fatal(format!("{what}: postgres answered {}", text.unwrap_or_default())))
    }

    /// `None` where the text is not a snapshot's.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let (xmin, xmax) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let list = parts.next()?;
        if parts.next().is_some() || xmin > xmax {
            return None;
        }
        let mut in_progress = Vec::new();
        for xid in list.split(',').filter(|xid| !xid.is_empty()) {
            in_progress.push(xid.parse().ok()?);
        }
        in_progress.sort_unstable();
        Some(Self { xmin, xmax, in_progress })
    }

    /// Whether a transaction that the stream names, by the lower half of its id, has ended before the snapshot.
    pub fn sees(&self, xid: u32) -> bool {
        let xid = self.whole(xid);
        xid < self.xmin || (xid < self.xmax && self.in_progress.binary_search(&xid).is_err())
    }

    pub fn xmin(&self) -> u64 {
        self.xmin
    }

    pub fn xmax(&self) -> u64 {
        self.xmax
    }

    /// Those that had begun and not ended.
    pub fn in_progress(&self) -> &[u64] {
        &self.in_progress
    }

    /// The newest transaction that the snapshot can have seen, as the stream would name it.
    pub fn newest(&self) -> u32 {
        low(self.xmax.saturating_sub(1))
    }

    /// The id nearest to the snapshot that has this lower half: none that matters is two billion away.
    fn whole(&self, xid: u32) -> u64 {
        let distance = xid.wrapping_sub(low(self.xmax)).cast_signed();
        self.xmax.saturating_add_signed(i64::from(distance))
    }
}

fn low(xid: u64) -> u32 {
    let [_, _, _, _, bytes @ ..] = xid.to_be_bytes();
    u32::from_be_bytes(bytes)
}

impl fmt::Display for Visibility {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list: Vec<String> = self.in_progress.iter().map(u64::to_string).collect();
        write!(f, "{}:{}:{}", self.xmin, self.xmax, list.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Visibility {
        Visibility::parse(text).expect("a snapshot")
    }

    #[test]
    fn what_ended_before_is_seen_and_what_was_under_way_or_came_later_is_not() {
        let snapshot = parsed("100:110:100,105");
        let seen = |xid: u32| snapshot.sees(xid);
        assert_eq!(
            [99, 100, 101, 105, 109, 110, 200].map(seen),
            [true, false, true, false, true, false, false]
        );
    }

    #[test]
    fn ids_are_compared_over_the_wrap_of_their_lower_half() {
        let snapshot = parsed("4294967290:4294967300:4294967298");
        let seen = |xid: u32| snapshot.sees(xid);
        // 2^32 is the stream's 0.
        assert_eq!(
            [4_294_967_289, 4_294_967_295, 0, 2, 3, 4].map(seen),
            [true, true, true, false, true, false]
        );
    }

    #[test]
    fn a_snapshot_is_printed_as_it_was_read_and_nothing_else_is_taken_for_one() {
        for text in ["5:5:", "100:110:100,105"] {
            assert_eq!(parsed(text).to_string(), text);
        }
        for text in ["", "5", "5:6", "6:5:", "5:6:x", "5:6:5:7"] {
            assert_eq!(Visibility::parse(text), None, "{text}");
        }
    }
}
