//! What every route works with.

use std::sync::Arc;

use spotreel_api::ApiError;
use spotreel_bootstrap::{Context, ambient};
use spotreel_bus::KeyRing;

use super::budget::Budget;
use super::feed::Feed;
use super::recent::Recent;
use super::shares::Shares;
use crate::config::ApiConfig;
use crate::intake::Intake;
use crate::keys::Caller;
use crate::keys::pace::KeyPace;

/// The parts that routes share.
#[derive(Clone)]
pub(super) struct Api {
    pub intake: Arc<Intake>,
    pub feed: Feed,
    /// None: `api.auth` is off.
    pub keys: Option<KeyRing>,
    pub pace: Arc<KeyPace>,
    pub config: Arc<ApiConfig>,
    pub budget: Budget,
    /// Requests at work.
    pub places: Shares,
    /// Bodies that have not arrived whole.
    pub arriving: Shares,
    pub uploads: Shares,
    pub followers: Shares,
    pub recent: Recent,
    pub ctx: Context,
}

impl Api {
    /// Whether this caller may submit this number of tasks now, or other requests of the same weight.
    pub fn admit(&self, caller: &Caller, tasks: usize) -> Result<(), ApiError> {
        self.pace(caller, tasks)?;
        self.intake.limits.pace(tasks)
    }

    /// By the caller's own rate alone.
    pub fn pace(&self, caller: &Caller, tasks: usize) -> Result<(), ApiError> {
        match caller {
            Caller::Trusted => Ok(()),
            Caller::Key(key) => self.pace.check(key, tasks),
        }
    }

    /// Whether the caller may still do what it began: its key is neither revoked nor expired.
    pub fn is_live(&self, caller: &Caller) -> bool {
        match (&self.keys, caller) {
            (Some(keys), Caller::Key(key)) => keys.is_live(key, ambient::now()),
            _ => true,
        }
    }
}
