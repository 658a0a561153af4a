//! What a run proves: nothing grew but what the tasks explain, and every task ended once a round.

use std::collections::BTreeMap;
use std::fmt;

use spotreel_bus::names::{BATCHES, EVENTS, INBOX, TASKS};
use spotreel_tests::Verdict;

use super::ledger::{Book, Ledger};
use super::system::{GRACE, KEPT, REMOVED_EVERY};
use super::watch::{SoakLook, Watch};

/// Of the run, left out before memory is looked at: pools, caches and buffers fill. A worker has all its buffers once it
/// has decoded a video while it rendered the next, which may take two minutes.
const WARM_UP: f64 = 0.3;
const WARM_UP_AT_LEAST_S: f64 = 120.0;
/// Of a short run.
const WARM_UP_AT_MOST: f64 = 0.7;
/// What the line through a process' memory may rise over the rest of the run. Allocators breathe by a megabyte or two; a
/// leak of one kilobyte a task shows after six thousand tasks.
const RISE_MB: f64 = 6.0;
/// Beyond that, what is there by design: megabytes once, and kilobytes for each task. The server holds the block that it writes
/// of EVENTS, of its copy and of TASKS, 8 MB each, and its collector lets garbage grow to as much again; its index holds
/// the subjects of the events that are kept. The local cloud's index holds the objects.
const EXPLAINED: [(&str, f64, f64); 2] = [("nats-server", 48.0, 6.0), ("localcloud", 0.0, 2.0)];
/// Files and sockets more than after the warm-up: a connection may be made anew just then.
const MORE_FILES: usize = 10;
/// The store's own segments grow with what is kept; one is some megabytes.
const MORE_SERVER_FILES: usize = 60;
/// Events of one task in the log: queued, started, ended, and again in a second round.
const EVENTS_A_TASK: f64 = 6.0;
/// For what is rendered at the moment, and for a janitor that is late.
const SLACK_S: f64 = 60.0;

pub struct SoakReport {
    pub verdicts: Vec<Verdict>,
    counts: BTreeMap<String, u64>,
    memory: Vec<String>,
}

impl SoakReport {
    pub fn passed(&self) -> bool {
        self.verdicts
            .iter()
            .all(|verdict| verdict.offences.is_empty() && verdict.checked > 0)
    }
}

pub fn all(ledger: &Ledger, watch: &Watch, unsettled: Option<String>) -> SoakReport {
    let book = ledger.book().clone();
    let tasks = book.accepted.len();
    let mut settled = Verdict::new("calm", "a minute after the last task the log is empty");
    settled.check(unsettled.is_none(), || unsettled.unwrap_or_default());
    let (memory, lines) = memory(watch, tasks);
    SoakReport {
        verdicts: vec![
            ended_once(&book),
            answered(&book),
            settled,
            memory,
            open_files(watch),
            streams(watch, &book),
            consumers(watch),
            objects(watch, &book),
        ],
        counts: book.counts,
        memory: lines,
    }
}

fn ended_once(book: &Book) -> Verdict {
    let mut verdict = Verdict::new(
        "ends",
        "every task ended exactly once in each of its rounds",
    );
    for (id, rounds) in &book.accepted {
        for round in 1..=*rounds {
            let ends = book.ends.get(&(id.clone(), round));
            let times = ends.map_or(0, Vec::len);
            verdict.check(times == 1, || format!("{id} round {round}: {ends:?}"));
        }
    }
    for (id, round) in book.ends.keys() {
        let known = book.accepted.get(id).is_some_and(|rounds| round <= rounds);
        verdict.check(known, || {
            format!("{id} round {round} was asked for by nobody")
        });
    }
    verdict
}

fn answered(book: &Book) -> Verdict {
    let mut verdict = Verdict::new("answers", "every request was answered as it should be");
    verdict.checked = book.accepted.len();
    verdict.offences.clone_from(&book.refusals);
    verdict
}

