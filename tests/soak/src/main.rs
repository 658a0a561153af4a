//! `spotreel-soak`: a whole system under steady work for as long as one likes, and what grew meanwhile.
//!
//! Finished tasks are tidied and forgotten within a minute here instead of a month, so that all that a task leaves behind
//! goes while the run goes on: what keeps growing is a leak. Only public events and videos stay, one for one.

mod clients;
mod copy;
mod ledger;
mod system;
mod verdicts;
mod watch;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;

use ledger::Ledger;
use system::Soaked;
use verdicts::SoakReport;
use watch::Watch;

/// Keeps a real system at work, then says whether memory, files, consumers or streams grew beyond what tasks explain
#[derive(Parser)]
#[command(name = "spotreel-soak", version)]
struct Args {
    /// Duration in minutes
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// Tasks per second, over all APIs together
    #[arg(long, default_value_t = 1.0)]
    rate: f64,
    /// Number of workers
    #[arg(long, default_value_t = 2)]
    workers: usize,
}

/// Between two looks at everything.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// For the last tasks to end, and for the janitor to forget them.
const CALM_WITHIN: Duration = Duration::from_secs(240);

#[tokio::main]
async fn main() -> ExitCode {
    let report = Box::pin(run(&Args::parse())).await;
    println!("{report}");
    ExitCode::from(u8::from(!report.passed()))
}

async fn run(args: &Args) -> SoakReport {
    let lasts = Duration::from_secs(60 * args.minutes);
    let mut soaked = Box::pin(Soaked::start(args.workers)).await;
    let ledger = Arc::<Ledger>::default();
    let mut watch = Watch::new(&soaked).await;
    watch.follow(soaked.processes());
    let listener = ledger::listen(&soaked.client, &ledger).await;
    // Before the first task, for the number of things that are there without any.
    watch.look().await;
    println!(
        "soak: {} processes, {} tasks a second for {:.0?}",
        watch.last().processes.len(),
        args.rate,
        lasts
    );
    let clients = clients::start(&soaked, &ledger, args.rate);
    let began = Instant::now();
    while began.elapsed() < lasts {
        tokio::time::sleep(LOOK_EVERY).await;
        watch.look().await;
        watch.tell(began.elapsed(), &ledger.counts());
    }
    clients.stop().await;
    println!("soak: no more is sent after {:.0?}", began.elapsed());
    let settled = settle(&ledger, &mut watch).await;
    let copy = copy::compared(&soaked.observer, &soaked.client).await;
    let mut report = verdicts::all(&ledger, &watch, settled);
    report.verdicts.push(copy);
    listener.abort();
    report
}

/// Waits until every task has ended and the log has forgotten them all. None: neither more nor less is left.
async fn settle(ledger: &Ledger, watch: &mut Watch) -> Option<String> {
    let began = Instant::now();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        watch.look_afterwards().await;
        let (running, kept) = (ledger.running().len(), watch.last().log_messages());
        if running == 0 && kept == 0 {
            return None;
        }
        if began.elapsed() > CALM_WITHIN {
            return Some(format!(
                "{CALM_WITHIN:?} after the last submission {running} tasks run and the log holds {kept} messages"
            ));
        }
    }
}
