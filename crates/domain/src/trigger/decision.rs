//! A decision with its reasons, as `spotreel why` and HTTP show it.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::schedule::Slot;
use super::size::Size;
use crate::money::Usd;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    pub at: Timestamp,
    pub verdict: Verdict,
    /// Every rule, in the order in which they go before each other.
    pub findings: Vec<Finding>,
    pub blockers: Vec<Blocker>,
    pub mode: ModeFinding,
    pub forecast: Forecast,
    /// Without any event, look again then.
    pub next_look: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Verdict {
    Launch(Fire),
    /// No rule fires, or a batch is active.
    Wait {
        sentence: String,
    },
    /// A rule fires and something stands against it.
    Blocked {
        sentence: String,
    },
}

/// A batch that is wanted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fire {
    pub rule: RuleName,
    pub units: u32,
    /// The slot of the schedule that this batch uses up, whichever rule decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<Slot>,
    pub why: String,
    pub size: Size,
}

/// The order here is the order in which rules go before each other when several fire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleName {
    RunNow,
    Hybrid,
    Length,
    Age,
    Price,
    Schedule,
    MaxWait,
}

impl RuleName {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RunNow => "run_now",
            Self::Hybrid => "hybrid",
            Self::Length => "length",
            Self::Age => "age",
            Self::Price => "price",
            Self::Schedule => "schedule",
            Self::MaxWait => "max_wait",
        }
    }
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub rule: RuleName,
    pub outcome: RuleOutcome,
    /// Empty when the rule fires, is off, or its distance is not known.
    #[serde(default, skip_serializing_if = "Distance::is_none")]
    pub distance: Distance,
    pub sentence: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleOutcome {
    Fires,
    /// Tasks, or a lower price, are missing.
    Short,
    /// Only time is missing, or something that must be known first.
    NotYet,
    Off,
}

/// What a rule needs to fire: all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Distance {
    /// Number of missing tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks: Option<u64>,
    /// In JSON whole seconds, rounded up.
    #[serde(
        default,
        rename = "wait_s",
        with = "whole_seconds",
        skip_serializing_if = "Option::is_none"
    )]
    pub wait: Option<Duration>,
    /// A price lower by more than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dollars: Option<Usd>,
}

impl Distance {
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Time alone closes it.
    pub fn only_wait(&self) -> Option<Duration> {
        self.wait
            .filter(|_| self.tasks.is_none() && self.dollars.is_none())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocker {
    pub kind: BlockerKind,
    pub sentence: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// When it goes by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockerKind {
    Hold,
    CountsStale,
    PricesUnknown,
    NoPoolUnderCap,
    Quota,
    Auth,
    /// The request itself is refused by the cloud: a launch template, a subnet, an image that is not there.
    Configuration,
    Budget,
    /// The batches before got no capacity.
    BackOff,
    /// The active batch's machines end before they serve.
    NeverServed,
    /// The task log is nearly full, so workers start nothing.
    LogFull,
    /// No type of the pool has the memory for what waits.
    NoTypeFits,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    #[default]
    Batch,
    Resident,
}

/// Whether machines come and go with batches, or stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModeFinding {
    pub mode: Mode,
    /// The caller writes the new mode down, with the decision's time.
    pub changed: bool,
    /// Units that stay even without tasks; 0 in batch mode.
    pub resident_units: u32,
    pub sentence: String,
}

/// Which rule will run what is queued, and when at the latest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forecast {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Timestamp>,
    pub sentence: String,
}

mod whole_seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::ref_option, reason = "serde calls it so")]
    pub fn serialize<S: Serializer>(wait: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        let up = |wait: Duration| wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        wait.map(up).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        let seconds = Option::<u64>::deserialize(from)?;
        Ok(seconds.map(Duration::from_secs))
    }
}

impl Decision {
    pub fn finding(&self, rule: RuleName) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.rule == rule)
    }
}
