//! The facts about pools that trigger and fleet share. Each is defined here once.
//!
//! | module | fact | read from |
//! |---|---|---|
//! | [`queue`] | tasks that have not ended, by model and lane, and whether one may start | the consumers, the task log |
//! | [`oldest`], [`arrivals`] | the oldest task that waits; how many came within the hour | the task log |
//! | [`samples`] | what the tasks are that wait | the task log |
//! | [`workers`] | who renders what, counted for one pool only | the bucket of workers |
//! | [`marks`] | whether the counts can be trusted; modes; corrections of the cost model | the bucket of marks |
//! | [`spend`] | what all pools cost by the hour, day and month; how fast they rendered; what failed | the batch log |
//! | [`market`] | Spot prices, and as hints the quotas and the sizes of instance types | EC2 |
//!
//! Nothing here decides: that is `spotreel_domain`. What could not be read is an error or `None`, never zero.

pub mod arrivals;
pub mod market;
pub mod marks;
pub mod oldest;
pub mod queue;
pub mod samples;
pub mod spend;
pub mod workers;
