//! Listing what runs: by tag, whole, and with the cloud's own time.

use std::sync::Arc;

use aws_sdk_ec2::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_ec2::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_ec2::error::BoxError;
use aws_sdk_ec2::primitives::{DateTime, DateTimeFormat};
use aws_sdk_ec2::types::{
    Filter, Instance, InstanceLifecycleType, InstanceStateName, InstanceType, Reservation,
    StateReason,
};
use jiff::Timestamp;
use jiff::civil::DateTime as CivilTime;
use jiff::tz::TimeZone;
use parking_lot::Mutex;
use spotreel_domain::fleet::cloud::{CloudState, Lifecycle, SeenInstance, tag};

use crate::{CallError, Ec2};

const OPERATION: &str = "DescribeInstances";
/// The most that EC2 puts on a page.
const PAGE: i32 = 1000;
/// 100,000 instances, far more than a fleet has: beyond it the answers don't end.
const MAX_PAGES: usize = 100;

/// Everything with our tags that the cloud shows: also what has just ended, for about an hour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    pub instances: Vec<SeenInstance>,
    /// When the first page was written, by the cloud's clock.
    pub cloud_now: Timestamp,
}

impl Ec2 {
    /// What fleet has launched in `env`, in all states. Empty is no proof that nothing runs: EC2 shows the young late.
    pub async fn list(&self, env: &str) -> Result<Listing, CallError> {
        let date = AnswerDate::default();
        let mut instances = Vec::new();
        let mut token = None;
        for _ in 0..MAX_PAGES {
            let page = self
                .client
                .describe_instances()
                .filters(filter(
                    &format!("tag:{}", tag::MANAGED_BY),
                    [tag::MANAGED_BY_FLEET],
                ))
                .filters(filter(&format!("tag:{}", tag::ENV), [env]))
                .max_results(PAGE)
                .set_next_token(token)
                .customize()
                .interceptor(date.clone())
                .send()
                .await
                .map_err(|error| CallError::new(OPERATION, error))?;
            for instance in page.reservations().iter().flat_map(Reservation::instances) {
                instances.push(seen(instance)?);
            }
            token = page.next_token.filter(|token| !token.is_empty());
            if token.is_none() {
                let cloud_now = date.get().ok_or_else(|| {
                    CallError::malformed(OPERATION, "no Date header that can be read")
                })?;
                return Ok(Listing {
                    instances,
                    cloud_now,
                });
            }
        }
        Err(endless(OPERATION))
    }
}

pub(crate) fn endless(operation: &'static str) -> CallError {
    CallError::malformed(operation, "more pages than can be true")
}

pub(crate) fn filter<'a>(name: &str, values: impl IntoIterator<Item = &'a str>) -> Filter {
    let values = values.into_iter().map(str::to_owned).collect();
    Filter::builder()
        .name(name)
        .set_values(Some(values))
        .build()
}

pub(crate) fn timestamp(at: &DateTime) -> Option<Timestamp> {
    Timestamp::from_nanosecond(at.as_nanos()).ok()
}

fn seen(instance: &Instance) -> Result<SeenInstance, CallError> {
    let missing = |what| CallError::malformed(OPERATION, format!("an instance without {what}"));
    let id = instance.instance_id().ok_or_else(|| missing("an id"))?;
    let launched_at = instance.launch_time().and_then(timestamp);
    let state = instance.state().and_then(|state| state.name());
    let zone = instance.placement().and_then(|p| p.availability_zone());
    let tags = instance.tags().iter();
    Ok(SeenInstance {
        id: id.to_owned(),
        kind: instance
            .instance_type()
            .map(InstanceType::as_str)
            .unwrap_or_default()
            .to_owned(),
        zone: zone.unwrap_or_default().to_owned(),
        lifecycle: match instance.instance_lifecycle() {
            Some(InstanceLifecycleType::Spot) => Lifecycle::Spot,
            _ => Lifecycle::OnDemand,
        },
        state: match state.ok_or_else(|| missing("a state"))? {
            InstanceStateName::Pending => CloudState::Pending,
            InstanceStateName::ShuttingDown => CloudState::ShuttingDown,
            InstanceStateName::Terminated => CloudState::Terminated,
            InstanceStateName::Stopping | InstanceStateName::Stopped => CloudState::Stopped,
            // Also a word that nobody knows yet: what may cost money is taken for running.
            _ => CloudState::Running,
        },
        launched_at: launched_at.ok_or_else(|| missing("a launch time"))?,
        tags: tags
            .filter_map(|tag| {
                Some((
                    tag.key()?.to_owned(),
                    tag.value().unwrap_or_default().to_owned(),
                ))
            })
            .collect(),
        reason: reason(instance),
        left_at: instance.state_transition_reason().and_then(left_at),
        has_public_address: instance
            .public_ip_address()
            .is_some_and(|ip| !ip.is_empty()),
    })
}

