//! From a request to its caller.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use spotreel_bootstrap::ambient;
use spotreel_bus::KeyRefused;

use super::api::Api;
use super::problem::Problem;
use crate::error;
use crate::keys::Caller;

impl FromRequestParts<Api> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let Some(keys) = &api.keys else {
            return Ok(Self::Trusted);
        };
        let mut given = parts.headers.get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (given.next(), given.next()) else {
            return Err(refuse(
                "send your key in one header: Authorization: Bearer spotreel_…",
            ));
        };
        let token = value.to_str().ok().and_then(bearer);
        let Some(token) = token else {
            return Err(refuse("the header is Authorization: Bearer spotreel_…"));
        };
        if !keys.is_ready() {
            return Err(error::unavailable("the keys cannot be read now").into());
        }
        match keys.find(token, ambient::now()) {
            Ok(key) => Ok(Self::Key(Arc::new(key))),
            Err(refused) => Err(refuse(match refused {
                KeyRefused::Malformed => "this is no key of spotreel: they begin with spotreel_",
                // Not told apart from a wrong secret: who guesses learns nothing.
                KeyRefused::Unknown => "this key is not known, or was revoked: ask for a new one",
                KeyRefused::Expired => "this key has expired: ask for a new one",
            })),
        }
    }
}

/// The scheme's name has no case (RFC 9110, 11.1).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim_matches(' '))
}

fn refuse(message: &str) -> Problem {
    Problem(error::unauthorized(message.to_owned()))
}
