//! Random histories and searches, compared with a search that looks at every task.

use proptest::prelude::*;
use spotreel_api::TaskSearch;
use spotreel_domain::batch::BatchId;
use spotreel_domain::{Owner, Task};
use spotreel_projection::Index;

use crate::world::{World, search};

const OWNERS: [Option<&str>; 3] = [None, Some("anna"), Some("ben")];
const WORDS: [&str; 4] = ["fox", "cat", "狐狸", "snow"];
const INSTANCES: [&str; 4] = ["i-1", "i-2", "i-3", "host"];
/// The batch of each of these.
const BATCHES: [Option<&str>; 4] = [Some("a-1"), Some("a-2"), Some("a-1"), None];

#[derive(Clone, Debug)]
enum Step {
    Submit {
        owner: usize,
        word: usize,
        label: u8,
    },
    /// Whatever comes next for that task.
    Go {
        task: usize,
        instance: usize,
    },
    End {
        task: usize,
    },
    Apply,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3usize, 0..4usize, 0..3u8).prop_map(|(owner, word, label)| Step::Submit { owner, word, label }),
        4 => (0..30usize, 0..4usize).prop_map(|(task, instance)| Step::Go { task, instance }),
        1 => (0..30usize).prop_map(|task| Step::End { task }),
        2 => Just(Step::Apply),
    ]
}

fn wanted() -> impl Strategy<Value = TaskSearch> {
    let state = prop::sample::select(vec![
        None,
        Some("queued"),
        Some("started"),
        Some("failed"),
        Some("cancelled"),
    ]);
    let label = prop::sample::select(vec![
        None,
        Some("film"),
        Some("film=0"),
        Some("film=1"),
        Some("none"),
    ]);
    let text = prop::sample::select(vec![
        None,
        Some("fox"),
        Some("狐"),
        Some("a fox"),
        Some("\"of 狐狸\""),
        Some("dog"),
    ]);
    let batch = prop::sample::select(vec![None, Some("a-1"), Some("a-2"), Some("a-3")]);
    let owner = prop::sample::select(OWNERS.to_vec());
    (
        state,
        label,
        text,
        batch,
        owner,
        1..7usize,
        prop::option::of((0..60i64, 1..60i64)),
    )
        .prop_map(|(state, label, text, batch, owner, limit, window)| {
            let at = |seconds| jiff::Timestamp::from_second(1_800_000_000 + seconds).unwrap();
            TaskSearch {
                text: text.map(str::to_owned),
                owner: owner.map(|owner| Owner::parse(owner).unwrap()),
                label: label.map(str::to_owned),
                state,
                batch: batch.map(|id| BatchId::parse(id).unwrap()),
                since: window.map(|(since, _)| at(since)),
                until: window.map(|(since, more)| at(since + more)),
                limit,
                ..TaskSearch::default()
            }
        })
}

fn carry_out(world: &mut World, step: &Step, index: &mut Index) {
    let nth = |world: &World, at: usize| {
        world
            .tasks
            .keys()
            .nth(at % world.tasks.len().max(1))
            .cloned()
    };
    match step {
        Step::Submit { owner, word, label } => {
            let name = format!("t{}", world.sequence);
            let prompt = format!("a story of {}", WORDS[*word]);
            let label = label.to_string();
            let labels: &[(&str, &str)] = if label == "2" {
                &[]
            } else {
                &[("film", &label)]
            };
            world.submit(&name, OWNERS[*owner], &prompt, labels);
        }
        Step::Go { task, instance } => {
            let Some(name) = nth(world, *task) else {
                return;
            };
            match world.task(&name).state.name() {
                "queued" => world.start(&name, INSTANCES[*instance]),
                "started" => world.fail(&name, "broken"),
                _ => world.retry(&name),
            }
        }
        Step::End { task } => {
            let Some(name) = nth(world, *task) else {
                return;
            };
            if !world.task(&name).is_terminal() {
                world.cancel(&name);
            }
        }
        Step::Apply => world.apply(index),
    }
}

/// What a person would say of one task.
fn fits(task: &Task, search: &TaskSearch) -> bool {
    let words = |text: &str| match text {
        "狐" => task.spec.prompt.contains('狐'),
        "\"of 狐狸\"" => task.spec.prompt.contains("of 狐狸"),
        "a fox" => task.spec.prompt.ends_with("fox"),
        word => task.spec.prompt.contains(word),
    };
    let batches = || {
        task.attempts.iter().filter_map(|attempt| {
            let at = INSTANCES
                .iter()
                .position(|one| *one == attempt.instance)
                .unwrap();
            BATCHES[at]
        })
    };
    search.text.as_deref().is_none_or(words)
        && search.owner.is_none_or_same(&task.owner)
        && search.state.is_none_or(|state| task.state.name() == state)
        && search.label.as_deref().is_none_or(|label| match label {
            "film" => task.spec.labels.contains_key("film"),
            "film=0" => task
                .spec
                .labels
                .get("film")
                .is_some_and(|value| value == "0"),
            "film=1" => task
                .spec
                .labels
                .get("film")
                .is_some_and(|value| value == "1"),
            _ => false,
        })
        && search
            .batch
            .as_ref()
            .is_none_or(|id| batches().any(|batch| batch == id.to_string()))
        && search.since.is_none_or(|since| task.submitted_at >= since)
        && search.until.is_none_or(|until| task.submitted_at < until)
}

