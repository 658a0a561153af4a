//! Publishes many events of the task log with one write: all tasks at once, each task in the order of its log.
//!
//! The events of a task form a line. A pass takes the first event of each line, publishes these together, and goes on with
//! those behind them. A line ends at an event that cannot be published now; it and those behind it are delivered again.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use futures::StreamExt;
use spotreel_bootstrap::ambient;
use spotreel_bus::events::{Newest, PublicEvent, Topic};
use spotreel_bus::jetstream::JetStreamError;
use spotreel_bus::names::{CONSUMER_NOTIFIER, TASKS};
use spotreel_bus::{Handled, Queue, Recorded, trace};
use tracing::{Instrument, Span};

use crate::act::{Notifier, Said, queued_before};
use crate::consume::count;
use crate::error::NotifyError;

/// Delay before an event is looked at again that waits for an earlier one of its task: longer than another notifier needs
/// to publish a group.
const EARLIER_WITHIN: Duration = Duration::from_millis(200);
/// Tasks that are looked up, or videos that are linked, at the same time.
const LOOKUPS: usize = 64;

type Outcome = Result<Handled, NotifyError>;

/// The events of one task, in order, each with its place in the group.
struct Line {
    events: VecDeque<(usize, Recorded)>,
    newest: Newest,
    /// The outcomes so far.
    settled: Vec<(usize, Outcome)>,
}

/// What is published for the first event of a line: that, or the `queued` before it that the log no longer has.
struct NextEvent {
    event: &'static str,
    log_sequence: u64,
    headers: HeaderMap,
    payload: Bytes,
    /// Ends when the event is published.
    _span: Span,
}

impl Notifier {
    /// Publishes each event that is not published yet. Returns the outcome of each.
    pub async fn publish_group(&self, group: Vec<Recorded>) -> Vec<Outcome> {
        let waits = || Ok(Handled::Later(EARLIER_WITHIN));
        let mut outcomes: Vec<Outcome> = group.iter().map(|_| waits()).collect();
        let mut lines = lines(group);
        let looked_up = lines.iter().map(|line| self.look_up(line));
        let looked_up: Vec<_> = looked_up.collect();
        let looked_up: Vec<_> = futures::stream::iter(looked_up)
            .buffered(LOOKUPS)
            .collect()
            .await;
        for (line, newest) in lines.iter_mut().zip(looked_up) {
            match newest {
                Ok(newest) => line.newest = newest,
                Err(error) => line.end(Err(error)),
            }
        }
        while !lines.is_empty() {
            let mut next = Vec::new();
            for line in self.pass(lines).await {
                match line.events.is_empty() {
                    true => line
                        .settled
                        .into_iter()
                        .for_each(|(place, outcome)| outcomes[place] = outcome),
                    false => next.push(line),
                }
            }
            lines = next;
        }
        outcomes
    }

    /// Where the public events of a task stand. Nothing comes before its first event, so that is published without a look.
    async fn look_up(&self, line: &Line) -> Result<Newest, NotifyError> {
        match line.events.front() {
            Some((_, first)) if first.before() != Some(0) => {
                Ok(self.events.newest(&first.task.id).await?)
            }
            _ => Ok(Newest::default()),
        }
    }

