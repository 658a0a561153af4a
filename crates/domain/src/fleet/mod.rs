//! The decisions of fleet: what to launch, whom to drain, what to end. Pure: the service lists the cloud, reads the
//! record, asks [`reconcile`](reconcile::reconcile), writes what it answers, and only then acts.

pub mod cloud;
