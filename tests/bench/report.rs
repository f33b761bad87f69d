//! The report, a file of sections: each question replaces its own and leaves the others as they are.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::Result;

/// In the order of the report: name and heading.
const SECTIONS: [(&str, &str); 7] = [
    ("postgres", "Throughput: Postgres to Kafka"),
    ("outbox", "Throughput: an outbox to Kafka"),
    ("mongodb", "Throughput: MongoDB to Kafka"),
    ("latency", "Latency: commit to consumer"),
    ("recovery", "Recovery: kill -9, and a cold start"),
    ("large-transaction", "One huge transaction"),
    ("snapshot", "Snapshot: rows that were there before"),
];

const HEAD: &str = "# Bench report

Written by `cargo xtask bench`; every subcommand replaces its own section. What each figure means stands
beside it; how it is measured, in the modules of `tests/bench`.
";

/// A figure beside what it ought to be.
pub struct Goal {
    pub what: String,
    pub measured: String,
    pub target: String,
    pub met: bool,
}

/// Replaces one section of the report.
pub fn write(file: &Path, section: &str, body: &str) -> Result<()> {
    let old = fs::read_to_string(file).unwrap_or_default();
    Ok(fs::write(file, replaced(&old, section, body))?)
}

fn replaced(old: &str, section: &str, body: &str) -> String {
    let mut text = HEAD.to_owned();
    for (name, heading) in SECTIONS {
        let (open, close) = (format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->\n"));
        let kept = || {
            let (_, rest) = old.split_once(&open)?;
            let (kept, _) = rest.split_once(&close)?;
            Some(kept.to_owned())
        };
        let own =
            if name == section { Some(format!("## {heading}\n\n{}\n", body.trim_end())) } else { kept() };
        if let Some(own) = own {
            text += &format!("\n{open}{own}{close}");
        }
    }
    text
}

pub fn list(lines: &[String]) -> String {
    lines.iter().map(|line| format!("- {line}\n")).collect()
}

/// The first row is the head.
pub fn table(rows: &[Vec<String>]) -> String {
    let mut text = String::new();
    for (nth, row) in rows.iter().enumerate() {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {} |", row.join(" | "));
        if nth == 0 {
            let _ = writeln!(text, "|{}", " --- |".repeat(row.len()));
        }
    }
    text
}

pub fn goals(goals: &[Goal]) -> String {
    let mut rows = vec![["figure", "measured", "target", "met"].map(str::to_owned).to_vec()];
    for goal in goals {
        let met = if goal.met { "met" } else { "**not met**" };
        rows.push(vec![goal.what.clone(), goal.measured.clone(), goal.target.clone(), met.to_owned()]);
    }
    table(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_replaced_and_the_others_stay() {
        let first = replaced("", "latency", "old latency");
        let second = replaced(&first, "postgres", "throughput");
        let third = replaced(&second, "latency", "new latency");
        assert!(second.contains("old latency") && second.contains("throughput"));
        assert!(third.contains("new latency") && third.contains("throughput"));
        assert!(!third.contains("old latency"));
        assert!(third.find("throughput") < third.find("new latency"), "in the order of the report");
    }

    #[test]
    fn writing_the_same_twice_changes_nothing() {
        let once = replaced("", "recovery", "body");
        assert_eq!(replaced(&once, "recovery", "body"), once);
    }

    #[test]
    fn a_figure_that_falls_short_is_marked() {
        let goal = |met| Goal { what: "w".into(), measured: "1".into(), target: "2".into(), met };
        let text = goals(&[goal(true), goal(false)]);
        assert!(text.contains("| w | 1 | 2 | met |") && text.contains("| w | 1 | 2 | **not met** |"));
    }
}
