//! The rows of the table of faults: what each does, how often every test run does it, and in what setting.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A row. The releases' (F18) comes with the second one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    F1,
    /// F1 and F2 while the rows that were there before are read.
    F1Rows,
    F2,
    F3,
    /// The broker is stopped, and for long.
    F3Long,
    F4,
    F5,
    F6,
    F7,
    F8,
    F9,
    /// F9 with the recycle rule off: it must be found.
    F9Off,
    F10,
    F11,
    F12,
    F13,
    F14,
    F15,
    F16,
    F17,
    F17Tables,
    F19,
}

impl Row {
    pub const ALL: [Row; 22] = [
        Row::F1,
        Row::F1Rows,
        Row::F2,
        Row::F3,
        Row::F3Long,
        Row::F4,
        Row::F5,
        Row::F6,
        Row::F7,
        Row::F8,
        Row::F9,
        Row::F9Off,
        Row::F10,
        Row::F11,
        Row::F12,
        Row::F13,
        Row::F14,
        Row::F15,
        Row::F16,
        Row::F17,
        Row::F17Tables,
        Row::F19,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Row::F1 => "F1",
            Row::F1Rows => "F1-rows",
            Row::F2 => "F2",
            Row::F3 => "F3",
            Row::F3Long => "F3-long",
            Row::F4 => "F4",
            Row::F5 => "F5",
            Row::F6 => "F6",
            Row::F7 => "F7",
            Row::F8 => "F8",
            Row::F9 => "F9",
            Row::F9Off => "F9-off",
            Row::F10 => "F10",
            Row::F11 => "F11",
            Row::F12 => "F12",
            Row::F13 => "F13",
            Row::F14 => "F14",
            Row::F15 => "F15",
            Row::F16 => "F16",
            Row::F17 => "F17",
            Row::F17Tables => "F17-tables",
            Row::F19 => "F19",
        }
    }

    pub fn what(self) -> &'static str {
        match self {
            Row::F1 => "kill -9 of the daemon at a random moment",
            Row::F1Rows => "kill -9, or death with rows placed, while the rows of the tables are read",
            Row::F2 => "death at a named point",
            Row::F3 => "kill -9 or SIGSTOP of the broker",
            Row::F3Long => "the broker stopped for two minutes, while the writers go on",
            Row::F4 => "kill -9 of daemon and broker within 100 ms",
            Row::F5 => "immediate shutdown of Postgres",
            Row::F6 => "the primary is killed, and its standby promoted with the slot",
            Row::F7 => "kill -9 or step-down of the primary of a MongoDB replica set",
            Row::F8 => "a link is cut, reset, half-open, late or slow",
            Row::F9 => "the end of a transaction is held back and delivered late",
            Row::F9Off => "the same without the recycle rule, which must show",
            Row::F10 => "SIGSTOP of the daemon past the transaction timeout",
            Row::F11 => "two daemons with one file, SIGSTOP and kill -9",
            Row::F12 => "slot, publication, topic or position are tampered with",
            Row::F13 => "the registry is away, fails, is slow or answers nonsense",
            Row::F14 => "the broker's disk is full",
            Row::F15 => "the daemon's clock is set forward and back",
            Row::F16 => "a password or a certificate changes in its file and at the server",
            Row::F17 => "one large transaction, and a death inside it",
            Row::F17Tables => "very many tables, and kill -9 when half of their rows have come",
            Row::F19 => "a random one of these",
        }
    }

    /// How many trials belong to every run of the tests; F2 and the like once each.
    pub fn every_run(self) -> u32 {
        match self {
            Row::F1 => 20,
            // Those of a first start come before each run's first trial.
            Row::F2 => super::points::each().count() as u32,
            Row::F1Rows => 4,
            Row::F3 | Row::F5 | Row::F7 => 3,
            Row::F4 | Row::F10 => 2,
            Row::F8 => super::links::EACH.len() as u32,
            Row::F9 => 5,
            Row::F9Off => 5,
            Row::F12 => super::halts::EACH.len() as u32,
            Row::F13 => super::registry::EACH.len() as u32,
            Row::F11 | Row::F17 | Row::F17Tables => 1,
            Row::F3Long | Row::F6 | Row::F14 | Row::F15 | Row::F16 | Row::F19 => 0,
        }
    }

    /// How soon the daemon must be at work again once nothing is in its way.
    pub fn recovery_max(self) -> Duration {
        Duration::from_secs(match self {
            Row::F1 | Row::F1Rows | Row::F2 => 10,
            // A broker's own recovery, a transaction that has to time out, a connection found dead.
            Row::F3 | Row::F4 | Row::F5 | Row::F6 | Row::F7 | Row::F8 | Row::F9 | Row::F9Off | Row::F10 => 60,
            Row::F11 | Row::F12 | Row::F13 | Row::F14 | Row::F15 | Row::F16 => 60,
            Row::F3Long | Row::F17 | Row::F17Tables | Row::F19 => 60,
        })
    }

    /// A pass is a run in which the fault was found.
    pub fn must_show(self) -> bool {
        self == Row::F9Off
    }

    /// How many trials a run has at most, where so many are `left`. One of a fault that has to show ends as soon as it
    /// does, and not every trial can show it: a late end that meets the only records of a transaction tears nothing.
    pub fn trials_of_a_run(self, left: u32, most: u32) -> u32 {
        if self.must_show() { most } else { left.min(most) }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Row {
    type Err = String;

    fn from_str(text: &str) -> Result<Row, String> {
        let found = Row::ALL.into_iter().find(|row| row.name().eq_ignore_ascii_case(text));
        found.ok_or_else(|| {
            let names: Vec<&str> = Row::ALL.iter().map(|row| row.name()).collect();
            format!("no row is called {text}: there are {}", names.join(" "))
        })
    }
}
