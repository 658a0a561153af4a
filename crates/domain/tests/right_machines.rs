//! Fleet buys, keeps and sends away machines by what they can render of what waits.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod scene;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use spotreel_domain::batch::{Batch, Launch};
use spotreel_domain::fleet::cloud::{LaunchAnswer, SeenInstance};
use spotreel_domain::fleet::observation::{Observation, WorkerState};
use spotreel_domain::fleet::policy::Policy;
use spotreel_domain::fleet::{DrainAnswer, Effect, EffectOutcome, reconcile};
use spotreel_domain::pool::PoolConfig;
use spotreel_domain::render_time::{Corrections, Job};
use spotreel_domain::workload::{Demand, Sampled};
use spotreel_domain::{Model, Usd};

use scene::{ZONES, answer, bought, learned, market, place_of, policy_of, requested, worker};

const SMALL_CARD: &str = "g6.xlarge";
const LARGE_CARD: &str = "g6e.xlarge";

fn small() -> Job {
    Job::usual(Model::Ti2v5b, (1280, 704))
}

fn large() -> Job {
    Job::usual(Model::T2vA14b, (832, 480))
}

/// A batch in virtual time. Every launch is granted, with the first of the types that were asked for.
struct Night {
    now: Timestamp,
    pool: PoolConfig,
    policy: Policy,
    batch: Batch,
    machines: Vec<(SeenInstance, WorkerState)>,
    waiting: Vec<Job>,
    in_hand: Vec<Job>,
    prices: BTreeMap<&'static str, Usd>,
    /// What each launch asked for: its types, and how many machines.
    asked: Vec<(BTreeSet<String>, u32)>,
    drained: Vec<String>,
}

impl Night {
    fn new(waiting: &[(Job, usize)]) -> Self {
        let now: Timestamp = "2026-11-30T02:00:00Z".parse().unwrap();
        let pool = scene::pool(&[SMALL_CARD, LARGE_CARD], 90);
        Self {
            now,
            policy: policy_of(&pool),
            batch: requested(1, now),
            pool,
            machines: Vec::new(),
            waiting: of(waiting),
            in_hand: Vec::new(),
            prices: [
                (SMALL_CARD, Usd::from_cents(26)),
                (LARGE_CARD, Usd::from_cents(70)),
            ]
            .into(),
            asked: Vec::new(),
            drained: Vec::new(),
        }
    }

    fn looks(&mut self, times: u32) {
        for _ in 0..times {
            let round = reconcile(&self.batch, &self.observe(), &self.policy);
            self.batch = round.batch;
            for effect in round.effects {
                self.act(effect);
            }
            self.now += SignedDuration::from_secs(5);
        }
    }

    fn observe(&self) -> Observation {
        let busy = |state: &WorkerState| *state == WorkerState::Busy;
        let rendering = self
            .machines
            .iter()
            .filter(|(_, state)| busy(state))
            .count();
        let (mut tasks, mut samples) = (BTreeMap::new(), BTreeMap::<_, Vec<_>>::new());
        let waiting = self.waiting.iter().map(|job| (job, false));
        for (job, in_hand) in waiting.chain(self.in_hand.iter().map(|job| (job, true))) {
            *tasks.entry(job.model).or_default() += 1;
            let one = Sampled {
                job: *job,
                in_hand,
                stands_for: 1.0,
            };
            samples.entry(job.model).or_default().push(one);
        }
        let demand = Demand::new(&tasks, &samples);
        let load = self.pool.workload(&demand, &Corrections::default());
        let boot = Some(Duration::from_secs(120));
        let sizing = &self.pool.rules.sizing;
        let (work, needs) = load.work(&self.batch, rendering as u64, 0, None, boot, sizing);
        let workers = self.machines.iter();
        let workers = workers.map(|(seen, state)| worker(&seen.id, *state));
        let spot = self.prices.iter();
        let spot = spot.map(|(kind, price)| (place_of(kind, ZONES[0]), *price));
        Observation {
            listing: self.machines.iter().map(|(seen, _)| seen.clone()).collect(),
            workers: Some(workers.collect()),
            work: Some(work),
            needs,
            market: Some(market(spot)),
            ..scene::observation(self.now)
        }
    }

    fn act(&mut self, effect: Effect) {
        let outcome = match effect {
            Effect::Launch(launch) => {
                let (seq, result) = (launch.seq, Ok(self.launch(&launch)));
                EffectOutcome::Launched { seq, result }
            }
            Effect::Terminate { instances } => {
                self.machines
                    .retain(|(seen, _)| !instances.contains(&seen.id));
                EffectOutcome::Terminated {
                    accepted: instances,
                }
            }
            Effect::Drain { instance, .. } => {
                self.drained.push(instance.clone());
                let answer = DrainAnswer::Drained;
                EffectOutcome::Drained { instance, answer }
            }
            _ => return,
        };
        let market = self.observe().market;
        let learned = learned(self.now, &self.policy, market.as_ref());
        self.batch = learned.apply(&self.batch, &outcome);
    }

    fn launch(&mut self, launch: &Launch) -> LaunchAnswer {
        let (seq, request) = (launch.seq, launch.frozen_request().unwrap());
        let kinds = request.overrides.iter().map(|of| of.place.kind.clone());
        self.asked.push((kinds.collect(), request.units));
        let ids = (0..request.units).map(|at| format!("i-{seq}-{at}"));
        let new: Vec<_> = ids.map(|id| bought(&id, &request, self.now)).collect();
        let answer = answer(seq, &new);
        let new = new.into_iter().map(|seen| (seen, WorkerState::Starting));
        self.machines.extend(new);
        answer
    }

