//! Client tokens: the same call with the same token gets the same answer, and does nothing twice.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};

use super::error::Refusal;
use super::query::Node;

/// AWS says "at least 24 hours"; what is older is forgotten.
const KEPT: SignedDuration = SignedDuration::from_hours(24);
/// More calls than a day of a busy fleet makes; then the oldest are forgotten before their time.
const MOST: usize = 100_000;
/// AWS's limit.
const LONGEST: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Tokens(HashMap<(String, String), Remembered>);

#[derive(Debug)]
struct Remembered {
    at: Timestamp,
    request: Node,
    answer: String,
}

impl Tokens {
    /// The answer of the first time, if there was one.
    pub fn replay(
        &self,
        action: &str,
        token: &str,
        request: &Node,
    ) -> Result<Option<String>, Refusal> {
        if token.len() > LONGEST || !token.is_ascii() {
            return Err(Refusal::invalid(token, "ClientToken"));
        }
        match self.0.get(&(action.to_owned(), token.to_owned())) {
            None => Ok(None),
            Some(first) if first.request == *request => Ok(Some(first.answer.clone())),
            Some(_) => {
                let message = "The client token has been used with other parameters";
                Err(Refusal::new("IdempotentParameterMismatch", message))
            }
        }
    }

    pub fn remember(
        &mut self,
        (action, token): (&str, &str),
        request: &Node,
        answer: &str,
        at: Timestamp,
    ) {
        self.0.retain(|_, first| at.duration_since(first.at) < KEPT);
        if self.0.len() >= MOST {
            let oldest = self.0.iter().min_by_key(|(_, first)| first.at);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.0.remove(&oldest);
            }
        }
        let first = Remembered {
            at,
            request: request.clone(),
            answer: answer.to_owned(),
        };
        self.0.insert((action.to_owned(), token.to_owned()), first);
    }
}
