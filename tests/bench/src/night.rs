//! The reference batch in virtual time: fleet's real decisions over a calm cloud, and what is billed for the work.
//!
//! Time jumps from event to event: a machine serves, a task ends, a call is answered. Fleet looks at each of them, as the
//! service does, and every call takes a second, which is far more than it does.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use spotreel_domain::batch::{Batch, Launch};
use spotreel_domain::fleet::cloud::{CloudState, LaunchAnswer, Launched, SeenInstance};
use spotreel_domain::fleet::observation::{WorkerSeen, WorkerState};
use spotreel_domain::fleet::reconcile::terminations;
use spotreel_domain::fleet::{DrainAnswer, Effect, EffectOutcome, Learned, Policy, reconcile};

use super::decide::{batch, observation, policy};
use super::figure::Figure;

const TASKS: u64 = 100;
const MACHINES: i64 = 5;
const TASK_S: i64 = 180;
const BOOT_S: i64 = 60;
const CALL_S: i64 = 1;
/// EC2 bills by the second, and at least so many.
const BILLED_AT_LEAST_S: i64 = 60;
const GOAL: f64 = 1.05;
/// A batch that is not over by then never will be.
const HORIZON_S: i64 = 12 * 3_600;
/// Rounds at one moment: each follows from what the one before has changed.
const ROUNDS_AT_ONCE: usize = 20;

/// The policy that this product began with, as its description tells it: minutes a machine.
struct Original {
    boot: f64,
    render: f64,
    /// Five looks, a minute apart, after the whole queue is empty; the first comes up to a minute late.
    idle: f64,
}

impl Original {
    fn billed_over_useful(&self) -> f64 {
        (self.boot + self.render + self.idle) / self.render
    }
}

pub fn run() -> Vec<Figure> {
    let night = Night::new().through();
    let (billed, useful) = night.bill();
    let each = minutes(TASK_S) * whole(i64::try_from(TASKS).unwrap_or_default()) / whole(MACHINES);
    let told = Original {
        boot: 10.0,
        render: 90.0,
        idle: 5.5,
    };
    let here = Original {
        boot: minutes(BOOT_S),
        render: each,
        idle: 5.5,
    };
    let scene = format!(
        "virtual time, {TASKS} tasks of {TASK_S} s on a fleet fixed at {MACHINES}, {BOOT_S} s boot, calm, billed by the \
         second with a minimum of {BILLED_AT_LEAST_S}"
    );
    let original = format!(
        "the original's policy: {:.2} by its own figures (10 min boot, 90 min, 5 to 6 min idle), {:.3} in this setting",
        told.billed_over_useful(),
        here.billed_over_useful()
    );
    let useful_by_original = whole(useful);
    vec![
        Figure::new(
            "billed / useful GPU seconds, ours",
            whole(billed),
            whole(useful),
            Some(GOAL),
            format!("{scene}; the real reconcile, each call {CALL_S} s; beside it {original}"),
        ),
        Figure::new(
            "billed / useful GPU seconds, the original's own figures",
            told.billed_over_useful() * useful_by_original,
            useful_by_original,
            None,
            format!(
                "computed: 5 x (10 + 90 + 5.5) min over 5 x 90 min, on the useful seconds above; {original}"
            ),
        ),
    ]
}

fn whole(seconds: i64) -> f64 {
    seconds as f64
}

fn minutes(seconds: i64) -> f64 {
    whole(seconds) / 60.0
}

fn seconds(count: i64) -> SignedDuration {
    SignedDuration::from_secs(count)
}

struct Night {
    start: Timestamp,
    now: Timestamp,
    policy: Policy,
    batch: Batch,
    machines: BTreeMap<String, NightMachine>,
    queued: u64,
    done: u64,
    /// Answers on their way.
    answers: Vec<(Timestamp, EffectOutcome)>,
    /// Ends that were asked for, and when the call arrives.
    ends: BTreeMap<String, Timestamp>,
    called: BTreeSet<u32>,
}

struct NightMachine {
    seen: SeenInstance,
    serves_at: Timestamp,
    busy_until: Option<Timestamp>,
    drained: bool,
    ended_at: Option<Timestamp>,
}

