//! The books of a run, against which its verdicts are held.

use super::market::{CloudCall, CloudInstance};
use super::records::Story;
use super::watch::WatchSeen;
use crate::evidence::Evidence;
use crate::record::Book;

/// All that is known when nothing runs any more.
pub struct Books<'a> {
    pub stories: &'a [Story],
    pub seen: &'a WatchSeen,
    pub calls: &'a [CloudCall],
    pub evidence: &'a Evidence,
    pub book: &'a Book,
    pub instances: u32,
}

impl Books<'_> {
    pub fn ours(&self) -> impl Iterator<Item = &CloudInstance> {
        self.seen
            .machines
            .values()
            .filter(|machine| machine.is_ours())
    }
}
