//! `spotreel fleet template`: what machines are made from.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use anyhow::Context;
use spotreel_domain::fleet::cloud::tag;
use spotreel_ec2::{TemplateSpec, UserData};

use crate::args::TemplateArgs;
use crate::connection::Settings;
use crate::done::Done;
use crate::print::{self, line};
use crate::reap;

pub async fn run(settings: &Settings, args: TemplateArgs) -> anyhow::Result<Done> {
    let script = match &args.user_data {
        Some(path) => read(path)?,
        None => render(&args)?,
    };
    if args.print {
        line(script.trim_end());
        return Ok(Done::Well);
    }
    let ec2 = reap::connect(settings, &args.ec2).await?;
    let env = reap::env(settings, args.env.as_ref())?;
    let mut tags: BTreeMap<_, _> = args.tags.into_iter().collect();
    // Fleet's policy lets it launch from what carries its environment, and make nothing that does not.
    tags.insert(tag::ENV.to_owned(), env);
    tags.insert(tag::MANAGED_BY.to_owned(), tag::MANAGED_BY_FLEET.to_owned());
    let spec = TemplateSpec {
        instance_profile: args.instance_profile,
        security_groups: args.security_groups,
        root_device: args.root_device,
        volume_gib: args.volume_gib,
        tags,
        ..TemplateSpec::new(args.name, args.ami.unwrap_or_default(), script)
    };
    let template = ec2.ensure_versions(&spec).await.map_err(reap::explain)?;
    if args.json {
        print::json(&template);
    } else {
        line(&format!(
            "template = {{ id = \"{}\", version = {}, on_demand_version = {} }}",
            template.id,
            template.version,
            template.on_demand_version.unwrap_or_default()
        ));
    }
    Ok(Done::Well)
}

fn render(args: &TemplateArgs) -> anyhow::Result<String> {
    let data = UserData {
        max_life: args.max_life,
        idle: Some(args.idle),
        parameters: args.parameters.clone().unwrap_or_default(),
        image: args.image.clone().unwrap_or_default(),
        models: args.models.clone(),
        bucket: args.bucket.clone(),
        models_bucket: args.models_bucket.clone(),
        models_image: args.models_image.clone(),
        gpus: !args.no_gpus,
    };
    Ok(data.render()?)
}

fn read(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    if path.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
