//! A sample of one queue: its first tasks, and pairs of tasks all over the rest.
//!
//! Entries are numbered in the order in which they came, but their numbers say nothing of how many lie between: other
//! tasks' events do too. A direct get of several messages answers with the number of entries from there on, though, so
//! each probe tells its position in the queue. The next probe goes into the middle of the widest stretch that nobody has
//! looked at, and each probe stands for the stretch around it, halfway to its neighbours.
//!
//! **Cost.** At most [`FIRST`] + [`PROBES`] × [`EACH`] tasks, some megabytes at their largest, in [`PROBES`] + 2 requests
//! one after the other. With 300,000 messages in the log the first tasks took 0.14 s where other messages lay between
//! them, and a probe 0.1 to 10 ms; both grow with the log.
//!
//! **Error.** Where the sort of task changes, at most half of a stretch is taken for the wrong sort (of the last one, which
//! ends at no read, all of it). If the entries lie evenly in the log, a stretch is 1/[`PROBES`] of the queue, so a change
//! costs 2 % of it at most. Entries that came a thousand times as densely as the others cost some ten probes to find, and
//! stretches are twice as wide.

use std::ops::Range;

use async_nats::Client;
use serde::Deserialize;
use spotreel_bus::jetstream::{self, JetStreamError, Start};
use spotreel_bus::log::{ReadError, Recorded};
use spotreel_bus::names::{self, TASKS};
use spotreel_domain::render_time::Job;
use spotreel_domain::{Lane, Model, TaskId};

/// Tasks that are read from the front: more than most pools have in hand.
pub const FIRST: usize = 64;
/// Reads of the rest.
const PROBES: usize = 32;
/// Tasks of each: two, so that sorts of tasks that take turns are both seen.
const EACH: usize = 2;

/// A task that was looked at.
#[derive(Clone, Debug)]
pub struct SampledTask {
    pub id: TaskId,
    pub job: Job,
    /// Number of tasks of its queue that it stands for.
    pub stands_for: f64,
}

struct SampledEntry {
    sequence: u64,
    /// Entries of the queue from this one on.
    left: u64,
    id: TaskId,
    job: Job,
}

/// Entries that nobody has looked at.
#[derive(Clone, Debug)]
struct Stretch {
    sequences: Range<u64>,
    /// Their positions in the queue.
    positions: Range<u64>,
}

/// Behind those that were acknowledged.
pub async fn read(
    client: &Client,
    (model, lane): (Model, Lane),
    acked_to: u64,
) -> Result<Vec<SampledTask>, ReadError> {
    let filter = names::work_filter(model, lane);
    let (first, read) = entries(client, &filter, acked_to + 1, FIRST).await?;
    let length = first.first().map_or(0, |entry| entry.left);
    let from = first.last().map_or(0, |entry| entry.sequence) + 1;
    let mut tasks: Vec<_> = first.into_iter().map(|entry| entry.task(1.0)).collect();
    if read < FIRST {
        return Ok(tasks);
    }
    let mut unread = vec![Stretch {
        sequences: from..last_sequence(client).await? + 1,
        positions: read as u64..length,
    }];
    let mut probes = Vec::new();
    for _ in 0..PROBES {
        let Some(widest) = take_widest(&mut unread) else {
            break;
        };
        let middle = widest.sequences.start.midpoint(widest.sequences.end);
        let (mut found, _) = entries(client, &filter, middle, EACH).await?;
        found.retain(|entry| entry.sequence < widest.sequences.end);
        unread.extend(widest.without(middle, length, &found));
        if let Some(first) = found.first() {
            probes.push((widest.position(length, first), found));
        }
    }
    probes.sort_by_key(|(position, _)| *position);
    // The last of the first tasks stands for what comes next, too.
    let end = read as u64;
    let sizes = probes
        .iter()
        .map(|(at, found)| *at..*at + found.len() as u64);
    let read: Vec<_> = std::iter::once(end - 1..end).chain(sizes).collect();
    let mut shares = shares(&(end - 1..length), &read).into_iter();
    if let (Some(last), Some(share)) = (tasks.last_mut(), shares.next()) {
        last.stands_for = share;
    }
    for ((_, found), share) in probes.into_iter().zip(shares) {
        tasks.extend(found.into_iter().map(|entry| entry.task(share)));
    }
    Ok(tasks)
}

