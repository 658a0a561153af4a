//! The instance as its metadata describe it: its identity, interruption notices, the end of its life.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use spotreel_proto::worker::v1::Presence;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::machine::leave::{By, Leave};
use crate::machine::metadata::{Metadata, MetadataError};
use crate::machine::presence::PresenceBoard;

/// The SDK's own name for another address than 169.254.169.254.
const ENDPOINT: &str = "AWS_EC2_METADATA_SERVICE_ENDPOINT";
const DISABLED: &str = "AWS_EC2_METADATA_DISABLED";
/// What the firmware of an EC2 machine calls its maker.
const VENDOR: &str = "/sys/class/dmi/id/sys_vendor";
/// Asked at the start until it answers, so often: a machine that was told to ask has a service that may still come up.
const TRIES_AT_START: u32 = 10;
const PAUSE_AT_START: Duration = Duration::from_millis(500);
/// A Spot machine that EC2 takes within its first hour is free (AWS, "Billing for interrupted Spot Instances").
const FREE_IF_TAKEN_WITHIN: Duration = Duration::from_secs(3_600);
/// EC2 takes a machine some moments after the time of its notice. Fleet waits as long (`patience.drain`).
const TAKEN_LATE: Duration = Duration::from_secs(3 * 60);
/// Time before the end of its life at which an instance is treated as if it had an interruption notice.
const BEFORE_EXPIRY: Duration = Duration::from_secs(120);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MetadataMode {
    Auto,
    On,
    Off,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloudSection {
    pub metadata: MetadataMode,
    #[serde(with = "humantime_serde")]
    pub poll: Duration,
}

/// What the metadata say of this machine; empty where they are silent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineMetadata {
    pub instance: String,
    pub instance_type: String,
    pub zone: String,
    pub lifecycle: String,
    pub pool: String,
    pub batch: String,
    pub launch: String,
    pub expires_at: Option<Timestamp>,
    /// When it was launched.
    pub pending_at: Option<Timestamp>,
}

pub struct WorkerCloud {
    metadata: Metadata,
    pub machine: MachineMetadata,
}

/// What a poll saw.
#[derive(Debug, Default, PartialEq, Eq)]
struct SpotNotices {
    goes_at: Option<Timestamp>,
    rebalance: bool,
}

#[derive(Deserialize)]
struct InstanceAction {
    time: Timestamp,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Identity {
    pending_time: Timestamp,
}

impl MachineMetadata {
    /// Whether it costs nothing if EC2 takes it at this time.
    fn is_free_at(&self, at: Timestamp) -> bool {
        let hour_over = self.pending_at.map(|from| from + FREE_IF_TAKEN_WITHIN);
        self.lifecycle == "spot" && hour_over.is_some_and(|over| at < over)
    }

    pub fn describe_to(&self, presence: &mut Presence) {
        let of = self.clone();
        presence.pool = of.pool;
        presence.batch = of.batch;
        presence.launch = of.launch;
        presence.instance_type = of.instance_type;
        presence.zone = of.zone;
        presence.lifecycle = of.lifecycle;
    }
}

impl CloudSection {
    fn wanted(&self) -> bool {
        let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        match self.metadata {
            MetadataMode::On => true,
            MetadataMode::Off => false,
            MetadataMode::Auto if is_set(ENDPOINT) => true,
            MetadataMode::Auto
                if std::env::var(DISABLED).is_ok_and(|v| v.eq_ignore_ascii_case("true")) =>
            {
                false
            }
            // No question over the network: elsewhere it would be answered by silence.
            MetadataMode::Auto => {
                std::fs::read_to_string(VENDOR).is_ok_and(|v| v.starts_with("Amazon EC2"))
            }
        }
    }
}

impl WorkerCloud {
    /// The machine's cloud, if it has one.
    pub async fn find(config: &CloudSection) -> Option<Self> {
        if !config.wanted() {
            return None;
        }
        let told = config.metadata == MetadataMode::On || std::env::var_os(ENDPOINT).is_some();
        let mut cloud = Self {
            metadata: Metadata::new(),
            machine: MachineMetadata::default(),
        };
        for _ in 0..if told { TRIES_AT_START } else { 1 } {
            match cloud.describe().await {
                Ok(machine) if !machine.instance.is_empty() => {
                    tracing::info!(?machine, "instance metadata found");
                    cloud.machine = machine;
                    return Some(cloud);
                }
                Ok(_) => tracing::debug!("instance metadata have no instance id"),
                Err(error) => tracing::debug!(%error, "instance metadata not available yet"),
            }
            tokio::time::sleep(PAUSE_AT_START).await;
        }
        tracing::warn!(
            "no instance metadata: interruption notices are not seen, and an idle worker does not exit"
        );
        None
    }

