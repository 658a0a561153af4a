//! Tags: what they may be, and how they are told.

use std::collections::BTreeMap;

use super::error::Refusal;
use super::state::Tags;
use super::xml::{Element, item};

/// AWS's limits.
const LONGEST_KEY: usize = 128;
const LONGEST_VALUE: usize = 256;

/// What tags may be, whoever sets them.
pub(crate) fn check_tags(tags: &Tags) -> Result<(), Refusal> {
    for (key, value) in tags {
        let message = if key.to_ascii_lowercase().starts_with("aws:") {
            "Tag keys starting with 'aws:' are reserved for internal use".to_owned()
        } else if key.chars().count() > LONGEST_KEY || value.chars().count() > LONGEST_VALUE {
            format!("Tag {key} is too long")
        } else {
            continue;
        };
        return Err(Refusal::new("InvalidParameterValue", message));
    }
    Ok(())
}

/// What tags answer to the filters `tag:KEY` and `tag-key`.
pub(crate) fn tag_values<'a>(tags: &'a Tags, filter: &str) -> Vec<&'a str> {
    match filter.strip_prefix("tag:") {
        Some(key) => tags.get(key).map(String::as_str).into_iter().collect(),
        None => tags.keys().map(String::as_str).collect(),
    }
}

pub(crate) fn tag_items(tags: &BTreeMap<String, String>) -> impl Iterator<Item = Element> {
    tags.iter()
        .map(|(key, value)| item().text("key", key).text("value", value))
}
