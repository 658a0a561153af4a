//! Search: tasks by owner, label, state, model, batch, words of the prompt and time of submission.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use spotreel_domain::batch::BatchId;
use spotreel_domain::task::Failure;
use spotreel_domain::{Model, Owner, TaskId};
use utoipa::ToSchema;

use crate::error::Violation;
use crate::filters::Broken;
use crate::whole;

/// The most tasks of one page.
pub const MAX_SEARCH_LIMIT: u32 = 200;
/// Tasks of a page where the query does not say how many.
pub const USUAL_SEARCH_LIMIT: u32 = 50;
/// The longest text that is searched for, in characters.
pub const MAX_SEARCH_TEXT: usize = 200;
/// `spotreel.search`: a task is found if it fits every part that is there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SearchQuery {
    /// Words of the prompt, in any order; words between double quotes stand next to each other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Whose key the task came with. Only a key that sees all tasks may name another owner than its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// `key=value`, or a key alone for any value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// A batch in which an attempt at the task was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<String>,
    /// Only tasks that were submitted at this time or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Only tasks that were submitted before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "whole::optional"
    )]
    pub limit: Option<u32>,
    /// From the page before.
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "whole::optional"
    )]
    pub cursor: Option<u64>,
}

/// A query that breaks no rule.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TaskSearch {
    pub text: Option<String>,
    pub owner: Option<Owner>,
    pub label: Option<String>,
    pub state: Option<&'static str>,
    pub model: Option<Model>,
    pub batch: Option<BatchId>,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
    pub limit: usize,
    pub cursor: Option<u64>,
}

/// Tasks by their submission, newest first. No task moves to another page while pages are read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SearchPage {
    /// May be fewer than `limit`, or none, before the last page.
    pub tasks: Vec<FoundTask>,
    /// Send it as `cursor` for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next_cursor: Option<u64>,
    /// Changes after this time may be missing; usually it is less than a second ago.
    pub as_of: Timestamp,
}

/// What search knows of a task; `get` shows all of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FoundTask {
    pub id: TaskId,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub owner: Option<Owner>,
    pub state: String,
    pub model: Model,
    /// The batch of the newest attempt; absent where none was made, or on no instance of a batch.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(value_type = Option<String>)]
    pub batch: Option<BatchId>,
    pub prompt: String,
    pub labels: BTreeMap<String, String>,
    pub submitted_at: Timestamp,
    /// When the state was entered.
    pub at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<Failure>,
}

impl SearchQuery {
    /// The query as it is carried out, or every rule that it breaks.
    pub fn check(&self) -> Result<TaskSearch, Vec<Violation>> {
        let mut broken = Broken::default();
        let text = self.text.as_deref().map(str::trim);
        match text {
            Some(text) if text.chars().count() > MAX_SEARCH_TEXT => {
                let message = format!("text has at most {MAX_SEARCH_TEXT} characters");
                broken.add::<()>("text", "length", message);
            }
            Some(text) if !text.chars().any(char::is_alphanumeric) => {
                let message = "text needs a letter or a digit: other characters are not searched";
                broken.add::<()>("text", "words", message);
            }
            _ => {}
        }
        let batch = self.batch.as_ref().and_then(|named| {
            let message = "batch is a pool's name, a dash and a number, such as default-17";
            BatchId::parse(named).or_else(|| broken.add("batch", "format", message))
        });
        if let (Some(since), Some(until)) = (self.since, self.until)
            && since >= until
        {
            broken.add::<()>("until", "range", "until must be later than since");
        }
        let limit = self.limit.unwrap_or(USUAL_SEARCH_LIMIT);
        let checked = TaskSearch {
            text: text.map(str::to_owned),
            owner: broken.owner(self.owner.as_deref()),
            label: broken.label(self.label.as_deref()),
            state: broken.state(self.state.as_deref()),
            model: broken.model(self.model.as_deref()),
            batch,
            since: self.since,
            until: self.until,
            limit: broken.limit(limit, MAX_SEARCH_LIMIT),
            cursor: broken.cursor(self.cursor),
        };
        broken.none_in(checked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_names_its_field_and_rule() {
        let long = format!(r#"{{"text":"{}"}}"#, "狐".repeat(MAX_SEARCH_TEXT + 1));
        for (query, field, rule) in [
            (r#"{"text":""}"#, "text", "words"),
            (r#"{"text":" \" * ! \" "}"#, "text", "words"),
            (long.as_str(), "text", "length"),
            (r#"{"owner":"*"}"#, "owner", "token"),
            (r#"{"label":""}"#, "label", "format"),
            (r#"{"state":"done"}"#, "state", "known"),
            (r#"{"state":""}"#, "state", "known"),
            (r#"{"model":"wan"}"#, "model", "known"),
            (r#"{"batch":"default"}"#, "batch", "format"),
            (r#"{"batch":"default-0"}"#, "batch", "format"),
            (r#"{"limit":0}"#, "limit", "range"),
            (r#"{"limit":201}"#, "limit", "range"),
            (r#"{"cursor":18446744073709551615}"#, "cursor", "range"),
            (
                r#"{"since":"2026-11-30T00:00:00Z","until":"2026-11-30T00:00:00Z"}"#,
                "until",
                "range",
            ),
        ] {
            let parsed: SearchQuery = serde_json::from_str(query).unwrap();
            let broken = parsed.check().expect_err(query);
            let named: Vec<_> = broken.iter().map(|one| (&*one.field, &*one.rule)).collect();
            assert_eq!(named, [(field, rule)], "{query}");
        }
        let all = r#"{"text":"-","state":"done","limit":0}"#;
        let all: SearchQuery = serde_json::from_str(all).unwrap();
        assert_eq!(all.check().unwrap_err().len(), 3, "all are told at once");
        assert!(serde_json::from_str::<SearchQuery>(r#"{"page":1}"#).is_err());
    }

    #[test]
    fn an_empty_query_finds_everything() {
        let found = SearchQuery::default().check().unwrap();
        let everything = TaskSearch {
            limit: 50,
            ..TaskSearch::default()
        };
        assert_eq!(found, everything);
    }

    #[test]
    fn every_state_of_a_task_can_be_searched_for() {
        let names = spotreel_domain::Event::ALL
            .into_iter()
            .filter(|event| event.is_terminal())
            .map(spotreel_domain::Event::as_str)
            .chain(["queued", "started"]);
        for name in names {
            let query = SearchQuery {
                state: Some(name.to_owned()),
                ..SearchQuery::default()
            };
            assert_eq!(query.check().unwrap().state, Some(name));
        }
    }
}
