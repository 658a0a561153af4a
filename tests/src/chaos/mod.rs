//! Work under faults: a schedule drawn from a seed, a real system that is hurt by it, and the proof afterwards that
//! nothing was lost, done twice, or said that is not so.

pub mod check;
pub mod drive;
pub mod evidence;
pub mod faults;
pub mod plan;
pub mod record;
pub mod report;
pub mod twins;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use drive::Driver;
use evidence::Evidence;
use faults::Saboteur;
use plan::{LEASE, Op, Plan, Timed};
use record::Record;
use report::{Report, Verdict};

use crate::harness::{System, SystemOptions};

/// Long enough to be killed in the middle of, short enough for many.
const STEP_MS: u32 = 60;

#[derive(Clone, Debug)]
pub struct Options {
    pub seed: u64,
    pub tasks: usize,
    pub workers: usize,
    /// Where everything is kept; none: the system's temporary directory.
    pub dir: Option<PathBuf>,
    /// Leave everything there, even if all is well.
    pub keep: bool,
    pub most: Duration,
}

pub async fn run(options: &Options) -> anyhow::Result<Report> {
    let begun = Instant::now();
    if let Some(dir) = &options.dir {
        std::fs::create_dir_all(dir)?;
        // Only the first of a process counts, which is the one that matters here.
        let _ = tempfile::env::override_temp_dir(dir);
    }
    let plan = Arc::new(Plan::draw(options.seed, options.tasks, options.workers));
    println!("{plan}");
    let record = Arc::new(Record::default());
    let system = System::start(system_options(options.workers)).await;
    println!("everything runs after {:.1?}", begun.elapsed());

    let (accidents, orders) = split(&plan);
    let until = Instant::now() + options.most.saturating_sub(begun.elapsed());
    let client = system.nats.client("client").await;
    let driver = Driver {
        client,
        plan: plan.clone(),
        record: record.clone(),
        until,
    };
    let saboteur = Saboteur::new(system, record.clone());
    let driving = tokio::spawn(act_out(orders, driver));
    let mut saboteur = saboteur.run(accidents, plan.length).await;
    saboteur.disarm();
    println!("the faults are over after {:.1?}", begun.elapsed());

    let report = conclude(&mut saboteur, driving, &plan, &record, begun, options.most).await;
    if options.keep || !report.as_ref().is_ok_and(Report::passed) {
        let dir = options.dir.clone().unwrap_or_else(std::env::temp_dir);
        println!(
            "kept: logs, streams and objects of every program in {}/spotreel-*",
            dir.display()
        );
        println!(
            "a task's life: grep -h TASK_ID {}/spotreel-system-*/*.log",
            dir.display()
        );
        // The guards of the processes end them with this one; only the directories stay.
        std::mem::forget(saboteur);
    }
    report
}

fn system_options(workers: usize) -> SystemOptions {
    let settings = [
        ("retry.scale", "0.02"),
        ("checkpoint.every_steps", "1"),
        ("stop.finish_within", "500ms"),
        ("pull_wait", "1s"),
        // A hang ends in seconds, and a busy machine is not taken for one.
        ("engine.deadlines.first_step", "8s"),
        ("engine.deadlines.step_floor", "5s"),
        ("engine.deadlines.decode", "30s"),
    ];
    SystemOptions {
        lease: LEASE,
        workers,
        faults: true,
        step_ms: STEP_MS,
        // The history is the evidence: the janitor must not touch it before it was read.
        environment: vec![(
            "SPOTREEL_MONITOR_JANITOR__GRACE".to_owned(),
            "3h".to_owned(),
        )],
        worker_settings: settings
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
    }
}

/// What is done to the system, and what is asked of it.
fn split(plan: &Plan) -> (Vec<Timed>, Vec<Timed>) {
    let all = plan.schedule.iter().map(|timed| Timed {
        at: timed.at,
        op: timed.op.clone(),
    });
    all.partition(|timed| {
        !matches!(
            timed.op,
            Op::Submit { .. } | Op::Nonsense { .. } | Op::Cancel { .. } | Op::Retry { .. }
        )
    })
}

/// Each client goes its own way from its time on.
async fn act_out(orders: Vec<Timed>, driver: Driver) {
    let begun = Instant::now();
    let mut clients = JoinSet::new();
    for Timed { at, op } in orders {
        tokio::time::sleep(at.saturating_sub(begun.elapsed())).await;
        clients.spawn(driver.clone().run(op));
    }
    while let Some(done) = clients.join_next().await {
        done.expect("a client does not panic");
    }
}

async fn conclude(
    saboteur: &mut Saboteur,
    driving: tokio::task::JoinHandle<()>,
    plan: &Plan,
    record: &Record,
    begun: Instant,
    most: Duration,
) -> anyhow::Result<Report> {
    let left = || most.saturating_sub(begun.elapsed());
    while !driving.is_finished() && !left().is_zero() {
        saboteur.nurse(Duration::from_millis(200)).await;
    }
    let operator = saboteur.system.nats.client("provision").await;
    let settling = tokio::spawn({
        let (operator, limit) = (operator.clone(), left());
        async move { evidence::settle(&operator, limit).await }
    });
    while !settling.is_finished() {
        saboteur.nurse(Duration::from_millis(200)).await;
    }
    let mut bounded = Verdict::new(
        "bounded",
        "once the faults are over, everything comes to its end",
    );
    let settled = settling.await?;
    bounded.check(settled.is_ok(), || {
        settled
            .map_err(|error| format!("{error:#}"))
            .err()
            .unwrap_or_default()
    });
    println!("everything is settled after {:.1?}", begun.elapsed());

    let evidence = Evidence::gather(&operator).await?;
    let book = record.book();
    let store = saboteur.system.cloud.store().await;
    let scratch = tempfile::tempdir()?;
    let mut verdicts = vec![bounded];
    verdicts.extend(check::all(plan, &book, &evidence, &operator, &store, scratch.path()).await);
    let resumed = check::resumed(&evidence);
    verdicts.push(
        twins::compare(
            &mut saboteur.system,
            &resumed,
            plan.seed,
            Duration::from_secs(120),
        )
        .await,
    );

    let mut report = Report {
        seed: plan.seed,
        done: book.counts,
        verdicts,
        ..Report::default()
    };
    for story in evidence.tasks.values() {
        for chapter in story.chapters.values() {
            *report
                .done
                .entry(format!("event {}", chapter.event.as_str()))
                .or_default() += 1;
        }
        let end = story.last().map_or("lost", |last| last.task.state.name());
        *report.ends.entry(end.to_owned()).or_default() += 1;
    }
    report
        .ends
        .insert("succeeded from a checkpoint".into(), resumed.len());
    report.seconds = begun.elapsed().as_secs();
    Ok(report)
}
