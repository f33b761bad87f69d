//! A random table, and random statements on it.

use std::fmt::Write;

use millrace_ledger::random::Random;

use super::values::Family;

/// More columns find no more, and make a report hard to read.
const COLUMNS_MAX: u64 = 8;
/// Keys are few, so that updates and deletes find their rows.
const KEYS: u64 = 12;

pub struct Table {
    pub name: String,
    columns: Vec<Column>,
    key: Key,
    is_full: bool,
}

struct Column {
    name: String,
    family: Family,
    not_null: bool,
    default: Option<&'static str>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Key {
    One,
    Two,
    /// None at all: only with REPLICA IDENTITY FULL.
    None,
}

impl Table {
    pub fn random(number: usize, families: &[Family], random: &mut Random) -> Self {
        let columns = (0..=random.below(COLUMNS_MAX)).map(|place| {
            let family = *random.pick(families);
            // Debezium dies of a NOT NULL column whose value it cannot convert: some of its arrays, and times that are
            // out of reach in nanoseconds.
            let breaks = family.sql.ends_with("[]") || family.sql.ends_with("(6)");
            let not_null = random.percent(30) && !breaks;
            // As files write defaults: Debezium does not understand a number with a cast.
            let default = random.percent(25).then(|| family.literal(random)).filter(|_| family.has_default);
            Column { name: format!("{}_{place}", family.name()), family, not_null, default }
        });
        let columns = columns.collect();
        let key = *random.pick(&[Key::One, Key::One, Key::Two, Key::None]);
        let is_full = key == Key::None || random.percent(50);
        Self { name: format!("t{number}"), columns, key, is_full }
    }

    pub fn create(&self) -> String {
        let mut sql = format!("CREATE TABLE {} (id int", self.name);
        if self.key == Key::Two {
            sql += ", part text";
        }
        for column in &self.columns {
            let _ = write!(sql, ", \"{}\" {}", column.name, column.family.sql);
            if let Some(default) = column.default {
                let _ = write!(sql, " DEFAULT {default}");
            }
            if column.not_null {
                sql += " NOT NULL";
            }
        }
        match self.key {
            Key::One => sql += ", PRIMARY KEY (id)",
            Key::Two => sql += ", PRIMARY KEY (part, id)",
            Key::None => {}
        }
        sql += ")";
        for column in self.columns.iter().step_by(2) {
            let _ = write!(sql, "; COMMENT ON COLUMN {}.\"{}\" IS 'of {0}'", self.name, column.name);
        }
        if self.is_full {
            let _ = write!(sql, "; ALTER TABLE {} REPLICA IDENTITY FULL", self.name);
        }
        sql
    }

    /// Mostly inserts, so that every value is seen at least once.
    pub fn statement(&self, random: &mut Random) -> String {
        let name = &self.name;
        let id = random.below(KEYS);
        match random.below(10) {
            0..=4 => self.insert(random),
            5 | 6 if !self.columns.is_empty() => {
                let column = random.pick(&self.columns);
                let value = column.value(random);
                format!("UPDATE {name} SET \"{}\" = {value} WHERE id = {id}", column.name)
            }
            7 => format!("UPDATE {name} SET id = id + {} WHERE id = {id}", 100 * (1 + random.below(50))),
            8 if self.is_full => format!("UPDATE {name} SET id = id WHERE id = {id}"),
            _ => format!("DELETE FROM {name} WHERE id = {id}"),
        }
    }

    pub fn has_key(&self) -> bool {
        self.key != Key::None
    }

    /// A row that is there before both start; another one with its key may be there already.
    pub fn row(&self, random: &mut Random) -> String {
        self.insert(random) + " ON CONFLICT DO NOTHING"
    }

    fn insert(&self, random: &mut Random) -> String {
        let (mut names, mut values) = (vec!["id".to_owned()], vec![random.below(KEYS).to_string()]);
        if self.key == Key::Two {
            names.push("part".into());
            values.push(format!("'p{}'", random.below(2)));
        }
        for column in &self.columns {
            if column.default.is_none() || random.percent(60) {
                names.push(format!("\"{}\"", column.name));
                values.push(column.value(random));
            }
        }
        format!("INSERT INTO {} ({}) VALUES ({})", self.name, names.join(", "), values.join(", "))
    }
}

impl Column {
    fn value(&self, random: &mut Random) -> String {
        if !self.not_null && random.percent(15) { "NULL".into() } else { self.family.value(random) }
    }
}
