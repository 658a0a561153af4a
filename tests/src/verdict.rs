//! What a long run proves: one verdict for each of its checks.

/// One invariant, held against the evidence.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub invariant: &'static str,
    pub says: &'static str,
    /// How many things it was held against: a check of nothing proves nothing.
    pub checked: usize,
    pub offences: Vec<String>,
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
