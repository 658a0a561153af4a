//! The decisions of fleet: what to launch, drain and terminate. Pure: the service lists the instances, reads the record,
//! calls [`reconcile`](reconcile::reconcile), writes the record that it returns, and only then acts.

mod breaker;
mod buy;
pub mod cloud;
mod follow;
pub mod learn;
mod leave;
mod meter;
pub mod observation;
pub mod offers;
pub mod orphan;
mod places;
pub mod policy;
pub mod reconcile;
mod refund;
mod refusals;
mod residency;
mod settle;
pub mod tags;

pub use learn::{DrainAnswer, EffectOutcome, Learned};
pub use leave::idle_that_stay;
pub use observation::Observation;
pub use policy::Policy;
pub use reconcile::{Effect, Round, reconcile};