    async fn describe(&self) -> Result<MachineMetadata, MetadataError> {
        let text = async |path: &str| {
            Ok::<_, MetadataError>(self.metadata.get(path).await?.unwrap_or_default())
        };
        let tag = async |name: &str| text(&format!("tags/instance/spotreel:{name}")).await;
        let (instance, instance_type, zone, lifecycle) = tokio::try_join!(
            text("instance-id"),
            text("instance-type"),
            text("placement/availability-zone"),
            text("instance-life-cycle"),
        )?;
        let (pool, batch, launch, expires_at) =
            tokio::try_join!(tag("pool"), tag("batch"), tag("launch"), tag("expires-at"))?;
        let document = self
            .metadata
            .read("dynamic/instance-identity/document")
            .await?;
        let identity = serde_json::from_str::<Identity>(&document.unwrap_or_default());
        if !expires_at.is_empty() && expires_at.parse::<Timestamp>().is_err() {
            tracing::error!(expires_at, "tag spotreel:expires-at is not a time");
        }
        Ok(MachineMetadata {
            instance,
            instance_type,
            zone,
            lifecycle,
            pool,
            batch,
            launch,
            expires_at: expires_at.parse().ok(),
            pending_at: identity.ok().map(|identity| identity.pending_time),
        })
    }

    /// Looks again and again until the machine is about to go, and orders the leaving.
    pub async fn watch(
        mut self,
        every: Duration,
        board: PresenceBoard,
        leave: Leave,
        until: CancellationToken,
    ) {
        let mut tick = tokio::time::interval(every);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = until.cancelled() => return,
            }
            let now = self.metadata.now();
            let expires_at = &mut self.machine.expires_at;
            if let Some(at) = expires_at.take_if(|at| now + BEFORE_EXPIRY >= *at) {
                board.update(|presence| presence.notice_at_ms = at.as_millisecond());
                leave.order(By::Notice(instant(at, now)), "the machine's time is up");
            }
            let seen = self.look().await;
            if let Some(at) = seen.goes_at {
                let goes = instant(at, self.metadata.now());
                board.update(|presence| presence.notice_at_ms = at.as_millisecond());
                if self.machine.is_free_at(at) {
                    leave.is_free_until(goes + TAKEN_LATE);
                }
                leave.order(By::Notice(goes), "the cloud takes the machine");
                // Nothing more urgent can come from here.
                return;
            }
            // A hint, no notice: most such machines live on. Fleet reads it, and says so if this one is to leave.
            if seen.rebalance && !board.is_hinted() {
                tracing::info!(
                    "rebalance recommendation received; writing a checkpoint after each step"
                );
                board.update(|presence| presence.rebalance = true);
            }
        }
    }

    /// An error is a poll that saw nothing: notices are best effort, and the next poll comes soon.
    async fn look(&mut self) -> SpotNotices {
        let looked = tokio::try_join!(
            self.metadata.get("spot/instance-action"),
            self.metadata.get("events/recommendations/rebalance")
        );
        match looked {
            Ok((action, rebalance)) => {
                self.metadata.polled(None);
                SpotNotices {
                    goes_at: action.map(|text| self.goes_at(&text)),
                    rebalance: rebalance.is_some(),
                }
            }
            Err(error) => {
                tracing::debug!(%error, "reading instance metadata failed");
                self.metadata.polled(Some(&error));
                SpotNotices::default()
            }
        }
    }

    /// An action that cannot be read still means that the machine goes: as soon as a notice allows.
    fn goes_at(&self, action: &str) -> Timestamp {
        match serde_json::from_str::<InstanceAction>(action) {
            Ok(action) => action.time,
            Err(error) => {
                tracing::error!(%error, action, "interruption notice has no time");
                self.metadata.now() + BEFORE_EXPIRY
            }
        }
    }
}

fn instant(at: Timestamp, now: Timestamp) -> Instant {
    Instant::now() + Duration::try_from(at.duration_since(now)).unwrap_or_default()
}
