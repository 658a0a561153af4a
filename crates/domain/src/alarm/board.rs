//! All alarms together, as they are kept.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::condition::{Condition, Conditions, Level};
use super::config::{AlarmsConfig, BudgetStop};
use super::name::AlarmName;
use super::notice::{AlarmNotice, BudgetOrder, NoticeState};
use super::state::{Alarm, AlarmState};
use crate::time::elapsed;

/// How long an alarm that has resolved is still shown.
pub const KEPT_AFTER_RESOLVED: Duration = Duration::from_secs(7 * 24 * 3_600);
/// Alarms that are kept: far more than pools and programs have. The board is one message of the bucket.
pub const MOST_ALARMS: usize = 200;
/// Notices that wait to be told. Beyond it alarms stay as they are until some were told, so that none is lost.
pub const MOST_UNTOLD: usize = 100;
/// The most that passes between two steps: a step after an outage, or after the clock has jumped ahead, does not count as a
/// time for which a condition was seen.
const LONGEST_STEP: Duration = Duration::from_secs(60);
/// What the alarm about monitor itself is about.
const MONITOR: &str = "monitor";
/// A longer sentence is cut: it travels in every copy of the board.
const LONGEST_SENTENCE: usize = 300;

/// The durable state of all alarms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlarmBoard {
    /// The last look.
    pub at: Timestamp,
    /// The last look that knew what had happened, for alarms about things that happen at a moment.
    #[serde(default)]
    pub happenings_at: BTreeMap<AlarmName, Timestamp>,
    /// Of the last notice.
    pub number: u64,
    /// In order of name and what they are about.
    pub alarms: Vec<Alarm>,
    /// What has to be told, in this order.
    pub untold: Vec<AlarmNotice>,
    /// What has to be ordered, in this order.
    pub orders: Vec<BudgetOrder>,
    /// Programs that have answered once.
    pub programs: BTreeSet<String>,
}

/// What applies to all alarms.
#[derive(Clone, Copy, Debug)]
pub struct AlarmTerms {
    pub resolve_after: Duration,
    pub stop: BudgetStop,
}

impl From<&AlarmsConfig> for AlarmTerms {
    fn from(config: &AlarmsConfig) -> Self {
        Self {
            resolve_after: config.resolve_after,
            stop: config.budget.stop,
        }
    }
}

impl AlarmBoard {
    /// Before the first look ever.
    pub fn new(now: Timestamp) -> Self {
        Self {
            at: now,
            happenings_at: BTreeMap::new(),
            number: 0,
            alarms: Vec::new(),
            untold: Vec::new(),
            orders: Vec::new(),
            programs: BTreeSet::new(),
        }
    }

    /// What has happened since is looked at for the first time.
    pub fn looked_at(&self, name: AlarmName) -> Timestamp {
        self.happenings_at.get(&name).copied().unwrap_or(self.at)
    }

    pub fn firing(&self) -> impl Iterator<Item = &Alarm> {
        self.alarms.iter().filter(|alarm| alarm.is_firing())
    }

    /// The board after a look that found this.
    #[must_use]
    pub fn step(&self, seen: &Conditions, terms: AlarmTerms, now: Timestamp) -> Self {
        let passed = elapsed(self.at, now).min(LONGEST_STEP);
        let mut board = Self {
            at: now,
            ..self.clone()
        };
        if board.untold.len() >= MOST_UNTOLD {
            return board;
        }
        for condition in &seen.found {
            board.judge(condition, terms, passed);
            if condition.is_of_moments() {
                board.happenings_at.insert(condition.name, now);
            }
        }
        // Of these nothing was found: switched off, or their pool or budget is gone.
        let is_gone = |alarm: &&Alarm| {
            (is_of_monitor(alarm) || !seen.unknown.contains(&alarm.name))
                && !seen.found.iter().any(|found| is_of(alarm, found))
        };
        let gone: Vec<_> = board
            .alarms
            .iter()
            .filter(is_gone)
            .map(no_longer_watched)
            .collect();
        for condition in &gone {
            board.judge(condition, terms, passed);
        }
        board.alarms.retain(|alarm| match alarm.state {
            AlarmState::Ok => {
                alarm.fired_at.is_some() && elapsed(alarm.since, now) < KEPT_AFTER_RESOLVED
            }
            _ => true,
        });
        board
    }

    /// The board once another program has seen that monitor does not look any more; `None`: it looks, or that was told. It
    /// resolves when monitor looks again, since no look finds it.
    pub fn without_monitor(&self, silent_after: Duration, now: Timestamp) -> Option<Self> {
        let is_told = |alarm: &Alarm| is_of_monitor(alarm) && alarm.is_firing();
        if elapsed(self.at, now) < silent_after || self.alarms.iter().any(is_told) {
            return None;
        }
        let condition = Condition {
            name: AlarmName::ServiceSilent,
            about: Some(MONITOR.to_owned()),
            level: Level::Holds,
            hold: Duration::ZERO,
            sentence: format!(
                "spotreel-monitor has not looked since {:.0}: no other alarm is decided meanwhile",
                self.at
            ),
            stops: false,
        };
        let looked_at = self.at;
        let mut board = Self {
            at: now,
            ..self.clone()
        };
        let terms = AlarmTerms {
            resolve_after: Duration::ZERO,
            stop: BudgetStop::None,
        };
        board.judge(&condition, terms, Duration::ZERO);
        // Only monitor's look counts as one.
        board.at = looked_at;
        Some(board)
    }

