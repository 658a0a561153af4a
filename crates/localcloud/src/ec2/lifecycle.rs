//! The life of an instance, and the market's hand in it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

use super::Ec2;
use super::bill::Billed;
use super::imds::{Imds, ImdsFacts};
use super::machine::{MachineProcess, MachineSpec};
use super::market::{ReclaimKind, Running};
use super::state::{Blueprint, Cause, Ec2State, Instance, InstanceOrder, Lifecycle, Phase, new_id};

/// How often the market is asked what it takes (real time).
const MARKET_TICK: Duration = Duration::from_millis(200);
/// Time for which AWS still lists a terminated instance (cloud time).
const VISIBLE: SignedDuration = SignedDuration::from_hours(1);
/// Instant fleets that are over are forgotten as late as client tokens are (cloud time).
const FLEETS_KEPT: SignedDuration = SignedDuration::from_hours(24);

impl Ec2 {
    /// Makes an instance, `pending`, and lets it live.
    pub(super) fn launch(self: &Arc<Self>, state: &mut Ec2State, blueprint: Blueprint) -> String {
        state.launched += 1;
        let sequence = state.launched;
        let id = new_id("i-");
        let order = match self.stop.is_cancelled() {
            true => InstanceOrder::Kill, // too late: whoever ends all machines has passed here already
            false => InstanceOrder::Live,
        };
        let (orders, told) = watch::channel(order);
        let mut instance = Instance {
            id: id.clone(),
            sequence,
            tags: blueprint.tags.clone(),
            private_ip: address(10, sequence),
            // In a block that nobody routes.
            public_ip: address(240, sequence),
            launched: self.clock.now(),
            phases: Vec::new(),
            cause: None,
            ending: None,
            ended: None,
            pid: None,
            imds: None,
            orders,
            notice: None,
            rebalance: None,
            blueprint,
        };
        instance.enter(Phase::Pending);
        let of = &instance.blueprint;
        let billed = Billed {
            kind: of.kind.clone(),
            zone: of.zone.clone(),
            lifecycle: of.lifecycle.name().to_owned(),
            volume_gib: of.volume_gib,
            has_address: true,
        };
        state.bill.launched(&id, billed, instance.launched);
        state.instances.insert(id.clone(), instance);
        let life = Arc::clone(self).live(id.clone(), told);
        self.machines.spawn(life);
        id
    }

    async fn live(self: Arc<Self>, id: String, mut told: watch::Receiver<InstanceOrder>) {
        tokio::select! {
            () = tokio::time::sleep(self.config.boot) => {}
            _ = told.wait_for(|order| *order != InstanceOrder::Live) => {}
        }
        if *told.borrow() == InstanceOrder::Live {
            match self.boot(&id).await {
                Ok(machine) => self.run(&id, machine, &mut told).await,
                Err(error) => {
                    tracing::error!(instance = id, %error, "instance failed to boot");
                    self.change(&id, |instance| instance.cause = Some(Cause::Fault));
                }
            }
        }
        self.finish(&id);
    }

    /// Starts metadata and script.
    async fn boot(&self, id: &str) -> io::Result<MachineProcess> {
        let known = self.lock().instances.get(id).map(|instance| {
            let user_data = instance.blueprint.user_data.clone();
            (self.facts(instance), user_data)
        });
        let (facts, user_data) = known.ok_or(io::ErrorKind::NotFound)?;
        let imds = Imds::start(facts).await?;
        let mut variables = self.config.variables.clone();
        let endpoint = (
            "AWS_EC2_METADATA_SERVICE_ENDPOINT".to_owned(),
            imds.endpoint(),
        );
        variables.push(endpoint);
        let machine = MachineProcess::start(MachineSpec {
            id: id.to_owned(),
            dir: self.config.dir.join(id),
            user_data,
            variables,
        })?;
        let now = self.clock.now();
        let mut state = self.lock();
        let Ec2State {
            instances,
            bill,
            market,
            ..
        } = &mut *state;
        if let Some(instance) = instances.get_mut(id) {
            let of = &instance.blueprint;
            let price = match of.lifecycle {
                Lifecycle::Spot => market.price(&of.kind, &of.zone, now),
                Lifecycle::OnDemand => market.on_demand(&of.kind),
            };
            instance.pid = Some(machine.pid());
            instance.imds = Some(imds);
            self.tell(instance);
            // Told to go in the meantime: then it is not `running` any more.
            if instance.phase() == Phase::Pending {
                bill.started(id, now, price.unwrap_or(0));
                instance.enter(Phase::Running);
            }
        }
        Ok(machine)
    }

