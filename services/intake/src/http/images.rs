//! Pictures for tasks that begin with one, sent as they are.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json};
use spotreel_api::Uploaded;

use super::api::Api;
use super::body::{self, Place};
use super::problem::Problem;
use crate::error;
use crate::images::MAX_IMAGE_BYTES;
use crate::keys::Caller;

const MEDIA_TYPES: [&str; 4] = [
    "image/jpeg",
    "image/png",
    "image/webp",
    "application/octet-stream",
];

/// Keeps a picture: JPEG, PNG or WebP of at most 20 MB, decoded and checked.
#[utoipa::path(
    post, path = "/v1/images", tag = "images", operation_id = "upload_image",
    request_body(content((Vec<u8> = "image/png"), (Vec<u8> = "image/jpeg"), (Vec<u8> = "image/webp"), (Vec<u8> = "application/octet-stream"))),
    responses((status = 201, body = Uploaded), super::openapi::Refusals)
)]
pub(super) async fn upload(
    State(api): State<Api>,
    caller: Caller,
    Extension(place): Extension<Place>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<Uploaded>), Problem> {
    let kind = body::media_type(&headers)?.unwrap_or_default();
    if !MEDIA_TYPES.contains(&kind.as_str()) {
        let message = format!("Content-Type is one of {}", MEDIA_TYPES.join(", "));
        return Err(error::unsupported(message).into());
    }
    api.admit(&caller, 1)?;
    let held = body::read(&api, &caller, &place, &headers, body, MAX_IMAGE_BYTES).await?;
    let (bytes, _share) = held.into_parts();
    let kept = api.intake.images.keep(bytes, "body").await?;
    let uploaded = Uploaded {
        s3_key: kept.key,
        width: kept.width,
        height: kept.height,
    };
    Ok((StatusCode::CREATED, Json(uploaded)))
}
