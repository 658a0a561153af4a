//! How the programs of a system are started on one machine: where they find NATS and the cloud, and with which users and
//! keys. `spotreel dev` and the tests start everything by this; each adds settings of its own, such as shorter times.

mod cloud;
mod invocation;
pub mod nats;
mod site;

pub use cloud::CloudAccess;
pub use invocation::{Invocation, quoted};
pub use site::{FAULTS, Missing, Programs, Site};
