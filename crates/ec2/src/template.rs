//! Launch templates: the same content is the same version, and no version ever changes.

use std::collections::BTreeMap;

use aws_sdk_ec2::types::{
    LaunchTemplate, LaunchTemplateBlockDeviceMapping, LaunchTemplateBlockDeviceMappingRequest,
    LaunchTemplateEbsBlockDevice, LaunchTemplateEbsBlockDeviceRequest,
    LaunchTemplateHttpTokensState, LaunchTemplateIamInstanceProfileSpecificationRequest,
    LaunchTemplateInstanceMetadataOptionsRequest, LaunchTemplateInstanceMetadataTagsState,
    LaunchTemplateTagSpecification, LaunchTemplateTagSpecificationRequest, LaunchTemplateVersion,
    RequestLaunchTemplateData, ResourceType, ResponseLaunchTemplateData, ShutdownBehavior,
    TagSpecification, VolumeType,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;
use sha2::{Digest, Sha256};
use spotreel_domain::fleet::cloud::{ErrorClass, Template};
use spotreel_domain::pool::PoolTemplate;

use crate::launch::tags;
use crate::list::endless;
use crate::user_data::MAX_BYTES;
use crate::{CallError, Ec2};

/// Part of every hash: raised when [`data`] changes, so that the templates out there do too.
const FORMAT: u32 = 1;
/// What EC2 puts on a page of versions at most.
const PAGE: i32 = 200;
/// EC2 keeps 10,000 versions of a template.
const MAX_PAGES: usize = 50;
/// The machine and a container in it: two hops to the metadata service.
const METADATA_HOPS: i32 = 2;

/// What a worker's machine is made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TemplateSpec {
    pub name: String,
    pub image_id: String,
    /// The name or the ARN.
    pub instance_profile: Option<String>,
    /// By id; none: the default one of the subnet's network.
    pub security_groups: Vec<String>,
    /// A script, as it is; no secrets.
    pub user_data: String,
    /// The image's own name for its root disk; another name would add a second disk beside it.
    pub root_device: String,
    pub volume_gib: u32,
    /// For what the machines bring along, and for the template.
    pub tags: BTreeMap<String, String>,
    /// Also tag the requests for Spot instances: EC2 refuses that when the template launches on demand.
    pub spot_only: bool,
}

impl TemplateSpec {
    /// 100 GiB on `/dev/sda1`, as Ubuntu's images name it; nothing else.
    pub fn new(
        name: impl Into<String>,
        image_id: impl Into<String>,
        user_data: impl Into<String>,
    ) -> Self {
        Self {
            name: name.into(),
            image_id: image_id.into(),
            instance_profile: None,
            security_groups: Vec::new(),
            user_data: user_data.into(),
            root_device: "/dev/sda1".to_owned(),
            volume_gib: 100,
            tags: BTreeMap::new(),
            spot_only: false,
        }
    }

    /// The name of this content: what a version's description holds.
    fn fingerprint(&self) -> String {
        let text = serde_json::to_string(&(FORMAT, self)).expect("strings and numbers are JSON");
        let digest = Sha256::digest(text.as_bytes());
        format!("spotreel {}", hex::encode(&digest[..20]))
    }
}

/// What a version of a launch template makes of the machines that come from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateVersion {
    /// A machine that shuts down ends; without it, it is stopped, and its disk goes on costing.
    pub ends_on_shutdown: bool,
    /// A machine can read its own tags.
    pub metadata_tags: bool,
    /// Its metadata, and with them its credentials, are told to nobody without a token (IMDSv2).
    pub tokens_required: bool,
    /// On the requests for Spot instances; EC2 refuses to launch on demand where there are any.
    pub spot_request_tags: BTreeMap<String, String>,
    /// Of all its volumes, which are billed beside the machine.
    pub volume_gib: u32,
}

impl Ec2 {
    /// The version that has exactly this content; made if there is none. No token: one that outlives a deleted
    /// template would name a thing that is gone. Two who ask at once may make two versions, which does no harm.
    pub async fn ensure_template(&self, spec: &TemplateSpec) -> Result<Template, CallError> {
        if spec.user_data.len() > MAX_BYTES {
            let message = format!(
                "user data of {} bytes, EC2 takes {MAX_BYTES}",
                spec.user_data.len()
            );
            return Err(CallError::Refused {
                operation: "CreateLaunchTemplate",
                class: ErrorClass::Configuration,
                code: "InvalidUserData".to_owned(),
                message,
            });
        }
        let fingerprint = spec.fingerprint();
        if self.template(&spec.name).await?.is_none() {
            match self.create_template(spec, &fingerprint).await {
                Err(error) if error.code().is_some_and(|c| c.contains("AlreadyExists")) => {}
                made => return made,
            }
        }
        let there = self.template(&spec.name).await?;
        let there = there.ok_or_else(|| {
            CallError::malformed(
                "DescribeLaunchTemplates",
                "nothing about a template that exists",
            )
        })?;
        match self.find_version(&there.id, &fingerprint).await? {
            Some(version) => Ok(Template { version, ..there }),
            None => self.create_version(&there.id, spec, &fingerprint).await,
        }
    }

