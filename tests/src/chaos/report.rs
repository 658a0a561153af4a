//! What a run did, and what it proves.

use std::collections::BTreeMap;
use std::fmt;

/// One invariant, held against the evidence.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub invariant: &'static str,
    pub says: &'static str,
    /// How many things it was held against: a check of nothing proves nothing.
    pub checked: usize,
    pub offences: Vec<String>,
}

#[derive(Clone, Debug, Default)]
pub struct Report {
    pub seed: u64,
    pub seconds: u64,
    pub done: BTreeMap<String, usize>,
    pub ends: BTreeMap<String, usize>,
    pub verdicts: Vec<Verdict>,
}

impl Verdict {
    pub fn new(invariant: &'static str, says: &'static str) -> Self {
        Self {
            invariant,
            says,
            checked: 0,
            offences: Vec::new(),
        }
    }

    /// Counts a check, and notes what is wrong with it.
    pub fn check(&mut self, holds: bool, offence: impl FnOnce() -> String) {
        self.checked += 1;
        if !holds {
            self.offences.push(offence());
        }
    }
}

impl Report {
    pub fn passed(&self) -> bool {
        self.verdicts
            .iter()
            .all(|verdict| verdict.offences.is_empty())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nseed {}, {} s", self.seed, self.seconds)?;
        for (title, counts) in [("done", &self.done), ("ended", &self.ends)] {
            writeln!(f, "{title}")?;
            for (what, count) in counts {
                writeln!(f, "  {count:>6}  {what}")?;
            }
        }
        for Verdict {
            invariant,
            says,
            checked,
            offences,
        } in &self.verdicts
        {
            let word = if offences.is_empty() { "PASS" } else { "FAIL" };
            writeln!(f, "{word}  {invariant:<7} {says} ({checked} checked)")?;
            for offence in offences {
                writeln!(f, "        {offence}")?;
            }
        }
        Ok(())
    }
}
