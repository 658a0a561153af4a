//! The circuit breaker. Several instances in a row that end before they serve, for whatever reason, pause the launches; each
//! pause is longer. After each pause one instance is tried; after the last pause the batch fails.

use std::time::Duration;

use super::cloud::{ErrorClass, PlaceError};
use super::observation::Observation;
use super::places;
use super::policy::{BreakerRule, Policy};
use crate::batch::{
    Batch, BlockedBy, Breaker, Ending, FailedStart, Instance, InstanceState, Leaving,
};

/// Enough for an error and the line before it; it travels in every event of the batch.
const LONGEST_TAIL: usize = 500;

/// Counts the instances that have started to serve since `before`, and those that have ended without.
pub(super) fn count(before: &Batch, batch: &mut Batch, seen: &Observation, policy: &Policy) {
    let was_booting = |instance: &&Instance| {
        let known = before.instance(&instance.id);
        known.is_none_or(|known| known.state == InstanceState::Booting)
    };
    let left = batch
        .instances
        .iter()
        .filter(was_booting)
        .filter(|instance| instance.state != InstanceState::Booting);
    let (mut served, mut failed) = (false, Vec::new());
    for instance in left {
        if instance.ready_at.is_some() {
            served = true;
        } else if let Some(reason) = failure(instance, seen, policy) {
            let one = FailedStart {
                instance: instance.id.clone(),
                place: instance.place.clone(),
                reason,
                console: None,
            };
            let code = match instance.state {
                InstanceState::Draining {
                    why: Leaving::BootLimit,
                    ..
                } => "BootLimit",
                _ => "NeverServed",
            };
            failed.push((one, instance.lifecycle, code));
        }
    }
    for (one, lifecycle, code) in failed {
        let error = PlaceError {
            place: Some(one.place.clone()),
            class: ErrorClass::Doubtful,
            code: code.to_owned(),
            message: format!("{} ended in {} before it served", one.instance, one.place),
        };
        places::penalise(batch, lifecycle, &error, seen.now, &policy.patience);
        let (rule, breaker) = (&policy.breaker, &mut batch.breaker);
        breaker.failures = breaker.failures.saturating_add(1);
        breaker.last = Some(one);
        // Instances of one launch that end together are one reason to pause.
        let pauses = breaker.until.is_some_and(|until| until > seen.now);
        if breaker.failures >= rule.failures && !pauses {
            breaker.pauses = breaker.pauses.saturating_add(1);
            breaker.until = seen.now.checked_add(pause(rule, breaker.pauses)).ok();
        }
    }
    if served {
        batch.breaker = Breaker::default();
    }
}

/// Why it ended before it served. `None`: fleet did not want it any more.
fn failure(instance: &Instance, seen: &Observation, policy: &Policy) -> Option<String> {
    let ours = match &instance.state {
        InstanceState::Draining { why, .. } | InstanceState::Terminating { why, .. } => match why {
            Leaving::BootLimit => format!(
                "no worker served within its boot limit of {}",
                words(policy.patience.boot)
            ),
            Leaving::Interruption => "EC2 interrupted it".to_owned(),
            Leaving::Itself => "it shut itself down".to_owned(),
            Leaving::Missing => "no listing shows it any more".to_owned(),
            _ => return None,
        },
        InstanceState::Gone { ending, .. } => match ending {
            Ending::Vanished => "no listing shows it any more".to_owned(),
            _ => "it ended".to_owned(),
        },
        InstanceState::Booting | InstanceState::Serving => return None,
    };
    let shown = seen.listing.iter().find(|shown| shown.id == instance.id);
    Some(shown.and_then(|shown| shown.reason.clone()).unwrap_or(ours))
}

fn pause(rule: &BreakerRule, pauses: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(pauses.saturating_sub(1));
    rule.pause.saturating_mul(doubled).min(rule.longest_pause)
}

