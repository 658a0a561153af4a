//! EC2 in our own types: requests, answers and listings.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::batch::BatchId;
use crate::money::Usd;

/// The tags that a launch puts on everything it makes: they alone must be enough to find it and to terminate it.
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

    /// AWS's code of the account's quota of vCPUs in instances of the families G and VT. New accounts have 0 for Spot.
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

/// A capacity pool: an instance type in a zone, with its own capacity and price.
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

/// A CreateFleet request, frozen before the first call; a repeated call sends the same bytes.
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

/// A launch template in a fixed version: with `$Latest` the same request could mean two things.
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

/// The answer to a launch call. It may have fewer instances than requested; `errors` says why.
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

/// Why a capacity pool gave fewer instances than requested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaceError {
    /// `None`: the error is about the request, not about a capacity pool.
    pub place: Option<Place>,
    pub class: ErrorClass,
    /// EC2's own code and words, for operators.
    pub code: String,
    pub message: String,
}

/// What an error means for the next step, whichever of EC2's many codes it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// No capacity here now: ask other capacity pools, and this one again in minutes.
    Capacity,
    /// An instance never served here, or may soon be interrupted: other capacity pools go first.
    Doubtful,
    /// The price is above the bid: not here until prices change.
    Price,
    /// The account's quota is used up: nowhere, for longer.
    Quota,
    /// The request or the account is set up wrongly: an operator has to act, a retry does not help.
    Configuration,
    /// Too many calls: the same again, later.
    Throttled,
    /// No answer, or an unclear one: the call may have worked.
    Unknown,
}

/// One instance as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenInstance {
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

impl SeenInstance {
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

    /// EC2 has interrupted this Spot instance.
    pub fn is_taken(&self) -> bool {
        let reason = self.reason.as_deref();
        reason.is_some_and(|reason| reason.contains("SpotInstanceTermination"))
    }

    /// EC2 says that it ended during its launch: it was never `running`, and is not billed.
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

/// The token of a launch. Lifecycle and sequence are part of it, since EC2 refuses the same token with another request. So is
/// the time of the batch's request: after a loss of NATS's data the batches' numbers begin again at 1, and EC2 would
/// answer a known token with the instances of the earlier batch.
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
