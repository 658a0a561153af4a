//! What a run did, and what it proves.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use spotreel_tests::Verdict;

use super::evidence::{Evidence, Story};
use super::spot::books::Books;
use super::spot::money::Costs;
use super::spot::steps::{Lost, Tally};

#[derive(Clone, Debug, Default)]
pub struct ChaosReport {
    pub seed: u64,
    pub seconds: u64,
    pub done: BTreeMap<String, usize>,
    pub ends: BTreeMap<String, usize>,
    pub verdicts: Vec<Verdict>,
    /// The run in a few lines.
    pub summary: Vec<(&'static str, String)>,
}

impl ChaosReport {
    pub fn passed(&self) -> bool {
        self.verdicts
            .iter()
            .all(|verdict| verdict.offences.is_empty())
    }
}

impl ChaosReport {
    pub fn count(&mut self, evidence: &Evidence, resumed: usize) {
        for story in evidence.tasks.values() {
            for chapter in story.chapters.values() {
                let event = format!("event {}", chapter.event.as_str());
                *self.done.entry(event).or_default() += 1;
            }
            let end = story.last().map_or("lost", |last| last.task.state.name());
            *self.ends.entry(end.to_owned()).or_default() += 1;
        }
        let from = "succeeded from a checkpoint".to_owned();
        self.ends.insert(from, resumed);
    }

    pub fn summary(&mut self, evidence: &Evidence, books: &Books<'_>, costs: &Costs, lost: &Lost) {
        let counts = &books.book.counts;
        let listed = |prefix: &str| {
            let found = counts.iter().filter_map(|(what, count)| {
                Some(format!("{count} {}", what.strip_prefix(prefix)?))
            });
            found.collect::<Vec<_>>().join(", ")
        };
        let attempts: u32 = evidence
            .tasks
            .values()
            .filter_map(Story::last)
            .map(|last| last.task.attempts_total)
            .sum();
        let machines = books.seen.machines.values().filter(|one| one.is_ours());
        let taken = machines.clone().filter(|one| one.was_taken()).count();
        let mut batches: BTreeMap<&str, usize> = BTreeMap::new();
        for story in books.stories {
            *batches.entry(story.batch().status.name()).or_default() += 1;
        }
        let used: BTreeSet<_> = evidence
            .tasks
            .values()
            .filter_map(Story::last)
            .flat_map(|last| last.task.attempts.iter().map(|a| a.instance.as_str()))
            .collect();
        let tally = |tally: &Tally| format!("at most {} in {} times", tally.most, tally.count);
        let dollars = |micros: i64| format!("${}.{:06}", micros / 1_000_000, micros % 1_000_000);
        self.summary = vec![
            ("tasks", evidence.tasks.len().to_string()),
            ("attempts", attempts.to_string()),
            ("machines met", listed("machine: ")),
            ("kill -9", listed("kill -9 ")),
            ("market", listed("market: ")),
            ("batches", format!("{}: {batches:?}", books.stories.len())),
            (
                "instances",
                format!(
                    "{}, {} of them rendered, {taken} taken by the market; at most {} at once",
                    machines.count(),
                    used.len(),
                    books.seen.most.0
                ),
            ),
            (
                "cost",
                format!(
                    "billed {} for {} s, booked {} for the same ({:+} µ$); booked for machines that the bill does not know: {}",
                    dollars(costs.billed),
                    costs.billed_seconds,
                    dollars(costs.booked),
                    costs.booked - costs.billed,
                    dollars(costs.booked_alone)
                ),
            ),
            ("steps lost, told", tally(&lost.handed_back)),
            ("steps lost, untold", tally(&lost.cut_off)),
            ("while NATS or S3 was ill", tally(&lost.in_outages)),
        ];
    }
}

impl fmt::Display for ChaosReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nseed {}, {} s", self.seed, self.seconds)?;
        for (title, counts) in [("done", &self.done), ("ended", &self.ends)] {
            writeln!(f, "{title}")?;
            for (what, count) in counts {
                writeln!(f, "  {count:>6}  {what}")?;
            }
        }
        for (what, text) in &self.summary {
            writeln!(f, "{what:<24} {text}")?;
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
