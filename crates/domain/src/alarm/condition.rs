//! The conditions of the alarms, by the facts.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use super::burst::{self, Happening};
use super::config::{AlarmsConfig, BurstAlarm};
use super::facts::{AlarmFacts, PoolHealth};
use super::name::AlarmName;
use crate::batch::PoolName;
use crate::money::Usd;

/// A number that has fired an alarm must fall below this part of its threshold, in percent, before the condition is over.
const CLEAR_PERCENT: u32 = 90;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Holds,
    /// Not enough to fire, and too much to resolve.
    Between,
    Clear,
}

/// What was found for one alarm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    pub name: AlarmName,
    pub about: Option<String>,
    pub level: Level,
    /// For how long it must hold before the alarm fires.
    pub hold: Duration,
    pub sentence: String,
    /// When this alarm fires, it orders to stop.
    pub stops: bool,
}

/// All that was found, and the alarms of which nothing is known now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    pub found: Vec<Condition>,
    pub unknown: BTreeSet<AlarmName>,
}

/// Compares the facts with the configuration. What happened before `looked_at` of an alarm has been looked at before.
pub fn conditions(
    config: &AlarmsConfig,
    facts: &AlarmFacts,
    looked_at: impl Fn(AlarmName) -> Timestamp,
    now: Timestamp,
) -> Conditions {
    let mut conditions = Conditions::default();
    cost(config, facts, &mut conditions);
    budget(config, facts, &mut conditions);
    let bursts = [
        (
            AlarmName::Interruptions,
            &config.interruptions,
            &facts.interruptions,
        ),
        (
            AlarmName::TasksFailed,
            &config.tasks_failed,
            &facts.failures,
        ),
    ];
    for (name, burst, happenings) in bursts {
        match happenings {
            _ if !burst.on => {}
            None => conditions.is_unknown(name),
            Some(happenings) => {
                conditions
                    .found
                    .push(happened(name, burst, happenings, looked_at(name), now));
            }
        }
    }
    backlog(config, facts, &mut conditions);
    match &facts.pools {
        None => {
            let of_pools = [
                AlarmName::NothingSucceeds,
                AlarmName::BatchBlocked,
                AlarmName::BreakerOpen,
            ];
            conditions.unknown.extend(of_pools);
        }
        Some(pools) => {
            for (pool, health) in pools {
                of_pool(config, pool, health, &mut conditions);
            }
        }
    }
    room(config, facts, &mut conditions);
    copy(config, facts, &mut conditions);
    silence(config, facts, &mut conditions);
    conditions
}

impl Condition {
    /// Whether it counts things that happen at a moment, each of which must be looked at once.
    pub fn is_of_moments(&self) -> bool {
        matches!(self.name, AlarmName::Interruptions | AlarmName::TasksFailed)
    }
}

impl Conditions {
    fn is_unknown(&mut self, name: AlarmName) {
        self.unknown.insert(name);
    }

    fn add(
        &mut self,
        name: AlarmName,
        about: Option<String>,
        level: Level,
        hold: Duration,
        sentence: String,
    ) {
        self.found.push(Condition {
            name,
            about,
            level,
            hold,
            sentence,
            stops: false,
        });
    }
}

fn level(holds: bool, is_clear: bool) -> Level {
    match (holds, is_clear) {
        (true, _) => Level::Holds,
        (false, false) => Level::Between,
        (false, true) => Level::Clear,
    }
}

fn simple(holds: bool) -> Level {
    level(holds, true)
}

fn cost(config: &AlarmsConfig, facts: &AlarmFacts, to: &mut Conditions) {
    let (name, alarm) = (AlarmName::CostPerDay, &config.cost_per_day);
    match facts.today {
        _ if !alarm.on => {}
        None => to.is_unknown(name),
        Some(today) => {
            let is_clear = today <= alarm.above.percent(CLEAR_PERCENT);
            let level = level(today > alarm.above, is_clear);
            let sentence = format!(
                "{today} spent today (UTC); the alarm fires above {}",
                alarm.above
            );
            to.add(name, None, level, Duration::ZERO, sentence);
        }
    }
}

fn budget(config: &AlarmsConfig, facts: &AlarmFacts, to: &mut Conditions) {
    let (name, alarm) = (AlarmName::Budget, &config.budget);
    let budgets = [
        ("per_day", alarm.per_day, facts.today, "today"),
        ("per_month", alarm.per_month, facts.this_month, "this month"),
    ];
    for (key, limit, spent, when) in budgets {
        let Some(limit) = limit.filter(|_| alarm.on) else {
            continue;
        };
        let Some(spent) = spent else {
            to.is_unknown(name);
            continue;
        };
        for percent in &alarm.percents {
            let threshold = limit.percent(*percent);
            let is_clear = spent < threshold.percent(CLEAR_PERCENT);
            to.found.push(Condition {
                name,
                about: Some(format!("{key} {percent} %")),
                level: level(spent >= threshold, is_clear),
                hold: Duration::ZERO,
                sentence: format!(
                    "{spent} spent {when} (UTC), {} % of the budget of {limit}",
                    share(spent, limit)
                ),
                stops: *percent == 100,
            });
        }
    }
}

