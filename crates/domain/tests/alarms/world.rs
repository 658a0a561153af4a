//! A bucket, a stream of events, and monitors that use both as the program does.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use spotreel_domain::Usd;
use spotreel_domain::alarm::*;

/// The values of monitor.toml, with a budget of $100 a day.
pub fn config() -> AlarmsConfig {
    let span = |minutes: u64| Duration::from_secs(60 * minutes);
    AlarmsConfig {
        every: Duration::from_secs(10),
        resolve_after: span(5),
        cost_per_day: CostAlarm {
            on: true,
            above: Usd::from_cents(5_000),
        },
        budget: BudgetAlarm {
            on: true,
            per_day: Some(Usd::from_cents(10_000)),
            per_month: None,
            percents: vec![50, 80, 100],
            stop: BudgetStop::Finish,
        },
        interruptions: BurstAlarm {
            on: true,
            at_least: 1,
            within: span(5),
        },
        backlog: BacklogAlarm {
            on: true,
            above: 500,
            mean_over: span(5),
            hold: span(120),
        },
        nothing_succeeds: HeldAlarm {
            on: true,
            hold: span(60),
        },
        batch_blocked: HeldAlarm {
            on: true,
            hold: span(10),
        },
        breaker_open: SwitchedAlarm { on: true },
        tasks_failed: BurstAlarm {
            on: true,
            at_least: 1,
            within: span(60),
        },
        log_room: RoomAlarm {
            on: true,
            percent: 75,
            hold: span(1),
        },
        events_copy: HeldAlarm {
            on: true,
            hold: span(1),
        },
        service_silent: SilenceAlarm {
            on: true,
            hold: span(2),
            programs: SilenceAlarm::KNOWN.map(Into::into).into(),
        },
    }
}

/// What survives every crash.
#[derive(Default)]
pub struct World {
    bucket: Option<(u64, String)>,
    /// Number of each event in its order, as the stream admits it.
    pub events: Vec<AlarmNotice>,
    pub orders: Vec<BudgetOrder>,
    /// Every notice that was ever stored as untold.
    pub promised: BTreeMap<u64, AlarmNotice>,
}

/// Where a monitor dies in a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    Never,
    BeforeStore,
    AfterStore,
    AfterOneNotice,
    BeforeForgetting,
}

impl Crash {
    pub const ALL: [Self; 5] = [
        Self::Never,
        Self::BeforeStore,
        Self::AfterStore,
        Self::AfterOneNotice,
        Self::BeforeForgetting,
    ];
}

#[derive(Default)]
pub struct Monitor {
    copy: Option<BoardCopy>,
}

impl World {
    fn read(&self) -> Option<(u64, AlarmBoard)> {
        let (revision, json) = self.bucket.as_ref()?;
        Some((*revision, serde_json::from_str(json).unwrap()))
    }

    pub fn board(&self) -> AlarmBoard {
        self.read().unwrap().1
    }

    /// The new revision; none: another monitor stored first.
    fn store(&mut self, board: &AlarmBoard, expected: u64) -> Option<u64> {
        let revision = self.bucket.as_ref().map_or(0, |(revision, _)| *revision);
        if revision != expected {
            return None;
        }
        for notice in &board.untold {
            let before = self.promised.insert(notice.number, notice.clone());
            assert!(
                before.is_none_or(|before| before == *notice),
                "a number is given once"
            );
        }
        self.bucket = Some((revision + 1, serde_json::to_string(board).unwrap()));
        Some(revision + 1)
    }

    /// As the stream of events: only what is newer than the newest of that name.
    fn publish(&mut self, notice: &AlarmNotice) {
        let mut of_name = self.events.iter().filter(|event| event.name == notice.name);
        if of_name.all(|event| event.number < notice.number) {
            self.events.push(notice.clone());
        }
    }

    /// One look of the program that watches monitor.
    pub fn watch_monitor(&mut self, silent_after: Duration, now: Timestamp) {
        let (revision, board) = self.read().unwrap();
        let Some(mut board) = board.without_monitor(silent_after, now) else {
            return;
        };
        let revision = self.store(&board, revision).unwrap();
        board.untold.iter().for_each(|notice| self.publish(notice));
        board.untold.clear();
        self.store(&board, revision).unwrap();
    }

    pub fn told(&self) -> BTreeMap<(AlarmName, String), Vec<NoticeState>> {
        let mut told = BTreeMap::<_, Vec<_>>::new();
        for event in &self.events {
            let about = event.about.clone().unwrap_or_default();
            told.entry((event.name, about))
                .or_default()
                .push(event.state);
        }
        told
    }

    /// What holds whatever happened: each notice that was promised was told, once, and each alarm fires and resolves in turn.
    pub fn check(&self) {
        let numbers: Vec<_> = self.events.iter().map(|event| event.number).collect();
        let mut once = numbers.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), numbers.len(), "told twice");
        let promised: Vec<_> = self.promised.keys().copied().collect();
        assert_eq!(once, promised, "told is what was promised");
        for (key, states) in self.told() {
            for (index, state) in states.iter().enumerate() {
                let expected = match index % 2 {
                    0 => NoticeState::Firing,
                    _ => NoticeState::Resolved,
                };
                assert_eq!(*state, expected, "{key:?}: {states:?}");
            }
        }
    }
}

impl Monitor {
    /// One look, as the program's.
    pub fn look(
        &mut self,
        world: &mut World,
        config: &AlarmsConfig,
        facts: &AlarmFacts,
        now: Timestamp,
        crash: Crash,
    ) {
        if self.try_look(world, config, facts, now, crash).is_none() && crash != Crash::Never {
            self.copy = None;
        }
    }

    /// None: it stopped before the end.
    fn try_look(
        &mut self,
        world: &mut World,
        config: &AlarmsConfig,
        facts: &AlarmFacts,
        now: Timestamp,
        crash: Crash,
    ) -> Option<()> {
        let stored = world.read();
        let copy = self
            .copy
            .get_or_insert_with(|| BoardCopy::new(stored.clone(), now));
        copy.refresh(stored, now);
        let (board, is_due) = copy.look(config, facts, now);
        if is_due {
            (crash != Crash::BeforeStore).then_some(())?;
            let revision = world.store(&board, copy.revision())?;
            copy.stored(board, revision);
            (crash != Crash::AfterStore).then_some(())?;
        } else {
            copy.keep(board);
        }
        let mut board = copy.board().clone();
        for (index, notice) in board.untold.iter().enumerate() {
            world.publish(notice);
            (index > 0 || crash != Crash::AfterOneNotice).then_some(())?;
        }
        world.orders.append(&mut board.orders);
        if board.untold.is_empty() && board == *copy.board() {
            return Some(());
        }
        (crash != Crash::BeforeForgetting).then_some(())?;
        board.untold.clear();
        let revision = world.store(&board, copy.revision())?;
        copy.stored(board, revision);
        Some(())
    }
}
