//! Launches one instant fleet, exactly as the record has it.

use std::collections::BTreeMap;

use aws_sdk_ec2::operation::create_fleet::{CreateFleetInput, CreateFleetOutput};
use aws_sdk_ec2::types::{
    DefaultTargetCapacityType, FleetLaunchTemplateConfigRequest,
    FleetLaunchTemplateOverridesRequest, FleetLaunchTemplateSpecificationRequest,
    FleetOnDemandAllocationStrategy, FleetType, InstanceLifecycle, InstanceType,
    LaunchTemplateAndOverridesResponse, OnDemandOptionsRequest, ResourceType,
    SpotAllocationStrategy, SpotOptionsRequest, Tag, TagSpecification,
    TargetCapacitySpecificationRequest,
};
use spotreel_domain::fleet::cloud::{
    ErrorClass, LaunchAnswer, LaunchRequest, Launched, Lifecycle, Override, Place, PlaceError,
    TOKEN_MISMATCH,
};
use spotreel_domain::money::Usd;

use crate::Ec2;
use crate::classify::classify;
use crate::error::{Failure, to_grant};

/// What a fleet's call can tag at birth. Requests for Spot instances are not among them; the template tags those.
const TAGGED: [ResourceType; 4] = [
    ResourceType::Fleet,
    ResourceType::Instance,
    ResourceType::Volume,
    ResourceType::NetworkInterface,
];

/// What a launch from a template takes together.
const PERMISSIONS: &str = "ec2:CreateFleet, ec2:RunInstances, ec2:CreateTags and iam:PassRole";

/// A launch without a usable answer.
///
/// It speaks of THIS call alone. Whoever replays a launch of which an earlier call was unclear must not take "nothing
/// was launched" for the launch as a whole: a replay that was throttled says nothing about the first call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchError {
    pub class: ErrorClass,
    /// EC2's own; empty if there was no answer.
    pub code: String,
    pub message: String,
    /// The request's capacity pools that EC2 says it of; none: the whole request.
    pub places: Vec<Place>,
    /// Instances with the request's tags may be there, or come yet.
    pub maybe_running: bool,
    /// What they would carry, for people.
    pub tags: BTreeMap<String, String>,
}

impl std::fmt::Display for LaunchError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (code, message) = (&self.code, &self.message);
        if !self.maybe_running {
            return write!(f, "nothing was launched: {message} ({code})");
        }
        match code.as_str() {
            "" => write!(f, "no answer from CreateFleet: {message}")?,
            _ => write!(f, "no clear answer from CreateFleet: {message} ({code})")?,
        }
        f.write_str("; instances with the tags")?;
        for (key, value) in &self.tags {
            write!(f, " {key}={value}")?;
        }
        f.write_str(" may run")
    }
}

impl std::error::Error for LaunchError {}

impl Ec2 {
    /// One try of one request. The same request again is the same launch: EC2 answers it with the same instances.
    pub async fn launch(&self, request: &LaunchRequest) -> Result<LaunchAnswer, LaunchError> {
        let input = fleet_input(request);
        let call = self.launcher.create_fleet();
        let call = call
            .set_client_token(input.client_token)
            .set_type(input.r#type)
            .set_launch_template_configs(input.launch_template_configs)
            .set_target_capacity_specification(input.target_capacity_specification)
            .set_spot_options(input.spot_options)
            .set_on_demand_options(input.on_demand_options)
            .set_tag_specifications(input.tag_specifications);
        match call.send().await {
            Ok(output) => answer(request, &output).ok_or_else(|| LaunchError {
                class: ErrorClass::Unknown,
                code: String::new(),
                message: "an answer that names no fleet".to_owned(),
                places: Vec::new(),
                maybe_running: true,
                tags: request.tags.clone(),
            }),
            Err(error) => Err(refusal(request, Failure::of(error))),
        }
    }
}

fn refusal(request: &LaunchRequest, failure: Failure) -> LaunchError {
    let (class, code, message, places, maybe_running) = match failure {
        Failure::Refused {
            class,
            code,
            message,
        } => {
            // Another request had this token before, and that one may have launched.
            let maybe_running = code == TOKEN_MISMATCH;
            let places = match class {
                // How often we may ask is the account's.
                ErrorClass::Throttled => Vec::new(),
                _ => named(request, &message),
            };
            let cure = to_grant(&code, &message, PERMISSIONS);
            (class, code, message + &cure, places, maybe_running)
        }
        Failure::Unclear { code, message } => {
            (ErrorClass::Unknown, code, message, Vec::new(), true)
        }
    };
    LaunchError {
        class,
        code,
        message,
        places,
        maybe_running,
        tags: request.tags.clone(),
    }
}

/// The capacity pools of the request that a message speaks of, by subnet, zone or type.
fn named(request: &LaunchRequest, message: &str) -> Vec<Place> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
    let words = message.split(|c| !is_part(c));
    let words: Vec<_> = words.map(|word| word.trim_end_matches('.')).collect();
    let says = |name: &str| words.contains(&name);
    let by_zone = |o: &Override| says(&o.subnet) || says(&o.place.zone);
    let by_kind = |o: &Override| says(&o.place.kind);
    let (zones, kinds) = (
        request.overrides.iter().any(by_zone),
        request.overrides.iter().any(by_kind),
    );
    if !zones && !kinds {
        return Vec::new();
    }
    let meant = request
        .overrides
        .iter()
        .filter(|o| (!zones || by_zone(o)) && (!kinds || by_kind(o)));
    meant.map(|o| o.place.clone()).collect()
}

