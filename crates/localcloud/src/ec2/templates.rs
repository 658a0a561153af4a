//! Launch templates and their versions.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::error::Refusal;
use super::filters::{Filters, numbered, page};
use super::launcher::{Answer, Launcher};
use super::query::Node;
use super::state::{Ec2State, Template, Version, id_of, stamp, well_formed};
use super::tags::{check_tags, tag_items, tag_values};
use super::xml::{Element, item};

/// AWS's limit, before base64.
const LONGEST_USER_DATA: usize = 16 * 1024;
const NAME_LENGTHS: std::ops::RangeInclusive<usize> = 3..=128;
const PAGE: (usize, usize) = (1, 200);

pub(crate) fn create(state: &mut Ec2State, launcher: &Launcher<'_>, request: &Node) -> Answer {
    let name = request.required("LaunchTemplateName")?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || "().-/_".contains(c);
    if !NAME_LENGTHS.contains(&name.len()) || !name.chars().all(allowed) {
        let message = "Launch template name is malformed";
        let code = "InvalidLaunchTemplateName.MalformedException";
        return Err(Refusal::new(code, message));
    }
    if state.templates.values().any(|known| known.name == name) {
        let message = "Launch template name already in use.";
        let code = "InvalidLaunchTemplateName.AlreadyExistsException";
        return Err(Refusal::new(code, message));
    }
    let data = request.child("LaunchTemplateData").cloned();
    let data = data.ok_or_else(|| Refusal::missing("LaunchTemplateData"))?;
    check(&data)?;
    let tags = request.tags_for("launch-template")?;
    check_tags(&tags)?;
    launcher.dry_run(request)?;
    let template = Template {
        // A local cloud that was started again gives the same name the same id, so pools that name it stay right.
        id: id_of("lt-", name),
        name: name.to_owned(),
        created: launcher.now,
        tags,
        default_version: 1,
        versions: vec![Version {
            number: 1,
            description: request.text("VersionDescription").map(str::to_owned),
            created: launcher.now,
            data,
        }],
    };
    let element = describe(&template, "launchTemplate");
    state.templates.insert(template.id.clone(), template);
    Ok(Element::new("").with(element))
}

pub(crate) fn create_version(
    state: &mut Ec2State,
    launcher: &Launcher<'_>,
    request: &Node,
) -> Answer {
    let id = find(state, request)?.id.clone();
    let data = request.child("LaunchTemplateData").cloned();
    let data = data.ok_or_else(|| Refusal::missing("LaunchTemplateData"))?;
    check(&data)?;
    launcher.dry_run(request)?;
    let Some(template) = state.templates.get_mut(&id) else {
        return Err(no_id(&id));
    };
    // What the new version does not name it takes from the source; what it names, it names whole.
    let data = match request.text("SourceVersion") {
        Some(source) => version(template, source)?.data.merged(&data),
        None => data,
    };
    let number = template.versions.last().map_or(0, |last| last.number) + 1;
    template.versions.push(Version {
        number,
        description: request.text("VersionDescription").map(str::to_owned),
        created: launcher.now,
        data,
    });
    let element = describe_version(template, version(template, &number.to_string())?);
    Ok(Element::new("").with(element.renamed("launchTemplateVersion")))
}

pub(crate) fn delete(state: &mut Ec2State, launcher: &Launcher<'_>, request: &Node) -> Answer {
    let id = find(state, request)?.id.clone();
    launcher.dry_run(request)?;
    let template = state.templates.remove(&id).ok_or_else(|| no_id(&id))?;
    Ok(Element::new("").with(describe(&template, "launchTemplate")))
}

pub(crate) fn list(state: &Ec2State, launcher: &Launcher<'_>, request: &Node) -> Answer {
    for id in request.texts("LaunchTemplateId") {
        by_id(state, id)?;
    }
    for name in request.texts("LaunchTemplateName") {
        by_name(state, name)?;
    }
    let ids = request.texts("LaunchTemplateId");
    let names = request.texts("LaunchTemplateName");
    let filters = Filters::of(
        request,
        &["launch-template-name", "create-time", "tag:", "tag-key"],
    )?;
    launcher.dry_run(request)?;
    let found = state.templates.values().filter(|template| {
        (ids.is_empty() || ids.contains(&template.id.as_str()))
            && (names.is_empty() || names.contains(&template.name.as_str()))
            && filters.match_all(|name| match name {
                "launch-template-name" => vec![template.name.as_str()],
                _ => tag_values(&template.tags, name),
            })
    });
    let (found, next) = page(request, PAGE, numbered(found))?;
    let items = found.into_iter().map(|template| describe(template, "item"));
    let answer = Element::new("").set("launchTemplates", items);
    Ok(answer.text_if("nextToken", next))
}

pub(crate) fn list_versions(state: &Ec2State, launcher: &Launcher<'_>, request: &Node) -> Answer {
    launcher.dry_run(request)?;
    let asked = request.texts("LaunchTemplateVersion");
    let one = request.has("LaunchTemplateId") || request.has("LaunchTemplateName");
    let alias = |version: &&str| version.starts_with('$');
    if !one && (asked.is_empty() || !asked.iter().all(alias)) {
        return Err(Refusal::missing("LaunchTemplateId"));
    }
    let templates: Vec<&Template> = if one {
        vec![find(state, request)?]
    } else {
        state.templates.values().collect()
    };
    let mut found = Vec::new();
    for template in templates {
        if asked.is_empty() {
            let least = request.parsed("MinVersion")?.unwrap_or(0);
            let most = request.parsed("MaxVersion")?.unwrap_or(u64::MAX);
            let versions = template.versions.iter().rev();
            let within = versions.filter(|version| (least..=most).contains(&version.number));
            found.extend(within.map(|version| (template, version)));
        }
        for name in &asked {
            found.push((template, version(template, name)?));
        }
    }
    let (found, next) = page(request, PAGE, numbered(found))?;
    let items = found
        .into_iter()
        .map(|(template, version)| describe_version(template, version));
    let answer = Element::new("").set("launchTemplateVersionSet", items);
    Ok(answer.text_if("nextToken", next))
}

