//! `spotreel batches`: what they were, and what one of them was in full.

use jiff::Timestamp;
use serde_json::json;
use spotreel_bootstrap::ambient;
use spotreel_bus::{jetstream, names};
use spotreel_domain::api::{BatchView, CloudEvent};
use spotreel_domain::batch::{BatchId, Receipt, ReceiptLine, Residency};
use spotreel_domain::fleet::view::FleetView;
use spotreel_domain::ops::BatchesQuery;

use crate::args::BatchesArgs;
use crate::connection::{Api, Settings};
use crate::fleet::word;
use crate::orders::OfPool;
use crate::print::{self, field, line, relative, short, span};
use crate::{Done, fleet};

/// Of one batch's story. A night with a hundred interruptions has some hundreds.
const MOST_EVENTS: u32 = 2_000;

pub async fn run(settings: &Settings, args: BatchesArgs) -> anyhow::Result<Done> {
    let api = Api::open(settings).await?;
    let query = BatchesQuery {
        pool: args.pool,
        limit: args.id.is_none().then_some(args.limit),
        id: args.id.clone(),
    };
    let batches: Vec<BatchView> = api.call(names::LIST_BATCHES, &query).await?;
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
    let rows: Vec<_> = batches.iter().map(|b| row(b, ambient::now())).collect();
    print::table(
        [
            "BATCH", "STATUS", "ASKED", "TOOK", "MACHINES", "TAKEN", "TASKS", "COST", "WHY",
        ],
        &rows,
    );
    Ok(Done::Well)
}

fn row(batch: &BatchView, now: Timestamp) -> [String; 9] {
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
        short(&batch.why, 60),
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
    let view: FleetView = api.call(names::FLEET, &OfPool { pool }).await?;
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
    let query = json!({
        "batch": MOST_EVENTS, "next_by_subj": names::batch_events_of(id), "seq": 1,
    });
    let stored = jetstream::direct_get(&api.client, names::EVENTS, &query).await?;
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
            lines.push(format!("{at:>8}  {}", said.join("; ")));
        }
        before = Some(&event.data);
    }
    lines
}

fn changes(before: Option<&BatchView>, now: &BatchView) -> Vec<String> {
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
    if now.first_ready_at.is_some() && before.is_none_or(|b| b.first_ready_at.is_none()) {
        said.push("the first one serves".to_owned());
    }
    let blocked = |view: &BatchView| view.blocked.as_ref().map(|blocked| blocked.by);
    if blocked(now) != before.and_then(blocked) {
        said.push(match &now.blocked {
            Some(blocked) => format!("blocked: {}", blocked.sentence),
            None => "no longer blocked".to_owned(),
        });
    }
    said.extend(now.reason.clone());
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

fn offset(from: Timestamp, at: Timestamp) -> String {
    format!("+{}", span(seconds(from, at)))
}

fn seconds(from: Timestamp, to: Timestamp) -> u64 {
    let seconds = to.duration_since(from).as_secs();
    u64::try_from(seconds).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use spotreel_domain::api::InstanceCounts;
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
}
