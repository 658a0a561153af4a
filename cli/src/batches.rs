//! `spotreel batches`: what they were, and what one of them was in full.

use jiff::Timestamp;
use spotreel_api::{BatchView, BatchesQuery, CloudEvent, FleetQuery, FleetView};
use spotreel_bootstrap::ambient;
use spotreel_bus::jetstream::{self, Start};
use spotreel_bus::names;
use spotreel_domain::Usd;
use spotreel_domain::batch::{
    BatchId, BlockedBy, DrainMode, Receipt, ReceiptLine, Residency, Stop,
};

use crate::args::BatchesArgs;
use crate::connection::{Api, Settings};
use crate::done::Done;
use crate::fleet;
use crate::fleet::word;
use crate::print::{self, field, line, relative, short, span};

/// Number of batches that trigger lists at most.
const MOST_BATCHES: u32 = 100;
/// Of one batch's story. A night with a hundred interruptions has some hundreds.
const MOST_EVENTS: usize = 2_000;

pub async fn run(settings: &Settings, args: BatchesArgs) -> anyhow::Result<Done> {
    let api = Api::open(settings).await?;
    let query = BatchesQuery {
        pool: args.pool,
        limit: match (&args.id, args.since) {
            (Some(_), _) => None,
            (None, Some(_)) => Some(MOST_BATCHES),
            (None, None) => Some(args.limit),
        },
        id: args.id.clone(),
    };
    let mut batches: Vec<BatchView> = api.call(names::LIST_BATCHES, &query).await?;
    let now = ambient::now();
    if let Some(since) = args.since {
        let (since, listed) = (since.at(now)?, batches.len());
        batches.retain(|batch| batch.requested_at >= since);
        if batches.len() == listed && listed == MOST_BATCHES as usize {
            eprintln!(
                "spotreel: only the newest {MOST_BATCHES} batches are listed; `spotreel cost --by batch` has older ones"
            );
        }
    }
    if args.id.is_some() {
        for batch in &batches {
            tell(&api, batch, args.json).await?;
        }
        return Ok(Done::Well);
    }
    if args.json {
        batches.iter().for_each(print::json);
        return Ok(Done::Well);
    }
    if batches.is_empty() {
        line("no batches");
        return Ok(Done::Well);
    }
    let rows: Vec<_> = batches.iter().map(|b| row(b, now)).collect();
    print::table(
        [
            "BATCH",
            "STATUS",
            "ASKED",
            "TOOK",
            "MACHINES",
            "TAKEN",
            "TASKS",
            "COST",
            "WHY, OR WHAT IS WRONG",
        ],
        &rows,
    );
    if batches.len() > 1 {
        line(&sum(&batches));
    }
    Ok(Done::Well)
}

fn sum(batches: &[BatchView]) -> String {
    let cost: Usd = batches.iter().map(|batch| batch.cost).sum();
    let tasks: u64 = batches.iter().map(|batch| batch.tasks_done).sum();
    let taken: u64 = batches
        .iter()
        .map(|batch| u64::from(batch.interruptions))
        .sum();
    let machines = batches
        .iter()
        .map(|b| b.instances.active + b.instances.gone);
    format!(
        "{} batches: {} for {tasks} tasks on {}, {taken} taken by the market",
        batches.len(),
        cost,
        machines_of(machines.sum())
    )
}

fn row(batch: &BatchView, now: Timestamp) -> [String; 9] {
    let blocked = batch.blocked.as_ref().map(|blocked| &blocked.sentence);
    let wrong = batch.reason.as_ref().or(blocked);
    let machines = match batch.instances.active {
        0 => batch.instances.gone.to_string(),
        active => format!("{active} of {}", active + batch.instances.gone),
    };
    [
        batch.id.to_string(),
        batch.status.clone(),
        relative(now, batch.requested_at),
        span(seconds(batch.requested_at, batch.ended_at.unwrap_or(now))),
        machines,
        batch.interruptions.to_string(),
        batch.tasks_done.to_string(),
        batch.cost.to_string(),
        short(wrong.unwrap_or(&batch.why), 60),
    ]
}

