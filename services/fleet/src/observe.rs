//! What the bus knows of a pool: its workers, its queue, what was spent. What cannot be read is not known, and never
//! taken for nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::{Client, HeaderMap};
use futures::future::{join_all, try_join_all};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use spotreel_bootstrap::ambient;
use spotreel_bus::connect::REQUEST_TIMEOUT;
use spotreel_bus::jetstream::ApiError as BusError;
use spotreel_bus::log::{ReadError, Recorded};
use spotreel_bus::log_room::ENDS_ONLY_PERCENT;
use spotreel_bus::names::{MARKS_BUCKET, SWEEPER_MARK, TASKS, work_consumer};
use spotreel_bus::{BatchLog, LogRoom, jetstream, kv};
use spotreel_domain::batch::{Batch, PoolName, Receipt};
use spotreel_domain::fleet::cloud::Seen;
use spotreel_domain::fleet::observation::{Spent, Work, WorkerSeen, WorkerState};
use spotreel_domain::ledger;
use spotreel_domain::model::{Lane, Model};
use spotreel_domain::trigger::{SizeInput, Sizing, size};
use spotreel_proto::worker::v1::{Presence, State};

use crate::error::ObserveError;

/// Counts are true only if finished tasks leave the queue: the sweeper's mark says when that was last so.
const MARK_GOOD_FOR: Duration = Duration::from_secs(30);
/// Batches that are older say nothing of today's machines and tasks.
const MEASURED_WITHIN: SignedDuration = SignedDuration::from_hours(40 * 24);
/// Trigger's mark of a pool's mode begins so.
const MODE_MARK: &str = "mode.";
/// Events read at a time; one answer of the server.
const PAGE: usize = 500;
/// 100,000 ends: more tasks than a batch can work off in its life.
const MAX_PAGES: usize = 200;
/// Two requests to NATS, one after the other, at their slowest.
const PATIENCE: Duration = Duration::from_secs(10);

/// What live workers say of themselves.
pub async fn presences(client: &Client) -> Result<Vec<Presence>, ObserveError> {
    within(async { Ok(kv::presences(client).await?) }).await
}

/// One word a machine: the newest, where an earlier life of its worker has left one.
pub fn workers(mut presences: Vec<Presence>) -> Vec<WorkerSeen> {
    presences.sort_by(|a, b| (&a.instance, b.at_ms).cmp(&(&b.instance, a.at_ms)));
    presences.dedup_by(|b, a| a.instance == b.instance);
    presences.into_iter().map(worker).collect()
}

fn worker(presence: Presence) -> WorkerSeen {
    let state = match presence.state() {
        State::Unspecified | State::Starting => WorkerState::Starting,
        State::Idle => WorkerState::Idle,
        State::Busy => WorkerState::Busy,
        State::Draining => WorkerState::Draining,
        State::Drained => WorkerState::Drained,
    };
    let notice = (presence.notice_at_ms != 0).then_some(presence.notice_at_ms);
    WorkerSeen {
        state,
        notice_at: notice.and_then(|ms| Timestamp::from_millisecond(ms).ok()),
        rebalance: presence.rebalance,
        instance: presence.instance,
    }
}

/// Tasks that workers say they have in hand, of these models. The last words of a machine that is gone do not count,
/// nor those of an earlier life of a machine's worker: what they had in hand waits.
pub fn rendering(presences: &[Presence], models: &[Model], listing: &[Seen]) -> u64 {
    let ours = |presence: &&Presence| {
        let serves = |model: &Model| presence.models.iter().any(|name| name == model.as_str());
        !presence.task.is_empty() && models.iter().any(serves)
    };
    let lives = |presence: &&Presence| {
        let machine = listing.iter().find(|seen| seen.id == presence.instance);
        machine.is_none_or(|machine| {
            let mut lives = presences.iter();
            let later = lives.any(|p| p.instance == presence.instance && p.at_ms > presence.at_ms);
            machine.is_alive() && !later
        })
    };
    presences.iter().filter(ours).filter(lives).count() as u64
}

/// How many tasks of these models are not finished; none while the task log is too full to start one.
pub async fn runnable(
    client: &Client,
    models: &[Model],
) -> Result<BTreeMap<Model, u64>, ObserveError> {
    within(async {
        let queues = models
            .iter()
            .flat_map(|model| Lane::ALL.map(|lane| (*model, lane)));
        let lengths = try_join_all(queues.map(async |(model, lane)| {
            let length = length(client, work_consumer(model, lane)).await?;
            Ok::<_, ObserveError>((model, length))
        }));
        let (lengths, mark, room) = tokio::join!(
            lengths,
            mark::<Swept>(client, SWEEPER_MARK),
            LogRoom::of_log(client)
        );
        let swept = mark?.ok_or(ObserveError::NoMark)?;
        let age = Duration::try_from(ambient::now().duration_since(swept.at)).unwrap_or_default();
        if age >= MARK_GOOD_FOR {
            return Err(ObserveError::StaleMark(age));
        }
        // Workers start nothing, so what waits is no work for machines. Who renders goes on.
        if room?.is_used_to(ENDS_ONLY_PERCENT) {
            return Ok(BTreeMap::new());
        }
        let mut tasks = BTreeMap::new();
        for (model, length) in lengths? {
            *tasks.entry(model).or_default() += length;
        }
        Ok(tasks)
    })
    .await
}

/// Units that stay although there is nothing to do, as trigger has marked it.
pub async fn keep(client: &Client, pool: &PoolName) -> Result<u32, ObserveError> {
    within(async {
        let mark = mark::<Mode>(client, &format!("{MODE_MARK}{pool}")).await?;
        Ok(mark.map_or(0, |mode| mode.resident_units))
    })
    .await
}

