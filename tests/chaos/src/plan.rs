//! What will be done when: everything is drawn from the seed before anything is started.

mod accidents;
pub mod op;
mod print;

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use spotreel_domain::{Model, Priority};

use self::op::{How, Moment, Op, Timed};

/// Time that a run has for each task: machines come, are taken, and come again.
const PER_TASK: Duration = Duration::from_secs(1);
const SHORTEST: Duration = Duration::from_secs(20);
/// Submissions end early, so that the last ones meet faults too.
const SUBMITTING: f64 = 0.7;
/// One task in so many kills every worker that takes it, and must end all the same: 12 leases each. They come with the
/// first wave, so that they do not keep the last batch waiting.
const TASKS_PER_KILLER: usize = 50;
const KILLERS_APART: usize = 4;
const TASKS_PER_NONSENSE: usize = 25;

pub struct ChaosPlan {
    pub seed: u64,
    pub drafts: Vec<Draft>,
    pub schedule: Vec<Timed>,
    pub length: Duration,
}

/// A task to be: what the client will say, and what is expected of it.
#[derive(Clone, Debug)]
pub struct Draft {
    pub number: usize,
    pub name: Name,
    pub model: Model,
    pub priority: Priority,
    pub size: &'static str,
    pub steps: u32,
    pub seed: u64,
    pub prompt: String,
    pub fate: DraftFate,
}

/// How a client names its task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    Id(String),
    Key(String),
    /// The server names it. Sent once: an answer that is lost is lost.
    None,
}

/// What its directives do to a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DraftFate {
    Plain,
    /// Something goes wrong in the first attempts.
    Passing,
    /// Every attempt fails.
    Failing,
    /// Every attempt kills its worker.
    Killer,
}

/// Tasks come in waves, so that there is more than one batch.
const TASKS_PER_WAVE: usize = 70;
/// The part of a wave's time in which its tasks come.
const WAVE: f64 = 0.25;
impl ChaosPlan {
    pub fn draw(seed: u64, tasks: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let length =
            SHORTEST.max(PER_TASK.saturating_mul(u32::try_from(tasks).unwrap_or(u32::MAX)));
        let drafts: Vec<Draft> = (0..tasks)
            .map(|number| draft(&mut rng, seed, number, tasks))
            .collect();
        let mut schedule = submissions(&mut rng, &drafts, length.mul_f64(SUBMITTING));
        orders(&mut rng, &drafts, &mut schedule);
        accidents::interruptions(&mut rng, tasks, length, &mut schedule);
        accidents::draw(&mut rng, length, &mut schedule);
        schedule.sort_by_key(|timed| timed.at);
        Self {
            seed,
            drafts,
            schedule,
            length,
        }
    }
}

fn draft(rng: &mut StdRng, seed: u64, number: usize, tasks: usize) -> Draft {
    let model = *Model::ALL.choose(rng).expect("there are models");
    let sizes: &[&str] = match model {
        Model::Ti2v5b => &["1280x704", "704x1280"],
        Model::T2vA14b | Model::I2vA14b => &["832x480", "480x832"],
    };
    let steps = rng.random_range(4..=10);
    let killers = tasks / TASKS_PER_KILLER;
    let is_killer = number % KILLERS_APART == 1 && number / KILLERS_APART < killers;
    let (fate, directives) = match is_killer {
        true => (DraftFate::Killer, "{{kill_worker@0}}".to_owned()),
        false => misfortune(rng, steps),
    };
    let name = match rng.random_range(0..10) {
        0..=5 => Name::Id(format!("chaos-{seed}-{number}")),
        6..=8 => Name::Key(format!("order {seed}/{number}")),
        _ => Name::None,
    };
    Draft {
        number,
        name,
        model,
        priority: *Priority::ALL.choose(rng).expect("there are priorities"),
        size: sizes.choose(rng).expect("there are sizes"),
        steps,
        seed: rng.random_range(0..1 << 40),
        prompt: format!("chaos {seed}, scene {number}: a red fox in the snow {directives}"),
        fate,
    }
}

fn misfortune(rng: &mut StdRng, steps: u32) -> (DraftFate, String) {
    const PASSING: [&str; 8] = [
        "crash",
        "hang",
        "oom",
        "garbage",
        "kill_worker",
        "retryable",
        "truncated",
        "bad_ckpt",
    ];
    const FAILING: [&str; 5] = ["black", "frozen", "oom", "invalid", "device"];
    let step = rng.random_range(1..=steps);
    match rng.random_range(0..100) {
        0..40 => (DraftFate::Plain, String::new()),
        40..55 => (DraftFate::Plain, "{{slow@1}}".to_owned()),
        55..92 => {
            let fault = PASSING.choose(rng).expect("there are faults");
            let until = rng.random_range(1..=2);
            // A bad checkpoint shows only when somebody goes on from it.
            let then = if *fault == "bad_ckpt" {
                format!("{{{{crash@{step}#{until}}}}}")
            } else {
                String::new()
            };
            (
                DraftFate::Passing,
                format!("{{{{{fault}@{step}#{until}}}}}{then}"),
            )
        }
        _ => {
            let fault = FAILING.choose(rng).expect("there are faults");
            (
                DraftFate::Failing,
                format!("{{{{{fault}@0}}}}{{{{{fault}@1}}}}"),
            )
        }
    }
}

