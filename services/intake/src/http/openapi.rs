//! What the description of the API says beside its routes: the refusals that all share, and the frame around them.

use std::collections::BTreeMap;

use spotreel_api::ProblemBody;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    Components, ContentBuilder, Info, License, OpenApi, OpenApiBuilder, Ref, RefOr, Response,
    ResponseBuilder, Tag,
};
use utoipa::{IntoResponses, ToSchema};

use super::problem::CONTENT_TYPE;

/// What every route may answer instead of what it promises.
pub(super) struct Refusals;

const REFUSALS: [(&str, &str); 11] = [
    (
        "400",
        "A rule is broken; `violations` names each with its field.",
    ),
    ("401", "No key, or one that is not good."),
    (
        "404",
        "The task does not exist, or belongs to another owner; for a quote: no pool renders the model; for a receipt: no such batch; for alarms: the key sees only its owner's tasks.",
    ),
    ("405", "The address does not answer to this method."),
    ("408", "The body did not arrive in time."),
    (
        "409",
        "The id exists with other content, or the task's state does not allow the request.",
    ),
    ("413", "Too large."),
    ("415", "Unsupported Content-Type or Content-Encoding."),
    ("429", "Later: see `Retry-After`."),
    ("500", "A fault in the program: report it."),
    (
        "503",
        "Temporarily unavailable: see `Retry-After`. It is safe to send the same request again.",
    ),
];

impl IntoResponses for Refusals {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let problem = Ref::from_schema_name(ProblemBody::name());
        let content = ContentBuilder::new().schema(Some(problem)).build();
        REFUSALS
            .into_iter()
            .map(|(status, description)| {
                let response = ResponseBuilder::new()
                    .description(description)
                    .content(CONTENT_TYPE, content.clone());
                (status.to_owned(), response.build().into())
            })
            .collect()
    }
}

/// What no route says by itself.
pub(super) fn frame() -> OpenApi {
    let mut info = Info::new("spotreel", env!("CARGO_PKG_VERSION"));
    info.description = Some(
        "Video generation with Wan2.2 on Spot GPUs: submit tasks, follow them, download the videos."
            .into(),
    );
    info.license = Some(License::new("Apache-2.0"));
    let tag = |name: &str, description: &str| {
        let mut tag = Tag::new(name);
        tag.description = Some(description.into());
        tag
    };
    let mut components = Components::new();
    let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    components.add_security_scheme("key", bearer);
    let mut schemas = Vec::new();
    ProblemBody::schemas(&mut schemas);
    schemas.push((
        ProblemBody::name().into(),
        <ProblemBody as utoipa::PartialSchema>::schema(),
    ));
    components.schemas.extend(schemas);
    OpenApiBuilder::new()
        .info(info)
        .components(Some(components))
        .security(Some([SecurityRequirement::new(
            "key",
            Vec::<String>::new(),
        )]))
        .tags(Some([
            tag("tasks", "One task is one video."),
            tag(
                "events",
                "Server-sent events; `Last-Event-ID` continues after a lost connection.",
            ),
            tag("images", "First frames."),
            tag("quotes", "What tasks will take and cost."),
            tag("fleet", "Queues, rules, batches and instances."),
            tag("alarms", "What needs an operator."),
            tag("costs", "What tasks and batches have cost, in US dollars."),
        ]))
        .build()
}
