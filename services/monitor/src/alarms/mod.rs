//! Alarms: looks at the facts, decides by `spotreel_domain::alarm`, and tells what has changed.
//!
//! The board of all alarms is one status record. It is stored by compare-and-set before anything is told; what is told and
//! ordered stands in it until it is done. So any number of monitors may run, and a crash at any point repeats nothing that
//! clients see and loses nothing.

mod act;
mod ends;
mod observe;
mod programs;

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use spotreel_bootstrap::{Context, Health, ambient};
use spotreel_bus::jetstream::JetStreamError;
use spotreel_bus::{AlarmRecord, BatchLog};
use spotreel_domain::alarm::{AlarmBoard, AlarmNotice, AlarmsConfig, BoardCopy, NoticeState};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::crash;
use crate::error::AlarmError;
use crate::metrics;
use act::Actor;
use observe::Observer;

const CHECK: &str = "alarms";
/// How long an answer of another service is waited for.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The board as it was seen last, for whoever asks. Clones share it.
pub type ShownAlarms = Arc<watch::Sender<Option<AlarmBoard>>>;

pub(crate) struct Alarms {
    config: AlarmsConfig,
    record: AlarmRecord,
    copy: Option<BoardCopy>,
    observer: Observer,
    actor: Actor,
    shown: ShownAlarms,
    health: Health,
    stopping: CancellationToken,
}

impl Alarms {
    pub async fn new(
        client: &Client,
        config: AlarmsConfig,
        ctx: &Context,
        shown: ShownAlarms,
    ) -> Self {
        ctx.health.expect(CHECK);
        let batches = BatchLog::open(client).await;
        Self {
            record: AlarmRecord::open(client).await,
            copy: None,
            observer: Observer::new(client, &config, batches.clone(), ctx.health.clone()),
            actor: Actor {
                client: client.clone(),
                batches,
            },
            config,
            shown,
            health: ctx.health.clone(),
            stopping: ctx.stopping.clone(),
        }
    }

    pub async fn run(mut self) {
        let stopping = self.stopping.clone();
        let mut tick = tokio::time::interval(self.config.every);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut failing = false;
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = stopping.cancelled() => return,
            }
            let look = Box::pin(self.look());
            let Some(looked) = stopping.run_until_cancelled(look).await else {
                return;
            };
            match looked {
                Ok(()) => {
                    failing = false;
                    self.health.set(CHECK, Ok::<(), &str>(()));
                }
                Err(error) => {
                    let error = spotreel_domain::chain(&error);
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(error, "alarms cannot be decided or told; retrying");
                    }
                    self.health.set(CHECK, Err(error));
                }
            }
        }
    }

    async fn look(&mut self) -> Result<(), AlarmError> {
        let began = ambient::now();
        let stored = self.record.read().await.map_err(AlarmError::Read)?;
        let is_new = stored.is_none();
        let copy = match &mut self.copy {
            Some(copy) => {
                copy.refresh(stored, began);
                copy
            }
            none => none.insert(BoardCopy::new(stored, began)),
        };
        let facts = self.observer.read(&self.config, copy.board()).await;
        let (board, is_due) = copy.look(&self.config, &facts, ambient::now());
        if is_due {
            crash::point("before-alarms-stored");
            match self.record.store(&board, copy.revision()).await {
                Ok(revision) => copy.stored(board, revision),
                // Another monitor was first: the next look goes on from its board.
                Err(JetStreamError::Conflict) if !is_new => return Ok(()),
                Err(error) => return Err(AlarmError::Store(error)),
            }
            crash::point("after-alarms-stored");
        } else {
            copy.keep(board);
        }
        metrics::alarms(copy.board());
        self.shown.send_replace(Some(copy.board().clone()));
        self.deliver().await
    }

    /// Tells and orders what stands in the board, and takes out of it what is done.
    async fn deliver(&mut self) -> Result<(), AlarmError> {
        let Some(copy) = &mut self.copy else {
            return Ok(());
        };
        let mut board = copy.board().clone();
        if board.untold.is_empty() && board.orders.is_empty() {
            return Ok(());
        }
        // An event that cannot be stored keeps no order from being carried out.
        let (told, untold) = tell(&self.record, &board.untold).await;
        board.untold.drain(..told);
        let (done, undone) = self.actor.carry_out(&board.orders).await;
        board.orders.drain(..done);
        if board != *copy.board() {
            match self.record.store(&board, copy.revision()).await {
                Ok(revision) => copy.stored(board, revision),
                // The next look finds what is left, and that it was told.
                Err(JetStreamError::Conflict) => {}
                Err(error) => return Err(AlarmError::Store(error)),
            }
        }
        untold.or(undone).map_or(Ok(()), Err)
    }
}

/// Tells notices, one after the other; gives how many are told, and why the next one is not.
async fn tell(record: &AlarmRecord, notices: &[AlarmNotice]) -> (usize, Option<AlarmError>) {
    for (told, notice) in notices.iter().enumerate() {
        match record.tell(notice).await {
            Ok(true) => report(notice),
            Ok(false) => {}
            Err(error) => return (told, Some(AlarmError::Tell(error))),
        }
        crash::point("after-alarm-told");
    }
    (notices.len(), None)
}

fn report(notice: &AlarmNotice) {
    let (alarm, about) = (notice.name.as_str(), notice.about.as_deref());
    let sentence = &notice.sentence;
    match notice.state {
        NoticeState::Firing => tracing::warn!(alarm, about, sentence, "alarm fired"),
        NoticeState::Resolved => tracing::info!(alarm, about, sentence, "alarm resolved"),
    }
    metrics::alarm_told(alarm, notice.state.as_str());
}
