//! Parses requests. Invalid ones are refused with the field and the rule; nothing is guessed.

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;
use spotreel_api::{ApiError, MAX_TASKS_PER_CALL, QuoteQuery, TaskRef, TaskRequest, Violation};
use spotreel_domain::TaskId;

use crate::error;

const OUT_OF_RANGE: &str = "number out of range";
/// Half a pair of surrogates: good JSON to the letter, but no text.
const NO_TEXT: &str = "hex escape";

/// What a client submits: one task, or a list in which every task stands for itself.
#[derive(Debug)]
pub enum Submission {
    One(Box<TaskRequest>),
    Many(Vec<Result<TaskRequest, ApiError>>),
}

impl Submission {
    /// Names the task by the client's key; those of a list by the key, a slash and their index.
    pub fn name(&mut self, key: &str) {
        match self {
            Self::One(request) => request.name(key.to_owned()),
            Self::Many(requests) => {
                for (index, request) in requests.iter_mut().enumerate() {
                    if let Ok(request) = request {
                        request.name(format!("{key}/{index}"));
                    }
                }
            }
        }
    }
}

/// `content_type` is the header, if there is one.
pub fn submission(payload: &[u8], content_type: Option<&str>) -> Result<Submission, ApiError> {
    let text = body(payload, content_type)?;
    if !text.starts_with('[') {
        return object(text)
            .map(|one| Submission::One(Box::new(one)))
            .map_err(refuse);
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    let list = List::deserialize(&mut reader).and_then(|list| reader.end().map(|()| list));
    let List { elements, more } = list.map_err(|error| refuse(syntax(&error, "body")))?;
    if more {
        let message =
            format!("one call takes at most {MAX_TASKS_PER_CALL} tasks: send them in several");
        return Err(error::too_large(message));
    }
    if elements.is_empty() {
        return Err(error::broken(
            "body",
            "length",
            "the list is empty: give at least one task",
        ));
    }
    let parse = |(index, element): (usize, &RawValue)| {
        object(element.get()).map_err(|broken| refuse(at(index, broken)))
    };
    Ok(Submission::Many(
        elements.into_iter().enumerate().map(parse).collect(),
    ))
}

/// One JSON object; the request of every other verb.
pub fn request<T: DeserializeOwned>(
    payload: &[u8],
    content_type: Option<&str>,
) -> Result<T, ApiError> {
    object(body(payload, content_type)?).map_err(refuse)
}

/// The task that `get`, `cancel` and `retry` name.
pub fn task_id(payload: &[u8], content_type: Option<&str>) -> Result<TaskId, ApiError> {
    let named: TaskRef = request(payload, content_type)?;
    TaskId::parse(&named.id).map_err(|bad| error::broken("id", "token", bad.to_string()))
}

/// A question for a quote. What is wrong in its task is named as in a submission.
pub fn quote(payload: &[u8]) -> Result<QuoteQuery, ApiError> {
    let QuoteQuery { task, tasks } = request::<QuoteQuery<Box<RawValue>>>(payload, None)?;
    let task = object(task.get()).map_err(|mut broken: Violation| {
        if broken.field == "body" {
            broken.field = "task".into();
        }
        refuse(broken)
    })?;
    Ok(QuoteQuery { task, tasks })
}

/// Names the place in a list.
pub fn at(index: usize, broken: Violation) -> Violation {
    Violation {
        message: format!("task {index} of the list: {}", broken.message),
        ..broken
    }
}

fn refuse(broken: Violation) -> ApiError {
    error::invalid(vec![broken])
}

fn body<'a>(payload: &'a [u8], content_type: Option<&str>) -> Result<&'a str, ApiError> {
    let kind = content_type
        .and_then(|text| text.split(';').next())
        .map(str::trim);
    if kind.is_some_and(|kind| !kind.eq_ignore_ascii_case("application/json")) {
        let message = "the body is application/json: send that, or leave Content-Type out";
        return Err(error::broken("Content-Type", "known", message));
    }
    let text = std::str::from_utf8(payload).map_err(|bad| {
        let message = format!("the body is not UTF-8 from byte {} on", bad.valid_up_to());
        error::broken("body", "utf8", message)
    })?;
    // Editors on Windows put a byte order mark in front.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match text.trim_matches([' ', '\t', '\r', '\n']) {
        "" => Err(error::broken(
            "body",
            "required",
            "the body is empty: send a JSON object",
        )),
        text => Ok(text),
    }
}

/// serde would also read a struct from a list of its fields' values: nobody means that.
fn object<T: DeserializeOwned>(text: &str) -> Result<T, Violation> {
    if !text.trim_start().starts_with('{') {
        return Err(Violation::new(
            "body",
            "object",
            "a JSON object is wanted, such as {\"model\":\"ti2v-5B\",…}",
        ));
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    let read = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let path = path.trim_end_matches(['.', '?']);
        explain(
            error.inner(),
            if path.is_empty() { "body" } else { path },
            text,
        )
    })?;
    reader.end().map_err(|error| syntax(&error, "body"))?;
    Ok(read)
}

