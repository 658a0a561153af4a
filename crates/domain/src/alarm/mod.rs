//! Alarms: what operators are told when it begins and when it is over, each once.
//!
//! [`conditions`] compares facts with the configuration. [`AlarmBoard::step`] makes alarms of the conditions, with hold times and
//! hysteresis, and collects what has to be told and ordered. The board is durable; whoever keeps it stores it before anything
//! is told, so that a restart at any point repeats no notice and loses none.

mod board;
mod board_copy;
mod burst;
mod condition;
mod config;
mod facts;
mod mean;
mod name;
mod notice;
mod state;

pub use board::{AlarmBoard, AlarmTerms, KEPT_AFTER_RESOLVED, MOST_ALARMS, MOST_UNTOLD};
pub use board_copy::BoardCopy;
pub use burst::Happening;
pub use condition::{Condition, Conditions, Level, conditions};
pub use config::{
    AlarmsConfig, BacklogAlarm, BudgetAlarm, BudgetStop, BurstAlarm, CostAlarm, HeldAlarm,
    RoomAlarm, SilenceAlarm, SwitchedAlarm,
};
pub use facts::{AlarmFacts, PoolHealth, SUCCESS_IS_RECENT};
pub use mean::Mean;
pub use name::AlarmName;
pub use notice::{AlarmNotice, BudgetOrder, NoticeState};
pub use state::{Alarm, AlarmState};