    /// Whether somebody has to be told, or anything else has changed than times and sentences.
    pub fn differs_from(&self, before: &Self) -> bool {
        let states = |board: &Self| -> Vec<_> {
            let of = |alarm: &Alarm| (alarm.name, alarm.about.clone(), alarm.state.as_str());
            board.alarms.iter().map(of).collect()
        };
        self.untold != before.untold
            || self.orders != before.orders
            || self.programs != before.programs
            || states(self) != states(before)
    }

    fn judge(&mut self, condition: &Condition, terms: AlarmTerms, passed: Duration) {
        let found = self
            .alarms
            .binary_search_by(|alarm| order(alarm, condition));
        let index = match found {
            Ok(index) => index,
            Err(_) if condition.level != Level::Holds => return,
            Err(_) => {
                if self.alarms.len() >= MOST_ALARMS && !self.forget_one() {
                    return;
                }
                let new = Alarm {
                    name: condition.name,
                    about: condition.about.clone(),
                    state: AlarmState::Ok,
                    since: self.at,
                    sentence: String::new(),
                    fired_at: None,
                    has_stopped: false,
                };
                self.alarms.push(new);
                self.alarms
                    .sort_by(|a, b| (a.name, &a.about).cmp(&(b.name, &b.about)));
                return self.judge(condition, terms, passed);
            }
        };
        let now = self.at;
        let alarm = &mut self.alarms[index];
        let (before, was_firing) = (alarm.state, alarm.is_firing());
        alarm.state = before.next(condition.level, condition.hold, terms.resolve_after, passed);
        if alarm.state != AlarmState::Ok || was_firing {
            alarm.sentence = cut(&condition.sentence);
        }
        if alarm.state.as_str() != before.as_str() {
            alarm.since = now;
        }
        match (was_firing, alarm.is_firing()) {
            (false, true) => {
                alarm.fired_at = Some(now);
                self.tell(index, NoticeState::Firing);
                if condition.stops {
                    self.stop(index, terms.stop);
                }
            }
            (true, false) => {
                self.tell(index, NoticeState::Resolved);
                self.resume(index);
            }
            _ => {}
        }
    }

    fn tell(&mut self, index: usize, state: NoticeState) {
        let alarm = &self.alarms[index];
        // By the clock, so that a board that was lost or came from a backup gives no number twice; and always higher.
        let clock = u64::try_from(self.at.as_millisecond()).unwrap_or_default();
        self.number = clock.max(self.number.saturating_add(1));
        self.untold.push(AlarmNotice {
            number: self.number,
            name: alarm.name,
            about: alarm.about.clone(),
            state,
            at: self.at,
            fired_at: alarm.fired_at.unwrap_or(self.at),
            sentence: alarm.sentence.clone(),
        });
    }

    fn stop(&mut self, index: usize, stop: BudgetStop) {
        let Some(mode) = stop.mode() else { return };
        let alarm = &mut self.alarms[index];
        alarm.has_stopped = true;
        self.orders.push(BudgetOrder::Stop {
            about: alarm.about.clone().unwrap_or_default(),
            mode,
            reason: alarm.sentence.clone(),
        });
    }

    /// The holds stay while another budget is used up.
    fn resume(&mut self, index: usize) {
        let alarm = &mut self.alarms[index];
        if !std::mem::take(&mut alarm.has_stopped) {
            return;
        }
        let of_this = alarm.about.clone().unwrap_or_default();
        self.orders
            .retain(|order| !matches!(order, BudgetOrder::Stop { about, .. } if *about == of_this));
        if !self.alarms.iter().any(|alarm| alarm.has_stopped) {
            self.orders.push(BudgetOrder::Resume);
        }
    }

    /// Makes room: the alarm that resolved first goes.
    fn forget_one(&mut self) -> bool {
        let resolved = self.alarms.iter().enumerate();
        let resolved = resolved.filter(|(_, alarm)| alarm.state == AlarmState::Ok);
        let oldest = resolved.min_by_key(|(_, alarm)| alarm.since);
        let Some((index, _)) = oldest else {
            return false;
        };
        self.alarms.remove(index);
        true
    }
}

fn order(alarm: &Alarm, condition: &Condition) -> Ordering {
    (alarm.name, &alarm.about).cmp(&(condition.name, &condition.about))
}

fn is_of(alarm: &Alarm, condition: &Condition) -> bool {
    order(alarm, condition).is_eq()
}

fn is_of_monitor(alarm: &Alarm) -> bool {
    alarm.name == AlarmName::ServiceSilent && alarm.about.as_deref() == Some(MONITOR)
}

fn no_longer_watched(alarm: &Alarm) -> Condition {
    let sentence = match is_of_monitor(alarm) {
        true => "spotreel-monitor looks again",
        false => "no longer watched: the alarm is off, or what it watched is gone",
    };
    Condition {
        name: alarm.name,
        about: alarm.about.clone(),
        level: Level::Clear,
        hold: Duration::ZERO,
        sentence: sentence.to_owned(),
        stops: false,
    }
}

/// On one line, without what a terminal would obey: engines and clients have written a part of it.
fn cut(sentence: &str) -> String {
    let visible = |c: char| if c.is_control() { ' ' } else { c };
    sentence
        .chars()
        .map(visible)
        .take(LONGEST_SENTENCE)
        .collect()
}
