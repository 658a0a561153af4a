//! Cost allocation: what a batch cost, divided among its instances, its attempts and its tasks, to the micro-dollar.
//!
//! An instance's cost is what [`Instance::charges_at`] books for it: the same sum stands in the batch's receipt. Its compute is
//! divided by time into boot, load, rendering, idle and interrupted: each moment after the boot belongs to the open attempt
//! that began last. Of an attempt that was interrupted or lost, the work up to the step at which the next one went on is
//! rendering, the rest is interrupted. The price of an instance changes while it runs, and its record has the sum alone: so
//! each millisecond of one instance counts the same.
//!
//! A task pays its own attempts. What belongs to no attempt (boot, idle, volumes, addresses) is divided among the tasks of the
//! batch by their rendering time. Every division is by largest remainder, so tasks and instances add up to the same total.
//!
//! A closed batch gives the same ledger whenever it is made: attempts that began after its end decide nothing.

mod attempt;
mod booking;
mod costs;
mod division;
mod ledger;
mod lines;
mod split;
mod timeline;
mod waste;

pub use attempt::{AttemptRecord, Knowledge, NextAttempt, merged};
pub use costs::{CostDay, CostGroup, CostQuery, CostReport, CostRow, CostSum, MAX_ROWS};
pub use ledger::{AttemptLine, BatchLedger, CostCell, InstanceLine, TaskShare};
pub use lines::{CostLines, TimeSplit};

#[cfg(doc)]
use crate::batch::Instance;