/// The one with the most entries; none, where all have been read.
fn take_widest(unread: &mut Vec<Stretch>) -> Option<Stretch> {
    let width = |of: &Stretch| of.positions.end.saturating_sub(of.positions.start);
    unread.retain(|of| width(of) > 0 && !of.sequences.is_empty());
    let widest = (0..unread.len()).max_by_key(|at| width(&unread[*at]))?;
    Some(unread.swap_remove(widest))
}

impl Stretch {
    /// Where the queue grows or shrinks meanwhile, positions move a little, but never out of their stretch.
    fn position(&self, length: u64, entry: &SampledEntry) -> u64 {
        let (least, most) = (self.positions.start, self.positions.end - 1);
        length.saturating_sub(entry.left).clamp(least, most)
    }

    /// What is still unread after a read from `middle` on.
    fn without(&self, middle: u64, length: u64, found: &[SampledEntry]) -> Vec<Self> {
        let sequences = self.sequences.start..middle;
        let (Some(first), Some(last)) = (found.first(), found.last()) else {
            let positions = self.positions.clone();
            return vec![Self {
                sequences,
                positions,
            }];
        };
        let at = self.position(length, first);
        vec![
            Self {
                sequences,
                positions: self.positions.start..at,
            },
            Self {
                sequences: last.sequence + 1..self.sequences.end,
                positions: at + found.len() as u64..self.positions.end,
            },
        ]
    }
}

/// Number of entries that each entry of a read stands for: a part of those that are nearer to that read than to others.
#[expect(
    clippy::cast_precision_loss,
    reason = "a queue is far below 2^53 tasks"
)]
fn shares(all: &Range<u64>, read: &[Range<u64>]) -> Vec<f64> {
    let mut from = all.start;
    let mut shares = Vec::with_capacity(read.len());
    for (at, this) in read.iter().enumerate() {
        let to = read
            .get(at + 1)
            .map_or(all.end, |next| this.end.midpoint(next.start));
        let count = this.end - this.start;
        shares.push(to.saturating_sub(from).max(count) as f64 / count as f64);
        from = to;
    }
    shares
}

impl SampledEntry {
    fn task(self, stands_for: f64) -> SampledTask {
        SampledTask {
            id: self.id,
            job: self.job,
            stands_for,
        }
    }
}

/// Entries, and how many were read: those that no version can decode are passed over.
async fn entries(
    client: &Client,
    filter: &str,
    from: u64,
    most: usize,
) -> Result<(Vec<SampledEntry>, usize), ReadError> {
    let page = jetstream::page(client, TASKS, filter, Start::Sequence(from), most).await?;
    let count = page.len();
    let read = page.into_iter().map(|stored| {
        let left = stored.headers.get("Nats-Num-Pending");
        let left = left.and_then(|left| left.as_str().parse().ok());
        let recorded = Recorded::from_stored(stored)?;
        Ok(recorded.map(|recorded| SampledEntry {
            sequence: recorded.sequence,
            left: left.unwrap_or_default(),
            job: Job::of(&recorded.task.spec),
            id: recorded.task.id,
        }))
    });
    let read: Result<_, ReadError> = read.filter_map(Result::transpose).collect();
    Ok((read?, count))
}

async fn last_sequence(client: &Client) -> Result<u64, JetStreamError> {
    #[derive(Deserialize)]
    struct Info {
        state: State,
    }
    #[derive(Deserialize)]
    struct State {
        last_seq: u64,
    }
    let info: Info = jetstream::stream_info(client, TASKS).await?;
    Ok(info.state.last_seq)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_read_stands_for_what_is_nearer_to_it_than_to_the_others() {
        assert_eq!(shares(&(64..164), &[84..86, 104..106]), [15.5, 34.5]);
        assert_eq!(
            shares(&(64..164), std::slice::from_ref(&(100..102))),
            [50.0]
        );
    }
}
