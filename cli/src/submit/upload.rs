//! Pictures that are too large for a message.

use std::time::Duration;

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Method, RequestBuilder};
use spotreel_api::{ImageSource, TaskRequest, Uploaded};

use crate::connection::Settings;

const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// 20 MB over a slow line, and the check of the picture.
const ANSWER_WITHIN: Duration = Duration::from_secs(300);

/// Sends the task's picture over HTTP, and has the task name its key instead.
pub async fn picture(settings: &Settings, task: &mut TaskRequest) -> anyhow::Result<()> {
    let Some(ImageSource::Base64(text)) = &task.image else {
        bail!("the task is too large for a message: its prompt and labels must be shorter");
    };
    let Some(api) = settings.variable("SPOTREEL_API")? else {
        bail!(
            "the picture is too large for a message: set SPOTREEL_API to the address of the HTTP API, \
             and it is sent there"
        );
    };
    let http = reqwest::Client::builder()
        .connect_timeout(CONNECT_WITHIN)
        .timeout(ANSWER_WITHIN)
        .build()?;
    let api = api.trim_end_matches('/');
    let key = settings.api_key()?;
    let asked = |method, path| {
        let request = http.request(method, format!("{api}{path}"));
        match &key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    };
    // A server that refuses the key does not read the picture, and its answer would be lost in a broken connection.
    answer(api, asked(Method::GET, "/v1/tasks?limit=1")).await?;
    let upload = asked(Method::POST, "/v1/images")
        .header("content-type", "application/octet-stream")
        .body(STANDARD.decode(text)?);
    let uploaded: Uploaded = serde_json::from_str(&answer(api, upload).await?)?;
    task.image = Some(ImageSource::S3Key(uploaded.s3_key));
    Ok(())
}

async fn answer(api: &str, request: RequestBuilder) -> anyhow::Result<String> {
    let answer = request.send().await;
    let answer = answer.with_context(|| format!("the picture could not be sent to {api}"))?;
    let status = answer.status();
    let body = answer.text().await?;
    if !status.is_success() {
        bail!("{api} refused the picture ({status}): {body}");
    }
    Ok(body)
}
