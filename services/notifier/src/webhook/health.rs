//! What a try says of its endpoint: it works, it fails, it is given up.

use async_nats::HeaderMap;
use spotreel_api::{CloudEvent, WebhookNotice};
use spotreel_bootstrap::ambient;
use spotreel_bus::jetstream::JetStreamError;
use spotreel_domain::webhook::{DeliveryAttempt, DeliveryVerdict, EndpointNotice, Webhook};

use super::deliver::Deliverer;

/// Stores that an endpoint fails, tells people of it, disables it: each of them by one step.
const MOST_STEPS: usize = 4;

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

/// A notice is published before its record is stored: a crash between the two repeats the notice, which EVENTS refuses then
/// since it has one of that number.
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
    for _ in 0..MOST_STEPS {
        let Some(current) = deliverer.webhooks.get(&webhook.id).await? else {
            return Ok(());
        };
        let Some((after, notice)) = current.failed(reason, gone, give_up, ambient::now()) else {
            return Ok(());
        };
        if let Some(notice) = notice {
            publish(deliverer, &after, notice).await?;
        }
        let store = |stored: &Webhook| (*stored == current).then(|| after.clone());
        deliverer.webhooks.update(&webhook.id, store).await?;
    }
    Ok(())
}

async fn publish(
    deliverer: &Deliverer,
    webhook: &Webhook,
    notice: EndpointNotice,
) -> Result<(), JetStreamError> {
    let Some(failing) = &webhook.failing else {
        return Ok(());
    };
    let number = notice.number(failing);
    let (id, name) = (&webhook.id, notice.as_str());
    let disabled = webhook.disabled.as_ref();
    let reason = disabled.map_or(&failing.reason, |disabled| &disabled.reason);
    let data = WebhookNotice {
        id: id.clone(),
        host: webhook.url.host(),
        state: name.to_owned(),
        reason: reason.clone(),
        failing_since: failing.since,
    };
    let event = CloudEvent::new(
        format!("webhook-{id}/{number}"),
        &format!("webhook.{name}"),
        id.to_string(),
        ambient::now(),
        data,
    );
    let payload = serde_json::to_vec(&event)?;
    let publish = deliverer
        .events
        .publish(id, name, number, HeaderMap::new(), payload.into());
    match publish.await {
        Ok(true) => {}
        // It was published before a crash, or another notifier publishes it now.
        Ok(false) | Err(JetStreamError::Conflict) => return Ok(()),
        Err(error) => return Err(error),
    }
    let (host, since) = (webhook.url.host(), failing.since);
    match notice {
        EndpointNotice::Failing => {
            tracing::warn!(%id, host, %since, reason, "webhook keeps failing; it will be disabled");
        }
        EndpointNotice::Disabled => {
            tracing::error!(%id, host, %since, reason, "webhook disabled; enable it once its receiver works");
        }
    }
    Ok(())
}
