//! What operators order of webhooks.

use std::sync::Arc;

use jiff::Timestamp;
use serde::Deserialize;
use spotreel_api::{
    ApiError, CallbackSecret, DisableOrder, ErrorCode, SecretOrder, Violation, WebhookCreated,
    WebhookList, WebhookOrder, WebhookRef, WebhookView,
};
use spotreel_bootstrap::ambient;
use spotreel_bus::jetstream;
use spotreel_bus::names::webhook_consumer;
use spotreel_bus::reply::{refuse, unavailable};
use spotreel_bus::webhooks::MAX_WEBHOOKS;
use spotreel_domain::Owner;
use spotreel_domain::time::later;
use spotreel_domain::webhook::{Disabled, SigningSecrets, Webhook, WebhookId};

use super::deliver::{Deliverer, draw_secret};

/// Two endpoints of one id are drawn once in a thousand years; twice in a row is no coincidence.
const DRAWS: usize = 2;

pub(super) const WHAT: &str = "the bucket of webhooks";

pub struct Orders {
    pub deliverer: Arc<Deliverer>,
}

/// A request without content.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

impl Orders {
    /// The order is checked before anything is read; the secret is in this answer and in that of `rotate`.
    pub async fn create(self: Arc<Self>, order: WebhookOrder) -> Result<WebhookCreated, ApiError> {
        let webhooks = &self.deliverer.webhooks;
        let draw = || {
            let id = WebhookId::from_random(ambient::random_u64());
            let allowed = &self.deliverer.settings.allow_hosts;
            order
                .webhook(id, draw_secret(), allowed, ambient::now())
                .map_err(invalid)
        };
        let mut webhook = draw()?;
        let stored = webhooks
            .list()
            .await
            .map_err(|error| unavailable(WHAT, &error))?;
        if stored.len() >= MAX_WEBHOOKS {
            let message =
                format!("there are {MAX_WEBHOOKS} webhooks already: delete one that is not needed");
            return Err(refuse(ErrorCode::NotAllowed, message));
        }
        for _ in 0..DRAWS {
            match webhooks.create(&webhook).await {
                Ok(()) => {
                    tracing::info!(id = %webhook.id, host = webhook.url.host(), "webhook created");
                    return Ok(created(&webhook));
                }
                Err(jetstream::JetStreamError::Conflict) => webhook = draw()?,
                Err(error) => return Err(unavailable(WHAT, &error)),
            }
        }
        Err(refuse(
            ErrorCode::Unavailable,
            "every id that was drawn is taken",
        ))
    }

    pub async fn list(self: Arc<Self>, _: Nothing) -> Result<WebhookList, ApiError> {
        let webhooks = &self.deliverer.webhooks;
        let stored = webhooks
            .list()
            .await
            .map_err(|error| unavailable(WHAT, &error))?;
        let mut views = Vec::new();
        for webhook in &stored {
            let backlog = webhooks.backlog(&webhook_consumer(&webhook.id)).await.ok();
            views.push(WebhookView {
                waiting: backlog.map(|backlog| backlog.waiting),
                open: backlog.map(|backlog| backlog.open),
                ..WebhookView::from(webhook)
            });
        }
        Ok(WebhookList { webhooks: views })
    }

    /// Goes on where it was disabled: what happened meanwhile is sent, too.
    pub async fn enable(self: Arc<Self>, named: WebhookRef) -> Result<WebhookView, ApiError> {
        let enabled = self.change(&named.id, |webhook| {
            webhook.disabled.as_ref()?;
            Some(Webhook {
                disabled: None,
                failing: None,
                ..webhook.clone()
            })
        });
        let enabled = enabled.await?;
        tracing::info!(id = %enabled.id, "webhook enabled");
        Ok(WebhookView::from(&enabled))
    }

    pub async fn disable(self: Arc<Self>, order: DisableOrder) -> Result<WebhookView, ApiError> {
        let reason = order.reason.unwrap_or_else(|| "by an operator".to_owned());
        if reason.len() > spotreel_domain::api_key::MAX_NOTE_BYTES
            || reason.contains(char::is_control)
        {
            let most = spotreel_domain::api_key::MAX_NOTE_BYTES;
            return Err(broken(
                "reason",
                "line",
                format!("reason is one line of at most {most} bytes"),
            ));
        }
        let at = ambient::now();
        let disabled = self.change(&order.id, |webhook| match webhook.disabled {
            Some(_) => None,
            None => Some(Webhook {
                disabled: Some(Disabled {
                    at,
                    reason: reason.clone(),
                }),
                ..webhook.clone()
            }),
        });
        let disabled = disabled.await?;
        tracing::info!(id = %disabled.id, reason, "webhook disabled by an operator");
        Ok(WebhookView::from(&disabled))
    }

