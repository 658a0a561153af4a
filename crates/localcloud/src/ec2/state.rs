//! What this cloud knows: instances, fleets, launch templates, the market and the bill.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::time::Instant;

use super::bill::Bill;
use super::error::Refusal;
use super::fleet::Offer;
use super::imds::Imds;
use super::market::Market;
use super::query::Node;
use super::tokens::Tokens;
use crate::clock::unique;

/// The one network of this cloud.
pub(crate) const VPC_ID: &str = "vpc-00000000000000001";

pub(crate) type Tags = BTreeMap<String, String>;

pub(crate) struct Ec2State {
    pub market: Market,
    pub bill: Bill,
    pub instances: BTreeMap<String, Instance>,
    pub fleets: BTreeMap<String, Fleet>,
    pub templates: BTreeMap<String, Template>,
    pub tokens: Tokens,
    /// How many instances there ever were.
    pub launched: u64,
}

/// The state of an instance, in AWS's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Pending,
    Running,
    ShuttingDown,
    Terminated,
    Stopped,
}

impl Phase {
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::ShuttingDown => "shutting-down",
            Self::Terminated => "terminated",
            Self::Stopped => "stopped",
        }
    }

    pub fn code(self) -> u16 {
        match self {
            Self::Pending => 0,
            Self::Running => 16,
            Self::ShuttingDown => 32,
            Self::Terminated => 48,
            Self::Stopped => 80,
        }
    }

    /// Its place in the pool and in the quota is taken.
    pub fn occupies(self) -> bool {
        matches!(self, Self::Pending | Self::Running | Self::ShuttingDown)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lifecycle {
    Spot,
    OnDemand,
}

impl Lifecycle {
    pub fn name(self) -> &'static str {
        match self {
            Self::Spot => "spot",
            Self::OnDemand => "on-demand",
        }
    }
}

/// Why an instance ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    User,
    Spot,
    Itself,
    /// It could not even be started.
    Fault,
}

impl Cause {
    pub fn code(self) -> &'static str {
        match self {
            Self::User => "Client.UserInitiatedShutdown",
            Self::Spot => "Server.SpotInstanceTermination",
            Self::Itself => "Client.InstanceInitiatedShutdown",
            Self::Fault => "Server.InternalError",
        }
    }

    pub fn message(self) -> &'static str {
        match self {
            Self::User => "Client.UserInitiatedShutdown: User initiated shutdown",
            Self::Spot => "Server.SpotInstanceTermination: Spot instance termination",
            Self::Itself => "Client.InstanceInitiatedShutdown: Instance initiated shutdown",
            Self::Fault => "Server.InternalError: Internal error on launch",
        }
    }
}

/// What an instance's own task is told from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InstanceOrder {
    Live,
    /// SIGTERM, and SIGKILL after the grace.
    Stop,
    /// SIGKILL at once.
    Kill,
}

/// What a launch is made of.
pub(crate) struct Blueprint {
    pub kind: String,
    pub zone: String,
    pub zone_id: String,
    pub subnet_id: String,
    pub image_id: String,
    pub lifecycle: Lifecycle,
    /// Micro-dollars an hour; on-demand has none.
    pub max_price: Option<i64>,
    pub fleet_id: String,
    pub client_token: String,
    pub tags: Tags,
    pub user_data: Vec<u8>,
    /// The template names an instance profile: the machine finds keys in its metadata.
    pub has_role: bool,
    /// Else a machine that shuts itself down is only stopped.
    pub ends_on_shutdown: bool,
    /// Of all its volumes.
    pub volume_gib: i64,
}

pub(crate) struct Instance {
    pub id: String,
    pub sequence: u64,
    pub blueprint: Blueprint,
    pub tags: Tags,
    pub private_ip: String,
    pub public_ip: String,
    pub launched: Timestamp,
    /// Newest last, in real time: a stale listing looks back.
    pub phases: Vec<(Instant, Phase)>,
    pub cause: Option<Cause>,
    /// When its end began, and when it was over.
    pub ending: Option<Timestamp>,
    pub ended: Option<Timestamp>,
    pub pid: Option<u32>,
    pub imds: Option<Imds>,
    pub orders: watch::Sender<InstanceOrder>,
    /// The market has given notice: it goes then.
    pub notice: Option<Timestamp>,
    pub rebalance: Option<Timestamp>,
}

impl Instance {
    pub fn phase(&self) -> Phase {
        self.phases
            .last()
            .map_or(Phase::Pending, |(_, phase)| *phase)
    }

    pub fn enter(&mut self, phase: Phase) {
        self.phases.push((Instant::now(), phase));
    }