fn memory(watch: &Watch, tasks: usize) -> (Verdict, Vec<String>) {
    let mut verdict = Verdict::new("memory", "no process grows beyond what tasks explain");
    let mut lines = Vec::new();
    let looks = warm(watch);
    for name in looks
        .first()
        .map(|look| look.processes.keys())
        .into_iter()
        .flatten()
    {
        let points: Vec<_> = looks
            .iter()
            .filter_map(|look| {
                let sample = look.processes.get(name)?.as_ref()?;
                Some((look.at, sample.resident_mb))
            })
            .collect();
        if points.len() < looks.len() {
            verdict.check(false, || format!("{name} ended"));
            continue;
        }
        let rise = rise(&points);
        let explained = EXPLAINED
            .iter()
            .find(|(who, ..)| who == name)
            .map_or(0.0, |(_, once, each)| once + each * number(tasks) / 1024.0);
        let most = RISE_MB + explained;
        verdict.check(rise <= most, || {
            format!("{name} rose by {rise:.1} MB, more than {most:.1}")
        });
        let last = points.last().map_or(0.0, |(_, megabytes)| *megabytes);
        lines.push(format!(
            "{name}: {last:.1} MB, rose by {rise:.2} (at most {most:.1})"
        ));
    }
    (verdict, lines)
}

fn open_files(watch: &Watch) -> Verdict {
    let mut verdict = Verdict::new("open files", "no process keeps more and more of them");
    let looks = warm(watch);
    let (Some(first), Some(last)) = (looks.first(), looks.last()) else {
        return verdict;
    };
    for (name, sample) in &first.processes {
        let (Some(before), Some(Some(after))) = (sample, last.processes.get(name)) else {
            continue;
        };
        let more = if name == "nats-server" {
            MORE_SERVER_FILES
        } else {
            MORE_FILES
        };
        verdict.check(after.open_files <= before.open_files + more, || {
            format!(
                "{name}: {} files, then {}",
                before.open_files, after.open_files
            )
        });
    }
    verdict
}

/// TASKS holds what is younger than the janitor lets it become, EVENTS one message an event that was heard, INBOX nothing
/// that was taken, the buckets one message a key.
fn streams(watch: &Watch, book: &Book) -> Verdict {
    let mut verdict = Verdict::new("streams", "they hold what the tasks explain, and no more");
    let under_load = &watch.looks[..watch.under_load];
    let (first, last) = (&watch.looks[0], watch.last());
    let lasted = under_load.last().map_or(1.0, |look| look.at).max(1.0);
    let rate = number(book.accepted.len()) / lasted;
    let window = (GRACE + KEPT + REMOVED_EVERY).as_secs_f64() + SLACK_S;
    let most = rate * window * EVENTS_A_TASK;
    for look in under_load {
        let messages = look.log_messages();
        verdict.check(big(messages) <= most, || {
            format!(
                "TASKS held {messages} messages after {:.0} s, more than {most:.0}",
                look.at
            )
        });
    }
    let published = last.stream(EVENTS).messages - first.stream(EVENTS).messages;
    verdict.check(published == book.events, || {
        format!(
            "EVENTS grew by {published}, and {} events were heard",
            book.events
        )
    });
    for name in [INBOX, TASKS] {
        let left = last.stream(name).messages;
        verdict.check(left == 0, || format!("{name} still holds {left} messages"));
    }
    verdict.check(first.streams.keys().eq(last.streams.keys()), || {
        format!(
            "the streams were {:?}, and are {:?}",
            first.streams.keys(),
            last.streams.keys()
        )
    });
    let others = last.streams.iter();
    for (name, size) in others.filter(|(name, _)| name.starts_with("KV_") || *name == BATCHES) {
        let before = first.stream(name).messages;
        verdict.check(size.messages <= before + 8, || {
            format!("{name} held {before} messages, then {}", size.messages)
        });
    }
    verdict
}

