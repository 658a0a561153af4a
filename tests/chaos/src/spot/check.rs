//! The fleet's invariants, held against the batch log, the cloud's own books and the process table.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use jiff::Timestamp;
use spotreel_bus::batches::RecordedBatch;
use spotreel_domain::batch::{InstanceState, Leaving, Status};
use spotreel_domain::fleet::cloud::{LaunchRequest, Lifecycle, client_token};
use spotreel_domain::task::AttemptOutcome;
use spotreel_tests::Verdict;

use super::books::Books;
use super::pools::KINDS;
use super::records::Story;
use super::{Spot, budgets};
use crate::settings::ENV;

pub fn all(spot: &Spot, books: &Books<'_>) -> Vec<Verdict> {
    let requests = requests(books.stories);
    vec![
        nothing_runs(spot, books),
        one_fleet_a_launch(books),
        intents_first(books),
        no_busy_one_ended(books),
        never_too_many(books),
        never_too_dear(&requests),
        strangers_stay(spot, books),
        settled_is_settled(books),
        every_batch_ended(books.stories),
        budgets::bought(books),
        budgets::hourly(books),
        budgets::sent_home(books.stories),
    ]
}

/// The frozen requests, as far as the log still has them.
fn requests(stories: &[Story]) -> BTreeMap<(String, u32), LaunchRequest> {
    let mut found = BTreeMap::new();
    for story in stories {
        for launch in story.events.iter().flat_map(|event| &event.batch.launches) {
            if let Ok(request) = serde_json::from_str(&launch.request) {
                found.insert((story.id.to_string(), launch.seq), request);
            }
        }
    }
    found
}

/// The tokens of all launches that a batch has numbered, also of those that its record has forgotten.
fn tokens(stories: &[Story]) -> BTreeMap<String, (&Story, u32)> {
    let mut found = BTreeMap::new();
    for story in stories {
        let launches = story.batch().launches.iter();
        let last = launches.map(|launch| launch.seq).max().unwrap_or_default();
        for seq in 1..=last {
            for lifecycle in [Lifecycle::Spot, Lifecycle::OnDemand] {
                let token =
                    client_token(ENV, &story.id, story.batch().requested_at, seq, lifecycle);
                found.insert(token, (story, seq));
            }
        }
    }
    found
}

fn nothing_runs(spot: &Spot, books: &Books<'_>) -> Verdict {
    let mut verdict = Verdict::new(
        "I1 I2",
        "at rest the cloud, the records and the process table agree: nothing runs",
    );
    for machine in books.ours() {
        verdict.check(!machine.is_alive(), || {
            format!("{} of {} is {}", machine.id, machine.batch(), machine.state)
        });
    }
    let recorded: BTreeSet<&str> = books
        .stories
        .iter()
        .flat_map(|story| &story.batch().instances)
        .map(|instance| instance.id.as_str())
        .collect();
    for story in books.stories {
        for instance in &story.batch().instances {
            verdict.check(instance.is_gone(), || {
                format!("{} of {} is {:?}", instance.id, story.id, instance.state)
            });
        }
    }
    // What the sweep ended stands in no record; it was ended all the same. That it is rare is a good sign.
    let unrecorded = books
        .ours()
        .filter(|machine| !recorded.contains(machine.id.as_str()));
    let known: BTreeSet<_> = books.stories.iter().map(|s| s.id.to_string()).collect();
    for machine in unrecorded {
        let planted = spot.orphan.contains(&machine.id);
        verdict.check(planted || known.contains(machine.batch()), || {
            format!(
                "{} is of {:?}, which no log knows",
                machine.id,
                machine.batch()
            )
        });
    }
    for (pid, command) in processes_of(&spot.cloud.dir(), &spot.foreign) {
        verdict.check(false, || format!("process {pid} still runs: {command}"));
    }
    verdict
}

/// Processes that belong to a machine of this cloud, by the name of its directory in their environment.
fn processes_of(dir: &Path, but: &[String]) -> Vec<(u32, String)> {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let mark = format!("SPOTREEL_MACHINE_DIR={}", dir.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        let mut variables = environment.split(|byte| *byte == 0);
        let of_a_machine = variables.any(|variable| {
            let text = String::from_utf8_lossy(variable);
            text.starts_with(&mark) && !but.iter().any(|id| text.ends_with(id.as_str()))
        });
        if of_a_machine {
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            found.push((pid, command));
        }
    }
    found
}

fn one_fleet_a_launch(books: &Books<'_>) -> Verdict {
    let mut verdict = Verdict::new("I3", "a launch never yields two fleets");
    let mut fleets: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    for machine in books.ours() {
        let launch = (machine.batch(), machine.launch());
        fleets.entry(launch).or_default().insert(&machine.fleet_id);
    }
    for ((batch, launch), fleets) in fleets {
        verdict.check(fleets.len() == 1, || {
            format!("launch {launch} of {batch} is {fleets:?}")
        });
    }
    verdict
}

