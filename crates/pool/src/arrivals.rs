//! Number of tasks that arrived within the last hour.
//!
//! Arrivals are counted as they are heard, by the minute, and never more than an hour of them is kept. After a restart
//! the hour is read again from the log: the entries that it still holds, and the tasks that have succeeded since and
//! arrived within the hour. Tasks that came and were cancelled or failed meanwhile are missing from that hour.

use std::collections::{BTreeMap, VecDeque};

use async_nats::Client;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use spotreel_bus::Recorded;
use spotreel_bus::jetstream::{self, JetStreamError, Start, Stored};
use spotreel_bus::names::{self, TASKS};
use spotreel_domain::{Event, Model};

pub const HOUR: SignedDuration = SignedDuration::from_hours(1);
/// Messages of one direct get.
const PAGE: usize = 1_000;
/// Maximum count of arrivals in an hour; no threshold of hybrid mode is higher.
const MOST_SEEDED: usize = 20_000;

/// Shared by who hears and who looks.
#[derive(Default)]
pub struct Arrivals {
    by_model: Mutex<BTreeMap<Model, Hour>>,
}

/// Counts by the minute, oldest first.
#[derive(Debug, Default)]
struct Hour {
    minutes: VecDeque<(i64, u64)>,
}

impl Arrivals {
    pub fn note(&self, model: Model, at: Timestamp) {
        let mut by_model = self.by_model.lock();
        by_model.entry(model).or_default().note(at);
    }

    pub fn within_the_hour(&self, models: &[Model], now: Timestamp) -> u64 {
        let mut by_model = self.by_model.lock();
        models
            .iter()
            .filter_map(|model| Some(by_model.get_mut(model)?.count(now)))
            .sum()
    }

    /// What came within the hour before `now`, as the log tells, in place of what was counted. Returns the sequence up
    /// to which it has counted: what is heard later and lies behind it came once.
    pub async fn seed(&self, client: &Client, now: Timestamp) -> Result<u64, JetStreamError> {
        let since = now - HOUR;
        let (queued, succeeded) = futures::try_join!(
            read(client, "spotreel.log.*.queued.>", since),
            read(client, "spotreel.log.*.succeeded", since)
        )?;
        let counted_to = queued.last().map_or(0, |entry| entry.sequence);
        let waiting = queued
            .iter()
            .filter_map(|entry| Some((model_of(&entry.subject)?, entry.stored_at)));
        let done = succeeded.into_iter().filter_map(submitted);
        let mut heard: Vec<_> = waiting.chain(done).filter(|(_, at)| *at >= since).collect();
        heard.sort_by_key(|(_, at)| *at);
        let mut by_model = BTreeMap::<Model, Hour>::new();
        for (model, at) in heard {
            by_model.entry(model).or_default().note(at);
        }
        *self.by_model.lock() = by_model;
        Ok(counted_to)
    }
}

impl Hour {
    fn note(&mut self, at: Timestamp) {
        let minute = at.as_second() / 60;
        match self.minutes.back_mut() {
            // A clock that goes back a little does not make a new minute.
            Some((last, sum)) if *last >= minute => *sum += 1,
            _ => self.minutes.push_back((minute, 1)),
        }
    }

    fn count(&mut self, now: Timestamp) -> u64 {
        let oldest = (now - HOUR).as_second() / 60;
        while self.minutes.front().is_some_and(|(at, _)| *at < oldest) {
            self.minutes.pop_front();
        }
        self.minutes.iter().map(|(_, count)| count).sum()
    }
}

async fn read(
    client: &Client,
    filter: &str,
    since: Timestamp,
) -> Result<Vec<Stored>, JetStreamError> {
    let mut all: Vec<Stored> = Vec::new();
    while all.len() < MOST_SEEDED {
        let start = match all.last() {
            Some(last) => Start::Sequence(last.sequence + 1),
            None => Start::Time(since),
        };
        let page = jetstream::page(client, TASKS, filter, start, PAGE).await?;
        if page.is_empty() {
            break;
        }
        all.extend(page);
    }
    Ok(all)
}

/// The model of a `queued` event.
pub fn model_of(subject: &str) -> Option<Model> {
    let mut tokens = subject.strip_prefix("spotreel.log.")?.split('.');
    (tokens.nth(1) == Some(Event::Queued.as_str())).then(|| Model::parse(tokens.next()?))?
}

fn submitted(stored: Stored) -> Option<(Model, Timestamp)> {
    names::parse_log_subject(&stored.subject)?;
    let recorded = Recorded::from_parts(
        &stored.subject,
        stored.sequence,
        &stored.payload,
        stored.headers,
        stored.stored_at.as_nanosecond(),
    );
    let task = recorded.ok()?.task;
    Some((task.spec.model, task.submitted_at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_slides() {
        let arrivals = Arrivals::default();
        let start: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
        let minute = |n| start + SignedDuration::from_mins(n);
        for n in 0..120 {
            arrivals.note(Model::Ti2v5b, minute(n));
            arrivals.note(Model::Ti2v5b, minute(n));
        }
        arrivals.note(Model::T2vA14b, minute(119));
        let count = |models: &[Model], n| arrivals.within_the_hour(models, minute(n));
        assert_eq!(count(&[Model::Ti2v5b], 119), 122);
        assert_eq!(count(&[Model::Ti2v5b, Model::T2vA14b], 119), 123);
        assert_eq!(count(&[Model::I2vA14b], 119), 0);
        assert_eq!(count(&Model::ALL, 300), 0);
    }

    #[test]
    fn entries_name_their_model() {
        assert_eq!(
            model_of("spotreel.log.abc.queued.t2v-A14B.1"),
            Some(Model::T2vA14b)
        );
        assert_eq!(model_of("spotreel.log.abc.started"), None);
        assert_eq!(model_of("spotreel.batchlog.default.1.requested"), None);
    }
}
