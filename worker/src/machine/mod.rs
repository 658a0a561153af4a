//! The machine that this worker runs on: its cloud, its engine, its health, and when it is left.

pub mod cloud;
pub mod drain;
pub mod host;
pub mod idle;
pub mod leave;
mod metadata;
pub mod presence;
mod room;
pub mod scratch;
pub mod suitability;
pub mod wellness;
