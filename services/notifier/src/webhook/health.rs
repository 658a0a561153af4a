//! What a try says of its endpoint: it works, it fails, it is given up.

use std::sync::atomic::{AtomicBool, Ordering};

use async_nats::HeaderMap;
use spotreel_api::{CloudEvent, WebhookNotice};
use spotreel_bootstrap::ambient;
use spotreel_bus::jetstream::JetStreamError;
use spotreel_domain::webhook::{DeliveryAttempt, DeliveryVerdict, EndpointNotice, Untold, Webhook};

use super::deliver::Deliverer;

/// Keeps the endpoint's record true. A failure to do so is made good by the next try.
pub async fn note(deliverer: &Deliverer, webhook: &Webhook, attempt: &DeliveryAttempt) {
    let noted = match attempt.verdict() {
        DeliveryVerdict::Delivered => works(deliverer, webhook).await,
        verdict => {
            let reason = attempt.reason().unwrap_or_default();
            fails(
                deliverer,
                webhook,
                &reason,
                verdict == DeliveryVerdict::Gone,
            )
            .await
        }
    };
    if let Err(error) = noted {
        let error = spotreel_domain::chain(&error);
        tracing::warn!(error, id = %webhook.id, "state of a webhook was not stored");
    }
}

async fn works(deliverer: &Deliverer, webhook: &Webhook) -> Result<(), JetStreamError> {
    if webhook.failing.is_none() {
        return Ok(());
    }
    let update = deliverer.webhooks.update(&webhook.id, Webhook::delivered);
    match update.await {
        Ok(_) | Err(JetStreamError::NotFound) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The notice is stored with what it tells of, in one write, and [`tell`] publishes it.
async fn fails(
    deliverer: &Deliverer,
    webhook: &Webhook,
    reason: &str,
    gone: bool,
) -> Result<(), JetStreamError> {
    let give_up = deliverer.settings.give_up();
    // What was read last is enough to see that there is nothing new.
    if webhook
        .failed(reason, gone, give_up, ambient::now())
        .is_none()
    {
        return Ok(());
    }
    let is_news = AtomicBool::new(false);
    let fail = |stored: &Webhook| {
        let after = stored.failed(reason, gone, give_up, ambient::now());
        let told = |after: &Webhook| after.untold.len() > stored.untold.len();
        is_news.store(after.as_ref().is_some_and(told), Ordering::Relaxed);
        after
    };
    let after = match deliverer.webhooks.update(&webhook.id, fail).await {
        Ok(after) => after,
        Err(JetStreamError::NotFound) => return Ok(()),
        Err(error) => return Err(error),
    };
    let Some(news) = after.untold.last().filter(|_| is_news.into_inner()) else {
        return Ok(());
    };
    let (id, host, reason) = (&after.id, after.url.host(), &news.reason);
    let since = news.failing_since;
    match news.notice {
        EndpointNotice::Failing => {
            tracing::warn!(%id, host, %since, reason, "webhook keeps failing; it will be disabled");
        }
        EndpointNotice::Disabled => {
            tracing::error!(%id, host, %since, reason, "webhook disabled; enable it once its receiver works");
        }
    }
    Ok(())
}

/// Publishes what people have not been told yet. A crash behind that repeats it, and EVENTS refuses a notice whose number it has.
pub async fn tell(deliverer: &Deliverer, webhook: &Webhook) -> Result<(), JetStreamError> {
    for untold in &webhook.untold {
        publish(deliverer, webhook, untold).await?;
        let told = deliverer
            .webhooks
            .update(&webhook.id, |stored| stored.told(untold));
        match told.await {
            Ok(_) | Err(JetStreamError::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn publish(
    deliverer: &Deliverer,
    webhook: &Webhook,
    untold: &Untold,
) -> Result<(), JetStreamError> {
    let number = untold.notice.number(untold.failing_since);
    let (id, name) = (&webhook.id, untold.notice.as_str());
    let data = WebhookNotice {
        id: id.clone(),
        host: webhook.url.host(),
        state: name.to_owned(),
        reason: untold.reason.clone(),
        failing_since: untold.failing_since,
    };
    let event = CloudEvent::new(
        format!("webhook-{id}/{number}"),
        &format!("webhook.{name}"),
        id.to_string(),
        untold.at,
        data,
    );
    let payload = serde_json::to_vec(&event)?;
    // False: it was published before a crash, or by another notifier.
    let publish = deliverer
        .events
        .publish(id, name, number, HeaderMap::new(), payload.into());
    publish.await.map(drop)
}