/// In percent, rounded down.
fn share(part: Usd, whole: Usd) -> i64 {
    let hundredfold = i128::from(part.micros()) * 100;
    let share = hundredfold.checked_div(i128::from(whole.micros()));
    i64::try_from(share.unwrap_or_default()).unwrap_or(i64::MAX)
}

fn happened(
    name: AlarmName,
    alarm: &BurstAlarm,
    happenings: &[Happening],
    looked_at: Timestamp,
    now: Timestamp,
) -> Condition {
    let largest = burst::largest(happenings, alarm.within, looked_at, now);
    let (count, last) = largest.map_or((0, None), |(count, last)| (count, Some(last)));
    let within = words(alarm.within);
    let what = match name {
        AlarmName::Interruptions => "EC2 interrupted instances",
        _ => "tasks failed for good",
    };
    let sentence = match last {
        None => format!("{what}: none within {within}"),
        Some(last) => format!(
            "{what}: {count} within {within}; the last at {:.0}: {}",
            last.at, last.what
        ),
    };
    Condition {
        name,
        about: None,
        level: simple(count >= alarm.at_least),
        hold: Duration::ZERO,
        sentence,
        stops: false,
    }
}

fn backlog(config: &AlarmsConfig, facts: &AlarmFacts, to: &mut Conditions) {
    let (name, alarm) = (AlarmName::Backlog, &config.backlog);
    match facts.queue {
        _ if !alarm.on => {}
        None => to.is_unknown(name),
        Some(mean) => {
            let clear = alarm.above.saturating_mul(u64::from(CLEAR_PERCENT)) / 100;
            let level = level(mean > alarm.above, mean <= clear);
            let sentence = format!(
                "{mean} unfinished tasks on average over {}; the alarm fires above {} for {}",
                words(alarm.mean_over),
                alarm.above,
                words(alarm.hold)
            );
            to.add(name, None, level, alarm.hold, sentence);
        }
    }
}

fn of_pool(config: &AlarmsConfig, pool: &PoolName, health: &PoolHealth, to: &mut Conditions) {
    let about = || Some(pool.to_string());
    let alarm = &config.nothing_succeeds;
    if alarm.on {
        let sentence = match &health.fruitless {
            Some(fruitless) => format!("pool {pool}: {fruitless}"),
            None => format!("pool {pool}: tasks succeed, or none waits"),
        };
        let (name, level) = (
            AlarmName::NothingSucceeds,
            simple(health.fruitless.is_some()),
        );
        to.add(name, about(), level, alarm.hold, sentence);
    }
    let alarm = &config.batch_blocked;
    if alarm.on {
        let sentence = match &health.blocked {
            Some(blocked) => format!("pool {pool}: {blocked}"),
            None => format!("pool {pool}: nothing blocks launches"),
        };
        let level = simple(health.blocked.is_some());
        to.add(
            AlarmName::BatchBlocked,
            about(),
            level,
            alarm.hold,
            sentence,
        );
    }
    if config.breaker_open.on {
        let sentence = match &health.breaker {
            Some(breaker) => format!("pool {pool}: {breaker}"),
            None => format!("pool {pool}: instances serve"),
        };
        let level = simple(health.breaker.is_some());
        to.add(
            AlarmName::BreakerOpen,
            about(),
            level,
            Duration::ZERO,
            sentence,
        );
    }
}

fn room(config: &AlarmsConfig, facts: &AlarmFacts, to: &mut Conditions) {
    let (name, alarm) = (AlarmName::LogRoom, &config.log_room);
    match facts.log_used_percent {
        _ if !alarm.on => {}
        None => to.is_unknown(name),
        Some(used) => {
            let clear = alarm.percent * u64::from(CLEAR_PERCENT) / 100;
            let level = level(used >= alarm.percent, used < clear.max(1));
            let sentence = format!(
                "{used} % of the task log is used; intake refuses tasks at 80 %, workers start none at 95 %"
            );
            to.add(name, None, level, alarm.hold, sentence);
        }
    }
}

fn copy(config: &AlarmsConfig, facts: &AlarmFacts, to: &mut Conditions) {
    let (name, alarm) = (AlarmName::EventsCopy, &config.events_copy);
    match &facts.events_copy {
        _ if !alarm.on => {}
        None => to.is_unknown(name),
        Some(state) => {
            let sentence = match state {
                Ok(()) => "the clients' copy of EVENTS is up to date".to_owned(),
                Err(reason) => format!("the clients' copy of EVENTS: {reason}"),
            };
            to.add(name, None, simple(state.is_err()), alarm.hold, sentence);
        }
    }
}

fn silence(config: &AlarmsConfig, facts: &AlarmFacts, to: &mut Conditions) {
    let (name, alarm) = (AlarmName::ServiceSilent, &config.service_silent);
    match &facts.programs {
        _ if !alarm.on => {}
        None => to.is_unknown(name),
        Some(programs) => {
            for (program, answers) in programs {
                let sentence = match answers {
                    true => format!("spotreel-{program} answers"),
                    false => format!("spotreel-{program} does not answer"),
                };
                let (about, level) = (Some(program.clone()), simple(!answers));
                to.add(name, about, level, alarm.hold, sentence);
            }
        }
    }
}

fn words(span: Duration) -> String {
    humantime_serde::re::humantime::format_duration(span).to_string()
}
