//! A file of tasks: one JSON object per line, cut into calls.

use spotreel_domain::TaskRequest;
use spotreel_domain::Violation;

/// The most tasks in one call: intake stores them in one batch.
const TASKS_PER_CALL: usize = 1_000;

/// One task of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Counts from 1, as editors do.
    pub number: usize,
    pub json: String,
}

/// What is wrong with a file, line by line.
#[derive(Debug, PartialEq, Eq)]
pub struct BadLines(pub Vec<String>);

/// Reads the whole file before anything is sent: half a file submitted is hard to mend. A task without a name gets
/// one from `name`, so that a call whose answer was lost can be sent again.
pub fn read(text: &str, mut name: impl FnMut() -> String) -> Result<Vec<Line>, BadLines> {
    let (mut lines, mut bad) = (Vec::new(), Vec::new());
    for (index, json) in text.lines().enumerate() {
        let number = index + 1;
        if json.trim().is_empty() {
            continue;
        }
        match serde_json::from_str::<TaskRequest>(json) {
            Ok(mut task) => {
                if task.id.is_none() && task.idempotency_key.is_none() {
                    task.id = Some(name());
                }
                match serde_json::to_string(&task) {
                    Ok(json) => lines.push(Line { number, json }),
                    Err(error) => bad.push(format!("line {number}: {error}")),
                }
            }
            Err(error) => bad.push(format!("line {number}: {}", without_place(&error))),
        }
    }
    if bad.is_empty() {
        Ok(lines)
    } else {
        Err(BadLines(bad))
    }
}

/// The JSON parser counts lines too, and to it every line is the first.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line ") {
        Some((message, _)) => format!("{message} (column {})", error.column()),
        None => text,
    }
}

/// Cuts into calls of at most a thousand tasks and `most` bytes. A line that is larger goes alone.
pub fn calls(lines: &[Line], most: usize) -> Vec<&[Line]> {
    let mut calls = Vec::new();
    let (mut start, mut size) = (0, 2);
    for (index, line) in lines.iter().enumerate() {
        let more = line.json.len() + 1;
        let full = index - start == TASKS_PER_CALL || size + more > most;
        if index > start && full {
            calls.push(&lines[start..index]);
            (start, size) = (index, 2);
        }
        size += more;
    }
    if start < lines.len() {
        calls.push(&lines[start..]);
    }
    calls
}

/// The JSON list of one call.
pub fn body(call: &[Line]) -> Vec<u8> {
    let objects: Vec<&str> = call.iter().map(|line| line.json.as_str()).collect();
    format!("[{}]", objects.join(",")).into_bytes()
}

/// `frames: frames is 4n+1; size: …`: a refusal in one line.
pub fn in_one_line(message: &str, violations: &[Violation]) -> String {
    if violations.is_empty() {
        return message.to_owned();
    }
    let rules = violations
        .iter()
        .map(|broken| format!("{}: {}", broken.field, broken.message));
    rules.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: usize, bytes: usize) -> Line {
        Line {
            number,
            json: "x".repeat(bytes),
        }
    }

    #[test]
    fn lines_are_numbered_and_named() {
        let text = "{\"prompt\":\"a\"}\n\n{\"prompt\":\"b\",\"id\":\"mine\"}\n";
        let lines = read(text, || "drawn".to_owned()).unwrap();
        assert_eq!(
            lines.iter().map(|line| line.number).collect::<Vec<_>>(),
            [1, 3]
        );
        assert!(lines[0].json.contains("\"id\":\"drawn\""));
        assert!(lines[1].json.contains("\"id\":\"mine\""));
    }

    #[test]
    fn every_bad_line_is_told() {
        let text = "{\"prompt\":\"a\"}\n{\"promt\":\"b\"}\n{\"frames\":\"many\"}\nnonsense";
        let BadLines(bad) = read(text, String::new).unwrap_err();
        assert_eq!(bad.len(), 3);
        assert!(
            bad[0].starts_with("line 2: unknown field `promt`"),
            "{}",
            bad[0]
        );
        assert!(bad[2].starts_with("line 4: "), "{}", bad[2]);
    }

    #[test]
    fn calls_hold_a_thousand_tasks_or_half_a_message() {
        let many: Vec<Line> = (0..2_500).map(|number| line(number, 10)).collect();
        let sizes: Vec<_> = calls(&many, 1 << 20)
            .iter()
            .map(|call| call.len())
            .collect();
        assert_eq!(sizes, [1_000, 1_000, 500]);

        let large: Vec<Line> = [40, 40, 40, 500, 10]
            .iter()
            .map(|bytes| line(1, *bytes))
            .collect();
        let sizes: Vec<_> = calls(&large, 100).iter().map(|call| call.len()).collect();
        assert_eq!(sizes, [2, 1, 1, 1]);
        for call in calls(&large, 100) {
            assert!(body(call).len() <= 100 || call.len() == 1);
        }
        assert!(calls(&[], 100).is_empty());
    }
}
