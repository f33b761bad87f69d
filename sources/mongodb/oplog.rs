//! How far back the server's log reaches, and with it how long a connector may stand still. Start at
//! `Forecast::headroom`.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use mongodb::Client;
use mongodb::bson::{Document, doc};
use mongodb::error::Result;

use crate::resume_token::ClusterTime;

/// Beginnings of the log that a forecast looks back on. The server drops entries in portions, a tenth to a hundredth
/// of the log at once, so a short look would see nothing or a jump.
const LOOKS: usize = 40;

/// Below this what is left is told in the log of the daemon, once.
const SHORT: Duration = Duration::from_secs(3600);

/// The oldest and the newest entry of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub first: ClusterTime,
    pub last: ClusterTime,
}

impl Window {
    /// Of the member that takes writes; `None` behind mongos, whose shards have logs of their own.
    pub async fn read(client: &Client) -> Result<Option<Self>> {
        let log = client.database("local").collection::<Document>("oplog.rs");
        let end = async |order: i32| {
            let found = log.find_one(doc! {}).sort(doc! { "$natural": order }).projection(doc! { "ts": 1 });
            let found = found.await?;
            mongodb::error::Result::Ok(found.and_then(|entry| entry.get_timestamp("ts").ok()))
        };
        match (end(1).await?, end(-1).await?) {
            (Some(first), Some(last)) => Ok(Some(Self { first: first.into(), last: last.into() })),
            _ => Ok(None),
        }
    }

    pub fn length(self) -> Duration {
        between(self.first, self.last)
    }

    /// How far what is delivered lies behind the log's end.
    pub fn lag(self, delivered: ClusterTime) -> Duration {
        between(delivered, self.last)
    }
}

fn between(earlier: ClusterTime, later: ClusterTime) -> Duration {
    Duration::from_secs(later.seconds().saturating_sub(earlier.seconds()))
}

/// Where the log began, look by look.
#[derive(Debug, Default)]
pub struct Forecast {
    beginnings: VecDeque<(Instant, ClusterTime)>,
    is_short: bool,
}

impl Forecast {
    /// How long what is delivered has until the log no longer reaches back to it. A log that loses its beginning
    /// faster than time goes by, because more is written than before, is taken to go on doing so.
    pub fn headroom(&mut self, window: Window, delivered: ClusterTime, now: Instant) -> Duration {
        if self.beginnings.len() >= LOOKS {
            self.beginnings.pop_front();
        }
        self.beginnings.push_back((now, window.first));
        let left = between(window.first, delivered);
        let lost = self.beginnings.front().map(|(at, first)| {
            (between(*first, window.first).as_secs_f64(), now.saturating_duration_since(*at).as_secs_f64())
        });
        match lost {
            // Within one look nothing can be told.
            Some((lost, elapsed)) if elapsed > 0.0 => left.div_f64((lost / elapsed).max(1.0)),
            _ => left,
        }
    }

    /// True once each time when little is left.
    pub fn gets_short(&mut self, headroom: Duration, window: Window) -> bool {
        // A log that is younger than that says nothing.
        let is_short = headroom < SHORT && headroom < window.length() / 2;
        let gets_short = is_short && !self.is_short;
        self.is_short = is_short;
        gets_short
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> ClusterTime {
        ClusterTime(seconds << 32)
    }

    #[test]
    fn headroom_is_what_lies_between_the_log_s_beginning_and_the_position() {
        let window = Window { first: at(100), last: at(400) };
        assert_eq!(window.length(), Duration::from_secs(300));
        assert_eq!(window.lag(at(250)), Duration::from_secs(150));
        let now = Instant::now();
        let headroom = |delivered| Forecast::default().headroom(window, at(delivered), now);
        assert_eq!(headroom(250), Duration::from_secs(150));
        assert_eq!(headroom(50), Duration::ZERO);
    }

    #[test]
    fn a_log_that_loses_its_beginning_faster_than_time_goes_by_has_less_room() {
        let (mut forecast, begun) = (Forecast::default(), Instant::now());
        let mut look = |after: u64, first| {
            let window = Window { first: at(first), last: at(100_000) };
            forecast.headroom(window, at(90_000), begun + Duration::from_secs(after)).as_secs()
        };
        assert_eq!(look(0, 10_000), 80_000);
        // Nothing is lost while the log grows, and a steady one loses a second a second.
        assert_eq!(look(10, 10_000), 80_000);
        assert_eq!(look(20, 10_020), 79_980);
        // Ten thousand seconds of the log in thirty.
        assert_eq!(look(30, 20_000), 210);
    }

    #[test]
    fn little_room_is_told_once_and_again_after_it_was_more() {
        let mut forecast = Forecast::default();
        let window = Window { first: at(0), last: at(100_000) };
        let mut gets_short = |seconds| forecast.gets_short(Duration::from_secs(seconds), window);
        assert_eq!(
            [90_000, 3_000, 2_000, 50_000, 10].map(&mut gets_short),
            [false, true, false, false, true]
        );
        let young = Window { first: at(0), last: at(60) };
        assert!(!Forecast::default().gets_short(Duration::from_secs(60), young));
    }
}
