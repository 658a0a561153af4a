//! The alarms as operators configure them: `[alarms]` in monitor's configuration. Each can be switched off.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::batch::DrainMode;
use crate::money::Usd;

/// More thresholds than anybody reads notices of.
const MOST_PERCENTS: usize = 10;
/// Looks must be close together, or short conditions would not be seen.
const RAREST_LOOK: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlarmsConfig {
    #[serde(with = "humantime_serde")]
    pub every: Duration,
    /// For how long a condition must be over before its alarm resolves.
    #[serde(with = "humantime_serde")]
    pub resolve_after: Duration,
    pub cost_per_day: CostAlarm,
    pub budget: BudgetAlarm,
    pub interruptions: BurstAlarm,
    pub backlog: BacklogAlarm,
    pub nothing_succeeds: HeldAlarm,
    pub batch_blocked: HeldAlarm,
    pub breaker_open: SwitchedAlarm,
    pub tasks_failed: BurstAlarm,
    pub log_room: RoomAlarm,
    pub events_copy: HeldAlarm,
    pub service_silent: SilenceAlarm,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwitchedAlarm {
    pub on: bool,
}

/// Fires once its condition has held for a while.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeldAlarm {
    pub on: bool,
    #[serde(with = "humantime_serde")]
    pub hold: Duration,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CostAlarm {
    pub on: bool,
    pub above: Usd,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BudgetAlarm {
    pub on: bool,
    /// Of all pools together. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_day: Option<Usd>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_month: Option<Usd>,
    pub percents: Vec<u32>,
    pub stop: BudgetStop,
}

/// What happens once a budget is used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BudgetStop {
    /// It is told, and nothing else.
    #[default]
    None,
    /// Nothing is bought any more, and workers finish their tasks.
    Finish,
    /// Nothing is bought any more, and workers hand their tasks back.
    Now,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BurstAlarm {
    pub on: bool,
    pub at_least: u64,
    #[serde(with = "humantime_serde")]
    pub within: Duration,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BacklogAlarm {
    pub on: bool,
    pub above: u64,
    #[serde(with = "humantime_serde")]
    pub mean_over: Duration,
    #[serde(with = "humantime_serde")]
    pub hold: Duration,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoomAlarm {
    pub on: bool,
    pub percent: u64,
    #[serde(with = "humantime_serde")]
    pub hold: Duration,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SilenceAlarm {
    pub on: bool,
    #[serde(with = "humantime_serde")]
    pub hold: Duration,
    /// A program is watched from its first answer on.
    pub programs: Vec<String>,
}

impl BudgetStop {
    pub fn mode(self) -> Option<DrainMode> {
        match self {
            Self::None => None,
            Self::Finish => Some(DrainMode::Finish),
            Self::Now => Some(DrainMode::Now),
        }
    }
}

impl AlarmsConfig {
    /// Every rule that the values must keep, in the order of the file: whether it is kept, the key, and the rule.
    pub fn rules(&self) -> Vec<(bool, &'static str, &'static str)> {
        const POSITIVE: &str = "must be greater than zero";
        let some = |span: Duration| !span.is_zero();
        let budget = &self.budget;
        let (percents, stops) = (&budget.percents, budget.stop != BudgetStop::None);
        let limits = [budget.per_day, budget.per_month];
        vec![
            (
                some(self.every) && self.every <= RAREST_LOOK,
                "alarms.every",
                "must be greater than zero and at most 1m",
            ),
            (
                some(self.resolve_after),
                "alarms.resolve_after",
                "must be greater than zero: an alarm that resolves at once would fire again and again",
            ),
            (
                self.cost_per_day.above.is_positive(),
                "alarms.cost_per_day.above",
                POSITIVE,
            ),
            (
                limits.iter().flatten().all(|limit| limit.is_positive()),
                "alarms.budget.per_day and alarms.budget.per_month",
                "must be greater than zero; leave the key out for no budget",
            ),
            (
                (1..=MOST_PERCENTS).contains(&percents.len())
                    && percents.is_sorted_by(|a, b| a < b)
                    && percents.iter().all(|percent| (1..=1_000).contains(percent)),
                "alarms.budget.percents",
                "must be 1 to 10 numbers from 1 to 1000, each larger than the one before",
            ),
            (
                !stops || percents.contains(&100),
                "alarms.budget.stop",
                "acts when the alarm of 100 % fires: add 100 to alarms.budget.percents",
            ),
            (
                !stops || (budget.on && limits.iter().any(Option::is_some)),
                "alarms.budget.stop",
                "needs a budget: set alarms.budget.per_day or alarms.budget.per_month, and alarms.budget.on",
            ),
            (
                self.interruptions.at_least > 0,
                "alarms.interruptions.at_least",
                POSITIVE,
            ),
            (
                some(self.interruptions.within),
                "alarms.interruptions.within",
                POSITIVE,
            ),
            (
                some(self.backlog.mean_over) && self.backlog.mean_over <= self.backlog.hold,
                "alarms.backlog.mean_over",
                "must be greater than zero and at most alarms.backlog.hold",
            ),
            (
                some(self.backlog.hold),
                "alarms.backlog.hold",
                "must be greater than zero: a queue that is worked off is no backlog",
            ),
            (
                some(self.nothing_succeeds.hold),
                "alarms.nothing_succeeds.hold",
                POSITIVE,
            ),
            (
                self.tasks_failed.at_least > 0,
                "alarms.tasks_failed.at_least",
                POSITIVE,
            ),
            (
                some(self.tasks_failed.within),
                "alarms.tasks_failed.within",
                POSITIVE,
            ),
            (
                (1..=100).contains(&self.log_room.percent),
                "alarms.log_room.percent",
                "must be 1 to 100",
            ),
            (
                self.service_silent
                    .programs
                    .iter()
                    .all(|program| SilenceAlarm::KNOWN.contains(&program.as_str())),
                "alarms.service_silent.programs",
                "must name programs that answer requests or pull events: intake, trigger, fleet, notifier",
            ),
            (
                self.service_silent.hold >= RAREST_LOOK,
                "alarms.service_silent.hold",
                "must be at least 1m: a restart is no silence",
            ),
        ]
    }
}

impl SilenceAlarm {
    pub const KNOWN: [&'static str; 4] = ["intake", "trigger", "fleet", "notifier"];
}