    /// As somebody saw it who is that much behind; `None`: it was not there yet.
    pub fn phase_before(&self, behind: Duration) -> Option<Phase> {
        let known = |(since, _): &&(Instant, Phase)| since.elapsed() >= behind;
        self.phases
            .iter()
            .rev()
            .find(known)
            .map(|(_, phase)| *phase)
    }
}

/// One launch of one override, as CreateFleet and DescribeFleets tell it.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    pub offer: Offer,
    pub lifecycle: Lifecycle,
    pub instance_ids: Vec<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct Failed {
    pub offer: Offer,
    pub lifecycle: Lifecycle,
    pub code: String,
    pub message: String,
}

pub(crate) struct Fleet {
    pub id: String,
    pub client_token: String,
    pub created: Timestamp,
    pub deleted: bool,
    pub tags: Tags,
    pub target: u32,
    pub default_type: Lifecycle,
    pub placed: Vec<Placed>,
    pub failed: Vec<Failed>,
}

pub(crate) struct Template {
    pub id: String,
    pub name: String,
    pub created: Timestamp,
    pub tags: Tags,
    pub default_version: u64,
    pub versions: Vec<Version>,
}

pub(crate) struct Version {
    pub number: u64,
    pub description: Option<String>,
    pub created: Timestamp,
    pub data: Node,
}

impl Ec2State {
    pub fn instance(&self, id: &str) -> Option<&Instance> {
        self.instances.get(id)
    }

    /// Spot units of a pool that are taken.
    pub fn used(&self, kind: &str, zone: &str) -> u32 {
        let taken = self.instances.values().filter(|instance| {
            let of = &instance.blueprint;
            of.lifecycle == Lifecycle::Spot
                && of.kind == kind
                && of.zone == zone
                && instance.phase().occupies()
        });
        u32::try_from(taken.count()).unwrap_or(u32::MAX)
    }

    pub fn vcpus(&self, lifecycle: Lifecycle) -> u32 {
        let taken = self.instances.values().filter(|instance| {
            instance.blueprint.lifecycle == lifecycle && instance.phase().occupies()
        });
        taken
            .map(|instance| self.vcpus_of(&instance.blueprint.kind))
            .sum()
    }

    pub fn vcpus_of(&self, kind: &str) -> u32 {
        let found = self.market.kinds().iter().find(|known| known.name == kind);
        found.map_or(0, |kind| kind.vcpus)
    }
}

/// `PREFIX` and 17 hexadecimal digits that nobody else has, as AWS's ids are.
pub(crate) fn new_id(prefix: &str) -> String {
    id_of(prefix, &unique())
}

/// `PREFIX` and 17 hexadecimal digits that belong to this text.
pub(crate) fn id_of(prefix: &str, text: &str) -> String {
    format!("{prefix}0{}", &digest(text)[..16])
}

/// With the dashes of a UUID, as fleets and requests have them.
pub(crate) fn new_uuid() -> String {
    let hex = digest(&unique());
    let parts = [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..32],
    ];
    parts.join("-")
}

fn digest(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}

/// Whether an id could be AWS's: the prefix, then 8 or 17 hexadecimal digits.
pub(crate) fn well_formed(id: &str, prefix: &str) -> bool {
    let rest = id.strip_prefix(prefix).unwrap_or("");
    matches!(rest.len(), 8 | 17) && rest.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The time as EC2 writes it.
pub(crate) fn stamp(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

/// Micro-dollars as EC2 writes a price.
pub(crate) fn dollars(micros: i64) -> String {
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

pub(crate) fn micros(text: &str, parameter: &str) -> Result<i64, Refusal> {
    let refused = || Refusal::invalid(text, parameter);
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if text.is_empty() || !digits(whole) || !digits(part) || whole.len() > 9 {
        return Err(refused());
    }
    let part: String = part.chars().chain("000000".chars()).take(6).collect();
    let number = format!("{whole}{part}");
    number.parse().map_err(|_| refused())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_there_and_back() {
        for (text, amount) in [("0.3", 300_000), ("1", 1_000_000), ("0.4250009", 425_000)] {
            assert_eq!(micros(text, "p").unwrap(), amount);
        }
        assert_eq!(dollars(377_400), "0.377400");
        assert!(micros("-1", "p").is_err() && micros("x", "p").is_err());
    }

    #[test]
    fn ids_look_like_aws_ids() {
        assert!(well_formed(&new_id("i-"), "i-"));
        assert_ne!(new_id("i-"), new_id("i-"));
        assert!(!well_formed("i-xyz", "i-"));
    }
}
