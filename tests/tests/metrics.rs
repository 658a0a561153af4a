//! Each metric has a description with a unit, so that `/metrics` explains itself; docs/metrics.md lists them all, and
//! docs, alert rules and dashboards name only metrics and labels that exist.

use std::collections::{BTreeMap, BTreeSet};
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
    let of_requests = ["intake", "trigger", "fleet", "monitor", "notifier"]
        .map(|p| format!("spotreel_{p}_request_seconds"));
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

/// A metric as docs/metrics.md lists it.
struct Row {
    kind: String,
    unit: String,
    labels: BTreeSet<String>,
}

/// Labels of every metric in Prometheus: its own, those of the scrape configuration, and of the series of histograms.
const LABELS_OF_ALL: [&str; 5] = ["job", "instance", "program", "le", "quantile"];

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The words in backquotes outside of parentheses.
fn labels(cell: &str) -> BTreeSet<String> {
    let outside = cell
        .split('(')
        .enumerate()
        .map(|(index, part)| match index {
            0 => part,
            _ => part.split_once(')').map_or("", |(_, after)| after),
        });
    quoted(&outside.collect::<String>())
        .map(str::to_owned)
        .collect()
}

/// The rows of docs/metrics.md by name.
fn page() -> BTreeMap<String, Row> {
    let text = read("docs/metrics.md");
    let mut rows = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| `spotreel_")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, name, kind, unit, cell, meaning, _] = cells[..] else {
            panic!("five cells are wanted: {line}");
        };
        assert!(!meaning.is_empty(), "{name} has no meaning");
        let row = Row {
            kind: kind.to_owned(),
            unit: unit.to_owned(),
            labels: labels(cell),
        };
        let before = rows.insert(name.trim_matches('`').to_owned(), row);
        assert!(before.is_none(), "{name} stands there twice");
    }
    rows
}

/// The kind and unit of each metric in the sources, as Prometheus sees the kind: a histogram without buckets of its own
/// is a summary.
fn declared() -> BTreeMap<String, (&'static str, String)> {
    let mut found = BTreeMap::new();
    for text in sources() {
        for block in text.split("::metrics! {").skip(1) {
            let block = block.split("\n}").next().unwrap_or_default();
            let parts: Vec<&str> = block.split('"').collect();
            for three in parts.windows(3).filter(|three| is_name(three[1])) {
                let name = three[1].to_owned();
                let kind = match three[0].split_whitespace().rev().nth(2) {
                    Some("Counter") => "counter",
                    Some("Gauge") => "gauge",
                    Some("Histogram") if name.ends_with("_seconds") => "histogram",
                    Some("Histogram") => "summary",
                    other => panic!("{name} is of no known kind: {other:?}"),
                };
                let unit = three[2].trim_matches(|c: char| c == ',' || c.is_whitespace());
                found.insert(name, (kind, unit.to_owned()));
            }
        }
    }
    for program in ["intake", "trigger", "fleet", "monitor", "notifier"] {
        let name = format!("spotreel_{program}_request_seconds");
        found.insert(name, ("histogram", "Seconds".to_owned()));
    }
    found
}

#[test]
fn the_page_lists_every_metric_with_its_kind_and_unit_and_no_other() {
    let (page, declared) = (page(), declared());
    assert!(declared.len() > 60, "found only {}", declared.len());
    let missing: Vec<_> = declared.keys().filter(|n| !page.contains_key(*n)).collect();
    assert!(missing.is_empty(), "docs/metrics.md lacks {missing:?}");
    let unknown: Vec<_> = page.keys().filter(|n| !declared.contains_key(*n)).collect();
    assert!(unknown.is_empty(), "no program has {unknown:?}");
    for (name, (kind, unit)) in &declared {
        let row = &page[name];
        assert_eq!(row.kind, *kind, "the kind of {name}");
        let starts = [
            ("Seconds", "seconds"),
            ("Bytes", "bytes"),
            ("Dollars", "US dollars"),
        ];
        let named = starts.iter().find(|(_, start)| row.unit.starts_with(start));
        let named = named.map_or("Count", |(unit, _)| *unit);
        assert_eq!(named, unit, "the unit of {name}, {:?}", row.unit);
    }
}

