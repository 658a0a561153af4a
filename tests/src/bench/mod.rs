//! The figures that this product wants to be judged by, each beside what bounds it in the same run.
//!
//! Ratios are what is quoted: the machine is slow or fast for both sides, which are measured in turn.

mod batches;
mod bounds;
mod decide;
mod figure;
mod night;
mod notice;
mod path;
mod queue;
mod samples;
mod stage;
mod tap;

pub use decide::MANY;
pub use figure::{Figure, table, write};

use bounds::Bounds;
use stage::Stage;

pub struct Options {
    /// Batches, and notices.
    pub rounds: usize,
    /// Tasks of the long queue.
    pub queued: u64,
    /// Parts to run, by name; empty: all.
    pub only: Vec<String>,
}

pub const PARTS: [&str; 5] = ["batches", "notice", "decide", "queue", "night"];

pub async fn run(options: &Options) -> Vec<Figure> {
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
    if wants("queue") {
        eprintln!("bench: a queue of {} tasks", options.queued);
        figures.extend(Box::pin(queue::run(options.queued)).await);
    }
    if wants("night") {
        eprintln!("bench: the reference batch in virtual time");
        figures.extend(night::run());
    }
    figures
}
