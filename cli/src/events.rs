//! `spotreel events`: what the stream EVENTS tells, as it was stored.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::SignedDuration;
use serde::de::DeserializeOwned;
use serde_json::Value;
use spotreel_api::{AlarmView, BatchView, TaskView};
use spotreel_bootstrap::ambient;
use spotreel_bus::jetstream::{self, Start, Stored};
use spotreel_bus::names;

use crate::args::EventsArgs;
use crate::batches;
use crate::connection::{Api, Settings};
use crate::done::Done;
use crate::print;
use crate::watch;

/// How far back events are printed where no time is given.
const BACK: SignedDuration = SignedDuration::from_hours(1);
const PAGE: usize = 256;
/// How often the stream is asked for more while it is followed.
const ASK_EVERY: Duration = Duration::from_millis(500);

pub async fn run(settings: &Settings, args: EventsArgs) -> anyhow::Result<Done> {
    let api = Api::open(settings).await?;
    let now = ambient::now();
    let since = match args.since {
        Some(since) => since.at(now)?,
        None if args.follow => now,
        None => now.saturating_sub(BACK)?,
    };
    let mut start = Start::Time(since);
    let mut told = Told::default();
    let mut unreachable = false;
    loop {
        // By sequence, so that a connection that was lost for a while costs no event.
        let page = jetstream::page(&api.client, names::EVENTS, &args.subject, start, PAGE).await;
        let page = match page {
            Ok(page) => page,
            Err(error) if args.follow && error.is_transient() => {
                if !unreachable {
                    eprintln!("spotreel: EVENTS cannot be read now, trying again: {error}");
                }
                unreachable = true;
                tokio::time::sleep(ASK_EVERY).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        unreachable = false;
        for stored in &page {
            start = Start::Sequence(stored.sequence + 1);
            told.print(stored, args.json);
        }
        if page.len() < PAGE {
            if !args.follow {
                return Ok(Done::Well);
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }
}

/// The newest event of each batch: the next one is told by what changed.
#[derive(Default)]
struct Told(BTreeMap<String, BatchView>);

impl Told {
    fn print(&mut self, stored: &Stored, as_json: bool) {
        match serde_json::from_slice::<Value>(&stored.payload) {
            Ok(event) if as_json => print::json(&event),
            Ok(event) => print::line(&format!(
                "{}  {}",
                stored.stored_at.strftime("%F %TZ"),
                self.sentence(&stored.subject, &event)
            )),
            Err(error) => eprintln!(
                "spotreel: event {} on {} is no JSON: {error}",
                stored.sequence, stored.subject
            ),
        }
    }

    /// An event of a version or kind that is not known here is named by its subject.
    fn sentence(&mut self, subject: &str, event: &Value) -> String {
        let known = match subject.split('.').nth(1) {
            Some("task") => data(event).map(|task: TaskView| watch::sentence(&task)),
            Some("batch") => data(event).map(|batch: BatchView| self.batch(batch)),
            Some("alarm") => data(event).map(|alarm: AlarmView| {
                format!("alarm {} {}: {}", alarm.name, alarm.state, alarm.sentence)
            }),
            _ => None,
        };
        known.unwrap_or_else(|| {
            let why = event["data"]["error"]["message"].as_str();
            let why = why.map(|why| format!(": {}", print::short(why, 200)));
            format!("{subject}{}", why.unwrap_or_default())
        })
    }

    fn batch(&mut self, batch: BatchView) -> String {
        let id = batch.id.to_string();
        let changes = batches::changes(self.0.get(&id), &batch);
        let sentence = match changes.is_empty() {
            true => format!("batch {id} {}", batch.status),
            false => format!("batch {id} {}", changes.join("; ")),
        };
        match batch.ended_at {
            Some(_) => self.0.remove(&id),
            None => self.0.insert(id, batch),
        };
        sentence
    }
}

fn data<T: DeserializeOwned>(event: &Value) -> Option<T> {
    T::deserialize(&event["data"]).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_known_here_is_named_by_its_subject_and_reason() {
        let mut told = Told::default();
        let refused = json!({ "data": { "error": { "message": "steps is 1 to 100" } } });
        assert_eq!(
            told.sentence("spotreel.rejected.fox", &refused),
            "spotreel.rejected.fox: steps is 1 to 100"
        );
        let newer = json!({ "data": { "what": "a version that is not known here" } });
        for subject in [
            "spotreel.alarm.x.firing",
            "spotreel.task.a.x",
            "spotreel.batch.a-1.x",
        ] {
            assert_eq!(told.sentence(subject, &newer), subject);
        }
    }
}
