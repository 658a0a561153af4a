//! Measures a file with a million tasks: how long it takes to build and to open, the time of a page for each kind of search,
//! and memory. `cargo run -p spotreel-projection --example million -- [TASKS] [DIR]`

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement that cannot go on stops here"
)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use spotreel_api::{SearchQuery, TaskRequest};
use spotreel_domain::batch::BatchId;
use spotreel_domain::task::{Failure, FailureKind};
use spotreel_domain::{Event, Owner, Task, TaskId};
use spotreel_projection::{Index, LogMark};

const LOG: &str = "TASKS";
/// Tasks that arrive in one page of the log.
const PAGE: usize = 500;
const PAGES_MEASURED: u64 = 1_000;
const WORDS: [&str; 16] = [
    "fox",
    "snow",
    "river",
    "city",
    "night",
    "slow",
    "camera",
    "forest",
    "雪中的狐狸",
    "夜晚的城市",
    "golden",
    "light",
    "rain",
    "portrait",
    "close",
    "street",
];

/// A sequence that looks random and is the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// Three events a task, as a log has them where nothing was tidied yet.
fn tasks(index: &mut Index, number: u64) {
    let mut random = Random(42);
    let start = Timestamp::from_second(1_800_000_000).unwrap();
    let request = TaskRequest {
        model: "ti2v-5B".into(),
        prompt: "a fox".into(),
        ..TaskRequest::default()
    };
    let valid = request.validate(start).unwrap();
    let (mut waiting, mut sequence) = (Vec::new(), 0);
    for at in 0..number {
        // A month.
        let now = start
            + SignedDuration::from_millis(i64::try_from(at * 2_592_000_000 / number).unwrap());
        let mut spec = valid.spec.clone();
        let words: Vec<_> = (0..24)
            .map(|_| WORDS[usize::try_from(random.below(16)).unwrap()])
            .collect();
        spec.prompt = words.join(" ");
        if random.below(10_000) == 0 {
            spec.prompt.push_str(" kingfisher");
        }
        spec.labels
            .insert("film".into(), format!("f{}", random.below(1_000)));
        spec.labels
            .insert("team".into(), format!("t{}", random.below(4)));
        let owner = Owner::parse(&format!("owner{}", random.below(20))).unwrap();
        let id = TaskId::parse(&format!("task-{at:08}-of-the-measurement-x")).unwrap();
        let mut place = |(event, task): (Event, Task)| {
            sequence += 1;
            let task = task.placed_at(sequence, event);
            waiting.push((sequence, task.clone()));
            task
        };
        let task = place(Task::submit_for(
            Some(owner),
            id,
            spec,
            valid.content_hash.clone(),
            now,
        ));
        let task = place(
            task.started("w", &format!("i-{:05}", at / 100), 0, now)
                .unwrap(),
        );
        if random.below(50) == 0 {
            let failure = Failure {
                kind: FailureKind::Invalid,
                message: "the video is black".into(),
            };
            place(task.attempt_failed(failure, now).unwrap());
        } else {
            place(task.cancelled(now).unwrap());
        }
        if waiting.len() >= PAGE {
            let mark = LogMark {
                sequence,
                stored_ns: 0,
            };
            index
                .apply_tasks(LOG, std::mem::take(&mut waiting), mark)
                .unwrap();
        }
    }
    index
        .apply_tasks(
            LOG,
            waiting,
            LogMark {
                sequence,
                stored_ns: 0,
            },
        )
        .unwrap();
    for batch in 0..number / 1_000 {
        let id = BatchId::parse(&format!("default-{}", batch + 1)).unwrap();
        let instances = (0..10)
            .map(|one| format!("i-{:05}", batch * 10 + one))
            .collect();
        index.apply_batches(&[(id, instances)], None).unwrap();
    }
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        / 1024
}

fn main() {
    let mut args = std::env::args().skip(1);
    let number: u64 = args.next().map_or(1_000_000, |text| text.parse().unwrap());
    let dir = args.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let path = dir.join("spotreel-million.db");
    for end in ["", "-wal"] {
        let _ = std::fs::remove_file(format!("{}{end}", path.display()));
    }
    let began = Instant::now();
    let mut index = Index::open(&path).unwrap();
    index.mark(LOG, "log").unwrap();
    tasks(&mut index, number);
    let built = began.elapsed();
    let size = index.size().unwrap();
    println!(
        "built: {} tasks in {:.1} s, {:.0} tasks/s, {} MiB on disk",
        size.tasks,
        built.as_secs_f64(),
        number as f64 / built.as_secs_f64(),
        size.bytes >> 20
    );
    drop(index);
    let began = Instant::now();
    let index = Index::open(&path).unwrap();
    println!(
        "opened again in {:.0} ms",
        began.elapsed().as_secs_f64() * 1_000.0
    );

    let mut random = Random(7);
    for (name, query) in [
        ("everything", r#"{}"#),
        ("state", r#"{"state":"failed"}"#),
        ("owner", r#"{"owner":"owner7"}"#),
        ("owner and state", r#"{"owner":"owner7","state":"failed"}"#),
        ("label", r#"{"label":"film=f17"}"#),
        (
            "label and state",
            r#"{"label":"film=f17","state":"failed"}"#,
        ),
        (
            "frequent label and state",
            r#"{"label":"team=t1","state":"failed"}"#,
        ),
        ("batch", r#"{"batch":"default-500"}"#),
        (
            "a week",
            r#"{"state":"failed","since":"2027-01-20T00:00:00Z","until":"2027-01-27T00:00:00Z"}"#,
        ),
        ("frequent word", r#"{"text":"fox"}"#),
        ("rare word", r#"{"text":"kingfisher"}"#),
        ("phrase", r#"{"text":"\"golden light\""}"#),
        ("four words", r#"{"text":"fox snow river city"}"#),
        ("Chinese", r#"{"text":"狐狸"}"#),
        (
            "Chinese and owner",
            r#"{"text":"夜晚","owner":"owner3","state":"failed"}"#,
        ),
        (
            "words that never meet",
            r#"{"text":"\"fox snow river city night slow camera\" kingfisher"}"#,
        ),
        ("nothing", r#"{"text":"penguin","state":"failed"}"#),
    ] {
        let query: SearchQuery = serde_json::from_str(query).unwrap();
        let mut search = query.check().unwrap();
        let mut times: Vec<Duration> = Vec::new();
        let mut found = 0;
        for _ in 0..PAGES_MEASURED {
            // Anywhere in the order, as people who page far down.
            search.cursor = Some(1 + random.below(number * 3));
            let began = Instant::now();
            found += index.search(&search).unwrap().tasks.len();
            times.push(began.elapsed());
        }
        times.sort_unstable();
        let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1_000.0;
        println!(
            "{name:<26} p50 {:>7.2} ms  p99 {:>7.2} ms  most {:>7.2} ms  {:>5.1} tasks a page",
            at(50),
            at(99),
            at(100),
            found as f64 / PAGES_MEASURED as f64
        );
    }
    println!("memory: {} MiB resident", resident_mib());
    drop(index);
    for end in ["", "-wal"] {
        let _ = std::fs::remove_file(format!("{}{end}", path.display()));
    }
}
