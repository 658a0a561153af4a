//! What a search finds.

use jiff::SignedDuration;
use spotreel_api::{SearchQuery, TaskSearch};
use spotreel_domain::batch::BatchId;
use spotreel_projection::{Found, Index};
use tempfile::TempDir;

use crate::world::{LOG, World, mark, search};

fn ids(found: &Found) -> Vec<&str> {
    found.tasks.iter().map(|task| task.id.as_str()).collect()
}

fn open(dir: &TempDir) -> Index {
    Index::open(&dir.path().join("search.db")).unwrap()
}

#[test]
fn a_search_combines_all_its_parts() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = open(&dir);
    let mut world = World::default();
    world.submit(
        "fox",
        Some("anna"),
        "a red fox in the snow",
        &[("film", "fox")],
    );
    world.submit(
        "cat",
        Some("ben"),
        "a red cat in the snow",
        &[("film", "cat")],
    );
    world.submit(
        "own",
        None,
        "a red fox in the rain",
        &[("film", "fox"), ("draft", "")],
    );
    world.start("fox", "i-1");
    world.fail("fox", "the video is black");
    world.start("own", "i-2");
    world.apply(&mut index);
    let batch = (
        BatchId::parse("default-7").unwrap(),
        vec!["i-1".to_owned(), "i-9".to_owned()],
    );
    index.apply_batches(&[batch], None).unwrap();

    for (query, wanted) in [
        ("{}", ["own", "cat", "fox"].as_slice()),
        (r#"{"owner":"anna"}"#, &["fox"]),
        (r#"{"owner":"anna","state":"failed"}"#, &["fox"]),
        (r#"{"owner":"ben","state":"failed"}"#, &[]),
        (r#"{"state":"queued"}"#, &["cat"]),
        (r#"{"state":"started"}"#, &["own"]),
        (r#"{"model":"ti2v-5B"}"#, &["own", "cat", "fox"]),
        (r#"{"model":"t2v-A14B"}"#, &[]),
        (r#"{"label":"film=fox"}"#, &["own", "fox"]),
        (r#"{"label":"film"}"#, &["own", "cat", "fox"]),
        (r#"{"label":"draft="}"#, &["own"]),
        (r#"{"label":"fil"}"#, &[]),
        (r#"{"batch":"default-7"}"#, &["fox"]),
        (r#"{"batch":"default-8"}"#, &[]),
        (r#"{"text":"snow RED"}"#, &["cat", "fox"]),
        (r#"{"text":"\"red fox\""}"#, &["own", "fox"]),
        (r#"{"text":"\"fox red\""}"#, &[]),
        (
            r#"{"text":"red","label":"film=fox","state":"failed","batch":"default-7","model":"ti2v-5B"}"#,
            &["fox"],
        ),
        (r#"{"text":"rain","owner":"anna"}"#, &[]),
    ] {
        let found = search(&index, query);
        assert_eq!(ids(&found), wanted, "{query}");
        assert_eq!(found.next_cursor, None, "{query}");
    }

    let fox = &search(&index, r#"{"owner":"anna"}"#).tasks[0];
    assert_eq!(fox.batch, BatchId::parse("default-7"));
    assert_eq!(fox.error.as_ref().unwrap().message, "the video is black");
    assert_eq!(fox.labels["film"], "fox");
    assert_eq!(fox.prompt, "a red fox in the snow");
    let task = world.task("fox");
    assert_eq!((fox.submitted_at, fox.at), (task.submitted_at, task.at));
    assert_eq!(
        search(&index, r#"{"state":"started"}"#).tasks[0].batch,
        None,
        "its instance is in no batch"
    );
}

#[test]
fn words_of_every_script_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = open(&dir);
    let mut world = World::default();
    world.submit("zh", None, "雪中的红色狐狸，4K画质", &[]);
    world.submit("ja", None, "雪の中の赤いキツネ", &[]);
    world.submit("ko", None, "눈 속의 붉은여우", &[]);
    world.submit("de", None, "Ein Füchslein im Schnee", &[]);
    world.submit("ru", None, "Красная лиса", &[]);
    world.apply(&mut index);
    for (text, wanted) in [
        ("狐狸", ["zh"].as_slice()),
        ("色狐", &["zh"]),
        ("狸狐", &[]),
        ("红色 画质", &["zh"]),
        ("4k", &["zh"]),
        ("雪", &["ja", "zh"]),
        ("キツネ", &["ja"]),
        ("ｷﾂﾈ", &["ja"]),
        ("여우", &["ko"]),
        ("fuchslein", &["de"]),
        ("FÜCHSLEIN", &["de"]),
        ("лиса", &["ru"]),
        ("ＳＣＨＮＥＥ", &["de"]),
    ] {
        let query = SearchQuery {
            text: Some(text.into()),
            ..SearchQuery::default()
        };
        let found = index.search(&query.check().unwrap()).unwrap();
        assert_eq!(ids(&found), wanted, "{text}");
    }
}

#[test]
fn a_time_is_when_the_task_was_submitted() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = open(&dir);
    let mut world = World::default();
    let start = world.now;
    for (name, hours) in [("a", 0), ("b", 30), ("c", 90), ("d", 200)] {
        world.now = start + SignedDuration::from_hours(hours);
        world.submit(name, None, "a fox", &[]);
    }
    // A clock that is wrong by days changes the order of nothing.
    world.now = start;
    world.submit("e", None, "a fox", &[]);
    world.apply(&mut index);
    let between = |since: Option<i64>, until: Option<i64>| {
        let at = |hours| start + SignedDuration::from_hours(hours);
        let search = TaskSearch {
            since: since.map(at),
            until: until.map(at),
            limit: 50,
            ..TaskSearch::default()
        };
        let found = index.search(&search).unwrap();
        ids(&found).join(" ")
    };
    assert_eq!(between(None, None), "e d c b a");
    assert_eq!(between(Some(30), None), "d c b");
    assert_eq!(between(Some(31), Some(200)), "c");
    assert_eq!(between(None, Some(30)), "e a");
    assert_eq!(between(Some(300), None), "");
    assert_eq!(between(None, Some(-1)), "");
}

#[test]
fn a_task_follows_its_log_through_rounds_and_lives() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = open(&dir);
    let mut world = World::default();
    world.submit("a", None, "a red fox", &[("film", "1")]);
    world.submit("b", None, "a cat", &[]);
    world.start("a", "i-1");
    world.apply(&mut index);
    world.fail("a", "out of memory");
    world.apply(&mut index);
    assert_eq!(ids(&search(&index, r#"{"state":"failed"}"#)), ["a"]);
    let place = |index: &Index| ids(&search(index, "{}")).join(" ");
    assert_eq!(place(&index), "b a");

    world.retry("a");
    world.apply(&mut index);
    let again = search(&index, r#"{"state":"queued"}"#);
    assert_eq!(ids(&again), ["b", "a"], "a retried task keeps its place");
    assert_eq!(again.tasks[1].error, None);

    // Its id is free again, and another task takes it.
    world.start("a", "i-2");
    world.fail("a", "again");
    world.apply(&mut index);
    let end = world.last("a");
    assert_eq!(index.ended_from(1, 10).unwrap(), [end]);
    assert_eq!(index.remove(&[end]).unwrap(), 1);
    assert_eq!(place(&index), "b");
    for gone in [
        r#"{"text":"fox"}"#,
        r#"{"label":"film"}"#,
        r#"{"state":"failed"}"#,
    ] {
        assert_eq!(ids(&search(&index, gone)), [""; 0], "{gone}");
    }
    world.forget("a");
    world.submit("a", None, "another film", &[]);
    world.apply(&mut index);
    assert_eq!(place(&index), "a b");
    assert_eq!(index.size().unwrap().tasks, 2);

    // The same without a removal between: a second life takes the first one's place.
    world.start("a", "i-3");
    world.fail("a", "again");
    world.forget("a");
    world.submit("a", None, "a third film", &[]);
    world.apply(&mut index);
    assert_eq!(ids(&search(&index, r#"{"text":"another"}"#)), [""; 0]);
    assert_eq!(ids(&search(&index, r#"{"text":"third"}"#)), ["a"]);
    assert_eq!(index.size().unwrap().tasks, 2);
}

#[test]
fn nothing_is_removed_that_has_changed_since() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = open(&dir);
    let mut world = World::default();
    world.submit("a", None, "a fox", &[]);
    world.start("a", "i-1");
    world.fail("a", "broken");
    world.apply(&mut index);
    let end = world.last("a");
    world.retry("a");
    world.apply(&mut index);
    assert_eq!(index.remove(&[end]).unwrap(), 0);
    assert_eq!(
        index.ended_from(1, 10).unwrap(),
        [0; 0],
        "live tasks stay in the log"
    );
    assert_eq!(ids(&search(&index, "{}")), ["a"]);
}

#[test]
fn what_was_applied_once_changes_nothing_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = open(&dir);
    let mut world = World::default();
    world.submit("a", None, "a fox", &[]);
    world.start("a", "i-1");
    world.fail("a", "broken");
    let events = world.events.clone();
    world.apply(&mut index);
    let before = search(&index, "{}");
    index
        .apply_tasks(LOG, events[..1].to_vec(), mark(1))
        .unwrap();
    index.apply_tasks(LOG, events, mark(3)).unwrap();
    assert_eq!(search(&index, "{}"), before);
    assert_eq!(index.size().unwrap().tasks, 1);
}

/// Copies of the file, as a crash would leave it.
#[test]
fn a_page_ends_before_it_has_looked_at_everything() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = open(&dir);
    let mut world = World::default();
    // Two frequent conditions that one task alone fulfils, far below the others.
    for at in 0..12_000 {
        let (label, text) = match at {
            0 => (("film", "1"), "a fox and a cat"),
            _ if at % 2 == 0 => (("film", "1"), "a fox"),
            _ => (("film", "2"), "a cat"),
        };
        world.submit(&format!("t{at}"), None, text, &[label]);
    }
    world.apply(&mut index);
    let start = r#"{"label":"film=1","text":"cat""#;
    let first = search(&index, &format!("{start}}}"));
    assert_eq!(
        first.tasks.len(),
        0,
        "nothing was found in what was looked at"
    );
    let cursor = first.next_cursor.expect("and there is more");
    let second = search(&index, &format!(r#"{start},"cursor":{cursor}}}"#));
    assert_eq!((ids(&second), second.next_cursor), (vec!["t0"], None));
}

#[test]
fn a_page_is_no_larger_than_a_message() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = open(&dir);
    let mut world = World::default();
    let long = "狐".repeat(1_900);
    for at in 0..400 {
        world.submit(&format!("t{at}"), None, &long, &[]);
    }
    world.apply(&mut index);
    let (mut cursor, mut seen) = (None, 0);
    loop {
        let search = TaskSearch {
            limit: 200,
            cursor,
            ..TaskSearch::default()
        };
        let page = index.search(&search).unwrap();
        let bytes: usize = page.tasks.iter().map(|task| task.prompt.len()).sum();
        assert!(bytes <= (1 << 20) + long.len(), "{bytes}");
        seen += page.tasks.len();
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, 400);
}
