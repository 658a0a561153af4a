//! Work under faults: a schedule drawn from a seed, a real system on a Spot market that is hurt by it, and the proof
//! afterwards that nothing was lost, done twice, or said that is not so, and that no machine is left.

pub mod blame;
pub mod check;
pub mod drive;
pub mod evidence;
pub mod faults;
pub mod plan;
pub mod record;
pub mod report;
pub mod settings;
pub mod spot;
pub mod twins;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use spotreel_tests::Verdict;
use spotreel_tests::harness::{System, SystemOptions};
use tokio::task::JoinSet;

use drive::Driver;
use evidence::Evidence;
use faults::Saboteur;
use plan::ChaosPlan;
use plan::op::{Op, Timed};
use record::Record;
use report::ChaosReport;
use settings::{LEASE, STEP_MS};
use spot::books::Books;
use spot::watch::Watch;
use spot::{Spot, records};

/// A machine that was told to end has ended by then, whatever it had in hand.
const LAST_MACHINE: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
pub struct ChaosOptions {
    pub seed: u64,
    pub tasks: usize,
    /// The most at once.
    pub instances: u32,
    /// Where everything is kept; none: the system's temporary directory.
    pub dir: Option<PathBuf>,
    /// Leave everything there, even if all is well.
    pub keep: bool,
    pub most: Duration,
}

pub async fn run(options: &ChaosOptions) -> anyhow::Result<ChaosReport> {
    let begun = Instant::now();
    if let Some(dir) = &options.dir {
        std::fs::create_dir_all(dir)?;
        // Only the first of a process counts, which is the one that matters here.
        let _ = tempfile::env::override_temp_dir(dir);
    }
    let plan = Arc::new(ChaosPlan::draw(options.seed, options.tasks));
    println!("{plan}");
    let record = Arc::new(Record::default());
    let system = System::start(system_options()).await;
    let spot = Spot::start(&system, options.instances).await?;
    println!("everything runs after {:.1?}", begun.elapsed());

    let (accidents, orders) = split(&plan);
    let until = Instant::now() + options.most.saturating_sub(begun.elapsed());
    let watch = Watch::default();
    let observer = system.nats.client("provision").await;
    let eyes = watch.begin(spot.admin(), observer.clone(), spot.orphan.clone());
    let client = system.nats.client("client").await;
    let driver = Driver {
        client,
        plan: plan.clone(),
        record: record.clone(),
        until,
    };
    let saboteur = Saboteur::new(system, spot, observer, record.clone());
    let driving = tokio::spawn(act_out(orders, driver));
    let mut saboteur = saboteur.run(accidents, plan.length).await;
    println!("the faults are over after {:.1?}", begun.elapsed());

    let run = Run {
        plan: &plan,
        record: &record,
        watch: &watch,
        options,
        begun,
    };
    let report = run.conclude(&mut saboteur, driving).await;
    eyes.iter().for_each(tokio::task::JoinHandle::abort);
    // Politely, since machines are no children of ours.
    saboteur.spot.cloud.stop().await;
    if options.keep || !report.as_ref().is_ok_and(ChaosReport::passed) {
        let dir = options.dir.clone().unwrap_or_else(std::env::temp_dir);
        println!(
            "kept: seed {}; logs, streams, machines and objects in {}/spotreel-*, the cloud's in {}",
            options.seed,
            dir.display(),
            saboteur.spot.cloud.dir().display()
        );
        println!(
            "a task's life: grep -h TASK_ID {}/*.log {}/machines/*/console.log",
            saboteur.system.dir().display(),
            saboteur.spot.cloud.dir().display()
        );
        // The guards of the processes end them with this one; only the directories stay.
        std::mem::forget(saboteur);
    }
    report
}

fn system_options() -> SystemOptions {
    SystemOptions {
        lease: LEASE,
        workers: 0,
        step_ms: STEP_MS,
        // The history is the evidence: the janitor must not touch it before it was read.
        environment: vec![(
            "SPOTREEL_MONITOR_JANITOR__GRACE".to_owned(),
            "3h".to_owned(),
        )],
        ..SystemOptions::default()
    }
}

/// What is done to the system, and what is asked of it.
fn split(plan: &ChaosPlan) -> (Vec<Timed>, Vec<Timed>) {
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

/// What a run is concluded from.
struct Run<'a> {
    plan: &'a ChaosPlan,
    record: &'a Record,
    watch: &'a Watch,
    options: &'a ChaosOptions,
    begun: Instant,
}

