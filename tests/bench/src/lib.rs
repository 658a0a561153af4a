//! The figures that this product wants to be judged by, each beside what bounds it in the same run.
//!
//! Ratios are what is quoted: the machine is slow or fast for both sides, which are measured in turn.

mod batches;
mod bounds;
mod decide;
pub mod engine_tap;
mod figure;
mod filled;
mod footprint;
pub mod front;
mod http;
mod intake;
mod latency;
mod night;
mod notice;
mod packs;
mod path;
mod queue;
mod reads;
mod render;
mod restart;
mod samples;
pub mod server;
mod stage;
mod tap;
mod telling;

pub use decide::MANY;
pub use figure::{Figure, table, write};

use bounds::Bounds;
use decide::FEW;
use filled::Filled;
use front::Front;
use server::Sync;
use stage::Stage;

pub struct BenchOptions {
    /// Batches, and notices.
    pub rounds: usize,
    /// Tasks of the long queue.
    pub queued: u64,
    /// Parts to run, by name; empty: all.
    pub only: Vec<String>,
}

pub const PARTS: [&str; 12] = [
    "batches", "notice", "decide", "intake", "telling", "queue", "reads", "restart", "render",
    "packs", "rest", "night",
];
/// Parts over a log of a million tasks, which is filled once for all of them.
const OVER_MANY: [&str; 3] = ["queue", "reads", "restart"];

pub async fn run(options: &BenchOptions) -> Vec<Figure> {
    let wants = |part: &str| options.only.is_empty() || options.only.iter().any(|p| p == part);
    let mut figures = Vec::new();
    if wants("batches") || wants("notice") {
        let stage = Stage::set().await;
        let mut bounds = Bounds::new(&stage.client, &stage.ec2, &stage.store).await;
        if wants("batches") {
            eprintln!("bench: {} batches, from request to nothing", options.rounds);
            figures.extend(Box::pin(batches::run(&stage, &mut bounds, options.rounds)).await);
        }
        if wants("notice") {
            eprintln!("bench: {} notices", options.rounds);
            figures.extend(Box::pin(notice::run(&stage, &mut bounds, options.rounds)).await);
        }
        Box::pin(stage.strike()).await;
    }
    if wants("decide") {
        eprintln!("bench: decisions");
        figures.extend(decide::run());
    }
    if wants("intake") {
        for sync in [Sync::Always, Sync::Default] {
            eprintln!("bench: intake, sync {sync:?}");
            let front = Front::open(sync).await;
            figures.extend(Box::pin(intake::run(&front, sync)).await);
            if sync == Sync::Always {
                figures.extend(Box::pin(latency::run(&front)).await);
                figures.extend(Box::pin(http::run(&front)).await);
            }
        }
    }
    if wants("telling") {
        eprintln!("bench: a burst and its events");
        figures.extend(Box::pin(telling::run()).await);
    }
    if OVER_MANY.into_iter().any(wants) {
        figures.extend(Box::pin(over_many(options.queued, wants)).await);
    }
    if wants("render") {
        eprintln!("bench: renders");
        figures.extend(Box::pin(render::run()).await);
    }
    if wants("packs") {
        eprintln!("bench: a pack from the bucket");
        figures.extend(Box::pin(packs::run()).await);
    }
    if wants("rest") {
        eprintln!("bench: nothing to do");
        figures.extend(Box::pin(footprint::run()).await);
    }
    if wants("night") {
        eprintln!("bench: the reference batch in virtual time");
        figures.extend(night::run());
    }
    figures
}

async fn over_many(tasks: u64, wants: impl Fn(&str) -> bool) -> Vec<Figure> {
    eprintln!("bench: a log of {tasks} tasks");
    let (short, long) = tokio::join!(Filled::with(FEW), Filled::with(tasks));
    let mut figures = Vec::new();
    if wants("queue") {
        eprintln!("bench: trigger's look at it");
        figures.extend(Box::pin(queue::run(&short, &long)).await);
    }
    let mut long = long;
    if wants("reads") {
        eprintln!("bench: the verbs over it");
        let (read, filled) = Box::pin(reads::run(short, long)).await;
        figures.extend(read);
        long = filled;
    }
    if wants("restart") {
        eprintln!("bench: restarts over it");
        figures.extend(Box::pin(restart::run(&mut long)).await);
    }
    figures
}
