//! One call for instances, from its intent to the day when nothing of it can appear any more.

use jiff::Timestamp;

use crate::fleet::cloud::{Lifecycle, PlaceError};

#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// From 1, never used again; part of the token.
    pub seq: u32,
    pub lifecycle: Lifecycle,
    pub units: u32,
    /// The frozen [`LaunchRequest`](crate::fleet::cloud::LaunchRequest) as JSON: what is sent again is this text.
    pub request: String,
    pub state: LaunchState,
}

#[derive(Clone, Debug, PartialEq)]
pub enum LaunchState {
    /// The intent is durable, and the call may have been made. Until an answer is recorded its instances may exist
    /// without our knowing their ids; `empty_listings` counts the looks that found none of them. `sealed`: the same
    /// token was refused for another request, so it is never sent again and the listings alone decide. `sends`: how
    /// often the call may have been made. Once it is more than one, a refusal answers only the call that it answers.
    Dispatched {
        at: Timestamp,
        empty_listings: u32,
        sealed: bool,
        sends: u32,
    },
    /// The cloud said what it launched.
    Answered {
        at: Timestamp,
        fleet: Option<String>,
        instances: Vec<String>,
        errors: Vec<PlaceError>,
    },
    /// The cloud said no: nothing runs of it.
    Rejected { at: Timestamp, error: PlaceError },
    /// Nothing of it runs, and nothing can appear any more.
    Closed { at: Timestamp },
}

impl Launch {
    /// Whether instances of it may exist that no record names.
    pub fn is_open(&self) -> bool {
        matches!(self.state, LaunchState::Dispatched { .. })
    }
}
