//! Carries out the effects of a reconcile pass, and writes their results into the record.

use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use futures::{FutureExt, future::BoxFuture};
use jiff::Timestamp;
use spotreel_api::{DrainReply, DrainRequest, DrainState};
use spotreel_bootstrap::ambient;
use spotreel_bus::log::AppendError;
use spotreel_bus::reply::json;
use spotreel_bus::{kv, names};
use spotreel_domain::batch::{Batch, BatchId, DrainMode, InstanceState, Launch, Leaving, Status};
use spotreel_domain::fleet::cloud::{ErrorClass, LaunchAnswer, PlaceError, TOKEN_MISMATCH};
use spotreel_domain::fleet::reconcile::{outlived, terminations};
use spotreel_domain::fleet::{DrainAnswer, Effect, EffectOutcome, Learned, Policy};
use spotreel_ec2::LaunchError;
use tokio::time::Instant;

use crate::error::RoundError;
use crate::pool::{CAS_TRIES, Called, Pool};
use crate::{crash, metrics};

/// A worker answers once its presence is written: milliseconds.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

impl Pool {
    /// Ends first, then launches; workers are told all at once, and whoever has nothing left in hand is ended in the
    /// moment in which that is written.
    pub async fn act(
        &mut self,
        effects: Vec<Effect>,
        policy: &Policy,
        cloud_now: Timestamp,
    ) -> Result<(), RoundError> {
        let mut told = FuturesUnordered::<BoxFuture<'static, EffectOutcome>>::new();
        let mut launch = None;
        for effect in effects {
            match effect {
                Effect::Terminate { instances } => {
                    self.terminate(instances, policy, cloud_now).await?;
                }
                Effect::Drain {
                    instance,
                    mode,
                    why,
                } => {
                    told.push(self.drain(instance, mode, why).boxed());
                }
                Effect::Launch(of) => launch = Some(of),
                Effect::DeleteFleets { launches } => {
                    told.push(self.delete_fleets(launches).boxed());
                }
                Effect::ReadConsole { instance } => {
                    told.push(self.read_console(instance).boxed());
                }
            }
        }
        if let Some(launch) = launch {
            self.launch(&launch);
        }
        while let Some(first) = told.next().await {
            let mut outcomes = vec![first];
            while let Some(Some(next)) = told.next().now_or_never() {
                outcomes.push(next);
            }
            self.learn(&outcomes, policy, cloud_now).await?;
            let known = self.known.as_ref().map(|known| &known.batch);
            let due = known.map_or(Vec::new(), |batch| {
                terminations(batch, ambient::now(), policy)
            });
            if !due.is_empty() {
                self.terminate(due, policy, cloud_now).await?;
            }
        }
        Ok(())
    }

    async fn terminate(
        &mut self,
        instances: Vec<String>,
        policy: &Policy,
        cloud_now: Timestamp,
    ) -> Result<(), RoundError> {
        let accepted = self.end(&instances).await;
        self.learn(&[EffectOutcome::Terminated { accepted }], policy, cloud_now)
            .await
    }

    /// Asks the cloud; whom it accepted.
    async fn end(&mut self, instances: &[String]) -> Vec<String> {
        crash::point("before-terminate");
        let results = self.cloud.ec2.terminate(instances).await;
        crash::point("after-terminate");
        let mut accepted = Vec::new();
        for (id, result) in results {
            match result {
                Ok(()) => {
                    let why = self.why(&id);
                    metrics::terminated(self.name.as_str(), why, 1);
                    tracing::info!(instance = id, why, pool = %self.name, "terminating instance");
                    accepted.push(id);
                }
                // No end: a young machine is not known everywhere yet, and of an old one the listings tell.
                Err(error) if error.is_not_found() => {
                    tracing::debug!(%error, instance = id, "instance does not exist in EC2");
                }
                Err(error) => {
                    tracing::warn!(%error, instance = id, "TerminateInstances failed; retrying");
                }
            }
        }
        accepted
    }

