//! How answers look: JSON lines for programs, short lines and relative times for people.

use std::io::{self, Write};
use std::time::Duration;

use console::{Alignment, measure_text_width, pad_str, truncate_str};
use jiff::Timestamp;
use serde::Serialize;
use spotreel_api::{TaskView, Violation};

/// One line on stdout. A reader that has gone away (`| head`) ends the command quietly.
pub fn line(text: &str) {
    let mut out = io::stdout().lock();
    if let Err(error) = writeln!(out, "{text}").and_then(|()| out.flush()) {
        let quiet = error.kind() == io::ErrorKind::BrokenPipe;
        std::process::exit(i32::from(!quiet));
    }
}

pub fn json<T: Serialize>(value: &T) {
    match serde_json::to_string(value) {
        Ok(text) => line(&text),
        Err(error) => eprintln!("spotreel: an answer cannot be written as JSON: {error}"),
    }
}

/// `name:    value`, the values under each other.
pub fn field(name: &str, value: &str) {
    line(&format!("{:<11}{value}", format!("{name}:")));
}

/// Between two columns.
const GAP: &str = "  ";
/// Minimum width of a wrapped column; a narrower one would be harder to read than a wrapped line.
const NARROWEST: usize = 16;

/// Rows under a header, each column as wide on a screen as its widest cell: a Chinese character takes two places. On a
/// terminal that is too narrow the last column goes on in the lines below.
pub fn table<const N: usize>(header: [&str; N], rows: &[[String; N]]) {
    let screen = console::Term::stdout();
    let screen = screen.is_term().then(|| usize::from(screen.size().1));
    for one in table_lines(header, rows, screen) {
        line(&one);
    }
}

/// The same as text. `screen`: the width of the terminal.
pub fn table_lines<const N: usize>(
    header: [&str; N],
    rows: &[[String; N]],
    screen: Option<usize>,
) -> Vec<String> {
    let mut widths = header.map(measure_text_width);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(measure_text_width(cell));
        }
    }
    let before: usize = widths[..N - 1].iter().map(|width| width + GAP.len()).sum();
    let room = screen.map(|screen| screen.saturating_sub(before));
    let room = room.filter(|room| *room >= NARROWEST);
    let lines = |cells: [&str; N]| {
        let last = match room {
            Some(room) => wrapped(cells[N - 1], room),
            None => vec![cells[N - 1].to_owned()],
        };
        let pad = |(cell, width): (&&str, &usize)| {
            pad_str(cell, *width, Alignment::Left, None).into_owned() + GAP
        };
        let front: String = cells[..N - 1].iter().zip(&widths).map(pad).collect();
        let fronts = std::iter::once(front).chain(std::iter::repeat(" ".repeat(before)));
        let whole = fronts.zip(last).map(|(front, last)| front + &last);
        whole
            .map(|line| line.trim_end().to_owned())
            .collect::<Vec<_>>()
    };
    let rows = rows.iter().map(|row| row.each_ref().map(String::as_str));
    std::iter::once(header)
        .chain(rows)
        .flat_map(lines)
        .collect()
}

