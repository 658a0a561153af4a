//! Which machines a queue needs, and how many, by what waits in it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod scene;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use spotreel_domain::batch::{Batch, PoolName};
use spotreel_domain::fleet::observation::{Need, Work};
use spotreel_domain::pool::{Cloud, PoolConfig, Pools};
use spotreel_domain::render_time::{Corrections, Gpu, Job, Run};
use spotreel_domain::workload::{Demand, Sampled, Workload};
use spotreel_domain::{Model, Quality};

const FIVE: Model = Model::Ti2v5b;
const LARGE: Model = Model::T2vA14b;

fn pool(kinds: &[&str]) -> PoolConfig {
    scene::pool(kinds, 90)
}

fn large(frames: u32) -> Job {
    Job {
        frames,
        ..Job::usual(LARGE, (832, 480))
    }
}

/// So many tasks of each, all of which were looked at.
fn demand(parts: &[(Job, u64)]) -> Demand {
    let (mut tasks, mut samples) = (BTreeMap::new(), BTreeMap::<_, Vec<_>>::new());
    for (job, count) in parts {
        *tasks.entry(job.model).or_default() += count;
        let one = Sampled {
            job: *job,
            in_hand: false,
            stands_for: 1.0,
        };
        let sample = std::iter::repeat_n(one, usize::try_from(*count).unwrap());
        samples.entry(job.model).or_default().extend(sample);
    }
    Demand::new(&tasks, &samples)
}

fn load(pool: &PoolConfig, parts: &[(Job, u64)]) -> Workload {
    pool.workload(&demand(parts), &Corrections::default())
}

fn batch() -> Batch {
    let at: Timestamp = "2026-11-30T02:00:00Z".parse().unwrap();
    scene::requested(2, at)
}

/// What fleet reckons with before any machine is there; batches before took five seconds for a task.
fn work(pool: &PoolConfig, load: &Workload) -> (Work, Vec<Need>) {
    let boot = Some(Duration::from_secs(60));
    load.work(&batch(), 0, 0, Some(5.0), boot, &pool.rules.sizing)
}

fn kinds(need: &Need) -> Vec<&str> {
    need.kinds.iter().map(String::as_str).collect()
}

#[test]
fn tasks_of_forty_minutes_get_machines_for_forty_minutes_whatever_the_last_ones_took() {
    let pool = pool(&["g6e.xlarge"]);
    let job = Job {
        steps: 60,
        ..Job::usual(LARGE, (1280, 720))
    };
    let seconds = job.seconds(Gpu::L40s);
    assert!(seconds > 2_400.0, "{seconds}");
    let (work, needs) = work(&pool, &load(&pool, &[(job, 100)]));
    assert!(work.sized >= 34, "{work:?}");
    assert_eq!(work.sized, needs[0].sized.min(pool.rules.sizing.max));
    assert_eq!((work.runnable, needs[0].waiting), (100, 100));
}

#[test]
fn size_frames_steps_and_quality_count() {
    let pool = pool(&["g6e.xlarge"]);
    let usual = Job::usual(LARGE, (1280, 720));
    let fast = Quality::Fast.recipe(LARGE);
    let seconds = |job| load(&pool, &[(job, 10)]).seconds.unwrap();
    for less in [
        Job::usual(LARGE, (832, 480)),
        Job {
            frames: 41,
            ..usual
        },
        Job { steps: 20, ..usual },
        Job {
            steps: fast.steps,
            guided: false,
            ..usual
        },
    ] {
        assert!(seconds(less) < 0.6 * seconds(usual), "{less:?}");
    }
    // Ten of each are not twenty of one.
    let both = load(&pool, &[(usual, 10), (large(81), 10)]);
    let mean = (seconds(usual) + seconds(large(81))) / 2.0;
    assert!((both.seconds.unwrap() / mean - 1.0).abs() < 1e-9);
}

