//! What stands in a request's path and query.

use axum::Json;
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::HeaderValue;
use axum::http::header::LINK;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use spotreel_api::ApiError;
use spotreel_domain::TaskId;

use super::api::Api;
use super::problem::Problem;
use crate::error;

/// The task that the path names.
pub(super) struct Named(pub TaskId);

/// The query, every part of which is known.
pub(super) struct Asked<T>(pub T);

impl FromRequestParts<Api> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let named = match Path::<String>::from_request_parts(parts, api).await {
            Ok(Path(text)) => TaskId::parse(&text).map_err(|bad| bad.to_string()),
            Err(bad) => Err(bad.body_text()),
        };
        named
            .map(Self)
            .map_err(|bad| error::broken("id", "token", bad).into())
    }
}

impl<T: DeserializeOwned> FromRequestParts<Api> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        match Query::<T>::from_request_parts(parts, api).await {
            Ok(Query(query)) => Ok(Self(query)),
            Err(bad) => Err(explain(&bad.body_text()).into()),
        }
    }
}

/// A page, with the address of the next one in the header `Link`.
pub(super) fn paged(path: &str, page: impl Serialize, next: Option<impl Serialize>) -> Response {
    let mut response = Json(page).into_response();
    let link = next.and_then(|next| {
        let next = serde_urlencoded::to_string(next).expect("every field is a word or a number");
        HeaderValue::try_from(format!("<{path}?{next}>; rel=\"next\"")).ok()
    });
    if let Some(link) = link {
        response.headers_mut().insert(LINK, link);
    }
    response
}

/// serde's words, less what axum puts before them.
fn explain(text: &str) -> ApiError {
    let text = text
        .strip_prefix("Failed to deserialize query string: ")
        .unwrap_or(text);
    let quoted = text
        .split_once('`')
        .and_then(|(_, rest)| rest.split_once('`'))
        .map(|(name, _)| name);
    // "limit: invalid digit found in string" or "unknown field `x`, expected …"
    let named = text.split_once(": ").map(|(field, _)| field);
    let (field, rule) = match (quoted, named) {
        (Some(field), _) if text.starts_with("unknown field") => (field, "unknown"),
        (Some(field), _) if text.starts_with("duplicate field") => (field, "once"),
        (_, Some(field)) if !field.contains(' ') => (field, "type"),
        _ => ("query", "format"),
    };
    error::broken(field, rule, format!("the query: {text}"))
}
