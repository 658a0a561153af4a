//! The rules of filters that lists and searches have in common.

use spotreel_domain::{Model, Owner};

use crate::error::Violation;

/// As [`State::name`](spotreel_domain::task::State::name) says them.
pub(crate) const STATES: [&str; 6] = [
    "queued",
    "started",
    "succeeded",
    "failed",
    "cancelled",
    "expired",
];

/// The rules that a query breaks. Each method returns the filter's value: `None` if it is absent or breaks its rule.
#[derive(Default)]
pub(crate) struct Broken(Vec<Violation>);

impl Broken {
    pub fn add<T>(&mut self, field: &str, rule: &str, message: impl Into<String>) -> Option<T> {
        self.0.push(Violation::new(field, rule, message));
        None
    }

    pub fn state(&mut self, named: Option<&str>) -> Option<&'static str> {
        let named = named?;
        let known = STATES.into_iter().find(|state| *state == named);
        let message = || format!("state is one of {}", STATES.join(", "));
        known.or_else(|| self.add("state", "known", message()))
    }

    pub fn model(&mut self, named: Option<&str>) -> Option<Model> {
        let message = || {
            format!(
                "model is one of {}",
                Model::ALL.map(Model::as_str).join(", ")
            )
        };
        Model::parse(named?).or_else(|| self.add("model", "known", message()))
    }

    pub fn owner(&mut self, named: Option<&str>) -> Option<Owner> {
        let parsed = Owner::parse(named?).map(Some);
        parsed.unwrap_or_else(|bad| self.add("owner", "token", bad.to_string()))
    }

    pub fn label(&mut self, named: Option<&str>) -> Option<String> {
        match named? {
            "" => {
                let message = "label is key=value, or a key alone for any value";
                self.add("label", "format", message)
            }
            named => Some(named.to_owned()),
        }
    }

    pub fn limit(&mut self, limit: u32, most: u32) -> usize {
        if !(1..=most).contains(&limit) {
            self.add::<()>("limit", "range", format!("limit is 1 to {most}"));
        }
        limit as usize
    }

    pub fn cursor(&mut self, cursor: Option<u64>) -> Option<u64> {
        if cursor.is_some_and(|at| i64::try_from(at).is_err()) {
            let message = "cursor is what next_cursor of the page before was";
            self.add::<()>("cursor", "range", message);
        }
        cursor
    }

    /// The checked query, if it breaks no rule.
    pub fn none_in<T>(self, checked: T) -> Result<T, Vec<Violation>> {
        match self.0.is_empty() {
            true => Ok(checked),
            false => Err(self.0),
        }
    }
}
