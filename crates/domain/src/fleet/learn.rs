//! What the effects brought becomes part of the record.

use jiff::Timestamp;

use super::cloud::{ErrorClass, LaunchAnswer, PlaceError};
use super::observation::Market;
use super::policy::Policy;
use super::{breaker, places};
use crate::batch::{Batch, Instance, InstanceState, LaunchState};
use crate::money::Usd;

#[derive(Clone, Debug)]
pub enum Outcome {
    Launched {
        seq: u32,
        result: Result<LaunchAnswer, PlaceError>,
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
    /// The end of what a machine has written on its console; empty: it cannot be read.
    Console {
        instance: String,
        tail: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainAnswer {
    /// It holds nothing and takes nothing.
    Drained,
    /// It ends what it has in hand.
    Draining,
    /// No worker listens on that machine.
    NobodyThere,
    Unknown,
}

/// The code with which EC2 refuses a token that it has seen with another request.
const TOKEN_MISMATCH: &str = "IdempotentParameterMismatch";

pub struct Learned<'a> {
    pub now: Timestamp,
    pub cloud_now: Timestamp,
    pub market: Option<&'a Market>,
    pub policy: &'a Policy,
}

impl Learned<'_> {
    pub fn apply(&self, before: &Batch, outcome: &Outcome) -> Batch {
        let mut batch = before.clone();
        match outcome {
            Outcome::Launched {
                seq,
                result: Ok(answer),
            } => self.launched(&mut batch, *seq, answer),
            Outcome::Launched {
                seq,
                result: Err(error),
            } => self.refused(&mut batch, *seq, error),
            Outcome::Terminated { accepted } => {
                for id in accepted {
                    if let Some(InstanceState::Terminating { called_at, .. }) =
                        batch.instance_mut(id).map(|instance| &mut instance.state)
                    {
                        *called_at = Some(self.now);
                    }
                }
            }
            Outcome::Drained {
                instance,
                answer: DrainAnswer::Drained | DrainAnswer::NobodyThere,
            } => {
                if let Some(instance) = batch.instance_mut(instance)
                    && let InstanceState::Draining { why, .. } = instance.state
                {
                    instance.state = InstanceState::Terminating {
                        why,
                        since: self.now,
                        called_at: None,
                    };
                }
            }
            Outcome::Drained { .. } => {}
            Outcome::Console { instance, tail } => breaker::read(&mut batch, instance, tail),
            Outcome::FleetsDeleted { launches } => {
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

    fn launched(&self, batch: &mut Batch, seq: u32, answer: &LaunchAnswer) {
        let Some(launch) = batch.launch_mut(seq).filter(|launch| launch.is_open()) else {
            return;
        };
        launch.state = LaunchState::Answered {
            at: self.now,
            fleet: Some(answer.fleet.clone()),
            instances: answer
                .instances
                .iter()
                .map(|launched| launched.id.clone())
                .collect(),
            errors: answer.errors.clone(),
        };
        for launched in &answer.instances {
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
        for error in &answer.errors {
            self.penalise(batch, seq, error);
        }
        if answer.instances.is_empty() && answer.errors.is_empty() {
            let silence = PlaceError {
                place: None,
                class: ErrorClass::Unknown,
                code: "Empty".to_owned(),
                message: "the cloud launched nothing and gave no reason".to_owned(),
            };
            self.penalise(batch, seq, &silence);
        }
        // A request is wrong only if it brought nothing and nothing else was amiss: one type that a zone does not have
        // stands in the way of no other.
        let mut classes = answer.errors.iter().map(|error| error.class);
        let hopeless =
            answer.instances.is_empty() && classes.all(|c| c == ErrorClass::Configuration);
        if let (true, Some(error), Some(launch)) =
            (hopeless, answer.errors.first(), batch.launch_mut(seq))
        {
            launch.state = LaunchState::Rejected {
                at: self.now,
                error: error.clone(),
            };
        }
    }

    fn refused(&self, batch: &mut Batch, seq: u32, error: &PlaceError) {
        let Some(launch) = batch.launch_mut(seq).filter(|launch| launch.is_open()) else {
            return;
        };
        if error.code == TOKEN_MISMATCH {
            if let LaunchState::Dispatched { sealed, .. } = &mut launch.state {
                *sealed = true;
            }
            return;
        }
        let sent_once = matches!(launch.state, LaunchState::Dispatched { sends: 1, .. });
        if error.class == ErrorClass::Unknown || !sent_once {
            return;
        }
        launch.state = LaunchState::Rejected {
            at: self.now,
            error: error.clone(),
        };
        self.penalise(batch, seq, error);
    }

    fn penalise(&self, batch: &mut Batch, seq: u32, error: &PlaceError) {
        if let Some(lifecycle) = batch.launch(seq).map(|launch| launch.lifecycle) {
            let patience = &self.policy.patience;
            places::penalise(batch, lifecycle, error, self.now, patience);
        }
    }
}