    pub async fn delete(self: Arc<Self>, named: WebhookRef) -> Result<WebhookRef, ApiError> {
        let id = parse_id(&named.id)?;
        let webhooks = &self.deliverer.webhooks;
        webhooks
            .delete(&id)
            .await
            .map_err(|error| refused(&named.id, &error))?;
        // If this fails, the next look for stray queues finds it, as that of a recovery.
        if let Err(error) = webhooks.close_queue(&webhook_consumer(&id)).await {
            tracing::warn!(error = %spotreel_domain::chain(&error), %id, "queue of a deleted webhook is still there");
        }
        tracing::info!(%id, "webhook deleted");
        Ok(named)
    }

    pub async fn rotate(self: Arc<Self>, named: WebhookRef) -> Result<WebhookCreated, ApiError> {
        let (secret, until) = (draw_secret(), self.overlap_ends());
        let rotated = self.change(&named.id, |webhook| {
            Some(Webhook {
                secrets: webhook.secrets.rotated(secret.clone(), until),
                ..webhook.clone()
            })
        });
        let rotated = rotated.await?;
        tracing::info!(id = %rotated.id, %until, "secret of a webhook rotated");
        Ok(created(&rotated))
    }

    pub async fn secret(self: Arc<Self>, order: SecretOrder) -> Result<CallbackSecret, ApiError> {
        let owner = order.owner.as_deref().map(Owner::parse).transpose();
        let owner = owner.map_err(|bad| broken("owner", "word", bad.to_string()))?;
        let webhooks = &self.deliverer.webhooks;
        let new = SigningSecrets::new(draw_secret());
        let known = webhooks.callback_secrets(owner.as_ref(), new).await;
        let mut secrets = known.map_err(|error| unavailable(WHAT, &error))?;
        if order.rotate {
            secrets = secrets.rotated(draw_secret(), self.overlap_ends());
            let put = webhooks
                .put_callback_secrets(owner.as_ref(), &secrets)
                .await;
            put.map_err(|error| unavailable(WHAT, &error))?;
            tracing::info!(?owner, "secret of callbacks rotated");
        }
        Ok(CallbackSecret {
            owner,
            secret: secrets.current,
        })
    }

    pub(super) async fn webhook(&self, id: &str) -> Result<Webhook, ApiError> {
        let parsed = parse_id(id)?;
        let found = self.deliverer.webhooks.get(&parsed).await;
        let found = found.map_err(|error| unavailable(WHAT, &error))?;
        found.ok_or_else(|| no_webhook(id))
    }

    pub(super) async fn change(
        &self,
        id: &str,
        change: impl Fn(&Webhook) -> Option<Webhook>,
    ) -> Result<Webhook, ApiError> {
        let parsed = parse_id(id)?;
        let changed = self.deliverer.webhooks.update(&parsed, change).await;
        changed.map_err(|error| refused(id, &error))
    }

    fn overlap_ends(&self) -> Timestamp {
        later(ambient::now(), self.deliverer.settings.secret_overlap)
    }
}

fn created(webhook: &Webhook) -> WebhookCreated {
    WebhookCreated {
        webhook: WebhookView::from(webhook),
        secret: webhook.secrets.current.clone(),
    }
}

fn parse_id(text: &str) -> Result<WebhookId, ApiError> {
    WebhookId::parse(text).map_err(|bad| broken("id", "token", bad.to_string()))
}

fn no_webhook(id: &str) -> ApiError {
    refuse(ErrorCode::NotFound, format!("there is no webhook {id}"))
}

fn refused(id: &str, error: &jetstream::JetStreamError) -> ApiError {
    match error {
        jetstream::JetStreamError::NotFound => no_webhook(id),
        jetstream::JetStreamError::Conflict => refuse(
            ErrorCode::NotAllowed,
            "the webhook is being modified concurrently; retry",
        ),
        error => unavailable(WHAT, error),
    }
}

pub(super) fn broken(field: &str, rule: &str, message: String) -> ApiError {
    invalid(vec![Violation {
        field: field.into(),
        rule: rule.into(),
        message,
    }])
}

fn invalid(violations: Vec<Violation>) -> ApiError {
    let message = match violations.as_slice() {
        [] => "the request is not valid".to_owned(),
        [only] => only.message.clone(),
        [first, others @ ..] => format!("{} (and {} more)", first.message, others.len()),
    };
    ApiError {
        violations,
        ..refuse(ErrorCode::Invalid, message)
    }
}
