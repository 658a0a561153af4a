//! What is done to the system, and what is asked of it.

use std::time::Duration;

pub struct Timed {
    pub at: Duration,
    pub op: Op,
}

#[derive(Clone, Debug)]
pub enum Op {
    Submit {
        drafts: Vec<usize>,
        how: How,
    },
    /// An invalid task for the inbox, which answers by an event.
    Nonsense {
        number: usize,
        named: bool,
    },
    Cancel {
        draft: usize,
        moment: Moment,
    },
    /// Once it has ended without a video.
    Retry {
        draft: usize,
    },
    Kill {
        program: Program,
        down: Duration,
    },
    /// What happens to a machine. It waits until there is one that runs.
    Machine {
        /// Which of them, by its number.
        pick: usize,
        accident: Accident,
    },
    /// The next machine that starts has a point at which its worker will die.
    Arm {
        crash_at: String,
    },
    /// Faults of the object store, as its admin interface takes them, for so long.
    Storage {
        rules: &'static str,
        seed: u64,
        last: Duration,
    },
    /// Faults of EC2, for so long.
    Ec2 {
        rules: &'static str,
        seed: u64,
        last: Duration,
    },
    /// A type costs this part of its price for so long.
    Price {
        kind: &'static str,
        percent: i64,
        last: Duration,
    },
    /// Machines end before they serve, for so long.
    Boots {
        last: Duration,
    },
    /// A place takes each machine that comes up in it, for so long.
    Taking {
        kind: &'static str,
        zone: usize,
        last: Duration,
    },
    /// What was spent can't be read, for so long: a batch's end stands in the log that nobody can decode. Fleet starts
    /// anew, so that it remembers nothing.
    Unreadable {
        last: Duration,
    },
    /// So few machines are to be had in a place, or in all places of a type, for so long.
    Shortage {
        kind: &'static str,
        zone: Option<usize>,
        capacity: u32,
        last: Duration,
    },
}

/// What happens to one machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Accident {
    /// The market takes it, and says so that much before.
    Notice { lead: Duration },
    /// The market may take it.
    Rebalance,
    /// The market takes it without a word.
    Silent,
    /// `kill -9` for its worker.
    Kill,
    /// SIGSTOP, and SIGCONT after so long.
    Freeze { asleep: Duration },
    /// SIGTERM for its worker: hand back what it holds, and leave.
    Stop,
    /// The scratch directory of its worker is gone for good, and so is that of every worker that the machine starts
    /// afterwards: such a worker is always free, and can render nothing.
    Sick,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Single,
    List,
    Inbox,
    /// The same submission three times at once.
    Twins,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    AtOnce,
    Rendering,
    /// Refused, if it has succeeded.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Program {
    Intake,
    Trigger,
    Fleet,
    Notifier,
    Monitor,
    Localcloud,
    Nats,
}