fn submissions(rng: &mut StdRng, drafts: &[Draft], window: Duration) -> Vec<Timed> {
    let mut schedule = Vec::new();
    let mut next = 0;
    let waves = u32::try_from(drafts.len().div_ceil(TASKS_PER_WAVE)).unwrap_or(u32::MAX);
    let wave = window / waves.max(1);
    while next < drafts.len() {
        let begins = wave * u32::try_from(next / TASKS_PER_WAVE).unwrap_or(u32::MAX);
        let (how, count) = match rng.random_range(0..10) {
            0..=3 => (How::Single, 1),
            4..=5 => (How::List, rng.random_range(2..=6)),
            6..=7 => (How::Inbox, 1),
            _ => (How::Twins, 1),
        };
        // Sent once only, or one would become two: what has no name goes alone.
        let named = drafts[next..]
            .iter()
            .take(count)
            .take_while(|draft| draft.name != Name::None)
            .count();
        let end = next + named.max(1);
        let how = if named == 0 && how != How::Inbox {
            How::Single
        } else {
            how
        };
        let at = begins + wave.mul_f64(WAVE * rng.random::<f64>());
        schedule.push(Timed {
            at,
            op: Op::Submit {
                drafts: (next..end).collect(),
                how,
            },
        });
        next = end;
    }
    for number in 0..2 + drafts.len() / TASKS_PER_NONSENSE {
        let at = window.mul_f64(rng.random());
        schedule.push(Timed {
            at,
            op: Op::Nonsense {
                number,
                named: number % 2 == 0,
            },
        });
    }
    schedule
}

/// What people do with their tasks. They wait for the moment themselves, so the time is that of the submission.
fn orders(rng: &mut StdRng, drafts: &[Draft], schedule: &mut Vec<Timed>) {
    let mut orders = Vec::new();
    for timed in schedule.iter() {
        let Op::Submit {
            drafts: numbers, ..
        } = &timed.op
        else {
            continue;
        };
        for &draft in numbers {
            let mut cancelled = false;
            if drafts[draft].fate != DraftFate::Killer && rng.random_bool(0.18) {
                let moment = *[Moment::AtOnce, Moment::Rendering, Moment::Ended]
                    .choose(rng)
                    .expect("there are moments");
                cancelled = moment != Moment::Ended;
                orders.push(Timed {
                    at: timed.at,
                    op: Op::Cancel { draft, moment },
                });
            }
            let chance = if cancelled || drafts[draft].fate == DraftFate::Failing {
                0.5
            } else {
                0.03
            };
            if rng.random_bool(chance) {
                orders.push(Timed {
                    at: timed.at,
                    op: Op::Retry { draft },
                });
            }
        }
    }
    schedule.append(&mut orders);
}

#[cfg(test)]
mod tests {
    use super::accidents::CRASH_POINTS;
    use super::*;
    use crate::settings::LEASE;

    #[test]
    fn the_seed_decides_everything() {
        let drawn = |seed| ChaosPlan::draw(seed, 40).to_string();
        assert_eq!(drawn(3), drawn(3));
        assert_ne!(drawn(3), drawn(4));
    }

    #[test]
    fn every_task_is_submitted_once_and_every_accident_happens() {
        let plan = ChaosPlan::draw(1, 100);
        let mut submitted: Vec<usize> = Vec::new();
        for timed in &plan.schedule {
            if let Op::Submit { drafts, .. } = &timed.op {
                submitted.extend(drafts);
            }
        }
        submitted.sort_unstable();
        assert_eq!(submitted, (0..100).collect::<Vec<_>>());
        let text = plan.to_string();
        for wanted in [
            "Intake",
            "Notifier",
            "Monitor",
            "Localcloud",
            "Nats",
            "Trigger",
            "Fleet",
            "Freeze",
            "Stop",
            "Sick",
            "Kill",
            "Notice",
            "Silent",
            "Rebalance",
            "S3 for",
            "EC2 for",
            "costs",
            "0 of",
            "before they serve",
            "takes each",
            "cannot be read",
            "3600000",
        ] {
            assert!(text.contains(wanted), "{wanted} is missing");
        }
        assert!(CRASH_POINTS.iter().all(|point| text.contains(point)));
        let for_long = |timed: &Timed| matches!(timed.op, Op::Storage { last, .. } if last > LEASE);
        assert!(
            plan.schedule.iter().any(for_long),
            "S3 is never away for long"
        );
    }
}
