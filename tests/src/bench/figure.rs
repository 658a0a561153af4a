//! What was measured, beside what bounds it.

use std::fmt::Write;
use std::path::Path;

use serde::Serialize;

/// One line of the table, one object of `bench-results.json`.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    pub name: String,
    pub ours: f64,
    /// Measured, or computed, in the same run.
    pub reference: f64,
    pub ratio: f64,
    /// What was measured against what, with what programs.
    pub setting: String,
    /// The ratio is at most this; none: told for comparison only.
    pub goal: Option<f64>,
    pub met: Option<bool>,
}

impl Figure {
    pub fn new(name: &str, ours: f64, reference: f64, goal: Option<f64>, setting: String) -> Self {
        let ratio = ours / reference;
        Self {
            name: name.to_owned(),
            ours: rounded(ours),
            reference: rounded(reference),
            ratio: rounded(ratio),
            setting,
            goal,
            met: goal.map(|goal| ratio <= goal),
        }
    }
}

/// Four digits are more than any of these measurements is good for.
fn rounded(value: f64) -> f64 {
    (value * 10_000.0).round() / 10_000.0
}

pub fn table(figures: &[Figure]) -> String {
    let width = figures.iter().map(|f| f.name.len()).max().unwrap_or(0);
    let mut text = format!(
        "{:width$}  {:>12}  {:>12}  {:>8}  {:>8}  met\n",
        "figure", "ours", "reference", "ratio", "goal"
    );
    for figure in figures {
        let goal = figure
            .goal
            .map_or_else(|| "-".to_owned(), |goal| format!("≤ {goal}"));
        let met = match figure.met {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "-",
        };
        writeln!(
            text,
            "{:width$}  {:>12.3}  {:>12.3}  {:>8.3}  {goal:>8}  {met}",
            figure.name, figure.ours, figure.reference, figure.ratio,
        )
        .expect("a string can be written to");
    }
    text
}

pub fn write(figures: &[Figure], path: &Path) -> std::io::Result<()> {
    let text = serde_json::to_string_pretty(figures).map_err(std::io::Error::other)?;
    std::fs::write(path, text + "\n")
}
