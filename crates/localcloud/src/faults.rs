//! Faults on order: which requests fail, how, and how often it has happened.
//!
//! Operations are those of S3 and the actions of EC2. Some faults of EC2 do not fail the request but bend what it does:
//! a pool that refuses, a launch that stops halfway, a listing that is behind, an instance that takes its time to end.
//!
//! Same seed, same rules, same order of requests: same faults. The draws come from a small generator of our own, so
//! that a failing test can be run again.

use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};

/// What happens to a request that a rule picks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// `500 InternalError`.
    #[serde(rename = "500")]
    InternalError,
    /// `503 SlowDown` of S3, `503 RequestLimitExceeded` of EC2.
    #[serde(rename = "503_slow_down", alias = "throttle")]
    SlowDown,
    /// The call is refused with `code` (EC2 only).
    #[serde(rename = "error")]
    Error,
    /// The TCP connection is cut (RST), no answer.
    #[serde(rename = "reset")]
    Reset,
    /// The request waits `delay_ms`, then goes on.
    #[serde(rename = "delay")]
    Delay,
    /// CreateFleet: the pools of `instance_type` and `zone` answer `code` in the `errorSet`.
    #[serde(rename = "pool_error")]
    PoolError,
    /// CreateFleet: at most `count` instances, and `code` for the rest.
    #[serde(rename = "partial")]
    Partial,
    /// DescribeInstances: instances younger than `for_ms` are not listed yet.
    #[serde(rename = "hide")]
    Hide,
    /// DescribeInstances: tells states as they were `for_ms` ago.
    #[serde(rename = "stale")]
    Stale,
    /// TerminateInstances: answers as ever, but the instances go on for `for_ms`.
    #[serde(rename = "terminate_slowly")]
    TerminateSlowly,
}

impl Action {
    /// Does not fail the request but bends what it does.
    fn bends(self) -> bool {
        use Action::{Delay, Hide, Partial, PoolError, Stale, TerminateSlowly};
        matches!(
            self,
            Delay | PoolError | Partial | Hide | Stale | TerminateSlowly
        )
    }
}

/// One rule. A request is held against all of them in order: delays add up, the first failure wins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The operation of S3 (`PutObject`) or EC2 (`CreateFleet`), or `*`.
    pub op: String,
    pub action: Action,
    /// 0 to 1; left out: always.
    #[serde(default = "always")]
    pub probability: f64,
    /// How often it fires at most; left out: without end.
    #[serde(default)]
    pub times: Option<u32>,
    /// Only for keys that begin so; a call of EC2 has its client token for a key.
    #[serde(default)]
    pub key_prefix: Option<String>,
    /// How long to wait before the action.
    #[serde(default)]
    pub delay_ms: u64,
    /// Do the work first, then fail: the answer gets lost, its effect does not.
    #[serde(default)]
    pub after: bool,
    /// For `error`, `pool_error` and `partial`: the code, and what it says.
    #[serde(default)]
    pub code: Option<String>,
    #[serde(default)]
    pub message: Option<String>,
    /// For `pool_error`: which pools; left out: all.
    #[serde(default)]
    pub instance_type: Option<String>,
    #[serde(default)]
    pub zone: Option<String>,
    /// For `partial`.
    #[serde(default)]
    pub count: Option<u32>,
    /// For `hide`, `stale` and `terminate_slowly`, in real time.
    #[serde(default)]
    pub for_ms: u64,
}

fn always() -> f64 {
    1.0
}

impl Rule {
    /// A rule that always fires, to be narrowed by the caller.
    pub fn new(op: &str, action: Action) -> Self {
        Self {
            op: op.to_owned(),
            action,
            probability: 1.0,
            times: None,
            key_prefix: None,
            delay_ms: 0,
            after: false,
            code: None,
            message: None,
            instance_type: None,
            zone: None,
            count: None,
            for_ms: 0,
        }
    }

    pub(crate) fn means_pool(&self, kind: &str, zone: &str) -> bool {
        let is = |wanted: &Option<String>, found| wanted.as_deref().is_none_or(|w| w == found);
        is(&self.instance_type, kind) && is(&self.zone, zone)
    }
}

/// What `POST /faults` takes; it replaces what was set before.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultPlan {
    #[serde(default)]
    pub seed: u64,
    #[serde(default)]
    pub rules: Vec<Rule>,
}