/// The template that a request names by id or by name.
pub(crate) fn find<'a>(state: &'a Ec2State, request: &Node) -> Result<&'a Template, Refusal> {
    match (
        request.text("LaunchTemplateId"),
        request.text("LaunchTemplateName"),
    ) {
        (Some(_), Some(_)) => {
            let message =
                "Exactly one of launch template ID and launch template name must be given";
            Err(Refusal::new("InvalidParameterCombination", message))
        }
        (Some(id), None) => by_id(state, id),
        (None, Some(name)) => by_name(state, name),
        (None, None) => Err(Refusal::missing("LaunchTemplateId")),
    }
}

fn by_id<'a>(state: &'a Ec2State, id: &str) -> Result<&'a Template, Refusal> {
    if !well_formed(id, "lt-") {
        let message = format!("Launch template ID {id} is malformed");
        return Err(Refusal::new("InvalidLaunchTemplateId.Malformed", message));
    }
    state.templates.get(id).ok_or_else(|| no_id(id))
}

fn no_id(id: &str) -> Refusal {
    let message = format!("The specified launch template, with template ID {id}, does not exist.");
    Refusal::new("InvalidLaunchTemplateId.NotFound", message)
}

fn by_name<'a>(state: &'a Ec2State, name: &str) -> Result<&'a Template, Refusal> {
    let mut templates = state.templates.values();
    templates.find(|known| known.name == name).ok_or_else(|| {
        let message =
            format!("The specified launch template, with template name {name}, does not exist.");
        Refusal::new("InvalidLaunchTemplateName.NotFoundException", message)
    })
}

/// A version by its number, `$Latest` or `$Default`.
pub(crate) fn version<'a>(template: &'a Template, name: &str) -> Result<&'a Version, Refusal> {
    let number = match name {
        "$Latest" => template.versions.last().map(|last| last.number),
        "$Default" => Some(template.default_version),
        number => number.parse().ok(),
    };
    let mut versions = template.versions.iter();
    let found = versions.find(|version| Some(version.number) == number);
    found.ok_or_else(|| {
        let id = &template.id;
        let message = format!(
            "Could not find the specified version {name} for the launch template with ID {id}."
        );
        Refusal::new("InvalidLaunchTemplateId.VersionNotFound", message)
    })
}

/// The user data of a template, decoded.
pub(crate) fn user_data(data: &Node) -> Result<Vec<u8>, Refusal> {
    let text = data.text("UserData").unwrap_or("");
    BASE64_STANDARD.decode(text).map_err(|_| {
        let message = "Invalid BASE64 encoding of user data.";
        Refusal::new("InvalidUserData.Malformed", message)
    })
}

fn check(data: &Node) -> Result<(), Refusal> {
    if user_data(data)?.len() > LONGEST_USER_DATA {
        let message = "User data is limited to 16384 bytes";
        return Err(Refusal::new("InvalidParameterValue", message));
    }
    if let Some(behavior) = data.text("InstanceInitiatedShutdownBehavior")
        && !["stop", "terminate"].contains(&behavior)
    {
        let name = "InstanceInitiatedShutdownBehavior";
        return Err(Refusal::invalid(behavior, name));
    }
    Ok(())
}

fn describe(template: &Template, name: &str) -> Element {
    let latest = template.versions.last().map_or(0, |last| last.number);
    Element::new(name)
        .text("launchTemplateId", &template.id)
        .text("launchTemplateName", &template.name)
        .text("createTime", stamp(template.created))
        .text("createdBy", "arn:aws:iam::local:root")
        .text("defaultVersionNumber", template.default_version)
        .text("latestVersionNumber", latest)
        .set("tagSet", tag_items(&template.tags))
}

fn describe_version(template: &Template, version: &Version) -> Element {
    let default = version.number == template.default_version;
    item()
        .text("launchTemplateId", &template.id)
        .text("launchTemplateName", &template.name)
        .text("versionNumber", version.number)
        .text_if("versionDescription", version.description.as_ref())
        .text("createTime", stamp(version.created))
        .text("createdBy", "arn:aws:iam::local:root")
        .text("defaultVersion", default)
        .with(mirror("launchTemplateData", &version.data))
}

/// Requests say `TagSpecification.1.ResourceType`, answers `tagSpecificationSet/item/resourceType`: one rule for all of
/// the template's data, with the exceptions that AWS made.
fn mirror(name: &str, node: &Node) -> Element {
    if let Some(text) = node.value() {
        return Element::leaf(name, text);
    }
    let mut element = Element::new(name);
    for (name, child) in node.children() {
        let entries = child.entries();
        let lower = lower_first(name);
        element = if entries.is_empty() {
            element.with(mirror(&lower, child))
        } else {
            let set = match name {
                "LicenseSpecification" => "licenseSet".to_owned(),
                _ => format!("{lower}Set"),
            };
            element.set(&set, entries.into_iter().map(|entry| mirror("item", entry)))
        };
    }
    element
}

fn lower_first(name: &str) -> String {
    let mut chars = name.chars();
    let first = chars.next().map(|first| first.to_ascii_lowercase());
    first.into_iter().chain(chars).collect()
}
