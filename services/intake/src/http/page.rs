//! The page at `/`, for people: plain files that call the API from the browser. They are compiled in, so a program and its page
//! have one version.
//!
//! The page needs no key; it asks for one and sends it with each call of the API. Its files are below an address with the hash of
//! all of them, so that browsers keep them for good and never mix two versions.

use std::net::IpAddr;
use std::sync::LazyLock;

use axum::extract::{Path, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HOST, IF_NONE_MATCH,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use super::api::Api;
use super::problem::Problem;
use crate::error;

macro_rules! files {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_bytes!(concat!("../../web/", $path)))),*]
    };
}

const INDEX: &str = include_str!("../../web/index.html");
/// Every other file of `web/`.
const FILES: &[(&str, &[u8])] = files![
    "css/base.css",
    "css/parts.css",
    "icon.svg",
    "js/api.js",
    "js/early.js",
    "js/format.js",
    "js/i18n.js",
    "js/i18n/en.js",
    "js/i18n/zh-CN.js",
    "js/main.js",
    "js/store.js",
    "js/stream.js",
    "js/view/batches.js",
    "js/view/chart.js",
    "js/view/cost.js",
    "js/view/frame.js",
    "js/view/key.js",
    "js/view/pools.js",
    "js/view/queue.js",
    "js/view/story.js",
    "js/view/submit.js",
    "js/view/tasks.js",
    "js/view/timeline.js",
    "js/view/videos.js",
    "vendor/LICENSE-htm.txt",
    "vendor/LICENSE-preact.txt",
    "vendor/htm-preact.js",
];
/// Where `index.html` names the hash.
const PLACE_OF_HASH: &str = "@VERSION@";
/// Enough to tell two versions apart.
const HASH_BYTES: usize = 8;
/// Of this hash no other content will ever come: a year, which is the longest that caches heed.
const FOR_GOOD: &str = "public, max-age=31536000, immutable";
/// Any object: only the address before it is looked at.
const SOME_VIDEO: &str = "renders/page";

struct Page {
    hash: String,
    etag: String,
    index: String,
}

static PAGE: LazyLock<Page> = LazyLock::new(|| {
    let mut hash = Sha256::new();
    for (path, content) in FILES.iter().copied().chain([("", INDEX.as_bytes())]) {
        hash.update(path);
        hash.update(content);
    }
    let hash = hex::encode(&hash.finalize()[..HASH_BYTES]);
    Page {
        etag: format!("\"{hash}\""),
        index: INDEX.replace(PLACE_OF_HASH, &hash),
        hash,
    }
});

pub(super) async fn index(State(api): State<Api>, headers: HeaderMap) -> Response {
    let videos = api.intake.images.link_for_head(SOME_VIDEO).await;
    let videos = videos.as_deref().and_then(origin).unwrap_or_default();
    let ours = [
        (CONTENT_SECURITY_POLICY, policy(&videos)),
        (CACHE_CONTROL, "no-cache".to_owned()),
        (ETAG, PAGE.etag.clone()),
        (REFERRER_POLICY, "no-referrer".to_owned()),
        (X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    let has = headers.get(IF_NONE_MATCH);
    if has.is_some_and(|has| has.as_bytes() == PAGE.etag.as_bytes()) {
        return (StatusCode::NOT_MODIFIED, ours).into_response();
    }
    let kind = [(CONTENT_TYPE, "text/html; charset=utf-8")];
    (ours, kind, PAGE.index.as_str()).into_response()
}

/// While programs are upgraded, the page of one version may ask the other one for its files: it gets what is there, which caches
/// then do not keep.
pub(super) async fn file(
    named: Result<Path<(String, String)>, axum::extract::rejection::PathRejection>,
    uri: Uri,
) -> Response {
    let found = named.ok().and_then(|Path((hash, path))| {
        let (path, content) = FILES.iter().find(|(known, _)| *known == path)?;
        Some((hash, content_type(path), *content))
    });
    let Some((hash, kind, content)) = found else {
        return Problem(error::no_such_page(uri.path())).into_response();
    };
    let keep = match hash == PAGE.hash {
        true => FOR_GOOD,
        false => "no-store",
    };
    let headers = [
        (CONTENT_TYPE, kind),
        (CACHE_CONTROL, keep),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, content).into_response()
}

/// Nothing but this program's own files and calls; and pictures and videos from where the object store is.
fn policy(videos: &str) -> String {
    let media = format!("'self' {videos}");
    let media = media.trim_end();
    format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
         img-src {media}; media-src {media}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

/// Scheme and host of an address, as a policy names them.
fn origin(url: &str) -> Option<String> {
    let url: Uri = url.parse().ok()?;
    Some(format!("{}://{}", url.scheme_str()?, url.authority()?))
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit('.').next() {
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "text/plain; charset=utf-8",
    }
}

/// Without keys, whoever reaches the address may do everything. A page from elsewhere whose name is made to point here (DNS
/// rebinding) sends that name, and is refused.
pub(super) async fn check_host(State(api): State<Api>, request: Request, next: Next) -> Response {
    let host = request.headers().get(HOST);
    let is_ours = host.is_none_or(|host| {
        let host = host.to_str();
        host.is_ok_and(|host| host.is_empty() || is_ours(host, &api.config.allow_origins))
    });
    if api.keys.is_none() && !is_ours {
        let message = "api.auth is off, so names with a dot are refused: use http://localhost or an IP address, or add the name's origin to api.allow_origins";
        return Problem(error::unauthorized(message.to_owned())).into_response();
    }
    next.run(request).await
}

/// Nobody can point an address, localhost or a name without a dot to another machine's page.
fn is_ours(host: &str, allowed: &[String]) -> bool {
    let name = |text: &str| {
        let authority: Option<Authority> = text.parse().ok();
        authority.map(|authority| authority.host().to_ascii_lowercase())
    };
    let Some(host) = name(host) else { return false };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    !host.contains('.')
        || bare.parse::<IpAddr>().is_ok()
        || host.ends_with(".localhost")
        || allowed.iter().any(|origin| {
            let authority = origin.split_once("://").map(|(_, authority)| authority);
            authority.and_then(name).as_ref() == Some(&host)
        })
}
