//! What `check` found: one line a precondition.

/// One precondition, proved or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at: `wal_level`, `table public.orders`.
    pub subject: String,
    pub verdict: Verdict,
    /// What was seen.
    pub detail: String,
    /// What to type where it does not pass.
    pub hint: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    /// Works, with a restriction that the detail names.
    Warn,
    Fail,
}

#[derive(Clone, Debug, Default)]
pub struct Report {
    pub findings: Vec<Finding>,
}

impl Report {
    pub fn pass(&mut self, subject: impl Into<String>, detail: impl Into<String>) {
        self.add(Verdict::Pass, subject, detail, None);
    }
    pub fn warn(&mut self, subject: impl Into<String>, detail: impl Into<String>, hint: impl Into<String>) {
        self.add(Verdict::Warn, subject, detail, Some(hint.into()));
    }
    pub fn fail(&mut self, subject: impl Into<String>, detail: impl Into<String>, hint: impl Into<String>) {
        self.add(Verdict::Fail, subject, detail, Some(hint.into()));
    }

    pub fn failed(&self) -> bool {
        self.findings.iter().any(|f| f.verdict == Verdict::Fail)
    }

    fn add(
        &mut self,
        verdict: Verdict,
        subject: impl Into<String>,
        detail: impl Into<String>,
        hint: Option<String>,
    ) {
        self.findings.push(Finding { subject: subject.into(), verdict, detail: detail.into(), hint });
    }
}
