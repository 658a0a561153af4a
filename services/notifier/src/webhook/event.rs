//! A public event as it is sent: as it was published, with links made for this try.

use std::time::Duration;

use serde_json::Value;
use spotreel_bootstrap::ambient;
use spotreel_s3::{PresignError, Store};

/// An event of EVENTS.
#[derive(Clone, Debug, PartialEq)]
pub struct PublicEvent {
    /// `webhook-id`.
    pub id: String,
    /// The event's type.
    pub kind: String,
    pub owner: Option<String>,
    pub callback_url: Option<String>,
    json: Value,
}

impl PublicEvent {
    /// None: it is no event.
    pub fn read(payload: &[u8]) -> Option<Self> {
        let json: Value = serde_json::from_slice(payload).ok()?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Some(Self {
            id: text(&json["id"])?,
            kind: text(&json["type"])?,
            owner: text(&json["data"]["owner"]),
            callback_url: text(&json["data"]["callback_url"]),
            json,
        })
    }

    /// The body of a try. The links that were published with the event have ended before the last try.
    pub async fn body(mut self, store: &Store, expires: Duration) -> Result<Vec<u8>, PresignError> {
        let video = self.json.pointer_mut("/data/video");
        if let Some(video) = video.and_then(Value::as_object_mut) {
            let name = format!("{}.mp4", self.id.split('/').next().unwrap_or_default());
            let key = |field: &str| video.get(field).and_then(Value::as_str).map(str::to_owned);
            let (video_key, poster_key) = (key("key"), key("poster"));
            if let Some(link) = link(store, video_key.as_deref(), Some(&name), expires).await? {
                let ends = ambient::now().saturating_add(link.lasts).ok();
                video.insert("url".to_owned(), link.url.into());
                video.insert("url_expires_at".to_owned(), serde_json::json!(ends));
            }
            if let Some(link) = link(store, poster_key.as_deref(), None, expires).await? {
                video.insert("poster_url".to_owned(), link.url.into());
            }
        }
        Ok(self.json.to_string().into_bytes())
    }
}

/// None: there is no key, or none that can be signed; the receiver gets what was published.
async fn link(
    store: &Store,
    key: Option<&str>,
    name: Option<&str>,
    expires: Duration,
) -> Result<Option<spotreel_s3::Link>, PresignError> {
    let Some(key) = key else {
        return Ok(None);
    };
    match store.presign_get(key, name, expires).await {
        Ok(link) => Ok(Some(link)),
        Err(error) if error.retryable() => Err(error),
        Err(error) => {
            tracing::warn!(error = %spotreel_domain::chain(&error), key, "signing a link for a webhook failed; sending the published one");
            Ok(None)
        }
    }
}
