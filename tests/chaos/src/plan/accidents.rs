//! What goes wrong outside the engine, and when.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};

use super::op::{Accident, Op, Program, Timed};
use crate::settings::LEASE;
use crate::spot::pools::KINDS;

/// Rules of the local cloud; lost answers are those that fail after the work was done.
const STORAGE: [&str; 5] = [
    r#"[{"op":"*","action":"500","probability":0.3}]"#,
    r#"[{"op":"*","action":"reset","probability":0.2}]"#,
    r#"[{"op":"PutObject","action":"reset","probability":0.5,"after":true}]"#,
    r#"[{"op":"*","action":"503_slow_down","probability":0.4},{"op":"*","action":"delay","delay_ms":300,"probability":0.3}]"#,
    r#"[{"op":"PutObject","action":"500","probability":0.9},{"op":"GetObject","action":"500","probability":0.5}]"#,
];
/// For longer than a lease: nothing is answered, everything is slow, or only what a worker asks before it starts a task.
const STORAGE_FOR_LONG: [&str; 4] = [
    r#"[{"op":"*","action":"500"}]"#,
    r#"[{"op":"*","action":"reset"}]"#,
    r#"[{"op":"*","action":"delay","delay_ms":4500}]"#,
    r#"[{"op":"ListObjectsV2","action":"delay","delay_ms":6000}]"#,
];
/// Lost answers, refusals, listings that are behind, ends that take their time.
const EC2: [&str; 8] = [
    r#"[{"op":"CreateFleet","action":"reset","after":true,"times":2}]"#,
    r#"[{"op":"CreateFleet","action":"500","after":true,"times":1},{"op":"DescribeInstances","action":"hide","for_ms":2500}]"#,
    r#"[{"op":"*","action":"throttle","probability":0.5}]"#,
    r#"[{"op":"DescribeInstances","action":"stale","for_ms":2000}]"#,
    r#"[{"op":"TerminateInstances","action":"reset","after":true,"probability":0.5},{"op":"TerminateInstances","action":"terminate_slowly","for_ms":2500}]"#,
    r#"[{"op":"CreateFleet","action":"partial","count":1,"code":"InsufficientInstanceCapacity"}]"#,
    r#"[{"op":"*","action":"reset","probability":0.3},{"op":"*","action":"delay","delay_ms":400,"probability":0.5}]"#,
    r#"[{"op":"CreateFleet","action":"pool_error","code":"InsufficientInstanceCapacity","instance_type":"g6.xlarge"}]"#,
];
/// Listings that lose machines that run: all of them, or now and then.
const LOST_LISTINGS: [&str; 2] = [
    r#"[{"op":"DescribeInstances","action":"hide","for_ms":3600000}]"#,
    r#"[{"op":"DescribeInstances","action":"hide","for_ms":3600000,"probability":0.5}]"#,
];
/// One interruption for so many tasks.
const TASKS_PER_INTERRUPTION: usize = 4;
pub const CRASH_POINTS: [&str; 4] = [
    "after-lease",
    "after-checkpoint",
    "after-upload",
    "after-succeeded",
];

/// The market takes machines, from the first ones on.
pub fn interruptions(rng: &mut StdRng, tasks: usize, length: Duration, schedule: &mut Vec<Timed>) {
    for number in 0..tasks.div_ceil(TASKS_PER_INTERRUPTION) {
        // One of each kind first.
        let kind = match number {
            0..3 => number * 4,
            _ => rng.random_range(0..10),
        };
        let accident = match kind {
            0..4 => Accident::Notice {
                lead: Duration::from_millis(rng.random_range(1_500..4_000)),
            },
            4..7 => Accident::Silent,
            _ => Accident::Rebalance,
        };
        schedule.push(Timed {
            at: length.mul_f64(rng.random_range(0.03..0.8)),
            op: Op::Machine {
                pick: rng.random_range(0..1_000),
                accident,
            },
        });
    }
}

/// What [`accident`] knows, each once; the numbers above are more of EC2's faults.
const KINDS_OF_ACCIDENTS: u32 = 29;

/// One of each kind first, then by weight.
pub fn draw(rng: &mut StdRng, length: Duration, schedule: &mut Vec<Timed>) {
    let mut deck: Vec<u32> = (0..KINDS_OF_ACCIDENTS).collect();
    deck.shuffle(rng);
    let mut at = Duration::from_millis(1_500);
    while at < length {
        let kind =
            deck.pop()
                .unwrap_or_else(|| match rng.random_range(0..KINDS_OF_ACCIDENTS + 4) {
                    // Nobody leads for a lease after each death of a leader: one that dies too often shows little else.
                    10 | 12 => 16,
                    kind => kind,
                });
        schedule.push(Timed {
            at,
            op: accident(rng, kind),
        });
        at += Duration::from_millis(rng.random_range(1_500..3_500));
    }
}

fn accident(rng: &mut StdRng, kind: u32) -> Op {
    let down = Duration::from_millis(rng.random_range(50..1_500));
    let pick = rng.random_range(0..1_000);
    let last = Duration::from_millis(rng.random_range(1_000..4_000));
    let (kind_of, _) = *KINDS.choose(rng).expect("there are types");
    let kill = |program| Op::Kill { program, down };
    match kind {
        0..4 => {
            let point = CRASH_POINTS[kind as usize];
            let probability = if point == "after-checkpoint" {
                0.4
            } else {
                0.9
            };
            let crash_at = format!("{point}:{probability}:{}", rng.random_range(1..1_000_000));
            Op::Arm { crash_at }
        }
        4 => kill(Program::Intake),
        5 => kill(Program::Notifier),
        6 => kill(Program::Monitor),
        7 => kill(Program::Localcloud),
        8 => kill(Program::Nats),
        9 | 10 => kill(Program::Trigger),
        11 | 12 => kill(Program::Fleet),
        13 => Op::Machine {
            pick,
            accident: Accident::Freeze {
                asleep: LEASE + Duration::from_millis(rng.random_range(500..3_000)),
            },
        },
        14 => Op::Machine {
            pick,
            accident: Accident::Stop,
        },
        15 => Op::Storage {
            rules: STORAGE.choose(rng).expect("there are rules"),
            seed: rng.random(),
            last,
        },
        16 => Op::Price {
            kind: kind_of,
            percent: *[60, 130, 300].choose(rng).expect("there are prices"),
            last,
        },
        17 => Op::Shortage {
            kind: kind_of,
            zone: None,
            capacity: 0,
            last,
        },
        18 => Op::Shortage {
            kind: kind_of,
            zone: Some(rng.random_range(0..3)),
            capacity: rng.random_range(0..3),
            last,
        },
        19 => Op::Machine {
            pick,
            accident: Accident::Sick,
        },
        20 => Op::Storage {
            rules: STORAGE_FOR_LONG.choose(rng).expect("there are rules"),
            seed: rng.random(),
            last: LEASE + Duration::from_millis(rng.random_range(1_000..5_000)),
        },
        21 => Op::Machine {
            pick,
            accident: Accident::Kill,
        },
        22 => Op::Boots { last },
        23 => Op::Taking {
            kind: kind_of,
            zone: rng.random_range(0..3),
            last: last * 2,
        },
        24 => Op::Unreadable { last },
        25 => Op::Ec2 {
            rules: LOST_LISTINGS.choose(rng).expect("there are rules"),
            seed: rng.random(),
            last: last * 2,
        },
        _ => Op::Ec2 {
            rules: EC2.choose(rng).expect("there are rules"),
            seed: rng.random(),
            last,
        },
    }
}