impl Night {
    fn new() -> Self {
        let start: Timestamp = "2026-03-01T02:00:00Z".parse().expect("it is a time");
        Self {
            start,
            now: start,
            policy: policy(),
            batch: batch(start),
            machines: BTreeMap::new(),
            queued: TASKS,
            done: 0,
            answers: Vec::new(),
            ends: BTreeMap::new(),
            called: BTreeSet::new(),
        }
    }

    fn through(mut self) -> Self {
        while self.batch.is_active() {
            assert!(
                self.now < self.start + seconds(HORIZON_S),
                "the batch never ends: {:#?}",
                self.batch
            );
            self.catch_up();
            let pause = self.rounds();
            let wake = self.now + pause;
            self.now = self.next_event().map_or(wake, |event| event.min(wake));
        }
        assert_eq!((self.done, self.queued), (TASKS, 0), "every task was done");
        self
    }

    /// Seconds that are paid for, and seconds that rendered.
    fn bill(&self) -> (i64, i64) {
        let lives = self.machines.values().map(|machine| {
            let end = machine.ended_at.expect("the batch is over");
            end.duration_since(machine.seen.launched_at).as_secs()
        });
        let billed = lives.map(|life| life.max(BILLED_AT_LEAST_S)).sum();
        let useful = i64::try_from(self.done).unwrap_or_default() * TASK_S;
        (billed, useful)
    }

    fn next_event(&self) -> Option<Timestamp> {
        let alive = self.machines.values().filter(|m| m.ended_at.is_none());
        let machines = alive.flat_map(|m| [Some(m.serves_at), m.busy_until]);
        let answers = self.answers.iter().map(|(at, _)| Some(*at));
        let ends = self.ends.values().map(|at| Some(*at));
        let all = machines.chain(answers).chain(ends).flatten();
        all.filter(|at| *at > self.now).min()
    }

    /// The world by now: ends that arrived, tasks that ended, tasks that are taken.
    fn catch_up(&mut self) {
        let now = self.now;
        for (id, machine) in &mut self.machines {
            if machine.ended_at.is_some() {
                continue;
            }
            if self.ends.get(id).is_some_and(|at| *at <= now) {
                assert!(
                    machine.busy_until.is_none(),
                    "a busy machine is never ended"
                );
                machine.ended_at = Some(now);
                machine.seen.state = CloudState::Terminated;
                continue;
            }
            if machine.busy_until.is_some_and(|until| until <= now) {
                machine.busy_until = None;
                self.done += 1;
            }
            let is_free = machine.serves_at <= now && !machine.drained;
            if is_free && machine.busy_until.is_none() && self.queued > 0 {
                self.queued -= 1;
                machine.busy_until = Some(now + seconds(TASK_S));
            }
        }
        self.ends.retain(|_, at| *at > now);
        let (due, later) = std::mem::take(&mut self.answers)
            .into_iter()
            .partition(|(at, _)| *at <= now);
        self.answers = later;
        for (_, outcome) in due {
            self.learn(&outcome);
        }
    }

    /// Rounds until nothing more follows; how long until the next without an event.
    fn rounds(&mut self) -> std::time::Duration {
        for _ in 0..ROUNDS_AT_ONCE {
            let before = self.batch.clone();
            let seen = self.observe();
            let round = reconcile(&before, &seen, &self.policy);
            self.batch = round.batch;
            for effect in round.effects {
                self.act(effect);
            }
            // Two listings that show nothing are two looks, one after the other.
            if self.batch == before || self.batch.empty_listings > 0 {
                return round.look_again;
            }
        }
        panic!("fleet changes its mind at {}: {:#?}", self.now, self.batch);
    }