    async fn run(
        &self,
        id: &str,
        machine: MachineProcess,
        told: &mut watch::Receiver<InstanceOrder>,
    ) {
        tokio::select! {
            _ = machine.ended() => self.change(id, |instance| {
                if instance.phase() == Phase::Running {
                    instance.cause = Some(Cause::Itself);
                    instance.ending = Some(self.clock.now());
                    instance.enter(Phase::ShuttingDown);
                }
            }),
            _ = told.wait_for(|order| *order != InstanceOrder::Live) => {}
        }
        let kill = *told.borrow() == InstanceOrder::Kill;
        if kill {
            machine.kill().await;
        } else {
            machine.stop(self.config.grace).await;
        }
    }

    fn finish(&self, id: &str) {
        let now = self.clock.now();
        let mut state = self.lock();
        let Ec2State {
            instances, bill, ..
        } = &mut *state;
        let Some(instance) = instances.get_mut(id) else {
            return;
        };
        let stays = instance.cause == Some(Cause::Itself) && !instance.blueprint.ends_on_shutdown;
        instance.enter(if stays {
            Phase::Stopped
        } else {
            Phase::Terminated
        });
        instance.ended = (!stays).then_some(now);
        instance.pid = None;
        instance.imds = None;
        let left_running_at = instance.ending.unwrap_or(now);
        bill.ended(id, left_running_at, instance.cause == Some(Cause::Spot));
        tracing::debug!(instance = id, cause = ?instance.cause, "instance terminated");
    }

    /// Begins the end of an instance; what is over stays as it is.
    pub(super) fn end(&self, instance: &mut Instance, cause: Cause, order: InstanceOrder) {
        match instance.phase() {
            Phase::Pending | Phase::Running => {
                instance.cause = Some(cause);
                instance.ending = Some(self.clock.now());
                instance.enter(Phase::ShuttingDown);
                instance.orders.send_replace(order);
            }
            Phase::Stopped => {
                instance.cause = Some(cause);
                instance.ended = Some(self.clock.now());
                instance.enter(Phase::Terminated);
            }
            Phase::ShuttingDown | Phase::Terminated => {}
        }
    }

    pub(super) fn end_later(self: &Arc<Self>, id: &str, span: Duration) {
        let (ec2, id) = (Arc::clone(self), id.to_owned());
        let stop = self.stop.clone();
        self.machines.spawn(async move {
            let _ = stop.run_until_cancelled(tokio::time::sleep(span)).await;
            ec2.change(&id, |instance| {
                ec2.end(instance, Cause::User, InstanceOrder::Stop);
            });
        });
    }

    /// What the market does to an instance; false if it does not run.
    pub(super) fn reclaim(&self, instance: &mut Instance, kind: ReclaimKind) -> bool {
        if !matches!(instance.phase(), Phase::Pending | Phase::Running) {
            return false;
        }
        let now = self.clock.now();
        match kind {
            ReclaimKind::Rebalance => {
                instance.rebalance.get_or_insert(now);
                self.tell(instance);
            }
            ReclaimKind::Notice { lead } => {
                let at = now.checked_add(lead).unwrap_or(Timestamp::MAX);
                instance.notice.get_or_insert(at);
                self.tell(instance);
            }
            ReclaimKind::Silent => self.end(instance, Cause::Spot, InstanceOrder::Kill),
        }
        true
    }

    /// Puts what the market said where the machine can read it, in the time that the machine lives in.
    fn tell(&self, instance: &Instance) {
        let Some(imds) = &instance.imds else { return };
        if let Some(at) = instance.rebalance {
            imds.set_rebalance(Some(self.clock.on_the_wall(at)));
        }
        if let Some(at) = instance.notice {
            let at = self.clock.on_the_wall(at);
            imds.set_instance_action(Some(("terminate".to_owned(), at)));
        }
    }