    /// A version for Spot and one for machines on demand: requests for Spot instances bear the tags too, and EC2 takes no
    /// tags of such requests where there is none.
    pub async fn ensure_versions(&self, spec: &TemplateSpec) -> Result<PoolTemplate, CallError> {
        let of = |spot_only| TemplateSpec {
            spot_only,
            ..spec.clone()
        };
        let spot = self.ensure_template(&of(true)).await?;
        let on_demand = self.ensure_template(&of(false)).await?;
        Ok(PoolTemplate {
            id: spot.id,
            version: spot.version,
            on_demand_version: Some(on_demand.version),
        })
    }

    /// The template with this name or id, in its default version: the one that its owner has chosen.
    pub async fn template(&self, name_or_id: &str) -> Result<Option<Template>, CallError> {
        const OPERATION: &str = "DescribeLaunchTemplates";
        let call = self.client.describe_launch_templates();
        let call = match name_or_id.starts_with("lt-") {
            true => call.launch_template_ids(name_or_id),
            false => call.launch_template_names(name_or_id),
        };
        let answer = match call.send().await {
            Ok(answer) => answer,
            Err(error) => match CallError::new(OPERATION, error) {
                CallError::NotFound { .. } => return Ok(None),
                error => return Err(error),
            },
        };
        let Some(found) = answer.launch_templates().first() else {
            return Ok(None);
        };
        let id = found.launch_template_id();
        let template = template(id, found.default_version_number());
        template.map(Some).ok_or_else(|| incomplete(OPERATION))
    }

    /// None: the template has no such version.
    pub async fn template_version(
        &self,
        template: &Template,
    ) -> Result<Option<TemplateVersion>, CallError> {
        const OPERATION: &str = "DescribeLaunchTemplateVersions";
        let call = self.client.describe_launch_template_versions();
        let call = call
            .launch_template_id(&template.id)
            .versions(template.version.to_string());
        let answer = match call.send().await {
            Ok(answer) => answer,
            Err(error) => match CallError::new(OPERATION, error) {
                CallError::NotFound { .. } => return Ok(None),
                error => return Err(error),
            },
        };
        let found = answer.launch_template_versions().first();
        Ok(found.map(|version| described(version.launch_template_data())))
    }

    async fn create_template(
        &self,
        spec: &TemplateSpec,
        fingerprint: &str,
    ) -> Result<Template, CallError> {
        const OPERATION: &str = "CreateLaunchTemplate";
        let mut call = self
            .client
            .create_launch_template()
            .launch_template_name(&spec.name)
            .version_description(fingerprint)
            .launch_template_data(data(spec));
        if !spec.tags.is_empty() {
            let of_template = TagSpecification::builder()
                .resource_type(ResourceType::LaunchTemplate)
                .set_tags(Some(tags(&spec.tags)));
            call = call.tag_specifications(of_template.build());
        }
        let made = call
            .send()
            .await
            .map_err(|error| CallError::new(OPERATION, error))?;
        let made = made.launch_template();
        let id = made.and_then(|made| made.launch_template_id());
        let version = made.and_then(LaunchTemplate::latest_version_number);
        template(id, version).ok_or_else(|| incomplete(OPERATION))
    }

    async fn create_version(
        &self,
        id: &str,
        spec: &TemplateSpec,
        fingerprint: &str,
    ) -> Result<Template, CallError> {
        const OPERATION: &str = "CreateLaunchTemplateVersion";
        let made = self
            .client
            .create_launch_template_version()
            .launch_template_id(id)
            .version_description(fingerprint)
            .launch_template_data(data(spec))
            .send()
            .await
            .map_err(|error| CallError::new(OPERATION, error))?;
        let version = made.launch_template_version();
        let version = version.and_then(LaunchTemplateVersion::version_number);
        template(Some(id), version).ok_or_else(|| incomplete(OPERATION))
    }