/// The metrics that a text names, each with the labels of its selector.
fn used(text: &str) -> Vec<(&str, BTreeSet<&str>)> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let word = |text: &str| text.find(|c| !is_word(c)).unwrap_or(text.len());
    let mut found = Vec::new();
    for (at, _) in text.match_indices("spotreel_") {
        if text[..at].ends_with(is_word) {
            continue;
        }
        let (name, after) = text[at..].split_at(word(&text[at..]));
        let selector = after
            .strip_prefix('{')
            .and_then(|rest| rest.split_once('}'));
        let parts = selector.map_or("", |(inside, _)| inside).split(',');
        let names = parts.map(str::trim).filter_map(|part| {
            let (label, rest) = part.split_at(word(part));
            rest.starts_with(['=', '!']).then_some(label)
        });
        found.push((name, names.collect()));
    }
    found
}

/// All expressions below a value of a dashboard.
fn expressions(value: &serde_json::Value, found: &mut Vec<String>) {
    use serde_json::Value;
    match value {
        Value::Array(values) => values.iter().for_each(|value| expressions(value, found)),
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(text) if ["expr", "query"].contains(&key.as_str()) => {
                        found.push(text.clone());
                    }
                    value => expressions(value, found),
                }
            }
        }
        _ => {}
    }
}

#[test]
fn rules_and_dashboards_name_only_metrics_and_labels_of_the_page() {
    let page = page();
    let mut texts_to_check = vec![
        read("deploy/prometheus/rules.yml"),
        read("deploy/prometheus/rules_test.yml"),
    ];
    let mut dashboards = Vec::new();
    texts(&root().join("deploy/grafana"), ".json", &mut dashboards);
    assert!(
        dashboards.len() >= 2,
        "found {} dashboards",
        dashboards.len()
    );
    for dashboard in &dashboards {
        let value = serde_json::from_str(dashboard).expect("a dashboard is JSON");
        expressions(&value, &mut texts_to_check);
    }
    let mut count = 0;
    for (name, selector) in texts_to_check.iter().flat_map(|text| used(text)) {
        let of_series = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|end| page.get(name.strip_suffix(end)?))
            .filter(|row| ["histogram", "summary"].contains(&row.kind.as_str()));
        let Some(row) = page.get(name).or(of_series) else {
            panic!("docs/metrics.md has no {name}");
        };
        for label in selector {
            let known = row.labels.contains(label) || LABELS_OF_ALL.contains(&label);
            assert!(known, "{name} has no label {label}");
        }
        count += 1;
    }
    assert!(count > 100, "found only {count} names");
}

/// The anchor of a heading, as Markdown viewers make it.
fn anchor(heading: &str) -> String {
    let lower = heading.trim_matches(['#', ' ']).to_lowercase();
    let kept = lower.chars().filter_map(|c| match c {
        ' ' | '-' => Some('-'),
        c if c.is_alphanumeric() || c == '_' => Some(c),
        _ => None,
    });
    kept.collect()
}

#[test]
fn every_alert_has_a_severity_a_summary_a_section_that_says_what_to_do_and_a_test() {
    let (rules, tests) = (
        read("deploy/prometheus/rules.yml"),
        read("deploy/prometheus/rules_test.yml"),
    );
    let operations = read("docs/operations.md");
    let headings = operations.lines().filter(|line| line.starts_with('#'));
    let anchors: BTreeSet<String> = headings.map(anchor).collect();
    let mut count = 0;
    for block in rules.split("- alert: ").skip(1) {
        let name = block.lines().next().unwrap_or_default().trim();
        let severity = block
            .split("severity: ")
            .nth(1)
            .and_then(|rest| rest.lines().next());
        let known = ["critical", "warning", "info"].contains(&severity.unwrap_or(""));
        assert!(known, "{name} has the severity {severity:?}");
        assert!(block.contains("summary: "), "{name} has no summary");
        let link = block.split("runbook: docs/operations.md#").nth(1);
        let link = link.and_then(|rest| rest.lines().next()).unwrap_or("");
        assert!(anchors.contains(link), "{name}: no section {link:?}");
        let named = format!("`{name}`");
        assert!(operations.contains(&named), "operations.md lacks {name}");
        let checked = tests.matches(&format!("alertname: {name}\n")).count();
        assert!(checked >= 2, "{name} is not tested to fire and to resolve");
        count += 1;
    }
    assert!(count > 15, "found only {count} alerts");
}
