//! Each metric has a description with a unit, so that `/metrics` explains itself; docs name only metrics that exist.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Folders whose programs have metrics.
const SOURCES: [&str; 3] = ["crates", "services", "worker/src"];
const MACROS: [&str; 4] = ["counter!(", "gauge!(", "histogram!(", "::metrics! {"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The texts of the files under a folder that end so; sources without their tests.
fn texts(folder: &Path, end: &str, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).expect("it is a folder") {
        let path = entry.expect("it can be read").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && name != "tests" && name != "examples" {
            texts(&path, end, found);
        } else if name.ends_with(end) {
            let text = std::fs::read_to_string(&path).expect("it is text");
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            found.push(code.to_owned());
        }
    }
}

fn sources() -> Vec<String> {
    let mut found = Vec::new();
    for folder in SOURCES {
        texts(&root().join(folder), ".rs", &mut found);
    }
    found.retain(|text| MACROS.iter().any(|name| text.contains(name)));
    found
}

fn is_name(text: &str) -> bool {
    let mut chars = text.chars();
    text.starts_with("spotreel_") && chars.all(|c| c.is_ascii_lowercase() || c == '_')
}

/// The names of metrics among the string literals of a source.
fn names(text: &str) -> BTreeSet<&str> {
    text.split('"').filter(|part| is_name(part)).collect()
}

#[test]
fn every_metric_has_a_description_with_its_unit() {
    let sources = sources();
    let mut described = BTreeSet::new();
    for block in sources
        .iter()
        .flat_map(|text| text.split("::metrics! {").skip(1))
    {
        // The macro demands both.
        described.extend(names(block.split("\n}").next().unwrap_or_default()));
    }
    assert!(described.len() > 50, "found only {described:?}");
    let all: BTreeSet<&str> = sources.iter().flat_map(|text| names(text)).collect();
    let missing: Vec<_> = all.difference(&described).collect();
    assert!(missing.is_empty(), "without description: {missing:?}");
}

#[test]
fn the_docs_name_only_metrics_that_exist_and_all_of_a_worker() {
    let sources = sources();
    let of_requests =
        ["intake", "trigger", "fleet"].map(|p| format!("spotreel_{p}_request_seconds"));
    let mut known: BTreeSet<&str> = sources.iter().flat_map(|text| names(text)).collect();
    known.extend(of_requests.iter().map(String::as_str));
    let mut docs = Vec::new();
    texts(&root().join("docs"), ".md", &mut docs);
    let mut named = BTreeSet::new();
    for text in &docs {
        let quoted = text.split('`').skip(1).step_by(2);
        named.extend(quoted.filter_map(|quoted| quoted.split('{').next()));
    }
    let endings = ["_total", "_seconds", "_bytes", "_dollars"];
    for name in named.iter().filter(|name| is_name(name)) {
        let is_metric = endings.iter().any(|end| name.ends_with(end));
        assert!(!is_metric || known.contains(name), "no program has {name}");
    }
    for name in known
        .iter()
        .filter(|name| name.starts_with("spotreel_worker_"))
    {
        assert!(
            named.contains(name),
            "docs/operations.md does not explain {name}"
        );
    }
}