    fn observe(&self) -> spotreel_domain::fleet::Observation {
        let busy = |m: &&NightMachine| m.busy_until.is_some();
        let rendering = self.machines.values().filter(busy).count() as u64;
        let mut seen = observation(self.queued + rendering, self.now, &self.policy);
        if let Some(work) = &mut seen.work {
            work.rendering = rendering;
        }
        seen.listing = self.machines.values().map(|m| m.seen.clone()).collect();
        let alive = self
            .machines
            .values()
            .filter(|m| m.ended_at.is_none() && m.serves_at <= self.now);
        let workers = alive.map(|machine| WorkerSeen {
            instance: machine.seen.id.clone(),
            state: match machine.busy_until {
                _ if machine.drained => WorkerState::Drained,
                Some(_) => WorkerState::Busy,
                None => WorkerState::Idle,
            },
            notice_at: None,
            rebalance: false,
        });
        seen.workers = Some(workers.collect());
        seen.in_flight = self.answers.iter().find_map(|(_, outcome)| match outcome {
            EffectOutcome::Launched { seq, .. } => Some(*seq),
            _ => None,
        });
        seen.tasks_done = Some(self.done);
        seen
    }

    fn act(&mut self, effect: Effect) {
        let answered = self.now + seconds(CALL_S);
        match effect {
            Effect::Launch(launch) => {
                let seq = launch.seq;
                assert!(self.called.insert(seq), "each launch is called once");
                let answer = self.launch(&launch);
                let result = Ok(answer);
                self.answers
                    .push((answered, EffectOutcome::Launched { seq, result }));
            }
            Effect::Drain { instance, .. } => {
                let machine = self.machines.get_mut(&instance).expect("it was listed");
                assert!(machine.busy_until.is_none(), "nobody is drained at work");
                machine.drained = true;
                let answer = DrainAnswer::Drained;
                self.learn(&EffectOutcome::Drained { instance, answer });
                let due = terminations(&self.batch, self.now, &self.policy);
                self.terminate(due);
            }
            Effect::Terminate { instances } => self.terminate(instances),
            Effect::ReadConsole { instance } => panic!("{instance} did not come up"),
            Effect::DeleteFleets { launches } => {
                let launches = launches.into_iter().map(|(seq, _)| seq).collect();
                self.learn(&EffectOutcome::FleetsDeleted { launches });
            }
        }
    }

    fn terminate(&mut self, accepted: Vec<String>) {
        let arrives = self.now + seconds(CALL_S);
        for id in &accepted {
            self.ends.entry(id.clone()).or_insert(arrives);
        }
        self.learn(&EffectOutcome::Terminated { accepted });
    }

    /// Billed from the moment of the call on.
    fn launch(&mut self, launch: &Launch) -> LaunchAnswer {
        let seq = launch.seq;
        let request = launch.frozen_request().expect("it was frozen before");
        let place = &request.overrides[0].place;
        let mut instances = Vec::new();
        for number in 0..request.units {
            let id = format!("i-{seq}-{number}");
            let seen = SeenInstance {
                id: id.clone(),
                kind: place.kind.clone(),
                zone: place.zone.clone(),
                lifecycle: request.lifecycle,
                state: CloudState::Running,
                launched_at: self.now,
                tags: request.tags.clone(),
                reason: None,
                left_at: None,
                has_public_address: false,
            };
            let machine = NightMachine {
                seen,
                serves_at: self.now + seconds(BOOT_S),
                busy_until: None,
                drained: false,
                ended_at: None,
            };
            self.machines.insert(id.clone(), machine);
            instances.push(Launched {
                id,
                kind: place.kind.clone(),
                zone: place.zone.clone(),
                lifecycle: request.lifecycle,
            });
        }
        LaunchAnswer {
            fleet: format!("fleet-{seq}"),
            instances,
            errors: Vec::new(),
        }
    }

    fn learn(&mut self, outcome: &EffectOutcome) {
        let market = observation(0, self.now, &self.policy).market;
        let learned = Learned {
            now: self.now,
            cloud_now: self.now,
            market: market.as_ref(),
            policy: &self.policy,
        };
        self.batch = learned.apply(&self.batch, outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_batch_meets_its_goal() {
        let figures = run();
        assert_eq!(figures[0].met, Some(true), "{:?}", figures[0]);
        assert!((figures[1].ratio - 1.172).abs() < 0.001, "{:?}", figures[1]);
    }
}
