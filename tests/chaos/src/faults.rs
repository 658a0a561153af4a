//! Everything that goes wrong outside the engine, and its repair: one hand on the whole system.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::{Client, jetstream};
use nix::sys::signal::Signal;
use spotreel_bus::jetstream::delete_message;
use spotreel_bus::kv;
use spotreel_bus::names::BATCHES;
use spotreel_tests::harness::{Program, System};

use super::plan::op::{Accident, Op, Program as Name, Timed};
use super::record::{self, Record};
use super::spot::market::{Admin, CloudInstance, signal_machine, signal_worker};
use super::spot::{CAPACITY, Spot};

/// What a place that takes machines gives each of them.
const TAKEN_WITHIN: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(30);
/// Presences are read in a hundredth of it, or NATS is away.
const SEEN_WITHIN: Duration = Duration::from_millis(500);
pub const NATS: &str = "nats-server";
const S3: &str = "S3";

pub struct Saboteur {
    pub system: System,
    pub spot: Spot,
    /// To see who renders.
    operator: Client,
    record: Arc<Record>,
    begun: Instant,
    /// Killed, and when to start it again.
    down: BTreeMap<Name, Duration>,
    /// They wait for a machine that runs.
    waiting: Vec<(usize, Accident)>,
    frozen: Vec<(CloudInstance, Duration)>,
    storage_until: Option<Duration>,
    ec2_until: Option<Duration>,
    /// What the market asks for again, and when: the price of a type in a zone, in micro-dollars.
    prices: BTreeMap<(&'static str, String), (i64, Duration)>,
    /// Places with fewer machines than they are to have.
    shortages: BTreeMap<(&'static str, String), Duration>,
    /// Places that take each machine.
    taking: BTreeMap<(&'static str, String), Duration>,
    broken_until: Option<Duration>,
    /// Where the event stands that nobody can decode, and until when.
    unreadable: Option<(u64, Duration)>,
}

impl Saboteur {
    pub fn new(system: System, spot: Spot, operator: Client, record: Arc<Record>) -> Self {
        Self {
            system,
            spot,
            operator,
            record,
            begun: Instant::now(),
            down: BTreeMap::new(),
            waiting: Vec::new(),
            frozen: Vec::new(),
            storage_until: None,
            ec2_until: None,
            prices: BTreeMap::new(),
            shortages: BTreeMap::new(),
            taking: BTreeMap::new(),
            broken_until: None,
            unreadable: None,
        }
    }

    /// Does what is planned, then leaves everything up and without faults.
    pub async fn run(mut self, accidents: Vec<Timed>, length: Duration) -> Self {
        let mut accidents = accidents.into_iter().peekable();
        while self.begun.elapsed() < length {
            let now = self.begun.elapsed();
            while let Some(Timed { op, .. }) = accidents.next_if(|timed| timed.at <= now) {
                self.act(op, now).await;
            }
            self.strike(now).await;
            self.take(now).await;
            self.repair(now).await;
            tokio::time::sleep(TICK).await;
        }
        self.repair(Duration::MAX).await;
        self.spot.disarm();
        self
    }

    /// Keeps everything running, as whoever supervises it in production does. Accidents that found nobody still wait
    /// for the machines of the last tasks.
    pub async fn nurse(&mut self, during: Duration) {
        let until = Instant::now() + during;
        while Instant::now() < until {
            self.strike(self.begun.elapsed()).await;
            self.repair(self.begun.elapsed()).await;
            tokio::time::sleep(TICK).await;
        }
    }

    async fn act(&mut self, op: Op, now: Duration) {
        match op {
            Op::Kill { program, down } => {
                self.record.count(format!("kill -9 {}", kind(program)));
                self.kill(program);
                self.down.insert(program, now + down);
            }
            Op::Machine { pick, accident } => self.waiting.push((pick, accident)),
            Op::Arm { crash_at } => {
                let point = crash_at.split(':').next().unwrap_or_default();
                self.record
                    .count(format!("machine armed: worker dies {point}"));
                self.spot.arm(&crash_at);
            }
            Op::Storage { rules, seed, last } => {
                self.record.count("S3 faults ordered");
                self.record.outage_begins(S3);
                // A cloud that is down has no faults: it forgets them with its process.
                let order = format!(r#"{{"seed":{seed},"rules":{rules}}}"#);
                self.order(&order).await;
                self.storage_until = Some(now + last);
            }
            Op::Ec2 { rules, seed, last } => {
                self.count_ec2().await;
                self.record.count("EC2 faults ordered");
                self.spot.faults(seed, rules).await;
                self.ec2_until = Some(now + last);
            }
            Op::Price {
                kind,
                percent,
                last,
            } => self.price(kind, percent, now + last).await,
            Op::Shortage {
                kind,
                zone,
                capacity,
                last,
            } => {
                self.record
                    .count(format!("market: {capacity} of {kind} left"));
                let zones = self.spot.zones().into_iter().enumerate();
                for (_, name) in zones.filter(|(n, _)| zone.is_none_or(|zone| zone == *n)) {
                    self.spot.capacity(kind, &name, capacity).await;
                    self.shortages.insert((kind, name), now + last);
                }
            }
            Op::Boots { last } => {
                self.record.count("machines end before they serve");
                self.spot.boots(false);
                self.broken_until = Some(now + last);
            }
            Op::Taking { kind, zone, last } => {
                self.record.count(format!("market: takes each {kind}"));
                let zone = self.spot.zones().into_iter().nth(zone);
                let place = zone.map(|zone| (kind, zone));
                self.taking.extend(place.map(|place| (place, now + last)));
            }
            Op::Unreadable { last } => self.hide_spend(now, now + last).await,
            Op::Submit { .. } | Op::Nonsense { .. } | Op::Cancel { .. } | Op::Retry { .. } => {}
        }
    }

    async fn price(&mut self, kind: &'static str, percent: i64, until: Duration) {
        self.record.price_moved(kind);
        self.record
            .count(format!("market: {kind} at {percent} % of its price"));
        for place in self.spot.prices().await.unwrap_or_default() {
            let (Some(zone), Some(micros)) =
                (place["zone"].as_str(), place["price_micros"].as_i64())
            else {
                continue;
            };
            if place["instance_type"] != kind {
                continue;
            }
            let usual = self
                .prices
                .get(&(kind, zone.to_owned()))
                .map_or(micros, |(usual, _)| *usual);
            self.spot.price(kind, zone, usual * percent / 100).await;
            self.prices.insert((kind, zone.to_owned()), (usual, until));
        }
    }

    /// Writes the end of a batch that nobody can decode; fleet reads ends when it starts.
    async fn hide_spend(&mut self, now: Duration, until: Duration) {
        let subject = "spotreel.batchlog.unreadable.1.settled";
        let context = jetstream::new(self.operator.clone());
        let written = tokio::time::timeout(SEEN_WITHIN, async {
            context.publish(subject, "no batch".into()).await?.await
        });
        // While NATS is away there is nothing to hide.
        if let (Ok(Ok(ack)), None) = (written.await, self.unreadable) {
            self.record.count("what was spent cannot be read");
            self.unreadable = Some((ack.sequence, until));
            self.kill(Name::Fleet);
            self.down.insert(Name::Fleet, now);
        }
    }

    async fn show_spend(&mut self, now: Duration) {
        let Some((sequence, _)) = self.unreadable.filter(|(_, until)| *until <= now) else {
            return;
        };
        // Tried again while NATS is away.
        if delete_message(&self.operator, BATCHES, sequence)
            .await
            .is_ok()
        {
            self.unreadable = None;
        }
    }

    /// Places that take machines meet those that have come up.
    async fn take(&mut self, now: Duration) {
        self.taking.retain(|_, until| *until > now);
        if self.taking.is_empty() {
            return;
        }
        for machine in self.spot.victims().await {
            let is_of = |(kind, zone): &(&str, String)| {
                machine.instance_type == *kind && machine.zone == *zone
            };
            let lead = TAKEN_WITHIN.as_secs_f64();
            if self.taking.keys().any(is_of)
                && self.spot.interrupt(&machine.id, "notice", lead).await
            {
                self.record.accident(&machine.id, record::Accident::NOTICE);
            }
        }
    }

    /// What waits for a machine meets one.
    async fn strike(&mut self, now: Duration) {
        if self.waiting.is_empty() {
            return;
        }
        let mut machines = self.spot.victims().await;
        machines.retain(|machine| {
            !self
                .frozen
                .iter()
                .any(|(frozen, _)| frozen.id == machine.id)
        });
        let busy = self.busy().await;
        while let Some((pick, accident)) = self.waiting.pop() {
            if machines.is_empty() {
                self.waiting.push((pick, accident));
                return;
            }
            // Who has something in hand comes first: an accident that meets nobody shows little.
            let busy = busy
                .iter()
                .filter_map(|id| machines.iter().position(|m| m.id == *id));
            let busy: Vec<usize> = busy.collect();
            let at = match busy.len() {
                0 => pick % machines.len(),
                many => busy[pick % many],
            };
            let machine = machines.remove(at);
            if let Some(kind) = self.meet(&machine, accident, now).await {
                self.record.accident(&machine.id, kind);
            }
        }
    }

    /// The instances whose workers say that they have something in hand, in order; nobody, while NATS is away.
    async fn busy(&self) -> BTreeSet<String> {
        let presences = kv::presences(&self.operator);
        let said = tokio::time::timeout(SEEN_WITHIN, presences).await;
        let said = said.ok().and_then(Result::ok).unwrap_or_default();
        let busy = said.into_iter().filter(|one| !one.task.is_empty());
        busy.map(|one| one.instance).collect()
    }

    /// What it was, if it happened.
    async fn meet(
        &mut self,
        machine: &CloudInstance,
        accident: Accident,
        now: Duration,
    ) -> Option<&'static str> {
        use record::Accident as Kind;
        let id = &machine.id;
        let (happened, kind) = match accident {
            Accident::Notice { lead } => {
                let lead = lead.as_secs_f64();
                (self.spot.interrupt(id, "notice", lead).await, Kind::NOTICE)
            }
            Accident::Rebalance => (
                self.spot.interrupt(id, "rebalance", 0.0).await,
                Kind::REBALANCE,
            ),
            Accident::Silent => (self.spot.interrupt(id, "silent", 0.0).await, Kind::SILENT),
            Accident::Kill => (signal_worker(machine, Signal::SIGKILL), Kind::KILL),
            Accident::Stop => (signal_worker(machine, Signal::SIGTERM), Kind::STOP),
            Accident::Sick => (self.spot.sicken(machine), Kind::SICK),
            Accident::Freeze { asleep } => {
                self.frozen.push((machine.clone(), now + asleep));
                (signal_machine(machine, Signal::SIGSTOP), Kind::FREEZE)
            }
        };
        happened.then_some(kind)
    }

    fn kill(&mut self, name: Name) {
        match name {
            Name::Nats => {
                self.record.outage_begins(NATS);
                self.system.nats.kill9();
            }
            Name::Localcloud => {
                self.record.outage_begins(S3);
                self.system.cloud.kill9();
            }
            other => self.program(other).kill9(),
        }
    }

    /// Starts what is due, and what has died by itself.
    async fn repair(&mut self, now: Duration) {
        let is_due = |at: &Duration| *at <= now;
        let due: Vec<Name> = self
            .down
            .iter()
            .filter(|(_, at)| is_due(at))
            .map(|(name, _)| *name)
            .collect();
        for name in due {
            self.down.remove(&name);
            match name {
                Name::Nats => {
                    self.system.nats.begin().await;
                    self.record.outage_ends(NATS);
                }
                Name::Localcloud => {
                    self.system.cloud.begin().await;
                    self.end_of_s3();
                }
                other => self.program(other).begin(),
            }
        }
        let (awake, asleep) = std::mem::take(&mut self.frozen)
            .into_iter()
            .partition(|(_, at)| is_due(at));
        self.frozen = asleep;
        for (machine, _) in awake {
            signal_machine(&machine, Signal::SIGCONT);
        }
        if self.storage_until.as_ref().is_some_and(is_due)
            && !self.down.contains_key(&Name::Localcloud)
        {
            self.count_faults(&self.system.cloud.admin, "S3").await;
            self.order(r#"{"rules":[]}"#).await;
            self.storage_until = None;
            self.end_of_s3();
        }
        if self.ec2_until.as_ref().is_some_and(is_due) {
            self.count_ec2().await;
            self.spot.faults(0, "[]").await;
            self.ec2_until = None;
        }
        if self.broken_until.as_ref().is_some_and(is_due) {
            self.spot.boots(true);
            self.broken_until = None;
        }
        self.show_spend(now).await;
        self.calm_market(now).await;
        self.revive();
    }

    fn end_of_s3(&self) {
        if self.storage_until.is_none() && !self.down.contains_key(&Name::Localcloud) {
            self.record.outage_ends(S3);
        }
    }

    async fn calm_market(&mut self, now: Duration) {
        let over: Vec<_> = self
            .prices
            .iter()
            .filter(|(_, (_, until))| *until <= now)
            .map(|(place, (usual, _))| (place.clone(), *usual))
            .collect();
        for (place, usual) in over {
            self.spot.price(place.0, &place.1, usual).await;
            self.record.price_moved(place.0);
            self.prices.remove(&place);
        }
        let over: Vec<_> = self
            .shortages
            .iter()
            .filter(|(_, until)| **until <= now)
            .map(|(place, _)| place.clone())
            .collect();
        for place in over {
            self.spot.capacity(place.0, &place.1, CAPACITY).await;
            self.shortages.remove(&place);
        }
    }

    fn revive(&mut self) {
        let services = [
            Name::Intake,
            Name::Notifier,
            Name::Monitor,
            Name::Trigger,
            Name::Fleet,
        ];
        for name in services {
            if self.down.contains_key(&name) || !self.program(name).has_ended() {
                continue;
            }
            self.record
                .count(format!("{} ended by itself and restarted", kind(name)));
            self.program(name).begin();
        }
    }

    fn program(&mut self, name: Name) -> &mut Program {
        match name {
            Name::Intake => &mut self.system.intake,
            Name::Notifier => &mut self.system.notifier,
            Name::Monitor => &mut self.system.monitor,
            Name::Trigger => &mut self.spot.trigger,
            Name::Fleet => &mut self.spot.fleet,
            Name::Localcloud | Name::Nats => unreachable!("these are no programs of the harness"),
        }
    }

    async fn order(&self, rules: &str) {
        let rules = serde_json::from_str(rules).expect("the rules are JSON");
        // One that is down has no faults to order.
        let _ = Admin::new(&self.system.cloud.admin)
            .post("/faults", &rules)
            .await;
    }

    async fn count_ec2(&self) {
        self.count_faults(&self.spot.cloud.admin, "EC2").await;
    }

    async fn count_faults(&self, admin: &str, of: &str) {
        let rules: serde_json::Value = Admin::new(admin).get("/faults").await.unwrap_or_default();
        for rule in rules.as_array().into_iter().flatten() {
            for _ in 0..rule["fired"].as_u64().unwrap_or_default() {
                let late = if rule["after"] == true {
                    " after the work"
                } else {
                    ""
                };
                self.record.count(format!(
                    "{of} fault {}{late}",
                    rule["action"].as_str().unwrap_or("?")
                ));
            }
        }
    }
}

fn kind(name: Name) -> &'static str {
    match name {
        Name::Intake => "intake",
        Name::Notifier => "notifier",
        Name::Monitor => "monitor",
        Name::Trigger => "trigger",
        Name::Fleet => "fleet",
        Name::Localcloud => "localcloud (S3)",
        Name::Nats => "nats-server",
    }
}
