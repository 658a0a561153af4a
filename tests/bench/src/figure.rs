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
    /// The ratio is at most this, or at least, as `sense` says; none: told for comparison only.
    pub goal: Option<f64>,
    pub sense: Sense,
    pub met: Option<bool>,
}

/// On which side of its goal a ratio is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Sense {
    /// What takes time or room.
    AtMost,
    /// What is done a second.
    AtLeast,
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
            sense: Sense::AtMost,
            met: goal.map(|goal| ratio <= goal),
        }
    }

    /// Of a rate: more is better.
    pub fn rate(name: &str, ours: f64, reference: f64, goal: Option<f64>, setting: String) -> Self {
        let figure = Self::new(name, ours, reference, goal, setting);
        Self {
            sense: Sense::AtLeast,
            met: goal.map(|goal| ours / reference >= goal),
            ..figure
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
        let sign = match figure.sense {
            Sense::AtMost => '≤',
            Sense::AtLeast => '≥',
        };
        let goal = figure
            .goal
            .map_or_else(|| "-".to_owned(), |goal| format!("{sign} {goal}"));
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

/// 1,000,000 reads better than 1000000.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub fn write(figures: &[Figure], path: &Path) -> std::io::Result<()> {
    let text = serde_json::to_string_pretty(figures).map_err(std::io::Error::other)?;
    std::fs::write(path, text + "\n")
}