/// The call in the SDK's words: a function of the request and of nothing else.
fn fleet_input(request: &LaunchRequest) -> CreateFleetInput {
    let spot = request.lifecycle == Lifecycle::Spot;
    let overrides = request.overrides.iter().map(|wish| {
        let max_price = wish.max_price.filter(|_| spot);
        FleetLaunchTemplateOverridesRequest::builder()
            .instance_type(InstanceType::from(wish.place.kind.as_str()))
            .subnet_id(&wish.subnet)
            .set_max_price(max_price.map(Usd::to_decimal))
            .build()
    });
    let template = FleetLaunchTemplateSpecificationRequest::builder()
        .launch_template_id(&request.template.id)
        .version(request.template.version.to_string())
        .build();
    let config = FleetLaunchTemplateConfigRequest::builder()
        .launch_template_specification(template)
        .set_overrides(Some(overrides.collect()))
        .build();
    let capacity = TargetCapacitySpecificationRequest::builder()
        .total_target_capacity(i32::try_from(request.units).unwrap_or(i32::MAX))
        .default_target_capacity_type(if spot {
            DefaultTargetCapacityType::Spot
        } else {
            DefaultTargetCapacityType::OnDemand
        })
        .build();
    let spot_options = spot.then(|| {
        SpotOptionsRequest::builder()
            .allocation_strategy(SpotAllocationStrategy::PriceCapacityOptimized)
            .build()
    });
    let on_demand_options = (!spot).then(|| {
        OnDemandOptionsRequest::builder()
            .allocation_strategy(FleetOnDemandAllocationStrategy::LowestPrice)
            .set_max_total_price(most_on_demand(request).map(Usd::to_decimal))
            .build()
    });
    let tags = tags(&request.tags);
    let specifications = TAGGED.map(|kind| {
        TagSpecification::builder()
            .resource_type(kind)
            .set_tags(Some(tags.clone()))
            .build()
    });
    let mut input = CreateFleetInput::builder()
        .client_token(&request.client_token)
        .r#type(FleetType::Instant)
        .launch_template_configs(config)
        .target_capacity_specification(capacity)
        .set_spot_options(spot_options)
        .set_on_demand_options(on_demand_options);
    input = input.set_tag_specifications(Some(specifications.into()));
    input.build().expect("every member is optional to the SDK")
}

/// What all machines of the launch may cost an hour. EC2 takes no cap of each on demand, so it is that of the dearest type.
fn most_on_demand(request: &LaunchRequest) -> Option<Usd> {
    let caps = request.overrides.iter().filter_map(|wish| wish.max_price);
    caps.max().map(|cap| cap.times(request.units))
}

pub(crate) fn tags<'a>(tags: impl IntoIterator<Item = (&'a String, &'a String)>) -> Vec<Tag> {
    let tags = tags.into_iter();
    tags.map(|(key, value)| Tag::builder().key(key).value(value).build())
        .collect()
}

/// None: an answer without a fleet.
fn answer(request: &LaunchRequest, output: &CreateFleetOutput) -> Option<LaunchAnswer> {
    let mut answer = LaunchAnswer {
        fleet: output.fleet_id()?.to_owned(),
        instances: Vec::new(),
        errors: Vec::new(),
    };
    for group in output.instances() {
        let place = place(request, group.launch_template_and_overrides());
        let kind = group.instance_type().map(|kind| kind.as_str().to_owned());
        let zone = group.availability_zone().map(str::to_owned);
        let lifecycle = match group.lifecycle() {
            Some(InstanceLifecycle::Spot) => Lifecycle::Spot,
            Some(_) => Lifecycle::OnDemand,
            None => request.lifecycle,
        };
        for id in group.instance_ids() {
            let of_place = |part: fn(&Place) -> &String| place.as_ref().map(part).cloned();
            answer.instances.push(Launched {
                id: id.clone(),
                kind: kind
                    .clone()
                    .or_else(|| of_place(|p| &p.kind))
                    .unwrap_or_default(),
                zone: zone
                    .clone()
                    .or_else(|| of_place(|p| &p.zone))
                    .unwrap_or_default(),
                lifecycle,
            });
        }
    }
    for error in output.errors() {
        let code = error.error_code().unwrap_or_default();
        let message = error.error_message().unwrap_or_default();
        answer.errors.push(PlaceError {
            place: place(request, error.launch_template_and_overrides()),
            class: classify(code),
            code: code.to_owned(),
            message: message.to_owned() + &to_grant(code, message, PERMISSIONS),
        });
    }
    Some(answer)
}

/// EC2 names the type and the subnet that it tried; which zone that is, the request knows.
fn place(
    request: &LaunchRequest,
    tried: Option<&LaunchTemplateAndOverridesResponse>,
) -> Option<Place> {
    let tried = tried?.overrides()?;
    let kind = tried.instance_type()?.as_str();
    if let Some(zone) = tried.availability_zone() {
        return Some(Place {
            kind: kind.to_owned(),
            zone: zone.to_owned(),
        });
    }
    let subnet = tried.subnet_id()?;
    let mut wishes = request.overrides.iter();
    let wish = wishes.find(|wish| wish.place.kind == kind && wish.subnet == subnet)?;
    Some(wish.place.clone())
}