fn consumers(watch: &Watch) -> Verdict {
    let mut verdict = Verdict::new("consumers", "there are as many as at the start");
    let (first, last) = (&watch.looks[0], watch.last());
    for (name, size) in &last.streams {
        let before = first.stream(name).consumers;
        verdict.check(size.consumers <= before, || {
            format!("{name} had {before} consumers, and has {}", size.consumers)
        });
    }
    verdict
}

/// A video for each success and its first picture stay, and nothing else; each is one file of the local cloud.
fn objects(watch: &Watch, book: &Book) -> Verdict {
    const OBJECTS: usize = 2;
    let mut verdict = Verdict::new(
        "objects",
        "one video and one picture of it for each success, and nothing else",
    );
    let succeeded = book
        .ends
        .values()
        .flatten()
        .filter(|end| *end == "succeeded");
    let kept = succeeded.count() * OBJECTS;
    let (first, last) = (&watch.looks[0], watch.last());
    for (prefix, objects) in &last.objects {
        let explained = if *prefix == "renders/" { kept } else { 0 };
        verdict.check(*objects == explained, || {
            format!("{objects} objects under {prefix}, {explained} are explained")
        });
    }
    let files = last.files - first.files;
    verdict.check(files == kept, || {
        format!("{files} more files, {kept} are explained")
    });
    verdict
}

/// The looks under load after the warm-up.
fn warm(watch: &Watch) -> &[SoakLook] {
    let under_load = &watch.looks[1..watch.under_load];
    let lasted = under_load.last().map_or(0.0, |look| look.at);
    let until = (lasted * WARM_UP)
        .max(WARM_UP_AT_LEAST_S)
        .min(lasted * WARM_UP_AT_MOST);
    let cold = under_load.iter().take_while(|look| look.at < until).count();
    &under_load[cold..]
}

/// How much the least-squares line through the points rises from the first to the last.
fn rise(points: &[(f64, f64)]) -> f64 {
    let count = number(points.len());
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let (mut both, mut square) = (0.0, 0.0);
    for point in points {
        both += (point.0 - x) * (point.1 - y);
        square += (point.0 - x) * (point.0 - x);
    }
    match (points.first(), points.last()) {
        (Some(first), Some(last)) if square > 0.0 => both / square * (last.0 - first.0),
        _ => 0.0,
    }
}

fn number(count: usize) -> f64 {
    count as f64
}

fn big(count: u64) -> f64 {
    count as f64
}

impl fmt::Display for SoakReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, count) in &self.counts {
            writeln!(f, "{count:>8} {what}")?;
        }
        for line in &self.memory {
            writeln!(f, "  {line}")?;
        }
        for verdict in &self.verdicts {
            let word = if verdict.offences.is_empty() && verdict.checked > 0 {
                "holds"
            } else {
                "BROKEN"
            };
            writeln!(
                f,
                "{word:<7} {:<11} {} ({} checks)",
                verdict.invariant, verdict.says, verdict.checked
            )?;
            for offence in verdict.offences.iter().take(10) {
                writeln!(f, "          {offence}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_rises_by_its_slope() {
        let steady = [(0.0, 20.0), (10.0, 20.5), (20.0, 20.0), (30.0, 20.5)];
        assert!(rise(&steady) < 0.5);
        let leak: Vec<_> = (0..100)
            .map(|at| (f64::from(at), 20.0 + 0.1 * f64::from(at)))
            .collect();
        assert!((rise(&leak) - 9.9).abs() < 1e-9);
        assert_eq!(rise(&[]), 0.0);
    }

    #[test]
    fn a_task_that_ends_twice_or_never_is_found() {
        let mut book = Book::default();
        for id in ["once", "twice", "never"] {
            book.accepted.insert(id.into(), 1);
        }
        let end = || "succeeded".to_owned();
        book.ends.insert(("once".into(), 1), vec![end()]);
        book.ends.insert(("twice".into(), 1), vec![end(), end()]);
        book.ends.insert(("stranger".into(), 1), vec![end()]);
        let offences = ended_once(&book).offences;
        assert_eq!(offences.len(), 3, "{offences:?}");
    }
}