impl Run<'_> {
    fn left(&self) -> Duration {
        self.options.most.saturating_sub(self.begun.elapsed())
    }

    async fn conclude(
        &self,
        saboteur: &mut Saboteur,
        driving: tokio::task::JoinHandle<()>,
    ) -> anyhow::Result<ChaosReport> {
        while !driving.is_finished() && !self.left().is_zero() {
            saboteur.nurse(Duration::from_millis(200)).await;
        }
        let operator = saboteur.system.nats.client("provision").await;
        let mut verdicts = vec![self.settle(saboteur, &operator).await?];
        println!("everything is settled after {:.1?}", self.begun.elapsed());

        let evidence = Evidence::gather(&operator).await?;
        let stories = records::stories(&operator).await?;
        let spot = &saboteur.spot;
        let (calls, bill) = (spot.admin().calls().await?, spot.admin().bill().await?);
        self.watch
            .machines(spot.admin().machines().await?, &spot.orphan);
        let (seen, book) = (self.watch.seen(), self.record.book());
        let books = Books {
            stories: &stories,
            seen: &seen,
            calls: &calls,
            evidence: &evidence,
            book: &book,
            instances: self.options.instances,
        };
        let store = saboteur.system.cloud.store().await;
        let scratch = tempfile::tempdir()?;
        verdicts.extend(
            check::all(
                self.plan,
                &book,
                &evidence,
                &operator,
                &store,
                scratch.path(),
            )
            .await,
        );
        verdicts.extend(spot::check::all(spot, &books));
        let machines = spot.cloud.dir().join("machines");
        let (steps, lost) = spot::steps::lost(self.plan, &book, &evidence, &seen, &machines);
        verdicts.extend(steps);
        verdicts.extend(blame::all(self.plan, &book, &evidence, &seen, &machines));
        let (receipts, costs) = spot::money::receipts(&stories, &bill, &book);
        verdicts.push(receipts);
        verdicts.push(spot::budgets::spent(&stories, &bill));
        verdicts.push(check::rights(&saboteur.system.nats.refused_rights()));

        // From here on no machine is bought: the twins are rendered by a worker in peace.
        saboteur.spot.trigger.kill9();
        saboteur.spot.fleet.kill9();
        verdicts.push(self.leave(saboteur).await);
        let resumed = check::resumed(&evidence);
        let within = Duration::from_secs(120);
        verdicts.push(twins::compare(&mut saboteur.system, &resumed, self.plan.seed, within).await);

        let mut report = ChaosReport {
            seed: self.plan.seed,
            verdicts,
            ..ChaosReport::default()
        };
        report.count(&evidence, resumed.len());
        report.summary(&evidence, &books, &costs, &lost);
        report.done.extend(book.counts.clone());
        report.seconds = self.begun.elapsed().as_secs();
        Ok(report)
    }

    /// Tasks first, then batches and machines.
    async fn settle(
        &self,
        saboteur: &mut Saboteur,
        operator: &async_nats::Client,
    ) -> anyhow::Result<Verdict> {
        let mut bounded = Verdict::new(
            "bounded",
            "once the faults are over, everything comes to its end",
        );
        let settling = tokio::spawn({
            let (operator, limit) = (operator.clone(), self.left());
            async move { evidence::settle(&operator, limit).await }
        });
        while !settling.is_finished() {
            saboteur.nurse(Duration::from_millis(200)).await;
        }
        let tasks = settling.await?;
        println!("the tasks are settled after {:.1?}", self.begun.elapsed());
        let settling = tokio::spawn({
            let (operator, admin) = (operator.clone(), saboteur.spot.admin());
            let limit = self.left().max(LAST_MACHINE);
            async move { records::settle(&operator, &admin, limit).await }
        });
        while !settling.is_finished() {
            saboteur.nurse(Duration::from_millis(200)).await;
        }
        for settled in [tasks, settling.await?] {
            bounded.check(settled.is_ok(), || {
                settled
                    .map_err(|error| format!("{error:#}"))
                    .err()
                    .unwrap_or_default()
            });
        }
        Ok(bounded)
    }

    /// The strangers go at last, and with them the last of all machines.
    async fn leave(&self, saboteur: &Saboteur) -> Verdict {
        let mut verdict = Verdict::new("gone", "the cloud is empty");
        let ended = saboteur.spot.end_strangers().await;
        verdict.check(ended.is_ok(), || format!("{ended:?}"));
        let begun = Instant::now();
        loop {
            let machines = saboteur.spot.admin().machines().await.unwrap_or_default();
            let left: Vec<_> = machines
                .iter()
                .filter(|machine| machine.is_alive())
                .collect();
            if left.is_empty() || begun.elapsed() > LAST_MACHINE {
                verdict.check(left.is_empty(), || format!("{left:?}"));
                return verdict;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
