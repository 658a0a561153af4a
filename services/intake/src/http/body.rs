//! Bodies: how long, how large, how many bytes of them at once.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use spotreel_domain::api::ApiError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error;

const KIB: usize = 1_024;
/// What a whole body may hold without asking: as many of them as can be at work at once still fit everywhere.
const FREE: usize = 64 * KIB;

/// The memory that all bodies together may hold.
#[derive(Clone)]
pub(super) struct Budget {
    kib: Arc<Semaphore>,
}

/// Bytes with the part of the budget that they take, until they are dropped.
pub(super) struct Held {
    bytes: BytesMut,
    /// So many of them ask for nothing.
    free: usize,
    share: Option<OwnedSemaphorePermit>,
}

impl Budget {
    pub fn new(mib: usize) -> Self {
        Self {
            kib: Arc::new(Semaphore::new(mib * KIB)),
        }
    }

    /// For a whole body.
    fn hold(&self) -> Held {
        Held {
            bytes: BytesMut::new(),
            free: FREE,
            share: None,
        }
    }

    /// For one of many that are held at the same time: all of it counts.
    pub fn hold_part(&self) -> Held {
        Held {
            free: 0,
            ..self.hold()
        }
    }

    /// Adds to what is held. The budget gives at once or not at all: who waited would keep what it has meanwhile, and
    /// all would wait for each other.
    pub fn add(&self, held: &mut Held, chunk: &[u8]) -> Result<(), ApiError> {
        let wanted = (held.bytes.len() + chunk.len())
            .saturating_sub(held.free)
            .div_ceil(KIB);
        let had = held
            .share
            .as_ref()
            .map_or(0, OwnedSemaphorePermit::num_permits);
        if wanted > had {
            let more = u32::try_from(wanted - had).unwrap_or(u32::MAX);
            let Ok(more) = self.kib.clone().try_acquire_many_owned(more) else {
                return Err(error::busy(
                    "too many large requests arrive at the same time",
                ));
            };
            match &mut held.share {
                Some(share) => share.merge(more),
                none => *none = Some(more),
            }
        }
        held.bytes.extend_from_slice(chunk);
        Ok(())
    }
}

impl Held {
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes, and their part of the budget, which is theirs for as long as somebody holds them.
    pub fn into_parts(self) -> (Bytes, Option<OwnedSemaphorePermit>) {
        (self.bytes.freeze(), self.share)
    }
}

/// An answer that keeps its place among the requests at work until it is read, however slowly.
pub(super) struct Placed {
    pub body: Body,
    pub _place: OwnedSemaphorePermit,
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

/// Reads a body whole.
pub(super) async fn read(
    budget: &Budget,
    headers: &HeaderMap,
    body: Body,
    largest: usize,
    within: Duration,
) -> Result<Held, ApiError> {
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|announced| announced > largest) {
        return Err(too_large(largest));
    }
    let reading = async {
        let mut held = budget.hold();
        let mut body = body;
        while let Some(chunk) = next_chunk(&mut body).await? {
            if held.len() + chunk.len() > largest {
                return Err(too_large(largest));
            }
            budget.add(&mut held, &chunk)?;
        }
        Ok(held)
    };
    match tokio::time::timeout(within, reading).await {
        Ok(read) => read,
        Err(_) => Err(timed_out(within)),
    }
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
    let mib = largest / KIB / KIB;
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
