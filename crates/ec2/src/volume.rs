//! The volumes of a launch template, which are billed in addition to the instance.

use aws_sdk_ec2::types::{LaunchTemplateBlockDeviceMapping, LaunchTemplateEbsBlockDevice};
use spotreel_domain::fleet::cloud::Template;

use crate::{CallError, Ec2};

impl Ec2 {
    /// GiB of all volumes in this version of the template. A version never changes.
    pub async fn volume_gib(&self, template: &Template) -> Result<u32, CallError> {
        const OPERATION: &str = "DescribeLaunchTemplateVersions";
        let answer = self
            .client
            .describe_launch_template_versions()
            .launch_template_id(&template.id)
            .versions(template.version.to_string())
            .send()
            .await
            .map_err(|error| CallError::new(OPERATION, error))?;
        let version = answer.launch_template_versions().first();
        let data = version.and_then(|version| version.launch_template_data());
        let data = data.ok_or_else(|| CallError::malformed(OPERATION, "a version without data"))?;
        let sizes = data
            .block_device_mappings()
            .iter()
            .filter_map(LaunchTemplateBlockDeviceMapping::ebs)
            .filter_map(LaunchTemplateEbsBlockDevice::volume_size);
        Ok(sizes.filter_map(|gib| u32::try_from(gib).ok()).sum())
    }
}
