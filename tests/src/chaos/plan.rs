//! What will be done when: everything is drawn from the seed before anything is started.

use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use spotreel_domain::{Model, Priority};

/// Long enough for a stopped worker to lose its task, short enough to wait for.
pub const LEASE: Duration = Duration::from_secs(3);
/// Time that a run has for each task on three workers, of which one is usually down.
const PER_TASK: Duration = Duration::from_millis(700);
const SHORTEST: Duration = Duration::from_secs(20);
/// Submissions end early, so that the last ones meet faults too.
const SUBMITTING: f64 = 0.7;
/// One task in so many kills every worker that takes it, and must end all the same: 12 leases each.
const TASKS_PER_KILLER: usize = 50;
const TASKS_PER_NONSENSE: usize = 25;

pub struct Plan {
    pub seed: u64,
    pub drafts: Vec<Draft>,
    pub schedule: Vec<Timed>,
    pub length: Duration,
}

pub struct Timed {
    pub at: Duration,
    pub op: Op,
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
    pub fate: Fate,
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
pub enum Fate {
    Plain,
    /// Something goes wrong in the first attempts.
    Passing,
    /// Every attempt fails.
    Failing,
    /// Every attempt kills its worker.
    Killer,
}

#[derive(Clone, Debug)]
pub enum Op {
    Submit {
        drafts: Vec<usize>,
        how: How,
    },
    /// An invalid task for the inbox, which answers by an event.
    Nonsense {
        number: usize,
        named: bool,
    },
    Cancel {
        draft: usize,
        moment: Moment,
    },
    /// Once it has ended without a video.
    Retry {
        draft: usize,
    },
    Kill {
        program: Program,
        down: Duration,
    },
    /// Killed, and started again with a point at which it will die.
    Arm {
        worker: usize,
        crash_at: String,
    },
    /// SIGSTOP, and SIGCONT after so long.
    Freeze {
        worker: usize,
        asleep: Duration,
    },
    /// SIGTERM: hand back what it holds, and leave.
    Stop {
        worker: usize,
    },
    /// Faults of the object store, as its admin interface takes them, for so long.
    Storage {
        rules: &'static str,
        seed: u64,
        last: Duration,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Single,
    List,
    Inbox,
    /// The same submission three times at once.
    Twins,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    AtOnce,
    Rendering,
    /// Refused, if it has succeeded.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Program {
    Worker(usize),
    Intake,
    Notifier,
    Monitor,
    Localcloud,
    Nats,
}

/// Rules of the local cloud; lost answers are those that fail after the work was done.
const STORAGE: [&str; 5] = [
    r#"[{"op":"*","action":"500","probability":0.3}]"#,
    r#"[{"op":"*","action":"reset","probability":0.2}]"#,
    r#"[{"op":"PutObject","action":"reset","probability":0.5,"after":true}]"#,
    r#"[{"op":"*","action":"503_slow_down","probability":0.4},{"op":"*","action":"delay","delay_ms":300,"probability":0.3}]"#,
    r#"[{"op":"PutObject","action":"500","probability":0.9},{"op":"GetObject","action":"500","probability":0.5}]"#,
];
const CRASH_POINTS: [&str; 4] = [
    "after-lease",
    "after-checkpoint",
    "after-upload",
    "after-succeeded",
];

impl Plan {
    pub fn draw(seed: u64, tasks: usize, workers: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let length =
            SHORTEST.max(PER_TASK.saturating_mul(u32::try_from(tasks).unwrap_or(u32::MAX)));
        let drafts: Vec<Draft> = (0..tasks)
            .map(|number| draft(&mut rng, seed, number))
            .collect();
        let mut schedule = submissions(&mut rng, &drafts, length.mul_f64(SUBMITTING));
        orders(&mut rng, &drafts, &mut schedule);
        accidents(&mut rng, workers, length, &mut schedule);
        schedule.sort_by_key(|timed| timed.at);
        Self {
            seed,
            drafts,
            schedule,
            length,
        }
    }
}

fn draft(rng: &mut StdRng, seed: u64, number: usize) -> Draft {
    let model = *Model::ALL.choose(rng).expect("there are models");
    let sizes: &[&str] = match model {
        Model::Ti2v5b => &["1280x704", "704x1280"],
        Model::T2vA14b | Model::I2vA14b => &["832x480", "480x832"],
    };
    let steps = rng.random_range(2..=8);
    let (fate, directives) = match number % TASKS_PER_KILLER == TASKS_PER_KILLER / 3 {
        true => (Fate::Killer, "{{kill_worker@0}}".to_owned()),
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

fn misfortune(rng: &mut StdRng, steps: u32) -> (Fate, String) {
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
        0..40 => (Fate::Plain, String::new()),
        40..55 => (Fate::Plain, "{{slow@1}}".to_owned()),
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
                Fate::Passing,
                format!("{{{{{fault}@{step}#{until}}}}}{then}"),
            )
        }
        _ => {
            let fault = FAILING.choose(rng).expect("there are faults");
            (Fate::Failing, format!("{{{{{fault}@0}}}}{{{{{fault}@1}}}}"))
        }
    }
}

fn submissions(rng: &mut StdRng, drafts: &[Draft], window: Duration) -> Vec<Timed> {
    let mut schedule = Vec::new();
    let mut next = 0;
    while next < drafts.len() {
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
        let at = window.mul_f64(rng.random());
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
            if drafts[draft].fate != Fate::Killer && rng.random_bool(0.18) {
                let moment = *[Moment::AtOnce, Moment::Rendering, Moment::Ended]
                    .choose(rng)
                    .expect("there are moments");
                cancelled = moment != Moment::Ended;
                orders.push(Timed {
                    at: timed.at,
                    op: Op::Cancel { draft, moment },
                });
            }
            let chance = if cancelled || drafts[draft].fate == Fate::Failing {
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

/// One of each kind first, then by weight.
fn accidents(rng: &mut StdRng, workers: usize, length: Duration, schedule: &mut Vec<Timed>) {
    let mut deck: Vec<u32> = (0..14).collect();
    deck.shuffle(rng);
    let mut at = Duration::from_millis(1_500);
    while at < length {
        let kind = deck.pop().unwrap_or_else(|| rng.random_range(0..22));
        schedule.push(Timed {
            at,
            op: accident(rng, kind, workers),
        });
        at += Duration::from_millis(rng.random_range(700..2_200));
    }
}

fn accident(rng: &mut StdRng, kind: u32, workers: usize) -> Op {
    let worker = rng.random_range(0..workers);
    let down = Duration::from_millis(rng.random_range(50..1_500));
    match kind {
        0..4 => {
            let point = CRASH_POINTS[kind as usize];
            let probability = if point == "after-checkpoint" {
                0.4
            } else {
                0.9
            };
            let crash_at = format!("{point}:{probability}:{}", rng.random_range(1..1_000_000));
            Op::Arm { worker, crash_at }
        }
        4 => Op::Kill {
            program: Program::Intake,
            down,
        },
        5 => Op::Kill {
            program: Program::Notifier,
            down,
        },
        6 => Op::Kill {
            program: Program::Monitor,
            down,
        },
        7 => Op::Kill {
            program: Program::Localcloud,
            down,
        },
        8 => Op::Kill {
            program: Program::Nats,
            down,
        },
        9 => Op::Freeze {
            worker,
            asleep: LEASE + Duration::from_millis(rng.random_range(500..3_000)),
        },
        10 => Op::Stop { worker },
        11..14 => Op::Storage {
            rules: STORAGE.choose(rng).expect("there are rules"),
            seed: rng.random(),
            last: Duration::from_millis(rng.random_range(1_000..4_000)),
        },
        _ => Op::Kill {
            program: Program::Worker(worker),
            down,
        },
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {}: {} tasks in {:.0?}",
            self.seed,
            self.drafts.len(),
            self.length
        )?;
        for Timed { at, op } in &self.schedule {
            write!(f, "{:>8.3}s  {op}", at.as_secs_f64())?;
            if let Op::Submit { drafts, .. } = op {
                for draft in drafts.iter().map(|&number| &self.drafts[number]) {
                    write!(f, "\n{:12}{draft}", "")?;
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let directives = self.prompt.find("{{").map_or("", |at| &self.prompt[at..]);
        let Self {
            number,
            name,
            model,
            priority,
            size,
            steps,
            ..
        } = self;
        write!(
            f,
            "#{number} {name:?} {model} {priority:?} {size} {steps} steps {directives}"
        )
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Submit { how, .. } => write!(f, "submit {how:?}"),
            Self::Nonsense {
                number,
                named: true,
            } => write!(f, "nonsense {number}, named"),
            Self::Nonsense {
                number,
                named: false,
            } => write!(f, "nonsense {number}"),
            Self::Cancel { draft, moment } => write!(f, "cancel #{draft} {moment:?}"),
            Self::Retry { draft } => write!(f, "retry #{draft} once it ended without a video"),
            Self::Kill { program, down } => write!(f, "kill -9 {program:?}, down for {down:?}"),
            Self::Arm { worker, crash_at } => write!(f, "worker {worker} will die at {crash_at}"),
            Self::Freeze { worker, asleep } => write!(f, "worker {worker} sleeps for {asleep:?}"),
            Self::Stop { worker } => write!(f, "worker {worker} is told to stop"),
            Self::Storage { rules, last, .. } => write!(f, "S3 for {last:?}: {rules}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_decides_everything() {
        let drawn = |seed| Plan::draw(seed, 40, 3).to_string();
        assert_eq!(drawn(3), drawn(3));
        assert_ne!(drawn(3), drawn(4));
    }

    #[test]
    fn every_task_is_submitted_once_and_every_accident_happens() {
        let plan = Plan::draw(1, 100, 3);
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
            "sleeps",
            "to stop",
            "S3 for",
        ] {
            assert!(text.contains(wanted), "{wanted} is missing");
        }
        assert!(CRASH_POINTS.iter().all(|point| text.contains(point)));
    }
}