    /// Until told to stop: does what the market wants, and forgets what AWS forgets.
    pub(super) async fn watch_market(self: Arc<Self>) {
        let mut last = self.clock.now();
        loop {
            let rest = self.until_next_notice(last).min(MARKET_TICK);
            let rest = tokio::time::sleep(rest);
            if self.stop.run_until_cancelled(rest).await.is_none() {
                return;
            }
            let now = self.clock.now();
            self.market_span(last, now);
            last = now;
        }
    }

    /// Real time until the first of those who were told to go is due.
    fn until_next_notice(&self, now: Timestamp) -> Duration {
        let state = self.lock();
        let running = state.instances.values();
        let running = running.filter(|instance| instance.phase() == Phase::Running);
        match running.filter_map(|instance| instance.notice).min() {
            Some(due) => {
                let left = Duration::try_from(due.duration_since(now)).unwrap_or_default();
                self.clock.real(left)
            }
            None => Duration::MAX,
        }
    }

    fn market_span(&self, from: Timestamp, to: Timestamp) {
        let mut state = self.lock();
        let state = &mut *state;
        let mut running = Vec::new();
        for instance in state.instances.values_mut() {
            let of = &instance.blueprint;
            if of.lifecycle != Lifecycle::Spot || instance.phase() != Phase::Running {
                continue;
            }
            for (at, price) in state.market.history(&of.kind, &of.zone, from, to) {
                if at > from {
                    state.bill.repriced(&instance.id, at, price);
                }
            }
            if instance.notice.is_some_and(|at| at <= to) {
                self.end(instance, Cause::Spot, InstanceOrder::Stop);
                continue;
            }
            running.push(Running {
                instance_id: instance.id.clone(),
                kind: instance.blueprint.kind.clone(),
                zone: instance.blueprint.zone.clone(),
                since: instance.launched,
                max_price: instance.blueprint.max_price,
            });
        }
        for taken in state.market.reclaims(&running, from, to) {
            if let Some(instance) = state.instances.get_mut(&taken.instance_id) {
                tracing::info!(instance = instance.id, kind = ?taken.kind, reason = ?taken.reason, "Spot market interrupts an instance");
                self.reclaim(instance, taken.kind);
            }
        }
        let old = |ended: Timestamp, kept| to.duration_since(ended) > kept;
        let Ec2State {
            instances,
            fleets,
            bill,
            ..
        } = state;
        for (id, instance) in &*instances {
            if let Some(ended) = instance.ended {
                bill.gone(id, ended);
            }
        }
        instances.retain(|_, one| !one.ended.is_some_and(|ended| old(ended, VISIBLE)));
        fleets.retain(|id, fleet| {
            let lives = || instances.values().any(|one| one.blueprint.fleet_id == *id);
            !old(fleet.created, FLEETS_KEPT) || lives()
        });
    }

    pub(super) fn change(&self, id: &str, change: impl FnOnce(&mut Instance)) {
        if let Some(instance) = self.lock().instances.get_mut(id) {
            change(instance);
        }
    }

    fn facts(&self, instance: &Instance) -> ImdsFacts {
        let of = &instance.blueprint;
        ImdsFacts {
            instance_id: instance.id.clone(),
            instance_type: of.kind.clone(),
            region: self.config.region.clone(),
            zone: of.zone.clone(),
            zone_id: of.zone_id.clone(),
            image_id: of.image_id.clone(),
            account_id: self.config.account_id.clone(),
            lifecycle: of.lifecycle.name().to_owned(),
            tags: instance.tags.clone(),
            private_ip: instance.private_ip.clone(),
            pending_time: instance.launched,
            keys: of.has_role.then(|| {
                (
                    self.config.access_key.clone(),
                    self.config.secret_key.clone(),
                )
            }),
        }
    }
}

/// An address in this block for each, told but not lived at: all listen on the loopback.
fn address(block: u8, sequence: u64) -> String {
    let [.., b, c, d] = sequence.to_be_bytes();
    format!("{block}.{b}.{c}.{d}")
}
