//! `spotreel webhooks`: endpoints that receive events, and what came of their deliveries.

use anyhow::Context;
use jiff::Timestamp;
use serde_json::json;
use spotreel_api::{
    CallbackSecret, DeliveriesPage, DeliveriesQuery, DeliveryView, DisableOrder, RecoverOrder,
    ResendOrder, SecretOrder, WebhookCreated, WebhookList, WebhookOrder, WebhookRef, WebhookView,
};
use spotreel_bootstrap::ambient;
use spotreel_bus::names;
use spotreel_domain::webhook::{DeliveryState, EventFilter};

use crate::args::{
    CreateWebhookArgs, DeliveriesArgs, DeliveryStateArg, RecoverArgs, WebhooksArgs, WebhooksCommand,
};
use crate::connection::{Api, Settings};
use crate::done::Done;
use crate::print::{self, field, line, relative, short};

/// Of a URL, a note or a reason in a table.
const CELL_CHARS: usize = 60;

pub async fn run(settings: &Settings, args: WebhooksArgs) -> anyhow::Result<Done> {
    let api = Api::open_as_operator(settings).await?;
    let json = args.json;
    let webhook = |id: String| WebhookRef { id };
    match args.command {
        WebhooksCommand::Create(args) => create(&api, args, json).await,
        WebhooksCommand::List => list(&api, json).await,
        WebhooksCommand::Deliveries(args) => deliveries(&api, args, json).await,
        WebhooksCommand::Resend(args) => {
            let (id, sequence) = (args.id, args.sequence);
            let order = ResendOrder { id, sequence };
            let sent: DeliveryView = api.call(names::OPS_WEBHOOK_RESEND, &order).await?;
            let is_delivered = sent.delivery.state == DeliveryState::Delivered;
            show_deliveries(&[sent], json);
            Ok(match is_delivered {
                true => Done::Well,
                false => Done::Failed,
            })
        }
        WebhooksCommand::Recover(args) => recover(&api, args, json).await,
        WebhooksCommand::Rotate(args) => {
            let id = webhook(args.id);
            let rotated: WebhookCreated = api.call(names::OPS_WEBHOOK_ROTATE, &id).await?;
            match json {
                true => print::json(&rotated),
                false => show_secret(&rotated.secret.expose()),
            }
            Ok(Done::Well)
        }
        WebhooksCommand::Disable(args) => {
            let (id, reason) = (args.id, args.reason);
            let order = DisableOrder { id, reason };
            let disabled: WebhookView = api.call(names::OPS_WEBHOOK_DISABLE, &order).await?;
            show(&disabled, json);
            Ok(Done::Well)
        }
        WebhooksCommand::Enable(args) => {
            let id = webhook(args.id);
            let enabled: WebhookView = api.call(names::OPS_WEBHOOK_ENABLE, &id).await?;
            show(&enabled, json);
            Ok(Done::Well)
        }
        WebhooksCommand::Delete(args) => {
            let id = webhook(args.id);
            let deleted: WebhookRef = api.call(names::OPS_WEBHOOK_DELETE, &id).await?;
            match json {
                true => print::json(&deleted),
                false => line(&format!("{}: deleted", deleted.id)),
            }
            Ok(Done::Well)
        }
        WebhooksCommand::Secret(args) => {
            let (owner, rotate) = (args.owner, args.rotate);
            let order = SecretOrder { owner, rotate };
            let secret: CallbackSecret = api.call(names::OPS_WEBHOOK_SECRET, &order).await?;
            match json {
                true => print::json(&secret),
                false => line(&secret.secret.expose()),
            }
            Ok(Done::Well)
        }
    }
}

async fn create(api: &Api, args: CreateWebhookArgs, json: bool) -> anyhow::Result<Done> {
    let order = WebhookOrder {
        url: args.url,
        events: args.events,
        owner: args.owner,
        note: args.note,
    };
    let created: WebhookCreated = api.call(names::OPS_WEBHOOK_CREATE, &order).await?;
    if json {
        print::json(&created);
        return Ok(Done::Well);
    }
    show(&created.webhook, false);
    show_secret(&created.secret.expose());
    Ok(Done::Well)
}

async fn list(api: &Api, json: bool) -> anyhow::Result<Done> {
    let WebhookList { webhooks } = api.call(names::OPS_WEBHOOK_LIST, &json!({})).await?;
    if json {
        webhooks.iter().for_each(print::json);
        return Ok(Done::Well);
    }
    if webhooks.is_empty() {
        line("no webhooks");
        return Ok(Done::Well);
    }
    let now = ambient::now();
    let rows: Vec<_> = webhooks.iter().map(|webhook| row(webhook, now)).collect();
    let header = [
        "WEBHOOK", "STATE", "WAITING", "OPEN", "MADE", "EVENTS", "URL", "REASON",
    ];
    print::table(header, &rows);
    Ok(Done::Well)
}