    fn why(&self, id: &str) -> &'static str {
        let known = self.known.as_ref();
        let instance = known.and_then(|known| known.batch.instance(id));
        match instance.map(|instance| &instance.state) {
            Some(InstanceState::Terminating { why, .. }) => metrics::why(*why),
            _ => "unknown",
        }
    }

    /// With the cloud or the record out of sight: what the record demanded when it was last seen, and what has outlived
    /// its time since; the last listing may be older than it.
    pub async fn end_blindly(&mut self) {
        let Some(batch) = self.known.as_ref().map(|known| known.batch.clone()) else {
            return;
        };
        let again = self.policy.patience.terminate_again;
        let mut due = terminations(&batch, ambient::now(), &self.policy);
        if let Some(listed) = self.cloud.last_listed() {
            due.extend(outlived(&batch, listed.cloud_clock(), &self.policy));
            due.sort();
            due.dedup();
        }
        due.retain(|id| {
            let asked = self.asked_blindly.get(id);
            asked.is_none_or(|at| at.elapsed() >= again)
        });
        if due.is_empty() {
            return;
        }
        let accepted = self.end(&due).await;
        let now = Instant::now();
        self.asked_blindly
            .extend(accepted.into_iter().map(|id| (id, now)));
    }

    fn drain(
        &self,
        instance: String,
        mode: DrainMode,
        why: Leaving,
    ) -> impl Future<Output = EffectOutcome> + Send + 'static {
        let client = self.fleet.batches.client().clone();
        // A worker that is said to be there and does not listen is cut off for a moment, and may hold a task.
        let may_be_there = self
            .present
            .as_ref()
            .is_none_or(|present| present.contains(&instance));
        let has_served = self
            .known
            .as_ref()
            .and_then(|known| known.batch.instance(&instance))
            .is_some_and(|instance| instance.ready_at.is_some());
        async move {
            // A worker that comes up between the question and the end of its machine must not begin.
            if !has_served && let Err(error) = kv::order_out(&client, &instance).await {
                tracing::warn!(error = %spotreel_domain::chain(&error), instance, "stop order for a booting instance could not be written");
                let answer = DrainAnswer::Unknown;
                return EffectOutcome::Drained { instance, answer };
            }
            let answer = tell_to_drain(&client, &instance, mode, metrics::why(why)).await;
            let answer = match answer {
                DrainAnswer::NobodyThere if may_be_there => DrainAnswer::Unknown,
                answer => answer,
            };
            EffectOutcome::Drained { instance, answer }
        }
    }

    fn delete_fleets(
        &self,
        launches: Vec<(u32, String)>,
    ) -> impl Future<Output = EffectOutcome> + Send + 'static {
        let ec2 = self.cloud.ec2.clone();
        async move {
            let ids: Vec<String> = launches.iter().map(|(_, id)| id.clone()).collect();
            let results = ec2.delete_fleets(&ids).await;
            // Nothing of them runs: one that the cloud keeps all the same is no reason to keep the batch open.
            let gone = |id: &String| {
                let result = results.iter().find(|(of, _)| of == id);
                result.is_some_and(|(_, result)| match result {
                    Ok(()) => true,
                    Err(error) if error.retryable() => false,
                    Err(error) => {
                        tracing::debug!(%error, fleet = id, "DeleteFleets failed; EC2 will remove the fleet object");
                        true
                    }
                })
            };
            let launches = launches.iter().filter(|(_, id)| gone(id));
            EffectOutcome::FleetsDeleted {
                launches: launches.map(|(seq, _)| *seq).collect(),
            }
        }
    }

    /// Asked once: whoever may not read it, or comes too late, has EC2's own reason.
    fn read_console(
        &self,
        instance: String,
    ) -> impl Future<Output = EffectOutcome> + Send + 'static {
        let ec2 = self.cloud.ec2.clone();
        async move {
            let read = ec2.console(&instance).await;
            let tail = read.unwrap_or_else(|error| {
                tracing::info!(%error, instance, "GetConsoleOutput failed");
                String::new()
            });
            EffectOutcome::Console { instance, tail }
        }
    }

    /// The launch that is not to be called now: its call is under way, or has just failed. A call is counted in the
    /// record before it is made, so one that would not be made must not be decided either.
    pub fn held_back(&self, batch: &Batch) -> Option<u32> {
        let put_off = |seq: &u32| self.replay.must_wait(&(batch.id.clone(), *seq));
        let open = batch.launches.iter().filter(|launch| launch.is_open());
        self.in_flight
            .or_else(|| open.map(|launch| launch.seq).find(put_off))
    }

    /// Calls CreateFleet in a task of its own: passes continue meanwhile.
    fn launch(&mut self, launch: &Launch) {
        let Some(known) = &self.known else {
            return;
        };
        // Another fleet may have had its answer meanwhile.
        if !known.batch.launch(launch.seq).is_some_and(Launch::is_open) {
            return;
        }
        let batch = known.batch.id.clone();
        let (seq, first) = (launch.seq, launch.is_sent_once());
        if self.in_flight.is_some() || self.replay.must_wait(&(batch.clone(), seq)) {
            return;
        }
        let Some(request) = launch.frozen_request() else {
            tracing::error!(%batch, seq, "launch request in the record cannot be decoded; CreateFleet is not called");
            return;
        };
        self.in_flight = Some(seq);
        let (ec2, answers) = (self.cloud.ec2.clone(), self.called_sender.clone());
        let units = request.units;
        tracing::info!(%batch, seq, units, first, "calling CreateFleet");
        self.fleet.ctx.tasks.spawn(async move {
            let result = ec2.launch(&request).await;
            crash::point("after-call");
            // Nobody listens any more: the next fleet asks again with the same token.
            let _ = answers
                .send(Called {
                    batch,
                    seq,
                    result,
                    first,
                })
                .await;
        });
    }

    /// A launch call has come to its end, well or not.
    pub async fn hear_answer(&mut self, called: Called) {
        self.in_flight = None;
        crash::point("before-learn");
        let Called {
            batch,
            seq,
            result,
            first,
        } = called;
        let pool = self.name.to_string();
        self.say_whether_launches_work(&result);
        let outcome = match result {
            Ok(answer) => {
                let (launched, errors) = (answer.instances.len(), answer.errors.len());
                let outcome = match (launched, errors) {
                    (0, _) => "nothing",
                    (_, 0) => "whole",
                    _ => "part",
                };
                tracing::info!(%batch, seq, launched, errors, "CreateFleet succeeded");
                metrics::launched(&pool, outcome);
                let result = Ok(answer);
                EffectOutcome::Launched { seq, result }
            }
            Err(error) => {
                // What is said of a call that was made before says nothing of the call before.
                let unclear =
                    error.class == ErrorClass::Unknown || (!first && error.code != TOKEN_MISMATCH);
                metrics::launched(&pool, metrics::class(error.class));
                if error.code == TOKEN_MISMATCH {
                    tracing::error!(%error, %batch, seq, "CreateFleet: token reused with another request; this is a bug, waiting for listings");
                } else {
                    tracing::warn!(%error, %batch, seq, unclear, "CreateFleet failed");
                }
                if unclear {
                    return self.replay.put_off((batch, seq));
                }
                let said_of = |place| PlaceError {
                    place,
                    class: error.class,
                    code: error.code.clone(),
                    message: error.message.clone(),
                };
                if error.places.is_empty() {
                    let result = Err(said_of(None));
                    EffectOutcome::Launched { seq, result }
                } else {
                    let places = error.places.iter().cloned();
                    let errors = places.map(|place| said_of(Some(place))).collect();
                    EffectOutcome::PlacesRefused { seq, errors }
                }
            }
        };
        let known = self.known.as_ref().map(|known| &known.batch.id);
        if known.is_some_and(|known| *known != batch) {
            return;
        }
        let policy = self.policy.clone();
        let listed = self.cloud.last_listed();
        let cloud_now = listed.map_or_else(ambient::now, |listed| listed.cloud_clock());
        if let Err(error) = self.learn(&[outcome], &policy, cloud_now).await {
            tracing::warn!(error = %spotreel_domain::chain(&error), %batch, seq, "launch result could not be written; its instances will be found by their tags");
            self.replay.put_off((batch, seq));
        }
    }

    /// If there is nothing to launch any more, a launch that was refused stands in nobody's way. A batch that failed still
    /// lacks its instances: a person has to look.
    pub fn forget_refusal(&self, newest: Option<&Batch>) {
        let wants_none = |batch: &Batch| {
            !matches!(batch.status, Status::Failed { .. })
                && batch.blocked.is_none()
                && batch.launches.iter().all(|launch| !launch.is_open())
        };
        if newest.is_none_or(wants_none) {
            self.fleet.conditions.recover(&self.launches_check());
        }
    }

    fn launches_check(&self) -> String {
        format!("pool {} launches", self.name)
    }

    /// A launch that was refused for the account's or the request's sake is a failing check until one succeeds, or none is
    /// wanted.
    fn say_whether_launches_work(&self, result: &Result<LaunchAnswer, LaunchError>) {
        let check = self.launches_check();
        let said = match result {
            Ok(answer) if !answer.instances.is_empty() => Ok(()),
            Ok(answer) => {
                let classes = answer.errors.iter().map(|error| error.class);
                let only_wrong = classes
                    .clone()
                    .all(|class| class == ErrorClass::Configuration);
                match answer.errors.first().filter(|_| only_wrong) {
                    Some(PlaceError { code, message, .. }) => {
                        Err(format!("nothing was launched: {message} ({code})"))
                    }
                    None => return,
                }
            }
            Err(error) if error.class == ErrorClass::Configuration => Err(error.to_string()),
            Err(_) => return,
        };
        if said.is_err() {
            // The template or a subnet may not be what it was.
            self.cloud.check_again();
        }
        self.fleet.conditions.set(&check, said);
    }

    /// Writes what came of the effects, over whatever stands there by now.
    async fn learn(
        &mut self,
        outcomes: &[EffectOutcome],
        policy: &Policy,
        cloud_now: Timestamp,
    ) -> Result<(), RoundError> {
        let market = self.cloud.market();
        let mut of: Option<BatchId> = None;
        for _ in 0..CAS_TRIES {
            self.connected()?;
            let Some(record) = self.known.clone() else {
                return Ok(());
            };
            // What was learned of a batch is never said of the next one.
            if *of.get_or_insert_with(|| record.batch.id.clone()) != record.batch.id {
                return Ok(());
            }
            let learned = Learned {
                now: ambient::now(),
                cloud_now,
                market: market.as_ref(),
                policy,
            };
            let apply = |batch: Batch, outcome: &EffectOutcome| learned.apply(&batch, outcome);
            let batch = outcomes.iter().fold(record.batch.clone(), apply);
            if batch == record.batch || !record.batch.is_active() {
                return Ok(());
            }
            match self.fleet.batches.append(&batch, record.sequence).await {
                Ok(sequence) => {
                    self.wrote(&record, &batch, sequence);
                    return Ok(());
                }
                Err(AppendError::Conflict(newer)) => self.known = newer.map(|newer| *newer),
                Err(error) => return Err(RoundError::Append(Box::new(error))),
            }
        }
        Ok(())
    }
}

