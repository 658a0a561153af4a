//! The fuzzers' corpus and its neighbours, without a fuzzer: what was found once stays found. `make fuzz` looks further.

#[path = "../fuzz/src/targets.rs"]
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use spotreel_tests::harness::root;

/// A repository is no store: what `make fuzz` finds stays in a cache, and what matters of it is put here by hand.
const MOST_FILES: usize = 300;
const MOST_BYTES: u64 = 1 << 20;
/// Changed inputs a target: seconds in all, of a debug build too.
const NEIGHBOURS: usize = 10_000;
/// Changes to one input.
const CHANGES: usize = 4;
const SEED: u64 = 20_261_125;

fn corpus() -> PathBuf {
    root().join("tests/fuzz/corpus")
}

fn inputs(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = corpus().join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    let mut paths: Vec<_> = entries
        .map(|entry| entry.expect("it is listed").path())
        .collect();
    paths.sort();
    let read = |path: PathBuf| {
        let bytes = std::fs::read(&path).expect("it can be read");
        (path, bytes)
    };
    paths.into_iter().map(read).collect()
}

#[test]
fn every_target_has_seeds_and_the_corpus_is_small() {
    let (mut files, mut bytes) = (0, 0);
    for (name, _) in targets::ALL {
        let inputs = inputs(name);
        assert!(inputs.len() >= 3, "{name} has {} seeds", inputs.len());
        files += inputs.len();
        bytes += inputs
            .iter()
            .map(|(_, input)| input.len() as u64)
            .sum::<u64>();
        assert!(
            root()
                .join(format!("tests/fuzz/src/bin/{name}.rs"))
                .is_file(),
            "{name} is fuzzed"
        );
    }
    assert!(
        files <= MOST_FILES && bytes <= MOST_BYTES,
        "{files} files, {bytes} bytes"
    );
}

/// A target whose seeds are all refused looks at nothing.
#[test]
fn the_corpus_harms_nobody_and_reaches_far() {
    for (name, target) in targets::ALL {
        let inputs = inputs(name);
        let taken = inputs
            .iter()
            .filter(|(path, input)| run(target, path, input))
            .count();
        assert!(
            (1..inputs.len()).contains(&taken),
            "{name} takes {taken} of its seeds"
        );
    }
}

#[test]
fn neither_do_its_neighbours() {
    for (name, target) in targets::ALL {
        let inputs = inputs(name);
        let mut random = StdRng::seed_from_u64(SEED);
        for _ in 0..NEIGHBOURS {
            let (path, input) = &inputs[random.random_range(0..inputs.len())];
            let (_, other) = &inputs[random.random_range(0..inputs.len())];
            let mut changed = input.clone();
            for _ in 0..random.random_range(1..=CHANGES) {
                change(&mut changed, other, &mut random);
            }
            run(target, path, &changed);
        }
    }
}

/// Says which input it was: a panic alone does not.
fn run(target: targets::Target, path: &Path, input: &[u8]) -> bool {
    catch_unwind(AssertUnwindSafe(|| target(input))).unwrap_or_else(|_| {
        let shown = input.escape_ascii();
        panic!("{} or a neighbour of it: b\"{shown}\"", path.display());
    })
}

/// What fuzzers do, in small: a bit, a number at an edge, a piece less, a piece twice, a piece of another input.
fn change(input: &mut Vec<u8>, other: &[u8], random: &mut StdRng) {
    const EDGES: [[u8; 4]; 5] = [
        [0; 4],
        [0xff; 4],
        [0x7f, 0xff, 0xff, 0xff],
        [0x80, 0, 0, 0],
        [0, 0, 0, 1],
    ];
    if input.is_empty() {
        return input.push(random.random());
    }
    let at = random.random_range(0..input.len());
    let end = at + random.random_range(0..=(input.len() - at).min(64));
    match random.random_range(0..6) {
        0 => input[at] ^= 1 << random.random_range(0..8),
        1 => random.fill_bytes(&mut input[at..end]),
        2 => {
            let edge = EDGES[random.random_range(0..EDGES.len())];
            input.splice(at..(at + 4).min(end.max(at)), edge);
        }
        3 => drop(input.drain(at..end)),
        4 => {
            let piece = input[at..end].to_vec();
            input.splice(at..at, piece);
        }
        _ => {
            let from = random.random_range(0..=other.len());
            let piece = &other[from..other.len().min(from + 64)];
            input.splice(at..end, piece.iter().copied());
        }
    }
}