trait NoneOrSame {
    fn is_none_or_same(&self, other: &Self) -> bool;
}

impl NoneOrSame for Option<Owner> {
    fn is_none_or_same(&self, other: &Self) -> bool {
        self.is_none() || self == other
    }
}

/// All pages one after the other; between two of them, `meanwhile` happens.
fn read_all(
    index: &mut Index,
    search: &TaskSearch,
    mut meanwhile: impl FnMut(&mut Index),
) -> Vec<String> {
    let (mut search, mut all) = (search.clone(), Vec::new());
    loop {
        let page = index.search(&search).unwrap();
        assert!(page.tasks.len() <= search.limit);
        all.extend(page.tasks.into_iter().map(|task| task.id.to_string()));
        let Some(cursor) = page.next_cursor else {
            return all;
        };
        assert!(
            search.cursor.is_none_or(|before| cursor < before),
            "a page goes on"
        );
        search.cursor = Some(cursor);
        meanwhile(index);
    }
}

fn by_hand(world: &World, search: &TaskSearch) -> Vec<String> {
    let mut found: Vec<_> = world
        .tasks
        .values()
        .filter(|(_, task)| fits(task, search))
        .collect();
    found.sort_by_key(|(_, task)| std::cmp::Reverse(task.born));
    found.iter().map(|(_, task)| task.id.to_string()).collect()
}

fn batches(index: &mut Index) {
    let pairs = INSTANCES
        .iter()
        .zip(BATCHES)
        .filter_map(|(instance, batch)| {
            Some((
                BatchId::parse(batch?).unwrap(),
                vec![(*instance).to_owned()],
            ))
        });
    let pairs: Vec<_> = pairs.collect();
    index.apply_batches(&pairs, None).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn pages_hold_what_a_look_at_every_task_finds(
        steps in prop::collection::vec(step(), 0..80),
        searches in prop::collection::vec(wanted(), 1..12),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut index = Index::open(&dir.path().join("search.db")).unwrap();
        batches(&mut index);
        let mut world = World::default();
        for step in &steps {
            carry_out(&mut world, step, &mut index);
        }
        world.apply(&mut index);
        prop_assert_eq!(index.size().unwrap().tasks, world.tasks.len() as u64);
        for search in &searches {
            prop_assert_eq!(read_all(&mut index, search, |_| ()), by_hand(&world, search), "{:?}", search);
        }
    }

    /// Whatever is written between two pages: each task that was there stands on one page, and none stands on two.
    #[test]
    fn pages_are_stable_while_tasks_change(
        before in prop::collection::vec(step(), 20..60),
        meanwhile in prop::collection::vec(step(), 1..40),
        search in wanted(),
    ) {
        let search = TaskSearch { state: None, batch: None, ..search };
        let dir = tempfile::tempdir().unwrap();
        let mut index = Index::open(&dir.path().join("search.db")).unwrap();
        let mut world = World::default();
        for step in &before {
            carry_out(&mut world, step, &mut index);
        }
        world.apply(&mut index);
        let there = by_hand(&world, &search);
        let mut meanwhile = meanwhile.chunks(4).cycle();
        let read = read_all(&mut index, &search, |index| {
            for step in meanwhile.next().into_iter().flatten() {
                carry_out(&mut world, step, index);
            }
            world.apply(index);
        });
        prop_assert_eq!(read, there);
    }

    /// Nothing that a person types is an error of SQLite's.
    #[test]
    fn every_text_can_be_searched_for(typed in ".{0,40}", prompt in ".{1,40}") {
        let dir = tempfile::tempdir().unwrap();
        let mut index = Index::open(&dir.path().join("search.db")).unwrap();
        let mut world = World::default();
        world.submit("t", None, "a fox", &[]);
        world.waiting[0].1.spec.prompt = prompt;
        world.apply(&mut index);
        let search = TaskSearch { text: Some(typed), limit: 10, ..TaskSearch::default() };
        index.search(&search).unwrap();
    }
}

#[test]
fn what_looks_like_a_query_language_is_text() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = Index::open(&dir.path().join("search.db")).unwrap();
    let mut world = World::default();
    world.submit("t", None, "a fox OR NOT a cat, text:near(4K) x* ^y", &[]);
    world.apply(&mut index);
    for text in [
        "OR",
        "NOT cat",
        "text:near(4K)",
        "x*",
        "^y",
        "NEAR(4k",
        "fox AND",
        "-fox",
        "fox + cat",
        "'; DROP",
    ] {
        let query = serde_json::json!({ "text": text }).to_string();
        let found = search(&index, &query).tasks.len();
        let is_there = !["fox AND", "'; DROP"].contains(&text);
        assert_eq!(found == 1, is_there, "{text}");
    }
}