#[test]
fn a_sample_stands_for_the_whole_queue() {
    let pool = pool(&["g6e.xlarge"]);
    let samples = [(81, true), (81, false), (45, false)].map(|(frames, in_hand)| Sampled {
        job: large(frames),
        in_hand,
        stands_for: 1.0,
    });
    let tasks = BTreeMap::from([(LARGE, 101)]);
    let demand = Demand::new(&tasks, &BTreeMap::from([(LARGE, samples.to_vec())]));
    let load = pool.workload(&demand, &Corrections::default());
    let [long, short] = [81, 45].map(|frames| large(frames).seconds(Gpu::L40s));
    let mean = (51.0 * long + 50.0 * short) / 101.0;
    assert_eq!(load.tasks, 101);
    assert!((load.seconds.unwrap() / mean - 1.0).abs() < 1e-9);
    // Without a sample they are the usual ones, in the largest size that a card of the pool can render.
    let unseen = pool.workload(
        &Demand::new(&tasks, &BTreeMap::new()),
        &Corrections::default(),
    );
    let largest = Job::usual(LARGE, (1280, 720)).seconds(Gpu::L40s);
    assert!((unseen.seconds.unwrap() / largest - 1.0).abs() < 1e-9);
}

#[test]
fn a_task_of_a_sample_counts_as_the_tasks_that_it_stands_for() {
    let pool = pool(&["g6e.xlarge"]);
    let samples = [(45, 1.0), (45, 1.0), (81, 8.0)].map(|(frames, stands_for)| Sampled {
        job: large(frames),
        in_hand: false,
        stands_for,
    });
    let demand = Demand::new(
        &BTreeMap::from([(LARGE, 50)]),
        &BTreeMap::from([(LARGE, samples.to_vec())]),
    );
    let load = pool.workload(&demand, &Corrections::default());
    let [long, short] = [81, 45].map(|frames| large(frames).seconds(Gpu::L40s));
    let mean = (4.0 * long + short) / 5.0;
    assert!((load.seconds.unwrap() / mean - 1.0).abs() < 1e-9);
}

#[test]
fn a_queue_counts_as_its_tasks_on_the_slowest_card_that_can() {
    let five = Job::usual(FIVE, (1280, 704));
    let all = pool(&["g6.xlarge", "g5.xlarge", "g6e.xlarge"]);
    let slowest = load(&all, &[(five, 3)]).seconds.unwrap();
    assert!((slowest - five.seconds(Gpu::A10g)).abs() < 1e-6);
    let mixed = load(&all, &[(five, 3), (large(81), 1)]).seconds.unwrap();
    let wanted = (3.0 * five.seconds(Gpu::A10g) + large(81).seconds(Gpu::L40s)) / 4.0;
    assert!((mixed - wanted).abs() < 1e-6);
}

#[test]
fn only_types_that_can_render_what_waits_are_asked_for() {
    let pool = pool(&["g5.xlarge", "g6.xlarge", "g6e.xlarge"]);
    let asked = |parts: &[(Job, u64)]| {
        let needs = work(&pool, &load(&pool, parts)).1;
        let each = needs
            .iter()
            .map(|need| (kinds(need).join(" "), need.waiting));
        each.collect::<Vec<_>>()
    };
    let (small, all) = (
        "g6e.xlarge".to_owned(),
        "g5.xlarge g6.xlarge g6e.xlarge".to_owned(),
    );
    let five = Job::usual(FIVE, (1280, 704));
    assert_eq!(asked(&[(large(81), 8)]), [(small.clone(), 8)]);
    assert_eq!(asked(&[(five, 8)]), [(all.clone(), 8)]);
    // A short video of the large model fits into 24 GB with quantised weights.
    assert_eq!(asked(&[(large(45), 8)]), [(all.clone(), 8)]);
    assert_eq!(
        asked(&[(five, 5), (large(81), 8)]),
        [(small, 8), (all, 13)],
        "the hardest first, each with those that are harder"
    );
    let load = load(&pool, &[(large(81), 8)]);
    assert_eq!(load.kinds(), Some(&["g6e.xlarge".to_owned()].into()));
}

