//! `spotreel fleet`: the machines now.

use spotreel_api::{FleetQuery, FleetView, InstanceView, PoolView, WorkerView};
use spotreel_bus::names;
use spotreel_domain::batch::InstanceState;

use crate::args::FleetArgs;
use crate::connection::{Api, Settings};
use crate::done::Done;
use crate::print::{self, field, line, span};

/// What is known of the cloud is told to be old once it is older than this: fleet looks every quarter of a minute while
/// all is calm, and every minute without a batch.
const STALE_S: u64 = 120;

pub async fn run(settings: &Settings, args: FleetArgs) -> anyhow::Result<Done> {
    let api = Api::open(settings).await?;
    let fleet: FleetView = api
        .call(names::FLEET, &FleetQuery { pool: args.pool })
        .await?;
    if args.json {
        print::json(&fleet);
        return Ok(Done::Well);
    }
    if let Some(age) = fleet.listing_age_s.filter(|age| *age > STALE_S) {
        eprintln!(
            "spotreel: fleet could not list the instances for {}",
            span(age)
        );
    }
    for (index, pool) in fleet.pools.iter().enumerate() {
        if index > 0 {
            line("");
        }
        show(pool);
    }
    Ok(Done::Well)
}

fn show(pool: &PoolView) {
    field("pool", pool.pool.as_str());
    if let Some(note) = &pool.note {
        field("note", note);
    }
    match &pool.batch {
        None => field("batch", "none yet"),
        Some(batch) => {
            let reason = batch.reason.as_ref();
            let reason = reason.map(|reason| format!(": {reason}"));
            let text = format!(
                "{}, {}{}",
                batch.id,
                batch.status,
                reason.unwrap_or_default()
            );
            field("batch", &text);
        }
    }
    if let Some(blocked) = &pool.blocked {
        field("blocked", &blocked.sentence);
    }
    if let Some(tasks) = pool.tasks {
        let eta = pool.eta_s.filter(|_| tasks > 0);
        let eta = eta.map(|eta| format!(", done in about {}", span(eta)));
        field(
            "tasks",
            &format!("{tasks} to do{}", eta.unwrap_or_default()),
        );
    }
    if pool.batch.is_some() {
        field(
            "cost",
            &format!("{} an hour now, {} so far", pool.rate, pool.cost),
        );
    }
    if pool.instances.is_empty() && pool.own.is_empty() {
        field("machines", "none");
    }
    if !pool.instances.is_empty() {
        line("");
        machines(pool);
    }
    if !pool.own.is_empty() {
        line("");
        print::table(OWN_HEADER, &own_rows(pool));
    }
}

pub const OWN_HEADER: [&str; 4] = ["YOUR MACHINE", "WORKER", "STATE", "TASK"];

pub fn own_rows(pool: &PoolView) -> Vec<[String; 4]> {
    pool.own.iter().map(own_row).collect()
}

fn own_row(worker: &WorkerView) -> [String; 4] {
    [
        worker.instance.clone(),
        worker.worker.clone(),
        worker.state.clone(),
        task(worker).unwrap_or_default(),
    ]
}

fn task(worker: &WorkerView) -> Option<String> {
    let task = worker.task.as_ref()?;
    Some(match worker.steps {
        0 => task.clone(),
        steps => format!("{task} (step {} of {steps})", worker.step),
    })
}

pub const HEADER: [&str; 8] = [
    "INSTANCE", "TYPE", "ZONE", "STATE", "AGE", "$/HOUR", "COST", "TASK",
];

pub fn rows(pool: &PoolView) -> Vec<[String; 8]> {
    pool.instances.iter().map(row).collect()
}

pub fn machines(pool: &PoolView) {
    print::table(HEADER, &rows(pool));
}

fn row(instance: &InstanceView) -> [String; 8] {
    let task = instance.worker.as_ref().and_then(task);
    [
        instance.id.clone(),
        instance.place.kind.clone(),
        instance.place.zone.clone(),
        state(instance),
        span(instance.age_s),
        instance.rate.to_string(),
        instance.cost.to_string(),
        task.unwrap_or_default(),
    ]
}

/// What fleet knows, and what its worker says where that is more.
fn state(instance: &InstanceView) -> String {
    let worker = instance.worker.as_ref().map(|worker| worker.state.as_str());
    match (&instance.state, worker) {
        (InstanceState::Booting, None) => "booting".to_owned(),
        (InstanceState::Booting, Some(worker)) => worker.to_owned(),
        (InstanceState::Serving, worker) => worker.unwrap_or("silent").to_owned(),
        (InstanceState::Draining { why, .. }, _) => format!("draining: {}", word(why)),
        (InstanceState::Terminating { why, .. }, _) => format!("ending: {}", word(why)),
        (InstanceState::Gone { ending, .. }, _) => word(ending),
    }
}

/// The name that a value has in JSON, for people.
pub fn word<T: serde::Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text.replace('_', " "),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use spotreel_domain::batch::{Ending, Leaving};

    use super::*;

    #[test]
    fn words_are_those_of_the_json() {
        assert_eq!(word(&Leaving::ScaleIn), "scale in");
        assert_eq!(word(&Ending::ShutDown), "shut down");
    }
}
