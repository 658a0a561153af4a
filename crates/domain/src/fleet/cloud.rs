//! EC2 in our own types: requests, answers and listings.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::batch::BatchId;
use crate::money::Usd;

/// The tags that everything made for a batch carries from the call that makes it: they alone must be enough to find it
/// again and to end it.
pub mod tag {
    pub const MANAGED_BY: &str = "spotreel:managed-by";
    pub const MANAGED_BY_FLEET: &str = "fleet";
    pub const ENV: &str = "spotreel:env";
    pub const POOL: &str = "spotreel:pool";
    pub const BATCH: &str = "spotreel:batch";
    pub const LAUNCH: &str = "spotreel:launch";
    pub const EXPIRES_AT: &str = "spotreel:expires-at";
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lifecycle {
    Spot,
    OnDemand,
}

impl Lifecycle {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Spot => "spot",
            Self::OnDemand => "on-demand",
        }
    }

    /// The account's limit of vCPUs in machines of the families G and VT, as AWS names it. New accounts have 0 for Spot.
    pub fn quota_code(self) -> &'static str {
        match self {
            // "All G and VT Spot Instance Requests"
            Self::Spot => "L-3819A6DF",
            // "Running On-Demand G and VT instances"
            Self::OnDemand => "L-DB2E81BA",
        }
    }
}

/// The code with which EC2 refuses a token that it has seen with another request.
pub const TOKEN_MISMATCH: &str = "IdempotentParameterMismatch";

/// The codes of EC2's `StateReason` for an instance that failed during its launch and so has never been `running`.
const FAILED_LAUNCHES: [&str; 5] = [
    "Client.InternalError",
    "Client.InvalidSnapshot.NotFound",
    "Client.VolumeLimitExceeded",
    "Server.InsufficientInstanceCapacity",
    "Server.InternalError",
];

/// One source of capacity: a type in a zone. What it costs and whether it has any is its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// The instance type, `g5.xlarge`.
    pub kind: String,
    pub zone: String,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} in {}", self.kind, self.zone)
    }
}

/// A request for instances, exactly as it will be sent: frozen before the first call, and sent again byte for byte.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchRequest {
    pub client_token: String,
    pub template: Template,
    pub lifecycle: Lifecycle,
    pub units: u32,
    pub overrides: Vec<Override>,
    pub tags: BTreeMap<String, String>,
}

/// A launch template in one fixed version: `$Latest` would make the same request mean two things.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    pub id: String,
    pub version: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Override {
    #[serde(flatten)]
    pub place: Place,
    pub subnet: String,
    /// The most that an hour may cost.
    pub max_price: Option<Usd>,
}

/// What one launch call brought. Part of it may be missing, and `errors` says why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchAnswer {
    pub fleet: String,
    pub instances: Vec<Launched>,
    pub errors: Vec<PlaceError>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launched {
    pub id: String,
    pub kind: String,
    pub zone: String,
    pub lifecycle: Lifecycle,
}

/// Why a place gave nothing, or less than it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaceError {
    /// None: the error is about the request, not about a place.
    pub place: Option<Place>,
    pub class: ErrorClass,
    /// The cloud's own code and words, for people.
    pub code: String,
    pub message: String,
}

/// What an error means for the next step, whichever of the cloud's many codes it came with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// Nothing to be had here now: ask other places, and here again in minutes.
    Capacity,
    /// A machine did not come up here, or may soon be taken: other places go first.
    Doubtful,
    /// The market is above what we offer: not here until prices move.
    Price,
    /// The account may not have more: nowhere, for longer.
    Quota,
    /// The request or the account is set up wrongly: a person has to act, a retry never helps.
    Configuration,
    /// Asked too often: the same again, later.
    Throttled,
    /// No answer, or one that says nothing: what was asked for may have happened.
    Unknown,
}

/// One instance as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub id: String,
    pub kind: String,
    pub zone: String,
    pub lifecycle: Lifecycle,
    pub state: CloudState,
    /// By the cloud's clock.
    pub launched_at: Timestamp,
    pub tags: BTreeMap<String, String>,
    /// Why it left its last state: the cloud's code and its words, `Server.SpotInstanceTermination: …`.
    pub reason: Option<String>,
    /// When it did, where the cloud says so.
    pub left_at: Option<Timestamp>,
    pub has_public_address: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloudState {
    Pending,
    Running,
    ShuttingDown,
    Terminated,
    /// Stopped or on the way there: its disk is still billed.
    Stopped,
}

impl Seen {
    pub fn tag(&self, key: &str) -> Option<&str> {
        self.tags.get(key).map(String::as_str)
    }

    pub fn batch(&self) -> Option<BatchId> {
        self.tag(tag::BATCH).and_then(BatchId::parse)
    }

    pub fn launch(&self) -> Option<u32> {
        self.tag(tag::LAUNCH).and_then(|seq| seq.parse().ok())
    }

    pub fn expires_at(&self) -> Option<Timestamp> {
        self.tag(tag::EXPIRES_AT).and_then(|at| at.parse().ok())
    }

    /// The cloud has taken a Spot machine back itself.
    pub fn is_taken(&self) -> bool {
        let reason = self.reason.as_deref();
        reason.is_some_and(|reason| reason.contains("SpotInstanceTermination"))
    }

    /// The cloud says that it ended during its launch: it has never been `running`, and is not billed.
    pub fn never_started(&self) -> bool {
        let reason = self.reason.as_deref().unwrap_or_default();
        let code = reason.split([':', ';']).next().unwrap_or_default();
        FAILED_LAUNCHES.contains(&code)
    }

    /// Whether it may cost money.
    pub fn is_alive(&self) -> bool {
        self.state != CloudState::Terminated
    }
}

/// The one token of a launch. Market and attempt are part of it: the same token with another request is refused. So is
/// the time of the batch's request: after a loss of NATS's data the batches' numbers begin again at 1, and EC2 would
/// answer a token that it knows with the machines of then.
pub fn client_token(
    env: &str,
    batch: &BatchId,
    requested_at: Timestamp,
    seq: u32,
    lifecycle: Lifecycle,
) -> String {
    // The log keeps milliseconds.
    let requested_ms = requested_at.as_millisecond();
    let name = format!("{env}|{batch}|{requested_ms}|{seq}|{}", lifecycle.as_str());
    let digest = Sha256::digest(name.as_bytes());
    format!("spotreel-{}", hex::encode(&digest[..20]))
}
