//! Updates the record with the results of effects.

use jiff::Timestamp;

use super::cloud::{ErrorClass, LaunchAnswer, Launched, PlaceError, TOKEN_MISMATCH};
use super::observation::Market;
use super::policy::Policy;
use super::{breaker, places, refusals};
use crate::batch::{Batch, Instance, InstanceState, Launch, LaunchState};
use crate::money::Usd;

#[derive(Clone, Debug)]
pub enum EffectOutcome {
    Launched {
        seq: u32,
        result: Result<LaunchAnswer, PlaceError>,
    },
    /// The call was refused because of these capacity pools; nothing was launched.
    PlacesRefused {
        seq: u32,
        errors: Vec<PlaceError>,
    },
    Terminated {
        accepted: Vec<String>,
    },
    Drained {
        instance: String,
        answer: DrainAnswer,
    },
    FleetsDeleted {
        launches: Vec<u32>,
    },
    /// The end of an instance's console output; empty: it cannot be read.
    Console {
        instance: String,
        tail: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainAnswer {
    /// It has no task and takes none.
    Drained,
    /// It finishes the task that it has in hand.
    Draining,
    /// No worker listens on that instance.
    NobodyThere,
    Unknown,
}

pub struct Learned<'a> {
    pub now: Timestamp,
    pub cloud_now: Timestamp,
    pub market: Option<&'a Market>,
    pub policy: &'a Policy,
}

impl Learned<'_> {
    pub fn apply(&self, before: &Batch, outcome: &EffectOutcome) -> Batch {
        let mut batch = before.clone();
        match outcome {
            EffectOutcome::Launched {
                seq,
                result: Ok(answer),
            } => {
                let fleet = Some(answer.fleet.clone());
                self.answered(&mut batch, *seq, fleet, &answer.instances, &answer.errors);
            }
            EffectOutcome::Launched {
                seq,
                result: Err(error),
            } => self.refused(&mut batch, *seq, error),
            EffectOutcome::PlacesRefused { seq, errors } => {
                if batch.launch(*seq).is_some_and(Launch::is_sent_once) {
                    self.answered(&mut batch, *seq, None, &[], errors);
                }
            }
            EffectOutcome::Terminated { accepted } => {
                for id in accepted {
                    if let Some(InstanceState::Terminating { called_at, .. }) =
                        batch.instance_mut(id).map(|instance| &mut instance.state)
                    {
                        *called_at = Some(self.now);
                    }
                }
            }
            EffectOutcome::Drained {
                instance,
                answer: DrainAnswer::Drained | DrainAnswer::NobodyThere,
            } => {
                if let Some(instance) = batch.instance_mut(instance)
                    && let InstanceState::Draining { why, .. } = instance.state
                {
                    instance.terminate(why, self.now);
                }
            }
            EffectOutcome::Drained { .. } => {}
            EffectOutcome::Console { instance, tail } => breaker::read(&mut batch, instance, tail),
            EffectOutcome::FleetsDeleted { launches } => {
                for seq in launches {
                    if let Some(launch) = batch.launch_mut(*seq) {
                        launch.state = LaunchState::Closed { at: self.now };
                    }
                }
            }
        }
        if batch != *before && batch.at < self.now {
            batch.at = self.now;
        }
        batch
    }

    fn answered(
        &self,
        batch: &mut Batch,
        seq: u32,
        fleet: Option<String>,
        instances: &[Launched],
        errors: &[PlaceError],
    ) {
        if !batch.launch(seq).is_some_and(Launch::is_open) {
            return;
        }
        if instances.is_empty()
            && let Some(error) = refusals::of_whole_request(batch, seq, errors)
        {
            self.reject(batch, seq, &error);
            return;
        }
        let Some(launch) = batch.launch_mut(seq) else {
            return;
        };
        launch.state = LaunchState::Answered {
            at: self.now,
            fleet,
            instances: instances.iter().map(|one| one.id.clone()).collect(),
            errors: errors.to_vec(),
        };
        for launched in instances {
            if batch.instance(&launched.id).is_some() {
                continue;
            }
            let place = super::cloud::Place {
                kind: launched.kind.clone(),
                zone: launched.zone.clone(),
            };
            let price = self
                .market
                .and_then(|market| market.price(&place, launched.lifecycle));
            let cap = self.policy.kind(&launched.kind).map(|kind| kind.cap);
            batch.instances.push(Instance::bought(
                launched.id.clone(),
                place,
                launched.lifecycle,
                seq,
                self.cloud_now,
                price.or(cap).unwrap_or(Usd::ZERO),
            ));
        }
        for error in errors {
            self.penalise(batch, seq, error);
        }
        if instances.is_empty() && errors.is_empty() {
            let silence = PlaceError {
                place: None,
                class: ErrorClass::Unknown,
                code: "Empty".to_owned(),
                message: "the cloud launched nothing and gave no reason".to_owned(),
            };
            self.penalise(batch, seq, &silence);
        }
    }

    fn refused(&self, batch: &mut Batch, seq: u32, error: &PlaceError) {
        let Some(launch) = batch.launch_mut(seq).filter(|launch| launch.is_open()) else {
            return;
        };
        if error.code == TOKEN_MISMATCH {
            if let LaunchState::Unanswered { sealed, .. } = &mut launch.state {
                *sealed = true;
            }
            return;
        }
        if error.class != ErrorClass::Unknown && launch.is_sent_once() {
            self.reject(batch, seq, error);
        }
    }

    /// The whole request was refused: none of its instances runs.
    fn reject(&self, batch: &mut Batch, seq: u32, error: &PlaceError) {
        if let Some(launch) = batch.launch_mut(seq) {
            launch.state = LaunchState::Rejected {
                at: self.now,
                error: error.clone(),
            };
        }
        self.penalise(batch, seq, error);
    }

    fn penalise(&self, batch: &mut Batch, seq: u32, error: &PlaceError) {
        if let Some(lifecycle) = batch.launch(seq).map(|launch| launch.lifecycle) {
            let patience = &self.policy.patience;
            places::penalise(batch, lifecycle, error, self.now, patience);
        }
    }
}