/// One rule with what it did so far; `GET /faults` lists these.
#[derive(Debug, Clone, Serialize)]
pub struct FaultReport {
    #[serde(flatten)]
    pub rule: Rule,
    /// Requests that matched operation and key.
    pub matched: u64,
    /// Requests that it hit.
    pub fired: u32,
}

/// The verdict over one request.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct FaultVerdict {
    pub delay: Duration,
    pub failure: Option<Failure>,
    /// What bends the request instead of failing it.
    pub bends: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub action: Action,
    pub after: bool,
    pub code: Option<String>,
    pub message: Option<String>,
}

/// The rules in force.
#[derive(Debug, Default)]
pub struct Faults(Mutex<FaultsState>);

#[derive(Debug, Default)]
struct FaultsState {
    draws: u64,
    rules: Vec<FaultReport>,
}

impl Faults {
    /// Replaces all rules; the counts begin anew.
    pub fn set(&self, plan: FaultPlan) {
        let rules = plan.rules.into_iter();
        let mut state = self.lock();
        state.draws = plan.seed;
        state.rules = rules
            .map(|rule| FaultReport {
                rule,
                matched: 0,
                fired: 0,
            })
            .collect();
    }

    pub fn clear(&self) {
        self.set(FaultPlan::default());
    }

    pub fn report(&self) -> Vec<FaultReport> {
        self.lock().rules.clone()
    }

    pub(crate) fn judge(&self, op: &str, key: &str) -> FaultVerdict {
        let mut state = self.lock();
        let FaultsState { draws, rules } = &mut *state;
        let mut verdict = FaultVerdict::default();
        for report in rules {
            let rule = &report.rule;
            let prefix = rule.key_prefix.as_deref().unwrap_or("");
            if (rule.op != "*" && rule.op != op) || !key.starts_with(prefix) {
                continue;
            }
            report.matched += 1;
            let spent = rule.times.is_some_and(|times| report.fired >= times);
            if spent || draw(draws) >= rule.probability {
                continue;
            }
            report.fired += 1;
            verdict.delay += Duration::from_millis(rule.delay_ms);
            if rule.action.bends() {
                verdict.bends.push(rule.clone());
                continue;
            }
            verdict.failure = Some(Failure {
                action: rule.action,
                after: rule.after,
                code: rule.code.clone(),
                message: rule.message.clone(),
            });
            break;
        }
        verdict
    }

    fn lock(&self) -> MutexGuard<'_, FaultsState> {
        self.0.lock()
    }
}

/// SplitMix64: the next number in 0..1.
fn draw(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    let high = u32::try_from(z >> 32).unwrap_or(u32::MAX);
    f64::from(high) / 4_294_967_296.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fired(seed: u64) -> Vec<bool> {
        let faults = Faults::default();
        let rule = Rule {
            probability: 0.3,
            ..Rule::new("*", Action::SlowDown)
        };
        faults.set(FaultPlan {
            seed,
            rules: vec![rule],
        });
        let hit = |_| faults.judge("PutObject", "k").failure.is_some();
        (0..1000).map(hit).collect()
    }

    #[test]
    fn the_seed_decides() {
        assert_eq!(fired(7), fired(7));
        assert_ne!(fired(7), fired(8));
        let share = fired(7).iter().filter(|hit| **hit).count();
        assert!((250..350).contains(&share), "{share} of 1000 at 0.3");
    }

    #[test]
    fn times_operation_and_prefix_narrow_a_rule() {
        let faults = Faults::default();
        let rule = Rule {
            times: Some(1),
            key_prefix: Some("a/".to_owned()),
            ..Rule::new("PutObject", Action::Reset)
        };
        faults.set(FaultPlan {
            seed: 0,
            rules: vec![rule],
        });
        assert_eq!(faults.judge("GetObject", "a/1").failure, None);
        assert_eq!(faults.judge("PutObject", "b/1").failure, None);
        assert!(faults.judge("PutObject", "a/1").failure.is_some());
        assert_eq!(faults.judge("PutObject", "a/2").failure, None);
        let report = &faults.report()[0];
        assert_eq!((report.matched, report.fired), (2, 1));
    }
}
