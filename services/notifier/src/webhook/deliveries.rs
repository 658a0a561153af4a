//! Orders about deliveries: the log, one event again, everything that is missing.

use std::sync::Arc;

use spotreel_api::{
    ApiError, DeliveriesPage, DeliveriesQuery, DeliveryView, ErrorCode, MAX_DELIVERIES_PER_PAGE,
    RecoverOrder, ResendOrder, WebhookView,
};
use spotreel_bootstrap::ambient;
use spotreel_bus::jetstream::Start;
use spotreel_bus::reply::{refuse, unavailable};
use spotreel_bus::webhooks::{CALLBACKS, LoggedDelivery};
use spotreel_domain::Owner;
use spotreel_domain::webhook::{DeliveryState, RetrySchedule, SigningSecrets, WebhookUrl};

use super::deliver::{Receiver, draw_secret};
use super::event::PublicEvent;
use super::verbs::{Orders, WHAT, broken};

/// Of a list that says nothing else.
const USUAL_PAGE: u32 = 50;
/// Pages of the log that one request reads, where a state is asked for that few deliveries have.
const MOST_PAGES: usize = 20;
/// Lines of the log that are read at once.
const LINES: usize = 500;

impl Orders {
    pub async fn deliveries(
        self: Arc<Self>,
        query: DeliveriesQuery,
    ) -> Result<DeliveriesPage, ApiError> {
        if query.id != CALLBACKS {
            self.webhook(&query.id).await?;
        }
        let limit = query.limit.unwrap_or(USUAL_PAGE);
        if !(1..=MAX_DELIVERIES_PER_PAGE).contains(&limit) {
            let message = format!("limit is 1 to {MAX_DELIVERIES_PER_PAGE}");
            return Err(broken("limit", "range", message));
        }
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let state = query.state.as_deref();
        if state.is_some_and(|state| !["delivered", "waiting", "failed"].contains(&state)) {
            let message = "state is delivered, waiting or failed";
            return Err(broken("state", "known", message.to_owned()));
        }
        let mut start = match (query.cursor, query.since) {
            (Some(cursor), _) => Start::Sequence(cursor),
            (None, Some(since)) => Start::Time(since),
            (None, None) => Start::Sequence(1),
        };
        let mut found = Vec::new();
        for _ in 0..MOST_PAGES {
            let lines = self
                .deliverer
                .webhooks
                .deliveries(&query.id, start, LINES)
                .await;
            let lines = lines.map_err(|error| unavailable("the log of deliveries", &error))?;
            let Some(last) = lines.last().map(|line| line.revision) else {
                return Ok(page(found, None));
            };
            for line in lines {
                if state.is_none_or(|state| state == word(line.record.state)) {
                    if found.len() == limit {
                        let next = Some(line.revision);
                        return Ok(page(found, next));
                    }
                    found.push(line);
                }
            }
            start = Start::Sequence(last + 1);
        }
        let next = match start {
            Start::Sequence(next) => Some(next),
            Start::Time(_) => None,
        };
        Ok(page(found, next))
    }

    pub async fn resend(self: Arc<Self>, order: ResendOrder) -> Result<DeliveryView, ApiError> {
        let deliverer = &self.deliverer;
        let webhook = match order.id == CALLBACKS {
            true => None,
            false => Some(self.webhook(&order.id).await?),
        };
        let payload = deliverer.events.payload(order.sequence).await;
        let payload = payload.map_err(|error| unavailable("EVENTS", &error))?;
        let event = payload.and_then(|payload| PublicEvent::read(&payload));
        let missing = || {
            let message = format!(
                "EVENTS has no event {}: it keeps events for 45 days",
                order.sequence
            );
            refuse(ErrorCode::NotFound, message)
        };
        let event = event.ok_or_else(missing)?;
        let (target, secrets) = match &webhook {
            Some(webhook) => (webhook.url.clone(), webhook.secrets.clone()),
            None => self.callback(&event).await?,
        };
        let recipient = order.id.as_str();
        let before = deliverer.webhooks.delivery(recipient, order.sequence).await;
        let before = before.map_err(|error| unavailable("the log of deliveries", &error))?;
        // The queue goes on with a delivery that waits there; any other one is tried this once.
        let waits = |state| matches!(state, DeliveryState::Waiting { .. });
        let once = RetrySchedule::new(Vec::new());
        let schedule = match before.as_ref().is_some_and(|before| waits(before.state)) {
            true => &deliverer.settings.retries,
            false => &once,
        };
        let to = Receiver {
            recipient,
            target: &target,
            secrets: &secrets,
            schedule,
            recovery: None,
        };
        let sent = deliverer
            .send(order.sequence, before.as_ref(), event, to)
            .await;
        let (_, record) = sent.map_err(|error| unavailable("the store of videos", &error))?;
        let logged = deliverer
            .webhooks
            .log_delivery(recipient, order.sequence, &record)
            .await;
        logged.map_err(|error| unavailable("the log of deliveries", &error))?;
        Ok(DeliveryView {
            sequence: order.sequence,
            delivery: record,
        })
    }

    /// An order while another one runs extends that to the earlier of the two times, and begins it anew.
    pub async fn recover(self: Arc<Self>, order: RecoverOrder) -> Result<WebhookView, ApiError> {
        let now = ambient::now();
        if order.since > now {
            let message = "since lies in the future: give the time from which events are missing";
            return Err(broken("since", "past", message.to_owned()));
        }
        let until = self.deliverer.events.last_sequence().await;
        let until = until.map_err(|error| unavailable("EVENTS", &error))?;
        let ordered = self.change(&order.id, |webhook| {
            Some(webhook.recovering(order.since, until, now))
        });
        let ordered = ordered.await?;
        tracing::info!(id = %ordered.id, since = %order.since, "webhook recovery ordered");
        Ok(WebhookView::from(&ordered))
    }

    async fn callback(
        &self,
        event: &PublicEvent,
    ) -> Result<(WebhookUrl, SigningSecrets), ApiError> {
        let target = event
            .callback_url
            .as_deref()
            .and_then(|url| WebhookUrl::parse(url).ok());
        let target = target.ok_or_else(|| {
            refuse(
                ErrorCode::NotFound,
                "the task of this event has no callback_url",
            )
        })?;
        let owner = event
            .owner
            .as_deref()
            .and_then(|owner| Owner::parse(owner).ok());
        let new = SigningSecrets::new(draw_secret());
        let secrets = self
            .deliverer
            .webhooks
            .callback_secrets(owner.as_ref(), new)
            .await;
        Ok((target, secrets.map_err(|error| unavailable(WHAT, &error))?))
    }
}

fn page(lines: Vec<LoggedDelivery>, next_cursor: Option<u64>) -> DeliveriesPage {
    let view = |line: LoggedDelivery| DeliveryView {
        sequence: line.sequence,
        delivery: line.record,
    };
    DeliveriesPage {
        deliveries: lines.into_iter().map(view).collect(),
        next_cursor,
    }
}

fn word(state: DeliveryState) -> &'static str {
    match state {
        DeliveryState::Delivered => "delivered",
        DeliveryState::Waiting { .. } => "waiting",
        DeliveryState::Failed => "failed",
    }
}