fn intents_first(books: &Books<'_>) -> Verdict {
    let tokens = tokens(books.stories);
    let mut verdict = Verdict::new("I4", "no launch is called whose intent is not durable");
    let creations = books
        .calls
        .iter()
        .filter(|call| call.action == "CreateFleet");
    for call in creations {
        let Some(token) = &call.client_token else {
            verdict.check(false, || format!("a launch without a token: {call:?}"));
            continue;
        };
        if token.starts_with("stranger") {
            continue;
        }
        let Some((story, seq)) = tokens.get(token) else {
            verdict.check(false, || format!("no record knows the token {token}"));
            continue;
        };
        let called = Timestamp::from_microsecond(call.arrived_us).unwrap_or_default();
        // Records keep the newest launches: what stands before a launch in one that has a later launch was there once.
        let knows = |event: &&RecordedBatch| event.batch.launches.iter().any(|one| one.seq >= *seq);
        let later = story
            .events
            .iter()
            .find(|event| event.stored_at > called && !knows(event));
        let batch = &story.id;
        verdict.check(later.is_none(), || {
            format!("launch {seq} of {batch} was called at {called}, and stood in no record yet")
        });
    }
    verdict
}

/// An attempt that was cut off needs somebody who may: the market, an accident of the run, or a reason that lets fleet.
fn no_busy_one_ended(books: &Books<'_>) -> Verdict {
    let mut verdict = Verdict::new(
        "I5",
        "fleet cuts off no render, but on a machine that goes anyway",
    );
    let mut whys: BTreeMap<&str, Vec<Leaving>> = BTreeMap::new();
    for instance in books
        .stories
        .iter()
        .flat_map(|story| &story.events)
        .flat_map(|event| &event.batch.instances)
    {
        if let InstanceState::Draining { why, .. } | InstanceState::Terminating { why, .. } =
            instance.state
        {
            whys.entry(&instance.id).or_default().push(why);
        }
    }
    for story in books.evidence.tasks.values() {
        let Some(last) = story.last() else { continue };
        for attempt in &last.task.attempts {
            // With an error it was handed back for that: storage that was away, a worker that could not begin.
            if attempt.outcome != AttemptOutcome::Interrupted || attempt.error.is_some() {
                continue;
            }
            let id = attempt.instance.as_str();
            let by_market = books.seen.machines.get(id).is_some_and(|machine| {
                machine.notice_at.is_some()
                    || machine
                        .reason
                        .as_deref()
                        .is_some_and(|r| r.starts_with("Server."))
            });
            let by_the_run = books.book.accidents.iter().any(|one| one.instance == id);
            let by_fleet = whys
                .get(id)
                .is_some_and(|whys| !whys.is_empty() && whys.iter().all(|why| !why.may_cut_off()));
            verdict.check(by_market || by_the_run || !by_fleet, || {
                format!(
                    "{} on {id} was interrupted, which fleet drained for {:?}",
                    last.task.id,
                    whys.get(id).map(|whys| whys.first())
                )
            });
        }
    }
    verdict
}

fn never_too_many(books: &Books<'_>) -> Verdict {
    let mut verdict = Verdict::new(
        "I6",
        "never more machines at once than the pool may have, but for those that EC2 takes",
    );
    let (most, who) = &books.seen.most;
    verdict.checked = books.seen.samples.saturating_sub(1);
    verdict.check(*most <= books.instances as usize, || {
        format!("{most} ran at once: {who:?}")
    });
    verdict
}

fn never_too_dear(requests: &BTreeMap<(String, u32), LaunchRequest>) -> Verdict {
    let mut verdict = Verdict::new("I7", "no place is offered more than its type's cap");
    for ((batch, seq), request) in requests {
        for offer in &request.overrides {
            let cap = KINDS.iter().find(|(name, _)| *name == offer.place.kind);
            let fits = cap.zip(offer.max_price).is_some_and(|((_, cents), max)| {
                request.lifecycle == Lifecycle::Spot && max.micros() <= cents * 10_000
            });
            verdict.check(fits, || format!("launch {seq} of {batch} offers {offer:?}"));
        }
    }
    verdict
}

fn strangers_stay(spot: &Spot, books: &Books<'_>) -> Verdict {
    let mut verdict = Verdict::new("I8", "nothing is ended that does not carry our env");
    for id in &spot.foreign {
        let state = books.seen.machines.get(id).map(|m| m.state.as_str());
        verdict.check(state == Some("running"), || {
            format!("{id}, which is not of {ENV}, is {state:?}")
        });
    }
    for id in &spot.orphan {
        let state = books.seen.machines.get(id).map(|m| m.state.as_str());
        verdict.check(state == Some("terminated"), || {
            format!("{id}, which is of {ENV} and of no batch, is {state:?}")
        });
    }
    verdict
}

fn settled_is_settled(books: &Books<'_>) -> Verdict {
    let mut verdict = Verdict::new("I9", "what has settled has no machine, from that moment on");
    for story in books.stories {
        let Some(end) = story.events.iter().find(|e| e.batch.status.is_final()) else {
            continue;
        };
        let id = story.id.to_string();
        for machine in books.ours().filter(|machine| machine.batch() == id) {
            let gone = machine.ended_at.is_some_and(|at| at <= end.stored_at);
            verdict.check(gone, || {
                format!(
                    "{id} was {} at {}, and {} ended at {:?}",
                    end.batch.status.name(),
                    end.stored_at,
                    machine.id,
                    machine.ended_at
                )
            });
        }
    }
    verdict
}

fn every_batch_ended(stories: &[Story]) -> Verdict {
    let mut verdict = Verdict::new("I11", "every batch has ended, and its log says why");
    for story in stories {
        let batch = story.batch();
        let said = match &batch.status {
            Status::Settled => !batch.why.is_empty(),
            Status::Failed { reason } => !reason.is_empty() && !batch.why.is_empty(),
            _ => false,
        };
        verdict.check(said && batch.ended_at.is_some(), || {
            format!("{} is {:?}: {}", batch.id, batch.status, batch.why)
        });
    }
    verdict
}