/// The words of a text in lines of this width; a longer word has a line of its own.
fn wrapped(text: &str, room: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let newest = lines.len() - 1;
        let line = &mut lines[newest];
        let gap = usize::from(!line.is_empty());
        if measure_text_width(line) + gap + measure_text_width(word) > room && gap > 0 {
            lines.push(word.to_owned());
        } else {
            if gap > 0 {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

/// `12 s ago`, `3 min ago`, `in 2 h`.
pub fn relative(now: Timestamp, at: Timestamp) -> String {
    let seconds = now.as_second() - at.as_second();
    match seconds {
        -1..=1 => "now".to_owned(),
        2.. => format!("{} ago", span(seconds.unsigned_abs())),
        _ => format!("in {}", span(seconds.unsigned_abs())),
    }
}

/// One or two units: `45 s`, `3 min`, `2 h 10 min`, `5 d`.
pub fn span(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 if seconds % 3_600 < 60 => format!("{} h", seconds / 3_600),
        7_200..=172_799 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d", seconds / 86_400),
    }
}

pub fn bytes(count: u64) -> String {
    indicatif::HumanBytes(count).to_string()
}

/// `1 task`, `2 tasks`.
pub fn count(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// A complaint about a task that names it once.
pub fn named(id: &str, error: &impl std::fmt::Display) -> String {
    let text = error.to_string();
    match text.contains(id) {
        true => text,
        false => format!("{id}: {text}"),
    }
}

/// One broken rule. Most messages begin with the field; its name is said once.
pub fn rule(broken: &Violation) -> String {
    let Violation { field, message, .. } = broken;
    match message.starts_with(field.as_str()) {
        true => message.clone(),
        false => format!("{field}: {message}"),
    }
}

/// The first line of a text, cut to `most` places on a screen.
pub fn short(text: &str, most: usize) -> String {
    let first = text.lines().next().unwrap_or_default();
    if measure_text_width(first) <= most && first.len() == text.len() {
        return first.to_owned();
    }
    let cut = truncate_str(first, most.saturating_sub(1), "");
    format!("{cut}…")
}

/// What is worth knowing about a task besides its state: who renders it, why it failed, where the video is.
pub fn detail(task: &TaskView, now: Timestamp) -> String {
    if let Some(error) = &task.error {
        return short(&error.message, 60);
    }
    match (&task.worker, &task.video, task.not_before) {
        (Some(worker), ..) => match task.progress.as_ref().and_then(|known| known.step) {
            Some(step) => format!("step {step}/{} on {worker}", task.spec.steps),
            None => format!("on {worker}"),
        },
        (_, Some(video), _) => bytes(video.artifact.bytes),
        (_, _, Some(at)) if at > now => {
            let again = format!("again {}", relative(now, at));
            let failed = task.attempts.last().and_then(|last| last.error.as_ref());
            failed.map_or(again.clone(), |error| {
                format!("{again}: {}", short(&error.message, 60))
            })
        }
        _ => String::new(),
    }
}

/// How far a render is: `step 12 of 50, denoise, 40 s left`. None: nothing is known of it.
pub fn progress(task: &TaskView) -> Option<String> {
    let known = task.progress.as_ref()?;
    let step = format!("step {} of {}", known.step?, task.spec.steps);
    let left = known
        .eta_s
        .and_then(|eta| Duration::try_from_secs_f64(eta).ok())
        .map(|left| format!("{} left", span(left.as_secs())));
    let parts = [Some(step), known.phase.clone(), left];
    Some(parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use spotreel_api::{RenderProgress, TaskRequest};
    use spotreel_domain::{Task, TaskId};

    use super::*;

    #[test]
    fn times_are_relative() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let at = |ago: i64| relative(now, Timestamp::from_second(1_000_000 - ago).unwrap());
        assert_eq!(at(0), "now");
        assert_eq!(at(45), "45 s ago");
        assert_eq!(at(200), "3 min ago");
        assert_eq!(at(7_800), "2 h 10 min ago");
        assert_eq!(at(400_000), "4 d ago");
        assert_eq!(at(-30), "in 30 s");
    }

    #[test]
    fn on_a_narrow_screen_the_last_column_goes_on_below() {
        let rows = [[
            "length".to_owned(),
            "4 of 6 tasks queued, 2 short of it".to_owned(),
        ]];
        let lines = |screen| table_lines(["RULE", "WHY"], &rows, screen);
        assert_eq!(
            lines(Some(30)),
            [
                "RULE    WHY",
                "length  4 of 6 tasks queued, 2",
                "        short of it"
            ]
        );
        let whole = "length  4 of 6 tasks queued, 2 short of it";
        for wide in [None, Some(80), Some(12)] {
            assert_eq!(lines(wide), ["RULE    WHY", whole], "{wide:?}");
        }
    }

    #[test]
    fn long_texts_are_cut() {
        assert_eq!(short("a fox", 10), "a fox");
        assert_eq!(short("a red fox in the snow", 10), "a red fox…");
        assert_eq!(short("one\ntwo", 10), "one…");
    }

    #[test]
    fn texts_are_as_wide_as_a_screen_shows_them() {
        assert_eq!(short("雪の中の赤い狐", 10), "雪の中の…");
        assert_eq!(short("雪の中", 6), "雪の中");
    }

    #[test]
    fn progress_is_told_as_far_as_it_is_known() {
        let request = TaskRequest {
            model: "ti2v-5B".into(),
            prompt: "a fox".into(),
            steps: Some(50),
            ..TaskRequest::default()
        };
        let (now, id) = (Timestamp::UNIX_EPOCH, TaskId::parse("t").unwrap());
        let valid = request.validate(now).unwrap();
        let (_, task) = Task::submit_for(None, id, valid.spec, valid.content_hash, now);
        let told = |step, phase: Option<&str>, eta_s| {
            let mut task = TaskView::from(&task);
            task.worker = Some("w-1".into());
            task.progress = Some(RenderProgress {
                step,
                phase: phase.map(str::to_owned),
                eta_s,
                preview_image: None,
            });
            (progress(&task), detail(&task, now))
        };
        let (all, row) = told(Some(12), Some("denoise"), Some(40.5));
        assert_eq!(all.unwrap(), "step 12 of 50, denoise, 40 s left");
        assert_eq!(row, "step 12/50 on w-1");
        let (some, _) = told(Some(50), Some("decode"), None);
        assert_eq!(some.unwrap(), "step 50 of 50, decode");
        let (wrong, _) = told(Some(1), None, Some(-1.0));
        assert_eq!(wrong.unwrap(), "step 1 of 50");
        assert_eq!(told(None, None, None), (None, "on w-1".to_owned()));
    }

    #[test]
    fn one_is_not_many() {
        assert_eq!(count(1, "task"), "1 task");
        assert_eq!(count(0, "task"), "0 tasks");
    }
}