async fn tell(api: &Api, batch: &BatchView, as_json: bool) -> anyhow::Result<()> {
    let events = events(api, &batch.id).await?;
    if as_json {
        events.iter().for_each(print::json);
        print::json(batch);
        return Ok(());
    }
    let now = ambient::now();
    let until = batch.ended_at.unwrap_or(now);
    let took = span(seconds(batch.requested_at, until));
    field("batch", &format!("{}, {}, {took}", batch.id, batch.status));
    field(
        "asked",
        &format!(
            "{}, {}",
            batch.requested_at.strftime("%F %T UTC"),
            relative(now, batch.requested_at)
        ),
    );
    field("why", &batch.why);
    if let Some(ready) = batch.first_ready_at {
        let waited = seconds(batch.requested_at, ready);
        field("ready", &format!("after {}", span(waited)));
    }
    if let Some(blocked) = &batch.blocked {
        field("blocked", &blocked.sentence);
    }
    if let Some(reason) = &batch.reason {
        field("failed", reason);
    }
    if let Some(stop) = &batch.stop {
        field("stopped", &stopped(stop));
    }
    field("tasks", &format!("{} done", batch.tasks_done));
    field("cost", &batch.cost.to_string());
    if let Some(residency) = &batch.residency {
        field("stayed", &stayed(residency));
    }
    let story = story(&events);
    if !story.is_empty() {
        line("");
        story.iter().for_each(|sentence| line(sentence));
    }
    line("");
    match &batch.receipt {
        Some(receipt) => bill(receipt, batch.requested_at),
        None => machines(api, &batch.id).await?,
    }
    Ok(())
}

/// What it has cost and saved that machines stay without work.
fn stayed(residency: &Residency) -> String {
    format!(
        "{} without work for {}: {}; saved {} boots, {} of waiting and {}",
        machines_of(residency.units as usize),
        span(residency.idle_seconds),
        residency.idle_cost,
        residency.boots_saved,
        span(residency.boot_seconds_saved),
        residency.boot_cost_saved,
    )
}

/// What runs of a batch that has not ended.
async fn machines(api: &Api, id: &BatchId) -> anyhow::Result<()> {
    let pool = Some(id.pool.to_string());
    let view: FleetView = api.call(names::FLEET, &FleetQuery { pool }).await?;
    for pool in &view.pools {
        let its = pool.batch.as_ref().is_some_and(|b| b.id == id.to_string());
        if its && !pool.instances.is_empty() {
            fleet::machines(pool);
        }
    }
    Ok(())
}

fn bill(receipt: &Receipt, from: Timestamp) {
    let rows: Vec<_> = receipt
        .lines
        .iter()
        .map(|one| bill_row(one, from))
        .collect();
    print::table(
        [
            "INSTANCE", "TYPE", "ZONE", "BOUGHT", "READY", "ENDED", "HOW", "RAN", "COST",
        ],
        &rows,
    );
    line(&format!(
        "{} for {} of machines, {} taken by the market",
        receipt.total,
        span(receipt.instance_seconds),
        receipt.interruptions
    ));
}

fn bill_row(one: &ReceiptLine, from: Timestamp) -> [String; 9] {
    let after = |at: Option<Timestamp>| at.map_or("-".to_owned(), |at| offset(from, at));
    [
        one.instance.clone(),
        one.place.kind.clone(),
        format!("{} {}", one.place.zone, one.lifecycle.as_str()),
        after(Some(one.launched_at)),
        after(one.ready_at),
        after(one.ended_at),
        one.ending.map_or_else(String::new, |ending| word(&ending)),
        span(one.seconds),
        one.cost.to_string(),
    ]
}

/// The events that the clients' copy still has, the oldest first.
async fn events(api: &Api, id: &BatchId) -> anyhow::Result<Vec<CloudEvent<BatchView>>> {
    let (filter, start) = (names::batch_events_of(id), Start::Sequence(1));
    let stored = jetstream::page(&api.client, names::EVENTS, &filter, start, MOST_EVENTS).await?;
    Ok(stored
        .iter()
        .filter_map(|stored| serde_json::from_slice(&stored.payload).ok())
        .collect())
}