/// serde tells its rules apart by their words only; the table in `tests/rules` holds them.
fn explain(error: &serde_json::Error, path: &str, json: &str) -> Violation {
    let text = error.to_string();
    if error.classify() != Category::Data {
        // Where a word is wanted and something else stands there, serde_json calls good JSON bad.
        let sound = !text.starts_with(OUT_OF_RANGE)
            && !text.contains(NO_TEXT)
            && serde_json::from_str::<IgnoredAny>(json).is_ok();
        return match sound {
            true => Violation::new(
                path,
                "type",
                format!("{path} has a value of another type than is wanted there"),
            ),
            false => syntax(error, path),
        };
    }
    let quoted = |text: &str| {
        text.split_once('`')
            .and_then(|(_, rest)| rest.split_once('`'))
            .map(|(name, _)| name.to_owned())
    };
    // The position at the end of serde's text says nothing that the field does not say better.
    let reason = text
        .rsplit_once(" at line ")
        .map_or(text.as_str(), |(reason, _)| reason);
    let rules = [
        ("unknown field", "unknown"),
        ("unknown variant", "known"),
        ("missing field", "required"),
        ("duplicate field", "once"),
        ("too many labels", "count"),
        ("invalid type", "type"),
        ("invalid value", "range"),
        ("invalid length", "length"),
    ];
    let rule = rules
        .iter()
        .find(|(words, _)| reason.starts_with(words))
        .map_or("format", |(_, rule)| rule);
    let field = match (rule, quoted(reason)) {
        ("unknown" | "required" | "once", Some(name)) if path == "body" => name,
        ("required", Some(name)) => format!("{path}.{name}"),
        _ => path.to_owned(),
    };
    let message = format!("{field}: {reason}");
    Violation::new(&field, rule, message)
}

fn syntax(error: &serde_json::Error, field: &str) -> Violation {
    let rule = if error.to_string().starts_with(OUT_OF_RANGE) {
        "range"
    } else {
        "json"
    };
    Violation::new(field, rule, format!("{field} is not JSON: {error}"))
}

/// The elements of a list, unread, up to the limit and whether there are more.
struct List<'a> {
    elements: Vec<&'a RawValue>,
    more: bool,
}

impl<'de> Deserialize<'de> for List<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ListVisitor)
    }
}

struct ListVisitor;

impl<'de> Visitor<'de> for ListVisitor {
    type Value = List<'de>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list of tasks")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<List<'de>, A::Error> {
        let mut elements = Vec::new();
        while elements.len() < MAX_TASKS_PER_CALL {
            match list.next_element()? {
                Some(element) => elements.push(element),
                None => {
                    return Ok(List {
                        elements,
                        more: false,
                    });
                }
            }
        }
        let mut more = false;
        while list.next_element::<IgnoredAny>()?.is_some() {
            more = true;
        }
        Ok(List { elements, more })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_a_list_stands_for_itself() {
        let text = r#"[{"model":"a"}, 3, {"x":1}, ["a"], {}]"#;
        let Submission::Many(list) = submission(text.as_bytes(), None).unwrap() else {
            panic!()
        };
        let good: Vec<bool> = list.iter().map(Result::is_ok).collect();
        assert_eq!(good, [true, false, false, false, true]);
        assert!(
            list[2]
                .as_ref()
                .unwrap_err()
                .message
                .contains("task 2 of the list")
        );
    }

    #[test]
    fn reading_stops_at_the_labels_that_are_too_many() {
        let labels: Vec<_> = (0..100_000).map(|n| format!("\"\x7f{n}\":\"\"")).collect();
        // What stands behind them is not looked at.
        let text = format!("{{\"labels\":{{{},oh", labels.join(","));
        let error = submission(text.as_bytes(), None).unwrap_err();
        let named: Vec<_> = error
            .violations
            .iter()
            .map(|one| (&*one.field, &*one.rule))
            .collect();
        assert_eq!(named, [("labels", "count")]);
    }

    #[test]
    fn what_windows_writes_is_no_error() {
        let text = "\u{feff}{\"model\":\"a\",\r\n\"prompt\":\"x\"}\r\n";
        assert!(submission(text.as_bytes(), None).is_ok());
    }

    #[test]
    fn nesting_is_no_danger() {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let text = format!("[{}1{}]", open.repeat(500_000), close.repeat(500_000));
            let Submission::Many(list) = submission(text.as_bytes(), None).unwrap() else {
                panic!()
            };
            assert!(list[0].is_err());
        }
    }

    #[test]
    fn a_list_has_an_end() {
        let text = format!("[{}{{}}]", "{},".repeat(MAX_TASKS_PER_CALL));
        let error = submission(text.as_bytes(), None).unwrap_err();
        assert_eq!(error.code, spotreel_api::ErrorCode::TooLarge);
    }
}