/// The time in `User initiated (2026-11-30 11:16:28 GMT)`: when the instance left its last state. EC2 tells it of ends by
/// a call, and of no others.
fn left_at(transition: &str) -> Option<Timestamp> {
    let (_, rest) = transition.rsplit_once('(')?;
    let (time, _) = rest.split_once(" GMT)")?;
    let time: CivilTime = time.parse().ok()?;
    time.to_zoned(TimeZone::UTC).ok().map(|at| at.timestamp())
}

/// Both of EC2's words for it: the reason, its code first, and the transition's, which has the time.
fn reason(instance: &Instance) -> Option<String> {
    let reason = instance.state_reason();
    let code = reason.and_then(StateReason::code).unwrap_or_default();
    let message = reason.and_then(StateReason::message).unwrap_or_default();
    let said = match message {
        "" => code.to_owned(),
        // As EC2 writes most of them.
        _ if code.is_empty() || message.starts_with(code) => message.to_owned(),
        _ => format!("{code}: {message}"),
    };
    let transition = instance.state_transition_reason().unwrap_or_default();
    let mut words = vec![said.as_str(), transition];
    words.retain(|words| !words.is_empty());
    words.dedup();
    (!words.is_empty()).then(|| words.join("; "))
}

/// Keeps the `Date` of the first answer that has one.
#[derive(Debug, Clone, Default)]
struct AnswerDate(Arc<Mutex<Option<Timestamp>>>);

impl AnswerDate {
    fn get(&self) -> Option<Timestamp> {
        *self.0.lock()
    }
}

impl Intercept for AnswerDate {
    fn name(&self) -> &'static str {
        "AnswerDate"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let answer = context.response();
        if !answer.status().is_success() {
            return Ok(());
        }
        let date = answer.headers().get("date");
        let date = date.and_then(|date| DateTime::from_str(date, DateTimeFormat::HttpDate).ok());
        let mut first = self.0.lock();
        *first = first.or_else(|| date.as_ref().and_then(timestamp));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_of_a_reason_comes_first() {
        let said = |code: &str, message: &str, transition: &str| {
            let why = StateReason::builder().code(code).message(message).build();
            let instance = Instance::builder().state_reason(why);
            reason(&instance.state_transition_reason(transition).build())
        };
        let launch = "Server.InternalError: Internal error on launch";
        let of = said("Server.InternalError", launch, "");
        assert_eq!(of.as_deref(), Some(launch));
        let of = said(
            "Client.VolumeLimitExceeded",
            "The limit was reached",
            "User initiated",
        );
        let told = "Client.VolumeLimitExceeded: The limit was reached; User initiated";
        assert_eq!(of.as_deref(), Some(told));
        let taken = "Server.SpotInstanceTermination";
        assert_eq!(said(taken, taken, taken).as_deref(), Some(taken));
        assert_eq!(reason(&Instance::builder().build()), None);
    }

    #[test]
    fn the_time_of_an_end_is_read_where_there_is_one() {
        let told = left_at("User initiated (2026-11-30 11:16:28 GMT)");
        assert_eq!(told, Some("2026-11-30T11:16:28Z".parse().unwrap()));
        for silent in [
            "",
            "Server.SpotInstanceTermination",
            "User initiated",
            "User initiated (yesterday GMT)",
            "User initiated (2026-11-30 11:16:28 PST)",
        ] {
            assert_eq!(left_at(silent), None, "{silent}");
        }
    }
}