/// A line for each event that changed something that people care about.
fn story(events: &[CloudEvent<BatchView>]) -> Vec<String> {
    let Some(first) = events.first().map(|event| event.data.requested_at) else {
        return Vec::new();
    };
    let mut lines = Vec::new();
    let mut before: Option<&BatchView> = None;
    for event in events {
        let said = changes(before, &event.data);
        if !said.is_empty() {
            let at = offset(first, event.data.at);
            lines.push(format!("{at:>11}  {}", said.join("; ")));
        }
        before = Some(&event.data);
    }
    lines
}

/// Who stopped it, how, and why.
fn stopped(stop: &Stop) -> String {
    let how = match stop.mode {
        DrainMode::Finish => "workers finish their tasks",
        DrainMode::Now => "workers hand their tasks back",
    };
    let by = match stop.by.as_str() {
        "" => "somebody",
        by => by,
    };
    let reason = stop.reason.as_ref();
    let reason = reason.map(|reason| format!(", reason \"{reason}\""));
    format!("by {by}{}: {how}", reason.unwrap_or_default())
}

/// What changed, in words.
pub fn changes(before: Option<&BatchView>, now: &BatchView) -> Vec<String> {
    let mut said = Vec::new();
    if before.is_none_or(|before| before.status != now.status) {
        said.push(match now.status.as_str() {
            "requested" => format!("requested: {} wanted", machines_of(now.units as usize)),
            status => status.to_owned(),
        });
    }
    let had = before.map_or(0, |before| before.instances.active);
    let has = now.instances.active;
    if has > had {
        said.push(format!("{} bought", machines_of(has - had)));
    }
    let gone = before.map_or(0, |before| before.instances.gone);
    if now.instances.gone > gone {
        let gone = now.instances.gone - gone;
        let taken = now.interruptions - before.map_or(0, |before| before.interruptions);
        let taken = (taken > 0).then(|| format!(", {taken} taken by the market"));
        said.push(format!(
            "{} gone{}",
            machines_of(gone),
            taken.unwrap_or_default()
        ));
    }
    let never = before.map_or(0, |before| before.never_served);
    if now.never_served > never {
        let failed = machines_of(now.never_served as usize);
        let in_row = if now.never_served > 1 {
            " in a row"
        } else {
            ""
        };
        let why = now
            .never_served_why
            .as_deref()
            .unwrap_or("no reason is known");
        said.push(format!("{failed}{in_row} did not serve: {why}"));
    }
    if now.never_served_console.is_some()
        && now.never_served_console != before.and_then(|b| b.never_served_console.clone())
    {
        let console = now.never_served_console.as_deref().unwrap_or_default();
        said.push(format!("console of the last one: {console}"));
    }
    if let Some(stop) = now.stop.as_ref().filter(|stop| {
        before.is_none_or(|before| before.stop.as_ref().map(|s| s.mode) != Some(stop.mode))
    }) {
        said.push(format!("stopped {}", stopped(stop)));
    }
    if now.first_ready_at.is_some() && before.is_none_or(|b| b.first_ready_at.is_none()) {
        said.push("the first one serves".to_owned());
    }
    let blocked = |view: &BatchView| view.blocked.as_ref().map(|blocked| blocked.by);
    if blocked(now) != before.and_then(blocked) {
        said.extend(match &now.blocked {
            // The machines are told of below.
            Some(blocked) if blocked.by == BlockedBy::NeverServed => {
                let next = blocked.sentence.rsplit("; ").next();
                next.map(|next| format!("launches pause: {next}"))
            }
            Some(blocked) => Some(format!("blocked: {}", blocked.sentence)),
            None => now
                .ended_at
                .is_none()
                .then(|| "no longer blocked".to_owned()),
        });
    }
    if now.never_served == 0 {
        said.extend(now.reason.clone());
    }
    let done = before.map_or(0, |before| before.tasks_done);
    if now.tasks_done > done {
        said.push(match now.tasks_done {
            1 => "1 task done".to_owned(),
            done => format!("{done} tasks done"),
        });
    }
    said
}