    /// The oldest version with this description.
    async fn find_version(&self, id: &str, fingerprint: &str) -> Result<Option<u64>, CallError> {
        const OPERATION: &str = "DescribeLaunchTemplateVersions";
        let mut found = None;
        let mut token = None;
        for _ in 0..MAX_PAGES {
            let page = self
                .client
                .describe_launch_template_versions()
                .launch_template_id(id)
                .max_results(PAGE)
                .set_next_token(token)
                .send()
                .await
                .map_err(|error| CallError::new(OPERATION, error))?;
            let versions = page.launch_template_versions().iter();
            let ours = versions.filter(|v| v.version_description() == Some(fingerprint));
            let oldest = ours.filter_map(|v| u64::try_from(v.version_number()?).ok());
            found = oldest.chain(found).min();
            token = page.next_token.filter(|token| !token.is_empty());
            if token.is_none() {
                return Ok(found);
            }
        }
        Err(endless(OPERATION))
    }
}

fn described(data: Option<&ResponseLaunchTemplateData>) -> TemplateVersion {
    let metadata = data.and_then(ResponseLaunchTemplateData::metadata_options);
    let specifications = data.map_or(&[][..], ResponseLaunchTemplateData::tag_specifications);
    let of_spot = specifications
        .iter()
        .filter(|one| one.resource_type() == Some(&ResourceType::SpotInstancesRequest));
    let tags = of_spot.flat_map(LaunchTemplateTagSpecification::tags);
    let devices = data.map_or(&[][..], ResponseLaunchTemplateData::block_device_mappings);
    let volumes = devices
        .iter()
        .filter_map(LaunchTemplateBlockDeviceMapping::ebs);
    let sizes = volumes.filter_map(LaunchTemplateEbsBlockDevice::volume_size);
    TemplateVersion {
        ends_on_shutdown: data.and_then(|data| data.instance_initiated_shutdown_behavior())
            == Some(&ShutdownBehavior::Terminate),
        metadata_tags: metadata.and_then(|metadata| metadata.instance_metadata_tags())
            == Some(&LaunchTemplateInstanceMetadataTagsState::Enabled),
        tokens_required: metadata.and_then(|metadata| metadata.http_tokens())
            == Some(&LaunchTemplateHttpTokensState::Required),
        spot_request_tags: tags
            .filter_map(|tag| Some((tag.key()?.to_owned(), tag.value()?.to_owned())))
            .collect(),
        volume_gib: sizes.filter_map(|gib| u32::try_from(gib).ok()).sum(),
    }
}

fn template(id: Option<&str>, version: Option<i64>) -> Option<Template> {
    Some(Template {
        id: id?.to_owned(),
        version: u64::try_from(version?).ok()?,
    })
}

fn incomplete(operation: &'static str) -> CallError {
    CallError::malformed(operation, "a template without id or version")
}

/// The whole content of a version; never a difference to another one.
fn data(spec: &TemplateSpec) -> RequestLaunchTemplateData {
    let profile = spec.instance_profile.as_ref().map(|profile| {
        let builder = LaunchTemplateIamInstanceProfileSpecificationRequest::builder();
        match profile.starts_with("arn:") {
            true => builder.arn(profile),
            false => builder.name(profile),
        }
        .build()
    });
    let disk = LaunchTemplateEbsBlockDeviceRequest::builder()
        .volume_type(VolumeType::Gp3)
        .volume_size(i32::try_from(spec.volume_gib).unwrap_or(i32::MAX))
        .encrypted(true)
        .delete_on_termination(true)
        .build();
    let disk = LaunchTemplateBlockDeviceMappingRequest::builder()
        .device_name(&spec.root_device)
        .ebs(disk)
        .build();
    let metadata = LaunchTemplateInstanceMetadataOptionsRequest::builder()
        .http_tokens(LaunchTemplateHttpTokensState::Required)
        .http_put_response_hop_limit(METADATA_HOPS)
        .instance_metadata_tags(LaunchTemplateInstanceMetadataTagsState::Enabled)
        .build();
    let mut builder = RequestLaunchTemplateData::builder()
        .image_id(&spec.image_id)
        .set_iam_instance_profile(profile)
        .block_device_mappings(disk)
        .metadata_options(metadata)
        .instance_initiated_shutdown_behavior(ShutdownBehavior::Terminate)
        .user_data(BASE64.encode(&spec.user_data));
    for group in &spec.security_groups {
        builder = builder.security_group_ids(group);
    }
    let born_with = [ResourceType::NetworkInterface]
        .into_iter()
        .chain(spec.spot_only.then_some(ResourceType::SpotInstancesRequest));
    for kind in born_with.filter(|_| !spec.tags.is_empty()) {
        let tagged = LaunchTemplateTagSpecificationRequest::builder()
            .resource_type(kind)
            .set_tags(Some(tags(&spec.tags)));
        builder = builder.tag_specifications(tagged.build());
    }
    builder.build()
}
