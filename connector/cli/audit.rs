//! `millrace audit`: what a connector's own topics prove. Changes nothing, and may run beside the connector.
//!
//! 0: everything that records can prove holds. 1: it does not, or a server said no. 2: the topics cannot prove
//! it, and the table says why; that is never called passed.

use std::path::PathBuf;

use millrace_core::error::Kind;
use millrace_core::report::{Report, Verdict};

use super::check::table;
use super::{EXIT_CONFIG, EXIT_FAILED, refuse};
use crate::{config, registry};

pub async fn audit(file: PathBuf) -> u8 {
    let loaded = match config::load(&[file], &config::Environment::of_process()) {
        Ok(loaded) => loaded,
        Err(problems) => return refuse(&problems),
    };
    let mut codes = Vec::new();
    for connector in &loaded.connectors {
        println!("{} ({})", connector.name, connector.file);
        codes.push(match registry::audit(connector).await {
            Ok(report) => {
                let (words, code) = judgement(&report);
                print!("{}", table("sink.kafka", &report));
                println!("{words}");
                code
            }
            Err(error) => {
                eprintln!("millrace: {}: {error}", connector.name);
                if let Some(hint) = error.hint_text() {
                    eprintln!("  hint: {hint}");
                }
                if error.kind() == Kind::Config { EXIT_CONFIG } else { EXIT_FAILED }
            }
        });
    }
    // A violation is graver than what cannot be proved.
    [EXIT_FAILED, EXIT_CONFIG].into_iter().find(|code| codes.contains(code)).unwrap_or(0)
}

fn judgement(report: &Report) -> (&'static str, u8) {
    let has = |verdict| report.findings.iter().any(|finding| finding.verdict == verdict);
    if has(Verdict::Fail) {
        return ("FAILED", EXIT_FAILED);
    }
    if has(Verdict::Warn) || report.findings.is_empty() {
        return ("not proved", EXIT_CONFIG);
    }
    ("passed", 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_report_without_a_reservation_has_passed() {
        let mut report = Report::default();
        assert_eq!(judgement(&report), ("not proved", 2));
        report.pass("records", "5");
        assert_eq!(judgement(&report), ("passed", 0));
        report.warn("topic a", "begins above offset 0", "keep it");
        assert_eq!(judgement(&report), ("not proved", 2));
        report.fail("records", "double", "look");
        assert_eq!(judgement(&report), ("FAILED", 1));
    }
}
