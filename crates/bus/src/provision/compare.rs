//! Compares what this version needs with what is there. More than is needed serves: an operator, or a newer version that
//! ran before, may have wanted it. Less is widened, where nothing that is stored or counted changes by it; every other
//! difference is for a person.

use serde_json::{Map, Value, json};

/// What is to be done about a stream or a consumer that exists.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// The fields to widen, with their new values.
    pub update: Map<String, Value>,
    /// The same in words, one for each change.
    pub changes: Vec<String>,
    /// What only a person may change, with what to do.
    pub refusals: Vec<String>,
    /// Where there is more than is needed.
    pub kept: Vec<String>,
    /// The filters that a consumer gains.
    pub new_filters: Vec<String>,
}

/// When a field serves although it is not what this version would make.
enum Rule {
    /// Once it is on. The server turns it on, and nothing that is stored changes.
    Flag,
    /// At the value or above, or at the one that stands for no limit.
    AtLeast {
        unlimited: Option<i64>,
    },
    /// The same, but an update cannot, or should not, raise it.
    NoLess,
    /// Once there is any.
    Any,
    Exact,
}

pub(super) fn stream(wanted: &Value, there: &Value) -> Comparison {
    let mut found = Comparison::default();
    for (field, wanted) in needed(wanted) {
        let is = &there[field];
        let rule = match field {
            "subjects" => {
                let (wanted, there) = (texts(wanted), texts(is));
                if let Some((all, added)) = widened(&wanted, &there) {
                    let words = added.iter().map(|added| format!("subjects {added} added"));
                    found.changes.extend(words);
                    found.update.insert(field.into(), json!(all));
                }
                continue;
            }
            "allow_direct" | "mirror_direct" | "allow_rollup_hdrs" | "allow_msg_ttl"
            | "allow_atomic" => Rule::Flag,
            "max_bytes" | "max_msgs" | "max_msgs_per_subject" => Rule::AtLeast {
                unlimited: Some(-1),
            },
            "max_age" => Rule::AtLeast { unlimited: Some(0) },
            "num_replicas" => Rule::NoLess,
            "description" => Rule::Any,
            _ => Rule::Exact,
        };
        found.field(field, &rule, wanted, is);
    }
    found.sorted()
}

/// `counts_work`: whoever reads the consumer takes all that it delivers for work of its own, so another filter never serves.
pub(super) fn consumer(wanted: &Value, there: &Value, counts_work: bool) -> Comparison {
    let mut found = Comparison::default();
    found.filters(wanted, there, counts_work);
    for (field, wanted) in needed(wanted) {
        let rule = match field {
            "filter_subject" | "filter_subjects" => continue,
            // The order of events rests on one at a time.
            "max_ack_pending" if *wanted == 1 => Rule::Exact,
            "max_ack_pending" | "max_deliver" => Rule::AtLeast {
                unlimited: Some(-1),
            },
            "ack_wait" => Rule::AtLeast { unlimited: None },
            "max_waiting" | "num_replicas" => Rule::NoLess,
            "description" => Rule::Any,
            _ => Rule::Exact,
        };
        found.field(field, &rule, wanted, &there[field]);
    }
    found.sorted()
}

/// The fields about which this version has an opinion; the server fills in all others, and operators may.
fn needed(wanted: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let fields = wanted.as_object().into_iter().flatten();
    fields
        .map(|(field, value)| (field.as_str(), value))
        .filter(|(field, value)| *field != "metadata" && is_set(value))
}

fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(is_on) => *is_on,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

impl Comparison {
    /// The order of JSON's fields depends on how the program was built.
    fn sorted(mut self) -> Self {
        for words in [&mut self.changes, &mut self.refusals, &mut self.kept] {
            words.sort();
        }
        self
    }

    fn field(&mut self, field: &str, rule: &Rule, wanted: &Value, is: &Value) {
        if contains(is, wanted) {
            return;
        }
        let (needs, has) = (shown(field, wanted), shown(field, is));
        let number = is.as_i64().unwrap_or_default();
        let more = wanted
            .as_i64()
            .is_some_and(|wanted| wanted >= 0 && number > wanted);
        match rule {
            Rule::Flag => self.widen(field, wanted, format!("{field} turned on")),
            Rule::Any if is.is_null() || *is == "" => {
                self.widen(field, wanted, format!("{field} added"));
            }
            Rule::Any => {}
            Rule::AtLeast { unlimited } if more || *unlimited == Some(number) => {
                self.kept.push(format!("{field} {has} (needs {needs})"));
            }
            Rule::NoLess if more => self.kept.push(format!("{field} {has} (needs {needs})")),
            Rule::AtLeast { .. } => {
                self.widen(
                    field,
                    wanted,
                    format!("{field} raised from {has} to {needs}"),
                );
            }
            Rule::NoLess | Rule::Exact => self.refuse(field, &has, &needs),
        }
    }

