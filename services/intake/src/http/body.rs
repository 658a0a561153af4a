//! Bodies: how long, how large, and the place of their request among those at work.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use parking_lot::Mutex;
use spotreel_api::ApiError;

use super::api::Api;
use super::budget::Held;
use super::shares::Share;
use crate::error;
use crate::keys::Caller;

const MIB: usize = 1 << 20;

/// The place of a request among those at work: taken before the handler runs, or once the body has arrived.
#[derive(Clone, Default)]
pub(super) struct Place(Arc<Mutex<Option<Share>>>);

impl Place {
    pub fn put(&self, share: Share) {
        *self.0.lock() = Some(share);
    }

    pub fn take(&self) -> Option<Share> {
        let mut place = self.0.lock();
        place.take()
    }
}

/// An answer that keeps its place among the requests at work until it is read, however slowly.
pub(super) struct Placed {
    pub body: Body,
    pub _place: Option<Share>,
}

impl HttpBody for Placed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Reads a body whole, then takes the request's place among those at work: a body that never comes keeps nobody out.
pub(super) async fn read(
    api: &Api,
    caller: &Caller,
    place: &Place,
    headers: &HeaderMap,
    body: Body,
    largest: usize,
) -> Result<Held, ApiError> {
    let within = api.config.body_timeout;
    let _arriving = api.arriving.take(Some(caller))?;
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|announced| announced > largest) {
        return Err(too_large(largest));
    }
    let reading = async {
        let mut held = api.budget.hold(caller);
        let mut body = body;
        while let Some(chunk) = next_chunk(&mut body).await? {
            if held.len() + chunk.len() > largest {
                return Err(too_large(largest));
            }
            held.add(&chunk)?;
        }
        Ok(held)
    };
    let read = tokio::time::timeout(within, reading).await;
    let held = read.map_err(|_| timed_out(within))??;
    place.put(api.places.take(Some(caller))?);
    Ok(held)
}

/// The next bytes of a body; none: it has ended.
pub(super) async fn next_chunk(body: &mut Body) -> Result<Option<Bytes>, ApiError> {
    loop {
        match body.frame().await {
            None => return Ok(None),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
            Some(Err(broken)) => {
                let message = format!("the body broke off: {broken}");
                return Err(error::broken("body", "whole", message));
            }
        }
    }
}

/// The media type without its parameters, in lower case. A body that is packed is refused: nothing here unpacks.
pub(super) fn media_type(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let packed =
        |value: &axum::http::HeaderValue| !value.as_bytes().eq_ignore_ascii_case(b"identity");
    if headers.get_all(CONTENT_ENCODING).iter().any(packed) {
        let message = "the body is packed: send it without Content-Encoding";
        return Err(error::unsupported(message.into()));
    }
    let mut given = headers.get_all(CONTENT_TYPE).iter();
    let first = given.next();
    if given.next().is_some() {
        return Err(error::unsupported("Content-Type stands there twice".into()));
    }
    let Some(first) = first else { return Ok(None) };
    let text = first.to_str().unwrap_or_default();
    let kind = text.split(';').next().unwrap_or_default().trim();
    Ok(Some(kind.to_ascii_lowercase()))
}

pub(super) fn too_large(largest: usize) -> ApiError {
    let mib = largest / MIB;
    error::too_large(format!(
        "the body is larger than {mib} MiB: send it in pieces, pictures by POST /v1/images"
    ))
}

pub(super) fn timed_out(within: Duration) -> ApiError {
    error::timed_out(format!(
        "the body did not arrive within {} s: send it again, in smaller pieces",
        within.as_secs()
    ))
}