#[test]
fn what_no_type_can_render_is_no_work_and_is_said() {
    let pool = pool(&["g6.xlarge"]);
    let found = load(&pool, &[(large(81), 3), (Job::usual(FIVE, (1280, 704)), 2)]);
    assert_eq!(found.tasks, 2);
    let rest = found.unrenderable.unwrap();
    assert_eq!(rest.tasks, 3);
    assert_eq!(
        rest.sentence,
        "3 tasks can be rendered by no type of the pool: t2v-A14B with 832x480 and 81 frames needs 29.1 GB of GPU memory, \
         g6e.xlarge has it (L40S, 48 GB); add a type, or cancel them"
    );
    let nothing = load(&pool, &[(large(81), 3)]);
    assert_eq!((nothing.tasks, work(&pool, &nothing).0.sized), (0, 2));
    assert_eq!(
        work(&pool, &nothing).0.waiting(),
        0,
        "nothing is bought for it"
    );
}

#[test]
fn finished_tasks_go_before_what_a_person_has_set_and_that_before_arithmetic() {
    let mut pool = pool(&["g6e.xlarge"]);
    let job = large(81);
    let run = Run {
        job,
        gpu: Gpu::L40s,
        from_step: 0,
        seconds: 2.0 * job.seconds(Gpu::L40s),
    };
    let learnt = Corrections::learn(&[run, run, run]);
    pool.rules.sizing.tasks_per_gpu_hour = Some(20.0);
    let of = |job: Job, learnt: &Corrections| pool.workload(&demand(&[(job, 4)]), learnt).seconds;
    assert_eq!(of(job, &Corrections::default()), None, "as it is set");
    let twice = of(job, &learnt).unwrap();
    assert!((twice / run.seconds - 1.0).abs() < 1e-9);
    // Each model by what is known of it.
    let five = Job::usual(FIVE, (1280, 704));
    let both = pool.workload(&demand(&[(job, 1), (five, 1)]), &learnt);
    let mean = (run.seconds + 180.0) / 2.0;
    assert!((both.seconds.unwrap() / mean - 1.0).abs() < 1e-9);
}

#[test]
fn a_pool_that_waits_is_sized_by_its_models() {
    let mut pool = pool(&["g6e.xlarge"]);
    pool.models = vec![LARGE];
    let idle = load(&pool, &[]);
    let usual = Job::usual(LARGE, (1280, 720)).seconds(Gpu::L40s);
    assert_eq!((idle.tasks, idle.unrenderable.clone()), (0, None));
    assert!((idle.seconds.unwrap() / usual - 1.0).abs() < 1e-9);
    // Of machines of one's own nothing is known.
    pool.cloud = Cloud::None;
    let own = load(&pool, &[(large(81), 3)]);
    assert_eq!((own.tasks, own.seconds), (3, None));
}

fn problems(models: &[Model], kinds: &[&str], gpu: Option<Gpu>) -> String {
    let mut pool = pool(kinds);
    pool.models = models.to_vec();
    for kind in &mut pool.kinds {
        kind.gpu = gpu;
    }
    let pools = Pools {
        pool: [(PoolName::parse("gpu").unwrap(), pool)].into(),
    };
    pools
        .validate()
        .err()
        .map_or_else(String::new, |all| all.to_string())
}

#[test]
fn a_model_that_no_type_of_its_pool_can_render_is_refused_at_start() {
    assert_eq!(problems(&[FIVE], &["g6.xlarge"], None), "");
    assert_eq!(
        problems(&Model::ALL, &["g6.xlarge", "g6e.xlarge"], None),
        ""
    );
    assert_eq!(
        problems(&[FIVE, LARGE], &["g5.xlarge", "g6.xlarge"], None),
        "`pool.gpu.models`: no type of the pool can render t2v-A14B with 832x480 and 81 frames needs 29.1 GB of GPU memory, \
         g6e.xlarge has it (L40S, 48 GB); add such a type to kinds, or take the model away"
    );
    assert_eq!(
        problems(&[FIVE], &["g4dn.xlarge"], None),
        "`pool.gpu.kinds.0`: which card g4dn.xlarge has is not known; \
         set gpu to the card that comes closest, such as gpu = \"l40s\", or take the type away"
    );
    assert_eq!(problems(&[LARGE], &["g9.xlarge"], Some(Gpu::L40s)), "");
}