    /// Publishes one event of each line. Returns the lines with what is left of them.
    async fn pass(&self, lines: Vec<Line>) -> Vec<Line> {
        let prepared = lines.into_iter().map(|line| self.prepare(line));
        let prepared: Vec<_> = prepared.collect();
        let prepared: Vec<_> = futures::stream::iter(prepared)
            .buffered(LOOKUPS)
            .collect()
            .await;
        let (mut ended, mut ready) = (Vec::new(), Vec::new());
        for (line, prepared) in prepared {
            match prepared {
                Some(prepared) => ready.push((line, prepared)),
                None => ended.push(line),
            }
        }
        let events: Vec<_> = ready
            .iter()
            .filter_map(|(line, prepared)| prepared.after(line))
            .collect();
        let published = self
            .events
            .publish_together(&events, ambient::uuid_v4())
            .await;
        drop(events);
        // One error for all, the server cannot be reached: the first event bears it, and the others come again with it.
        let (published, mut error) = match published {
            Ok(published) => (published, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        let mut published = published.into_iter();
        ended.extend(ready.into_iter().map(|(mut line, _)| {
            match published.next() {
                Some(Ok(stored)) => line.advance(stored.newest, stored.now),
                // Another notifier was there in between: what it wrote decides.
                Some(Err(JetStreamError::Conflict)) => line.end(self.later()),
                Some(Err(error)) => line.end(Err(error.into())),
                None => line.end(
                    error
                        .take()
                        .map_or_else(|| self.later(), |error| Err(error.into())),
                ),
            }
            line
        }));
        ended
    }

    fn later(&self) -> Outcome {
        Ok(Handled::Later(self.config.retry_first))
    }

    /// What is published next for a line. None: nothing can be, and the line has ended.
    async fn prepare(&self, mut line: Line) -> (Line, Option<NextEvent>) {
        line.skip_published();
        let Some((_, first)) = line.events.front() else {
            return (line, None);
        };
        let span =
            tracing::info_span!("notify", task = %first.task.id, event = first.event.as_str());
        trace::adopt(&span, &first.headers);
        let prepared = self.try_prepare(first, line.newest, span.clone());
        match prepared.instrument(span).await {
            Ok(Some(prepared)) => (line, Some(prepared)),
            Ok(None) => {
                line.end(Ok(Handled::Later(EARLIER_WITHIN)));
                (line, None)
            }
            Err(error) => {
                line.end(Err(error));
                (line, None)
            }
        }
    }

    async fn try_prepare(
        &self,
        event: &Recorded,
        newest: Newest,
        span: Span,
    ) -> Result<Option<NextEvent>, NotifyError> {
        if !self.is_next(event, newest.log_sequence).await? {
            return Ok(None);
        }
        let is_told = event.task.entry <= newest.log_sequence;
        let queued = if is_told { None } else { queued_before(event) };
        let event = queued.as_ref().unwrap_or(event);
        let (headers, payload) = self.public(event).await?;
        Ok(Some(NextEvent {
            event: event.event.as_str(),
            log_sequence: event.sequence,
            headers,
            payload,
            _span: span,
        }))
    }

    /// Whether no event of the task between `published` and this one waits to be published: it may be in the hands of
    /// another notifier, or be one that failed. What the log no longer has, and what was acked, does not wait.
    async fn is_next(&self, event: &Recorded, published: u64) -> Result<bool, NotifyError> {
        if event.before().is_some_and(|before| before <= published) {
            return Ok(true);
        }
        let acked = Queue::ack_floor(&self.nats, TASKS, CONSUMER_NOTIFIER).await?;
        let next = self.log.next(&event.task.id, published.max(acked)).await?;
        Ok(next.is_none_or(|next| next >= event.sequence))
    }
}

impl Line {
    /// Counts the events that are published, and takes them out.
    fn skip_published(&mut self) {
        while let Some((place, event)) = self
            .events
            .pop_front_if(|(_, event)| event.sequence <= self.newest.log_sequence)
        {
            count(event.event.as_str(), event.stored_at, Said::Before);
            self.settled.push((place, Ok(Handled::Done)));
        }
    }

    /// Something of the task was published, by this notifier or by another.
    fn advance(&mut self, newest: Newest, now: bool) {
        self.newest = newest;
        let is_first =
            |(_, event): &mut (usize, Recorded)| now && event.sequence == newest.log_sequence;
        if let Some((place, event)) = self.events.pop_front_if(is_first) {
            count(event.event.as_str(), event.stored_at, Said::Now);
            self.settled.push((place, Ok(Handled::Done)));
        }
    }

    /// The first event has this outcome; those behind it wait.
    fn end(&mut self, outcome: Outcome) {
        if let Some((place, _)) = self.events.pop_front() {
            self.settled.push((place, outcome));
        }
        self.events.clear();
    }
}

impl NextEvent {
    /// None for a line without events, of which nothing is prepared.
    fn after<'a>(&'a self, line: &'a Line) -> Option<PublicEvent<'a>> {
        let (_, first) = line.events.front()?;
        Some(PublicEvent {
            topic: Topic::from(&first.task.id),
            event: self.event,
            log_sequence: self.log_sequence,
            headers: &self.headers,
            payload: self.payload.clone(),
            after: line.newest,
        })
    }
}

/// The events by task, in the order in which the tasks come first.
fn lines(group: Vec<Recorded>) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    let mut places = HashMap::new();
    for (place, event) in group.into_iter().enumerate() {
        let line = *places.entry(event.task.id.clone()).or_insert_with(|| {
            lines.push(Line {
                events: VecDeque::new(),
                newest: Newest::default(),
                settled: Vec::new(),
            });
            lines.len() - 1
        });
        lines[line].events.push_back((place, event));
    }
    // What was handed back comes again in the order in which it was handed back.
    for line in &mut lines {
        let events = line.events.make_contiguous();
        events.sort_unstable_by_key(|(_, event)| event.sequence);
    }
    lines
}
