//! One program's copy of the board, and when it has to be stored.

use std::time::Duration;

use jiff::Timestamp;

use super::board::AlarmBoard;
use super::condition::conditions;
use super::config::AlarmsConfig;
use super::facts::AlarmFacts;
use crate::time::elapsed;

/// How often the board is stored while no alarm changes: hold times that were not stored are lost by a crash, and others see by
/// it that somebody watches.
const STORED_EVERY: Duration = Duration::from_secs(60);

/// The board as this program knows it. Any number of programs may keep one: each stores over the revision that it has read.
#[derive(Clone, Debug)]
pub struct BoardCopy {
    board: AlarmBoard,
    stored: AlarmBoard,
    revision: u64,
}

impl BoardCopy {
    /// `stored` is what the bucket has; 0 is the revision of nothing.
    pub fn new(stored: Option<(u64, AlarmBoard)>, now: Timestamp) -> Self {
        let (revision, board) = stored.unwrap_or_else(|| (0, AlarmBoard::new(now)));
        Self {
            stored: board.clone(),
            board,
            revision,
        }
    }

    /// Takes over what the bucket has, if another program has stored it.
    pub fn refresh(&mut self, stored: Option<(u64, AlarmBoard)>, now: Timestamp) {
        let revision = stored.as_ref().map_or(0, |(revision, _)| *revision);
        if revision != self.revision {
            *self = Self::new(stored, now);
        }
    }

    pub fn board(&self) -> &AlarmBoard {
        &self.board
    }

    /// Over which the next board is stored.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The board after a look at these facts, and whether it has to be stored before it is believed.
    pub fn look(
        &self,
        config: &AlarmsConfig,
        facts: &AlarmFacts,
        now: Timestamp,
    ) -> (AlarmBoard, bool) {
        let seen = conditions(config, facts, |name| self.board.looked_at(name), now);
        let mut board = self.board.step(&seen, config.into(), now);
        let programs = facts.programs.iter().flatten();
        let answered = programs.filter(|(_, answers)| **answers);
        board
            .programs
            .extend(answered.map(|(name, _)| name.clone()));
        let (at, is_first) = (self.stored.at, self.revision == 0);
        let is_old = elapsed(at, now) >= STORED_EVERY || now < at;
        let is_due = is_first || is_old || board.differs_from(&self.stored);
        (board, is_due)
    }

    /// Keeps a board that need not be stored yet.
    pub fn keep(&mut self, board: AlarmBoard) {
        self.board = board;
    }

    /// The bucket has this board now.
    pub fn stored(&mut self, board: AlarmBoard, revision: u64) {
        self.stored = board.clone();
        self.board = board;
        self.revision = revision;
    }
}