    fn all_are(&mut self, state: WorkerState) {
        for (_, is) in &mut self.machines {
            *is = state;
        }
    }

    fn bought(&self, kinds: &[&str]) -> u32 {
        let wanted: BTreeSet<_> = kinds.iter().map(|kind| (*kind).to_owned()).collect();
        let asked = self.asked.iter().filter(|(kinds, _)| *kinds == wanted);
        asked.map(|(_, units)| units).sum()
    }
}

fn of(waiting: &[(Job, usize)]) -> Vec<Job> {
    let each = waiting.iter().map(|(job, count)| vec![*job; *count]);
    each.flatten().collect()
}

#[test]
fn a_queue_of_the_larger_model_buys_no_card_that_cannot_hold_it() {
    let mut night = Night::new(&[(large(), 40)]);
    night.looks(4);
    assert!(night.bought(&[LARGE_CARD]) > 3, "{:?}", night.asked);
    assert_eq!(night.bought(&[LARGE_CARD]) as usize, night.machines.len());
}

#[test]
fn machines_for_the_hardest_tasks_come_first_and_the_others_share_the_rest() {
    let mut night = Night::new(&[(large(), 40), (small(), 60)]);
    night.looks(8);
    assert_eq!(night.asked[0].0, [LARGE_CARD.to_owned()].into());
    let (large, all) = (
        night.bought(&[LARGE_CARD]),
        night.bought(&[SMALL_CARD, LARGE_CARD]),
    );
    assert!(large > 3 && all > 3, "{:?}", night.asked);
    let wanted = night.observe().work.unwrap().sized;
    assert_eq!(large + all, wanted, "{:?}", night.asked);
}

#[test]
fn where_the_large_cards_are_too_dear_others_do_not_take_their_place() {
    let mut night = Night::new(&[(large(), 40), (small(), 60)]);
    night.prices.insert(LARGE_CARD, Usd::from_cents(95));
    night.looks(8);
    let only_small = {
        let mut night = Night::new(&[(small(), 60)]);
        night.prices.insert(LARGE_CARD, Usd::from_cents(95));
        night.looks(8);
        night.bought(&[SMALL_CARD])
    };
    assert_eq!(night.bought(&[LARGE_CARD]), 0);
    assert_eq!(night.bought(&[SMALL_CARD]), only_small, "{:?}", night.asked);
    // With nothing else to render, nothing is bought, and it is said why.
    let mut night = Night::new(&[(large(), 40)]);
    night.prices.insert(LARGE_CARD, Usd::from_cents(95));
    night.looks(4);
    assert_eq!(night.asked, []);
    let sentence = night.batch.blocked.unwrap().sentence;
    assert!(
        sentence.contains("raise the cap of g6e.xlarge"),
        "{sentence}"
    );
}

/// It would be sent away at once, and bought again, for as long as the task is in hand.
#[test]
fn a_task_in_hand_on_a_larger_card_buys_no_smaller_one() {
    let mut night = Night::new(&[(small(), 1)]);
    night.prices.insert(SMALL_CARD, Usd::from_cents(95));
    night.looks(2);
    night.all_are(WorkerState::Busy);
    night.looks(1);
    night.in_hand = std::mem::replace(&mut night.waiting, of(&[(large(), 15)]));
    // No more of the larger card is to be had.
    night.prices = [(SMALL_CARD, Usd::from_cents(26))].into();
    night.looks(6);
    assert_eq!(night.asked.len(), 1, "{:?}", night.asked);
}

#[test]
fn machines_that_can_render_nothing_of_what_is_left_go_and_others_come() {
    let mut night = Night::new(&[(small(), 60)]);
    night.looks(4);
    let small_cards = night.machines.len();
    assert!(small_cards > 5);
    night.all_are(WorkerState::Idle);
    night.waiting = of(&[(large(), 40)]);
    night.looks(6);
    assert_eq!(night.drained.len(), small_cards, "{:?}", night.drained);
    assert!(night.bought(&[LARGE_CARD]) > 3, "{:?}", night.asked);
    // One that can render it stays, although it is the dearest.
    night.all_are(WorkerState::Idle);
    night.waiting = of(&[(large(), 1), (small(), 1)]);
    let drained = night.drained.len();
    night.looks(3);
    let left: Vec<_> = night.machines.iter().map(|(seen, _)| &seen.kind).collect();
    assert_eq!(left.len(), 2, "{left:?} of which {drained} went before");
}

#[test]
fn what_no_type_can_render_buys_nothing_and_the_batch_ends() {
    let mut night = Night::new(&[(large(), 40)]);
    night.pool.kinds.truncate(1);
    night.policy.kinds.truncate(1);
    night.looks(40);
    assert_eq!(night.asked, []);
    assert!(!night.batch.is_active(), "{:?}", night.batch.status);
}

#[test]
fn machines_with_faster_cards_that_are_there_count_as_more() {
    let mut night = Night::new(&[(small(), 60)]);
    let alone = night.observe().work.unwrap().sized;
    night.prices.remove(SMALL_CARD);
    night.looks(3);
    assert!(
        night
            .machines
            .iter()
            .all(|(seen, _)| seen.kind == LARGE_CARD)
    );
    let with_large = night.observe().work.unwrap().sized;
    assert!(with_large < alone, "{with_large} of {alone}");
    assert!(night.machines.len() <= alone as usize);
}