/// What a unit takes for a task: as the pool's last batches took, or as the cost model says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Speed {
    pub measured: Option<f64>,
    pub modelled: Option<f64>,
}

pub fn work(runnable: u64, rendering: u64, keep: u32, speed: Speed, sizing: &Sizing) -> Work {
    let input = SizeInput {
        tasks: runnable,
        seconds_per_task: speed.measured,
        modelled: speed.modelled,
        resident_units: keep,
        ..SizeInput::default()
    };
    let each = sizing.pace(speed.measured, speed.modelled).seconds;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "seconds of a queue are far below 2^53, and as casts saturate"
    )]
    let seconds = (runnable as f64 * each) as u64;
    Work {
        runnable,
        rendering,
        sized: size(&input, sizing).units,
        seconds,
    }
}

/// As the server counts it. Of its long answer only the counts are read: there are nine of them a look.
async fn length(client: &Client, consumer: String) -> Result<u64, ObserveError> {
    #[derive(Deserialize)]
    struct Info {
        num_pending: u64,
        num_ack_pending: u64,
    }
    let subject = format!("$JS.API.CONSUMER.INFO.{TASKS}.{consumer}");
    let (headers, nothing) = (HeaderMap::new(), Default::default());
    let asked = jetstream::request::<Info>(client, &subject, headers, nothing, REQUEST_TIMEOUT);
    match asked.await {
        Ok(info) => Ok(info.num_pending + info.num_ack_pending),
        Err(error) => Err(ObserveError::Consumer {
            consumer,
            reason: error.to_string(),
        }),
    }
}

#[derive(Deserialize)]
struct Swept {
    at: Timestamp,
}

#[derive(Deserialize)]
struct Mode {
    resident_units: u32,
}

async fn mark<T: DeserializeOwned>(client: &Client, name: &str) -> Result<Option<T>, ObserveError> {
    let query = serde_json::json!({ "multi_last": [format!("$KV.{MARKS_BUCKET}.{name}")] });
    let found = jetstream::direct_get(client, &format!("KV_{MARKS_BUCKET}"), &query).await?;
    let mark = found.first().filter(|mark| !mark.payload.is_empty());
    let mark = mark.map(|mark| serde_json::from_slice(&mark.payload).map_err(BusError::from));
    Ok(mark.transpose()?)
}

/// What ended batches have cost, of all pools: this day and this month, in UTC.
pub async fn spent(log: &BatchLog, now: Timestamp) -> Result<Spent, ObserveError> {
    within(async {
        let zoned = now.to_zoned(TimeZone::UTC);
        let day = zoned.start_of_day().map_or(now, |at| at.timestamp());
        let month = zoned.first_of_month().and_then(|at| at.start_of_day());
        let month = month.map_or(day, |at| at.timestamp());
        let mut spent = Spent::default();
        for end in log.finals(None, month).await? {
            let ended = end.batch.ended_at.unwrap_or(end.stored_at);
            let total = Receipt::of(&end.batch, ended).total;
            spent.month += total;
            if ended >= day {
                spent.day += total;
            }
        }
        Ok(spent)
    })
    .await
}

/// What the pool's ended batches took for a task.
pub async fn measured(log: &BatchLog, pool: &PoolName) -> Result<Option<f64>, ObserveError> {
    within(async {
        let since = ambient::now() - MEASURED_WITHIN;
        let ends = log.finals(Some(pool), since).await?;
        let newest_first = ends.iter().rev().map(|end| &end.batch);
        Ok(ledger::seconds_per_task(newest_first))
    })
    .await
}

/// The ends of tasks whose last attempt was made, and ended for good, on a machine of this batch.
pub async fn ended_on(client: &Client, batch: &Batch) -> Result<Vec<Recorded>, ReadError> {
    let of_batch = |recorded: &Recorded| {
        let last = recorded.task.attempts.last();
        last.is_some_and(|attempt| batch.instance(&attempt.instance).is_some())
    };
    let ends = ["succeeded", "failed"].map(|end| ends(client, batch.requested_at, end));
    let mut done = Vec::new();
    for ends in join_all(ends).await {
        done.extend(ends?.into_iter().filter(of_batch));
    }
    Ok(done)
}

async fn ends(client: &Client, since: Timestamp, end: &str) -> Result<Vec<Recorded>, ReadError> {
    let filter = format!("spotreel.log.*.{end}");
    let mut all: Vec<Recorded> = Vec::new();
    for _ in 0..MAX_PAGES {
        let mut query = match all.last() {
            Some(last) => serde_json::json!({ "seq": last.sequence + 1 }),
            None => serde_json::json!({ "start_time": since.to_string() }),
        };
        query["batch"] = PAGE.into();
        query["next_by_subj"] = filter.as_str().into();
        let page = jetstream::direct_get(client, TASKS, &query).await?;
        if page.is_empty() {
            break;
        }
        for stored in page {
            let nanos = stored.stored_at.as_nanosecond();
            let read = Recorded::from_parts(
                &stored.subject,
                stored.sequence,
                &stored.payload,
                stored.headers,
                nanos,
            );
            all.push(read?);
        }
    }
    Ok(all)
}

async fn within<T>(read: impl Future<Output = Result<T, ObserveError>>) -> Result<T, ObserveError> {
    tokio::time::timeout(PATIENCE, read)
        .await
        .unwrap_or(Err(ObserveError::Timeout))
}
