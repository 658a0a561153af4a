//! The ledger: what every attempt, task, instance and batch cost ([`spotreel_domain::allocation`]).
//!
//! - [`recorder`] stores each attempt in the stream LEDGER before the janitor may delete the events that tell of it.
//! - [`books`] makes the ledger of a batch from its record and the stored attempts, at any time.
//! - [`closer`] stores the ledger of each batch that has ended, once.
//!
//! Every part may be done again by any monitor: the same facts have the same subjects and the same content.

pub mod books;
pub mod closer;
pub mod recorder;
