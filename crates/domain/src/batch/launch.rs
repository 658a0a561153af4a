//! One launch, from its frozen request until no instance of it can appear any more.

use jiff::Timestamp;

use crate::fleet::cloud::{LaunchRequest, Lifecycle, PlaceError};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// From 1, never used again; part of the token.
    pub seq: u32,
    pub lifecycle: Lifecycle,
    pub units: u32,
    /// The frozen [`LaunchRequest`] as JSON: what is sent again is this text.
    pub request: String,
    pub state: LaunchState,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LaunchState {
    /// The request is durable, and the call may have been made; no answer is recorded. Its instances may exist without
    /// our knowing their ids; `empty_listings` counts the listings that showed none of them. `sealed`: the same token
    /// was refused for another request, so it is never sent again and the listings alone decide. `sends`: how often the
    /// call may have been made. Once it is more than one, a refusal answers only the call that it answers.
    Unanswered {
        at: Timestamp,
        empty_listings: u32,
        sealed: bool,
        sends: u32,
    },
    /// EC2 said what it launched.
    Answered {
        at: Timestamp,
        fleet: Option<String>,
        instances: Vec<String>,
        errors: Vec<PlaceError>,
    },
    /// EC2 refused it: none of its instances runs.
    Rejected { at: Timestamp, error: PlaceError },
    /// None of its instances runs, and none can appear any more.
    Closed { at: Timestamp },
}

impl Launch {
    /// Whether instances of it may exist that no record names.
    pub fn is_open(&self) -> bool {
        matches!(self.state, LaunchState::Unanswered { .. })
    }

    /// Whether its call can have been made once only: then a refusal means that nothing of it runs.
    pub fn is_sent_once(&self) -> bool {
        matches!(self.state, LaunchState::Unanswered { sends: 1, .. })
    }

    /// The request as it was frozen; one that cannot be decoded is never sent.
    pub fn frozen_request(&self) -> Option<LaunchRequest> {
        serde_json::from_str(&self.request).ok()
    }
}
