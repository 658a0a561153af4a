//! Orders of an operator, to trigger and to fleet.

use serde::Serialize;
use spotreel_api::{
    BatchRef, DrainOrder, Drained, HoldOrder, Ordered, ResumeOrder, RunOrder, StopOrder,
};
use spotreel_bus::names;
use spotreel_domain::batch::{DrainMode, PoolName};

use crate::args::{DrainArgs, HoldArgs, ResumeArgs, RunArgs, StopArgs};
use crate::connection::{Api, Settings};
use crate::done::Done;
use crate::print::{self, line};

pub async fn run(settings: &Settings, args: RunArgs) -> anyhow::Result<Done> {
    let order = RunOrder {
        pool: args.pool,
        by: Some(args.by.by),
        force: args.force,
    };
    let api = Api::open_as_operator(settings).await?;
    let done: Ordered = api.call(names::OPS_RUN, &order).await?;
    tell(args.by.json, &done, || {
        format!(
            "{}: batch requested; `spotreel why` shows what becomes of it",
            pools(&done)
        )
    })
}

pub async fn hold(settings: &Settings, args: HoldArgs) -> anyhow::Result<Done> {
    let order = HoldOrder {
        pool: args.pool,
        by: Some(args.by.by),
        reason: args.reason,
    };
    let api = Api::open_as_operator(settings).await?;
    let done: Ordered = api.call(names::OPS_HOLD, &order).await?;
    tell(args.by.json, &done, || {
        let pools = pools(&done);
        format!(
            "{pools}: on hold; no batch starts until `spotreel resume`, a running batch continues"
        )
    })
}

pub async fn resume(settings: &Settings, args: ResumeArgs) -> anyhow::Result<Done> {
    let api = Api::open_as_operator(settings).await?;
    let order = ResumeOrder { pool: args.pool };
    let done: Ordered = api.call(names::OPS_RESUME, &order).await?;
    tell(args.json, &done, || {
        format!("{}: hold removed", pools(&done))
    })
}

pub async fn stop(settings: &Settings, args: StopArgs) -> anyhow::Result<Done> {
    let mode = mode(args.now);
    let order = StopOrder {
        pool: args.pool,
        batch: args.batch,
        mode,
        by: args.by.by,
        reason: args.reason,
    };
    let api = Api::open_as_operator(settings).await?;
    let batch: BatchRef = api.call(names::OPS_STOP, &order).await?;
    tell(args.by.json, &batch, || match mode {
        DrainMode::Finish => format!(
            "{}: workers finish their tasks, then its instances are terminated",
            batch.id
        ),
        DrainMode::Now => format!(
            "{}: workers hand their tasks back, then its instances are terminated",
            batch.id
        ),
    })
}

pub async fn drain(settings: &Settings, args: DrainArgs) -> anyhow::Result<Done> {
    let order = DrainOrder {
        instance: args.instance,
        mode: mode(args.now),
    };
    let api = Api::open_as_operator(settings).await?;
    let done: Drained = api.call(names::OPS_DRAIN, &order).await?;
    tell(args.json, &done, || match &done.batch {
        Some(batch) => format!("{} of {batch}: {}", done.instance, done.answer),
        None => format!("{}, a machine of your own: {}", done.instance, done.answer),
    })
}

fn mode(now: bool) -> DrainMode {
    match now {
        true => DrainMode::Now,
        false => DrainMode::Finish,
    }
}

fn pools(done: &Ordered) -> String {
    let names: Vec<_> = done.pools.iter().map(PoolName::as_str).collect();
    names.join(", ")
}

fn tell<T: Serialize>(
    json: bool,
    answer: &T,
    sentence: impl FnOnce() -> String,
) -> anyhow::Result<Done> {
    match json {
        true => print::json(answer),
        false => line(&sentence()),
    }
    Ok(Done::Well)
}
