//! The text of a file, task by task.

use std::collections::BTreeSet;
use std::fmt;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use spotreel_api::TaskRequest;

use super::BadLine;
use crate::args;
use crate::submit::image::image;

/// Each task's number and JSON. The marks that Windows puts before and behind lines mean nothing.
pub fn tasks(text: &str) -> Result<Vec<(usize, String)>, BadLine> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim_start().starts_with('[') {
        return match serde_json::from_str::<Vec<Value>>(text) {
            Ok(tasks) => Ok(tasks
                .iter()
                .enumerate()
                .map(|(index, task)| (index + 1, task.to_string()))
                .collect()),
            Err(error) => {
                let message = format!("the JSON list cannot be read: {error}");
                Err(BadLine::new(error.line(), message))
            }
        };
    }
    let lines = text.lines().enumerate();
    Ok(lines
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(index, line)| (index + 1, line.to_owned()))
        .collect())
}

/// What only a file may say, or says otherwise.
#[derive(Deserialize)]
struct Extras {
    image: Option<Value>,
    expires_in: Option<String>,
    #[serde(rename = "labels")]
    _labels: Option<EachOnce>,
}

/// One line as the task that the server is asked for: a picture's path becomes the picture, `expires_in` a time.
pub fn task(json: &str, now: Timestamp) -> Result<TaskRequest, String> {
    if !json.trim_start().starts_with('{') {
        return Err(
            "this is plain text or other JSON: write a JSON object, such as \
             {\"model\": \"ti2v-5B\", \"prompt\": \"a red fox\"}"
                .to_owned(),
        );
    }
    let extras: Extras = serde_json::from_str(json).map_err(|error| without_place(&error))?;
    let picture = match extras.image {
        Some(Value::String(path)) => Some(image(&path).map_err(|error| format!("{error:#}"))?),
        _ => None,
    };
    let expires_in = extras.expires_in.as_deref().map(args::duration);
    let expires_in = expires_in
        .transpose()
        .map_err(|error| format!("expires_in: {error}"))?;
    if picture.is_none() && expires_in.is_none() {
        return serde_json::from_str(json).map_err(|error| without_place(&error));
    }
    let mut rest: Value = serde_json::from_str(json).map_err(|error| without_place(&error))?;
    if let Some(fields) = rest.as_object_mut() {
        fields.remove("expires_in");
        if picture.is_some() {
            fields.remove("image");
        }
    }
    let mut task: TaskRequest = serde_json::from_value(rest).map_err(|error| error.to_string())?;
    task.image = picture.or(task.image);
    if let Some(after) = expires_in {
        if task.expires_at.is_some() {
            return Err("give expires_in or expires_at, not both".to_owned());
        }
        let at = SignedDuration::try_from(after)
            .ok()
            .and_then(|after| now.checked_add(after).ok());
        task.expires_at = Some(at.ok_or("expires_in is too far ahead")?);
    }
    Ok(task)
}

/// The JSON parser counts lines too, and to it every line is the first.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line ") {
        Some((message, _)) => format!("{message} (column {})", error.column()),
        None => text,
    }
}

/// A map that names nothing twice.
struct EachOnce;

impl<'de> Deserialize<'de> for EachOnce {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Keys)
    }
}

struct Keys;

impl<'de> Visitor<'de> for Keys {
    type Value = EachOnce;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of texts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<EachOnce, A::Error> {
        let mut seen = BTreeSet::new();
        while let Some((key, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
            if !seen.insert(key.clone()) {
                return Err(A::Error::custom(format_args!("duplicate label `{key}`")));
            }
        }
        Ok(EachOnce)
    }
}