/// Tells the workers on these machines that they stay. One that does not hear it hears the next.
pub async fn tell_to_stay(client: &async_nats::Client, instances: &[String]) {
    for instance in instances {
        let subject = names::worker_stay(instance);
        if let Err(error) = client.publish(subject, "".into()).await {
            return tracing::debug!(error = %spotreel_domain::chain(&error), "stay messages could not be sent");
        }
    }
}

/// Tells the worker on a machine to take nothing more.
pub async fn tell_to_drain(
    client: &async_nats::Client,
    instance: &str,
    mode: DrainMode,
    reason: &str,
) -> DrainAnswer {
    let body = DrainRequest {
        mode,
        reason: reason.to_owned(),
    };
    let request = async_nats::Request::new()
        .payload(json(&body).into())
        .timeout(Some(DRAIN_TIMEOUT));
    let subject = names::worker_drain(instance);
    match client.send_request(subject, request).await {
        Ok(reply) => match serde_json::from_slice(&reply.payload) {
            Ok(DrainReply::State { state }) => match state {
                DrainState::Drained => DrainAnswer::Drained,
                DrainState::Draining => DrainAnswer::Draining,
            },
            _ => DrainAnswer::Unknown,
        },
        Err(error) if error.kind() == async_nats::RequestErrorKind::NoResponders => {
            DrainAnswer::NobodyThere
        }
        Err(error) => {
            tracing::debug!(error = %spotreel_domain::chain(&error), instance, "drain request got no answer");
            DrainAnswer::Unknown
        }
    }
}