    fn filters(&mut self, wanted: &Value, there: &Value, counts_work: bool) {
        let (wanted, there) = (filters_of(wanted), filters_of(there));
        let same = wanted.len() == there.len() && wanted.iter().all(|one| there.contains(one));
        // A consumer without a filter delivers all.
        if wanted.is_empty() || same || (there.is_empty() && !counts_work) {
            return;
        }
        if counts_work {
            return self.refuse("filter_subject", &there.join(", "), &wanted.join(", "));
        }
        let Some((all, added)) = widened(&wanted, &there) else {
            return;
        };
        let words = added.iter().map(|added| format!("filter {added} added"));
        self.changes.extend(words);
        self.new_filters = added;
        let (one, many) = match all.as_slice() {
            [one] => (json!(one), Value::Null),
            _ => (Value::Null, json!(all)),
        };
        self.update.insert("filter_subject".into(), one);
        self.update.insert("filter_subjects".into(), many);
    }

    fn widen(&mut self, field: &str, wanted: &Value, change: String) {
        self.update.insert(field.to_owned(), wanted.clone());
        self.changes.push(change);
    }

    fn refuse(&mut self, field: &str, has: &str, needs: &str) {
        let cure = match field {
            "storage" | "retention" | "mirror" | "deliver_policy" | "ack_policy"
            | "replay_policy" | "max_waiting" => "it has to be made anew",
            _ => "edit it",
        };
        self.refusals.push(format!(
            "{field} is {has}, this version needs {needs}: {cure} (docs/operations.md, \"Differences that provision refuses\")"
        ));
    }
}

/// Whether `is` has all that `wanted` names; the server adds fields to objects.
fn contains(is: &Value, wanted: &Value) -> bool {
    match wanted {
        Value::Object(_) => needed(wanted).all(|(field, value)| contains(&is[field], value)),
        _ => is == wanted,
    }
}

/// `there` with those of `wanted` that nothing in it covers, and these alone; none if all are covered. A subject that a new one
/// covers is left out: the server refuses two that overlap.
fn widened(wanted: &[String], there: &[String]) -> Option<(Vec<String>, Vec<String>)> {
    let covered = |by: &[String], one: &String| by.iter().any(|wide| covers(wide, one));
    let added: Vec<String> = wanted
        .iter()
        .filter(|one| !covered(there, one))
        .cloned()
        .collect();
    let stay = there.iter().filter(|one| !covered(&added, one));
    let all = stay.chain(&added).cloned().collect();
    (!added.is_empty()).then_some((all, added))
}

/// Whether `wide` matches every subject that `narrow` matches.
fn covers(wide: &str, narrow: &str) -> bool {
    let (mut wide, mut narrow) = (wide.split('.'), narrow.split('.'));
    loop {
        match (wide.next(), narrow.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(token)) if token != ">" => {}
            (Some(one), Some(token)) if one == token => {}
            _ => return false,
        }
    }
}

fn filters_of(consumer: &Value) -> Vec<String> {
    match consumer["filter_subject"].as_str() {
        Some(one) if !one.is_empty() => vec![one.to_owned()],
        _ => texts(&consumer["filter_subjects"]),
    }
}

fn texts(list: &Value) -> Vec<String> {
    let all = list.as_array().into_iter().flatten();
    all.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// A value as a person reads it; the server counts time in nanoseconds.
fn shown(field: &str, value: &Value) -> String {
    match (field, value) {
        (_, Value::Null) => "not set".into(),
        (_, Value::String(text)) => text.clone(),
        ("max_age", Value::Number(none)) if none.as_u64() == Some(0) => "unlimited".into(),
        ("max_age" | "ack_wait", Value::Number(nanos)) => {
            format!("{} s", nanos.as_f64().unwrap_or_default() / 1e9)
        }
        (_, Value::Number(none)) if none.as_i64() == Some(-1) => "unlimited".into(),
        ("max_bytes", Value::Number(bytes)) => format!("{bytes} bytes"),
        _ => value.to_string(),
    }
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;
