//! What is drawn while tasks are followed: one bar for each that is being rendered, a line for each that ended.

use std::collections::BTreeMap;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use jiff::Timestamp;
use spotreel_api::{Progress, TaskView};
use spotreel_bootstrap::ambient;

use crate::print;

/// Bars drawn at a time: more do not fit a screen.
const MOST_BARS: usize = 20;

/// Minimum number of columns for a whole id, a bar and the text beside it.
const WIDE: u16 = 110;
/// Number of the id's last characters on a narrower terminal.
const NARROW_ID: usize = 8;

pub struct WatchBoard {
    quiet: bool,
    bars: MultiProgress,
    /// Tasks under way, by id.
    running: BTreeMap<String, ProgressBar>,
    /// Number of ended tasks, and of all tasks; only if there is more than one.
    total: Option<ProgressBar>,
    states: BTreeMap<String, (String, Timestamp)>,
}

impl WatchBoard {
    /// `expected`: how many tasks are waited for. A `quiet` board draws nothing.
    pub fn new(expected: Option<usize>, quiet: bool) -> Self {
        let bars = MultiProgress::new();
        let total = expected.filter(|count| *count > 1 && !quiet).map(|count| {
            let bar = bars.add(ProgressBar::new(count as u64));
            bar.set_style(style("{bar:30} {human_pos}/{human_len} ended, {elapsed}"));
            bar
        });
        Self {
            quiet,
            bars,
            running: BTreeMap::new(),
            total,
            states: BTreeMap::new(),
        }
    }

    /// A task's state, from an event or a look-up; the same twice is told once, and an event that a look-up has
    /// overtaken not at all.
    pub fn task(&mut self, task: &TaskView) {
        let id = task.id.to_string();
        let known = self.states.get(&id);
        if self.quiet || known.is_some_and(|(state, at)| *state == task.state || task.at < *at) {
            return;
        }
        self.states
            .insert(id.clone(), (task.state.clone(), task.at));
        if task.state == "started" {
            let on = task.worker.as_deref().unwrap_or("a worker");
            if let Some(bar) = self.bar(&id) {
                bar.set_length(u64::from(task.spec.steps));
                bar.set_message(format!("starting on {on}"));
            }
        } else if let Some(bar) = self.running.remove(&id) {
            bar.finish_and_clear();
            self.bars.remove(&bar);
        }
        let ended = !matches!(task.state.as_str(), "queued" | "started");
        if ended && let Some(total) = &self.total {
            total.inc(1);
        }
        // On a screen the bar says it; in a file every change is a line.
        let failed_before = task.state == "queued" && !task.attempts.is_empty();
        if ended || failed_before || self.bars.is_hidden() {
            self.bars.suspend(|| print::line(&sentence(task)));
        }
        if ended && self.total.is_none() {
            // Without an end in sight nothing may pile up.
            self.states.remove(&id);
        }
    }

    pub fn progress(&mut self, step: &Progress) {
        let id = step.id.to_string();
        let ended = self
            .states
            .get(&id)
            .is_some_and(|(state, _)| state != "started" && state != "queued");
        if self.quiet || ended {
            return;
        }
        let Some(bar) = self.bar(&id) else { return };
        bar.set_length(u64::from(step.steps));
        bar.set_position(u64::from(step.step));
        bar.set_message(describe(step));
    }

    pub fn complain(&self, text: &str) {
        self.bars.suspend(|| eprintln!("{text}"));
    }

    /// The clock goes on though nothing happens.
    pub fn draw(&self) {
        if let Some(total) = &self.total {
            total.tick();
        }
    }

    pub fn finish(&self) {
        for bar in self.running.values().chain(&self.total) {
            bar.finish_and_clear();
        }
    }

    fn bar(&mut self, id: &str) -> Option<&ProgressBar> {
        if !self.running.contains_key(id) {
            if self.running.len() >= MOST_BARS {
                return None;
            }
            let bar = self.bars.add(ProgressBar::new(1));
            let (template, prefix) = fitting(id, console::Term::stderr().size().1);
            bar.set_style(style(template));
            bar.set_prefix(prefix);
            self.running.insert(id.to_owned(), bar);
        }
        self.running.get(id)
    }
}

/// The line of one task and its name there, so that phase and time left stay in sight on `columns`.
fn fitting(id: &str, columns: u16) -> (&'static str, String) {
    if columns >= WIDE {
        return ("{prefix} {bar:30} {pos:>3}/{len} {wide_msg}", id.to_owned());
    }
    // Ids of one day begin alike: their ends tell them apart.
    let from = id.chars().count().saturating_sub(NARROW_ID);
    let tail: String = id.chars().skip(from).collect();
    let name = if from == 0 {
        tail
    } else {
        format!("…{tail}")
    };
    ("{prefix} {bar:10} {pos:>3}/{len} {wide_msg}", name)
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .expect("every template is a constant")
        .progress_chars("━╸─")
}

/// `denoise, 12 s left, on worker-1`.
fn describe(step: &Progress) -> String {
    let phase = step.phase.as_str();
    match step.eta_s.filter(|eta| eta.is_finite() && *eta >= 0.0) {
        Some(eta) => {
            let left = std::time::Duration::try_from_secs_f64(eta).unwrap_or_default();
            format!(
                "{phase}, {} left, on {}",
                print::span(left.as_secs()),
                step.worker
            )
        }
        None => format!("{phase}, on {}", step.worker),
    }
}

/// One line about a task: what it is now, and what to do about it.
pub fn sentence(task: &TaskView) -> String {
    let now = ambient::now();
    let id = &task.id;
    let took = (task.at.as_second() - task.submitted_at.as_second())
        .max(0)
        .unsigned_abs();
    match task.state.as_str() {
        "succeeded" => {
            format!(
                "{id} succeeded after {}; fetch it: spotreel get {id}",
                print::span(took)
            )
        }
        "failed" => {
            let why = task
                .error
                .as_ref()
                .map_or("", |error| error.message.as_str());
            format!("{id} failed: {}", print::short(why, 200))
        }
        state => match print::detail(task, now) {
            detail if detail.is_empty() => format!("{id} {state}"),
            detail => format!("{id} {state} {detail}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_leaves_room_for_phase_and_time_on_a_narrow_terminal() {
        let id = "01a208d1-2027-7f00-8000-0123456789ab";
        let (_, wide) = fitting(id, 120);
        assert_eq!(wide, id);
        let (template, narrow) = fitting(id, 60);
        assert_eq!(narrow, "…456789ab");
        let fixed = narrow.chars().count() + 1 + 10 + 1 + "100/100".len() + 1;
        assert!(template.contains("{bar:10}") && fixed + "denoise, 12 s left, on w-1".len() <= 60);
        assert_eq!(fitting("fox", 60).1, "fox");
    }
}
