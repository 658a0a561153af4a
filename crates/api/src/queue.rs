//! How long the queues are.

use serde::{Deserialize, Serialize};
use spotreel_domain::{Model, Owner, Priority};
use utoipa::ToSchema;

/// Tasks that have not ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct QueueView {
    /// Of all callers.
    pub queues: Vec<QueueLength>,
    /// Owners of keys with such tasks, as far as the caller may see them. Tasks from NATS have no owner.
    pub owners: Vec<OwnerTasks>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct QueueLength {
    pub model: Model,
    pub priority: Priority,
    /// Not taken by a worker.
    pub waiting: u64,
    /// Taken by a worker, or held back before the next attempt.
    pub taken: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OwnerTasks {
    pub owner: Owner,
    pub tasks: u64,
}