/// Whether it is in doubt that instances serve at all.
pub(super) fn is_open(batch: &Batch, policy: &Policy) -> bool {
    batch.breaker.failures >= policy.breaker.failures
}

/// Number of units that the breaker lets fleet buy now, or why none.
pub(super) fn admits(
    batch: &Batch,
    seen: &Observation,
    policy: &Policy,
) -> Result<u32, (BlockedBy, String)> {
    if !is_open(batch, policy) {
        return Ok(u32::MAX);
    }
    let pauses = batch.breaker.until.is_some_and(|until| until > seen.now);
    let booting = |i: &Instance| i.state == InstanceState::Booting;
    let is_tried = batch.instances.iter().any(booting)
        || batch.may_appear(seen.now, policy.patience.unknown_launch) > 0;
    match pauses || is_tried {
        true => Err((BlockedBy::NeverServed, sentence(batch, seen))),
        false => Ok(1),
    }
}

/// The reason for operators, while the breaker is open.
pub(super) fn sentence(batch: &Batch, seen: &Observation) -> String {
    let next = match batch.breaker.until.filter(|until| *until > seen.now) {
        Some(until) => format!("the next instance is tried at {until:.0}"),
        None => "one more instance is tried".to_owned(),
    };
    format!("{}; {next}", story(&batch.breaker))
}

/// Why the batch has to fail, if it has to.
pub(super) fn gives_up(batch: &Batch, policy: &Policy) -> Option<String> {
    let breaker = &batch.breaker;
    (is_open(batch, policy) && breaker.pauses > policy.breaker.pauses).then(|| story(breaker))
}

fn story(breaker: &Breaker) -> String {
    let mut story = match breaker.failures {
        1 => "a machine ended before it served".to_owned(),
        n => format!("{n} machines in a row ended before they served"),
    };
    if let Some(last) = &breaker.last {
        let FailedStart {
            instance,
            place,
            reason,
            ..
        } = last;
        story += &format!("; the last, {instance} ({place}): {reason}");
        if let Some(tail) = last.console.as_deref().filter(|tail| !tail.is_empty()) {
            story += &format!("; its console says: {tail}");
        }
    }
    story
}

/// The instance whose console has to be read.
pub(super) fn unread(batch: &Batch, policy: &Policy) -> Option<String> {
    let last = batch.breaker.last.as_ref()?;
    (is_open(batch, policy) && last.console.is_none()).then(|| last.instance.clone())
}

pub(super) fn read(batch: &mut Batch, instance: &str, tail: &str) {
    let last = batch.breaker.last.as_mut();
    if let Some(last) = last.filter(|last| last.instance == instance) {
        last.console = Some(one_line(tail));
    }
}

/// The last line that reports an error, as workers write it; if there is none, the end of the text. On one line.
fn one_line(text: &str) -> String {
    let visible = |text: &str| {
        let visible = text.chars().map(|c| if c.is_control() { ' ' } else { c });
        let text: String = visible.collect();
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let error = |line: &'_ str| line.split_once(" ERROR ").map(|(_, error)| visible(error));
    if let Some(error) = text.lines().rev().find_map(error) {
        return error.chars().take(LONGEST_TAIL).collect();
    }
    let text = visible(text);
    let surplus = text.chars().count().saturating_sub(LONGEST_TAIL);
    text.chars().skip(surplus).collect()
}

fn words(span: Duration) -> String {
    humantime_serde::re::humantime::format_duration(span).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_console_the_last_error_is_told_and_else_its_end() {
        let log = "12:00 INFO begins\n12:01 ERROR the engine\tdoes not start\n12:02 INFO stopped\n";
        assert_eq!(one_line(log), "the engine does not start");
        let script = format!("{}the image is not there\n", "x".repeat(LONGEST_TAIL));
        let end = one_line(&script);
        assert_eq!(end.chars().count(), LONGEST_TAIL);
        assert!(end.ends_with("the image is not there"), "{end}");
    }
}