fn machines_of(count: usize) -> String {
    match count {
        1 => "1 machine".to_owned(),
        count => format!("{count} machines"),
    }
}

/// To the second, since much happens within a minute: `+45 s`, `+2 min 5 s`, `+1 h 2 min`.
fn offset(from: Timestamp, at: Timestamp) -> String {
    match seconds(from, at) {
        seconds @ 0..=119 => format!("+{seconds} s"),
        seconds @ 120..=3_599 => format!("+{} min {} s", seconds / 60, seconds % 60),
        seconds => format!("+{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
    }
}

fn seconds(from: Timestamp, to: Timestamp) -> u64 {
    let seconds = to.duration_since(from).as_secs();
    u64::try_from(seconds).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use spotreel_api::InstanceCounts;
    use spotreel_domain::money::Usd;

    use super::*;

    fn view(status: &str, active: usize, gone: usize, interruptions: u32) -> BatchView {
        let at = Timestamp::UNIX_EPOCH;
        let id = BatchId::parse("default-1").unwrap();
        BatchView {
            pool: id.pool.clone(),
            id,
            status: status.to_owned(),
            rule: "length".to_owned(),
            why: String::new(),
            units: 2,
            requested_at: at,
            first_ready_at: None,
            ended_at: None,
            at,
            instances: InstanceCounts { active, gone },
            interruptions,
            tasks_done: 0,
            never_served: 0,
            never_served_why: None,
            never_served_console: None,
            stop: None,
            blocked: None,
            cost: Usd::ZERO,
            residency: None,
            receipt: None,
            reason: None,
        }
    }

    #[test]
    fn a_story_tells_what_changed() {
        let first = view("requested", 0, 0, 0);
        let bought = view("launching", 2, 0, 0);
        let mut taken = view("launching", 1, 1, 1);
        assert_eq!(changes(None, &first), ["requested: 2 machines wanted"]);
        let said = changes(Some(&first), &bought);
        assert_eq!(said, ["launching", "2 machines bought"]);
        let said = changes(Some(&bought), &taken);
        assert_eq!(said, ["1 machine gone, 1 taken by the market"]);
        let before = taken.clone();
        taken.tasks_done = 1;
        assert_eq!(changes(Some(&before), &taken), ["1 task done"]);
        assert!(changes(Some(&taken), &taken).is_empty());
    }

    #[test]
    fn machines_that_never_served_are_told_with_their_reason() {
        let (before, mut now) = (view("launching", 3, 0, 0), view("launching", 0, 3, 0));
        now.never_served = 3;
        now.never_served_why = Some("engine_exited, status 2".to_owned());
        assert_eq!(
            changes(Some(&before), &now),
            [
                "3 machines gone",
                "3 machines in a row did not serve: engine_exited, status 2"
            ]
        );
        assert!(changes(Some(&now), &now).is_empty());
    }

    #[test]
    fn who_stopped_a_batch_and_why_is_told_once() {
        let before = view("running", 1, 0, 0);
        let mut now = view("draining", 1, 0, 0);
        now.stop = Some(Stop {
            mode: DrainMode::Now,
            by: "ada".to_owned(),
            reason: Some("wrong prompts".to_owned()),
            at: Timestamp::UNIX_EPOCH,
        });
        let said = changes(Some(&before), &now);
        let told = "stopped by ada, reason \"wrong prompts\": workers hand their tasks back";
        assert_eq!(said, ["draining", told]);
        assert!(changes(Some(&now), &now).is_empty());
    }

    #[test]
    fn a_story_tells_seconds_where_minutes_would_look_alike() {
        let from = Timestamp::UNIX_EPOCH;
        let at = |seconds| offset(from, Timestamp::from_second(seconds).unwrap());
        assert_eq!((at(45), at(125)), ("+45 s".into(), "+2 min 5 s".into()));
        assert_ne!(at(125), at(130));
        assert_eq!(at(3_725), "+1 h 2 min");
    }
}