fn row(webhook: &WebhookView, now: Timestamp) -> [String; 8] {
    let number = |number: Option<u64>| number.map_or("?".to_owned(), |number| number.to_string());
    [
        webhook.id.to_string(),
        webhook.state.clone(),
        number(webhook.waiting),
        number(webhook.open),
        relative(now, webhook.created_at),
        events(webhook),
        short(webhook.url.as_str(), CELL_CHARS),
        short(webhook.reason.as_deref().unwrap_or_default(), CELL_CHARS),
    ]
}

fn events(webhook: &WebhookView) -> String {
    let names: Vec<_> = webhook.events.iter().map(EventFilter::as_str).collect();
    match (names.is_empty(), &webhook.owner) {
        (true, None) => "all".to_owned(),
        (true, Some(owner)) => format!("of {owner}"),
        (false, None) => names.join(" "),
        (false, Some(owner)) => format!("{} of {owner}", names.join(" ")),
    }
}

fn show(webhook: &WebhookView, json: bool) {
    if json {
        return print::json(webhook);
    }
    field("webhook", webhook.id.as_str());
    field("url", webhook.url.as_str());
    field("events", &events(webhook));
    field("state", &webhook.state);
    if let Some(reason) = &webhook.reason {
        field("reason", reason);
    }
    if !webhook.note.is_empty() {
        field("note", &webhook.note);
    }
}

fn show_secret(secret: &str) {
    field("secret", secret);
    line("");
    line(
        "Keep the secret now: it is not shown again. The receiver verifies the signature of each request with it.",
    );
}

async fn deliveries(api: &Api, args: DeliveriesArgs, json: bool) -> anyhow::Result<Done> {
    let query = DeliveriesQuery {
        id: args.id,
        state: args.state.map(|state| {
            match state {
                DeliveryStateArg::Delivered => "delivered",
                DeliveryStateArg::Waiting => "waiting",
                DeliveryStateArg::Failed => "failed",
            }
            .to_owned()
        }),
        since: args.since.map(ago).transpose()?,
        limit: Some(args.limit),
        cursor: args.cursor,
    };
    let page: DeliveriesPage = api.call(names::OPS_WEBHOOK_DELIVERIES, &query).await?;
    show_deliveries(&page.deliveries, json);
    if let Some(cursor) = page.next_cursor.filter(|_| !json) {
        line(&format!("there are more: --cursor {cursor}"));
    }
    Ok(Done::Well)
}

fn show_deliveries(deliveries: &[DeliveryView], json: bool) {
    if json {
        return deliveries.iter().for_each(print::json);
    }
    if deliveries.is_empty() {
        return line("no deliveries");
    }
    let now = ambient::now();
    let rows: Vec<_> = deliveries
        .iter()
        .map(|one| delivery_row(one, now))
        .collect();
    let header = [
        "NUMBER", "EVENT", "STATE", "TRIES", "LAST TRY", "NEXT TRY", "REASON",
    ];
    print::table(header, &rows);
}

fn delivery_row(one: &DeliveryView, now: Timestamp) -> [String; 7] {
    let delivery = &one.delivery;
    let (state, next) = match delivery.state {
        DeliveryState::Delivered => ("delivered", String::new()),
        DeliveryState::Failed => ("failed", String::new()),
        DeliveryState::Waiting { next_at } => ("waiting", relative(now, next_at)),
    };
    [
        one.sequence.to_string(),
        short(&delivery.event, CELL_CHARS),
        state.to_owned(),
        delivery.tries.to_string(),
        relative(now, delivery.last_at),
        next,
        short(delivery.reason.as_deref().unwrap_or_default(), CELL_CHARS),
    ]
}

async fn recover(api: &Api, args: RecoverArgs, json: bool) -> anyhow::Result<Done> {
    let order = RecoverOrder {
        id: args.id,
        since: ago(args.since)?,
    };
    let ordered: WebhookView = api.call(names::OPS_WEBHOOK_RECOVER, &order).await?;
    match json {
        true => print::json(&ordered),
        false => line(&format!(
            "{}: every event since {} that was not delivered is sent again",
            ordered.id, order.since
        )),
    }
    Ok(Done::Well)
}

fn ago(time: std::time::Duration) -> anyhow::Result<Timestamp> {
    let since = ambient::now().checked_sub(time);
    since.context("--since is too long: use a duration such as 2h or 3d, at most 45d")
}
