//! What becomes of the file.

use std::collections::BTreeSet;
use std::path::Path;

use rusqlite::Connection;
use spotreel_projection::{Index, LogMark, ProjectionError};

use crate::world::{LOG, World, mark, search};

#[test]
fn rows_and_the_place_in_the_log_are_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("search.db");
    let mut index = Index::open(&dir.path().join("search.db")).unwrap();
    let mut world = World::default();
    for round in 0..40_u64 {
        let name = format!("t{round}");
        world.submit(&name, Some("anna"), "a fox", &[]);
        if round % 3 == 0 {
            world.start(&name, "i-1");
        }
        world.apply(&mut index);
        let crashed = tempfile::tempdir().unwrap();
        let copy = crashed.path().join("search.db");
        for end in ["", "-wal"] {
            let name = |path: &Path| format!("{}{end}", path.display());
            std::fs::copy(name(&path), name(&copy)).unwrap();
        }
        let mut again = Index::open(&copy).unwrap();
        let known = again.mark(LOG, "log 1").unwrap().unwrap();
        assert_eq!(known, mark(world.sequence));
        assert_eq!(again.size().unwrap().tasks, round + 1);
        let started = search(&again, r#"{"state":"started","owner":"anna"}"#);
        assert_eq!(started.tasks.len() as u64, round / 3 + 1);
    }
    // A commit that did not come to its end is as if it had never been.
    let torn = tempfile::tempdir().unwrap();
    let copy = torn.path().join("search.db");
    std::fs::copy(&path, &copy).unwrap();
    let wal = std::fs::read(path.with_extension("db-wal")).unwrap();
    for cut in [wal.len() - 1, wal.len() - 5_000, wal.len() / 2, 40] {
        std::fs::write(copy.with_extension("db-wal"), &wal[..cut]).unwrap();
        let mut again = Index::open(&copy).unwrap();
        let known = again.mark(LOG, "log 1").unwrap().unwrap();
        let tasks = again.size().unwrap().tasks;
        drop(again);
        std::fs::copy(&path, &copy).unwrap();
        let told: BTreeSet<_> = world
            .events
            .iter()
            .filter(|(sequence, _)| *sequence <= known.sequence)
            .map(|(_, task)| task.id.clone())
            .collect();
        assert_eq!(tasks, told.len() as u64, "{cut}");
    }
}

#[test]
fn a_file_that_is_of_no_use_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("search.db");
    let filled = || {
        let _ = std::fs::remove_file(&path);
        let mut index = Index::open(&path).unwrap();
        let mut world = World::default();
        for at in 0..200 {
            world.submit(&format!("t{at}"), None, "a fox", &[]);
        }
        world.apply(&mut index);
    };
    let aside = dir.path().join("search.db.unreadable");

    filled();
    Connection::open(&path)
        .unwrap()
        .pragma_update(None, "user_version", 99)
        .unwrap();
    let mut index = Index::open(&path).unwrap();
    assert_eq!(index.size().unwrap().tasks, 0, "another version");
    assert_eq!(index.mark(LOG, "log 1").unwrap(), Some(LogMark::default()));
    drop(index);
    assert!(!aside.exists(), "what is ours is removed");

    std::fs::write(&path, "no database ".repeat(1_000)).unwrap();
    let index = Index::open(&path).unwrap();
    assert_eq!(index.size().unwrap().tasks, 0, "no database");
    drop(index);
    assert!(
        std::fs::read(&aside).unwrap().starts_with(b"no database"),
        "what may be somebody's is kept"
    );

    std::fs::remove_file(&aside).unwrap();
    std::fs::remove_file(&path).unwrap();
    let other = Connection::open(&path).unwrap();
    other
        .execute_batch("CREATE TABLE letters (text); INSERT INTO letters VALUES ('dear');")
        .unwrap();
    drop(other);
    assert_eq!(
        Index::open(&path).unwrap().size().unwrap().tasks,
        0,
        "another program's"
    );
    let kept = Connection::open(&aside).unwrap();
    let text: String = kept
        .query_row("SELECT text FROM letters", [], |row| row.get(0))
        .unwrap();
    assert_eq!(text, "dear");

    // An empty file is a new one.
    std::fs::write(&path, "").unwrap();
    assert_eq!(Index::open(&path).unwrap().size().unwrap().tasks, 0);
}

#[test]
fn another_log_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = Index::open(&dir.path().join("search.db")).unwrap();
    let mut world = World::default();
    world.submit("a", None, "a fox", &[]);
    world.apply(&mut index);
    assert_eq!(index.mark(LOG, "log 1").unwrap(), Some(mark(1)));
    assert_eq!(index.mark(LOG, "log 2").unwrap(), None);
    assert_eq!(
        index.mark("BATCHES", "log 2").unwrap(),
        Some(LogMark::default())
    );
}

#[test]
fn a_file_has_one_program() {
    let dir = tempfile::tempdir().unwrap();
    let index = Index::open(&dir.path().join("search.db")).unwrap();
    let second = Index::open(&dir.path().join("search.db")).err().unwrap();
    assert!(matches!(second, ProjectionError::InUse(_)), "{second}");
    drop(index);
    Index::open(&dir.path().join("search.db")).unwrap();
    let nowhere = Index::open(&dir.path().join("none/search.db"))
        .err()
        .unwrap();
    assert!(matches!(nowhere, ProjectionError::Open { .. }), "{nowhere}");
}
