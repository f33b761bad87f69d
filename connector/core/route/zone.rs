//! Time zones: by their name, as the machine knows them, or as an offset. Start at `Zone::parse`.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};

/// Of years beyond its calendar (9999) it says that they are in UTC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone(TimeZone);

impl Zone {
    /// `Europe/Berlin`, `UTC`, `+02:00`; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with(['+', '-']) {
            let offset = offset(text).ok_or_else(|| format!("{text:?} is no offset like +02:00"))?;
            return Ok(Self(TimeZone::fixed(offset)));
        }
        TimeZone::get(text).map(Self).map_err(|_| {
            format!("{text:?} is no time zone that this machine knows: install tzdata, or write an offset like +02:00")
        })
    }

    /// Seconds east of UTC at this second since 1970.
    pub(crate) fn offset_at(&self, second: i64) -> i64 {
        let offset = Timestamp::from_second(second).map(|at| self.0.to_offset(at).seconds());
        offset.map_or(0, i64::from)
    }

    /// The same where its clocks show this; where they show it twice or never, by the clock before.
    pub(crate) fn offset_of_clock(&self, second: i64) -> i64 {
        let Ok(shown) = Timestamp::from_second(second) else { return 0 };
        let shown: DateTime = Offset::UTC.to_datetime(shown);
        let offset = match self.0.to_ambiguous_timestamp(shown).offset() {
            AmbiguousOffset::Unambiguous { offset } => offset,
            AmbiguousOffset::Gap { before, .. } | AmbiguousOffset::Fold { before, .. } => before,
        };
        i64::from(offset.seconds())
    }
}

fn offset(text: &str) -> Option<Offset> {
    let (sign, rest) = (if text.starts_with('-') { -1 } else { 1 }, text.get(1..)?);
    let mut parts = rest.split(':').map(|part| part.parse::<u32>().ok().filter(|_| part.len() == 2));
    let (hours, minutes) = (parts.next()??, parts.next()??);
    let seconds = parts.next().unwrap_or(Some(0))?;
    let is_one = hours <= 18 && minutes < 60 && seconds < 60 && parts.next().is_none();
    let total = i32::try_from(hours * 3600 + minutes * 60 + seconds).ok()?;
    Offset::from_seconds(sign * total).ok().filter(|_| is_one)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_names_or_offsets() {
        let at = |zone: &str, second| Zone::parse(zone).unwrap().offset_at(second);
        // January and July of 2026.
        let (winter, summer) = (1_768_000_000, 1_784_000_000);
        assert_eq!((at("Europe/Berlin", winter), at("Europe/Berlin", summer)), (3600, 7200));
        assert_eq!((at("-03:30", winter), at("+02:00", summer), at("UTC", 0)), (-12_600, 7200, 0));
        for text in ["Europe/Bärlin", "+2", "+02:60", "+99:00", "", "+02:00:00:00"] {
            assert!(Zone::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_clock_that_shows_a_time_twice_or_never_is_taken_as_it_was_before() {
        let berlin = Zone::parse("Europe/Berlin").unwrap();
        // 2026-03-29 02:30, which it never shows, and 2026-10-25 02:30, which it shows twice.
        assert_eq!(berlin.offset_of_clock(1_774_751_400), 3600);
        assert_eq!(berlin.offset_of_clock(1_792_895_400), 7200);
    }
}
