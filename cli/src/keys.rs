//! `spotreel keys`: who may use the HTTP API.

use anyhow::Context;
use jiff::Timestamp;
use serde_json::json;
use spotreel_api::{KeyCreated, KeyList, KeyOrder, KeyRef, KeyView};
use spotreel_bootstrap::ambient;
use spotreel_bus::names;
use spotreel_domain::api_key::Access;

use crate::args::{CreateKeyArgs, KeysArgs, KeysCommand, ListKeysArgs, RevokeKeyArgs};
use crate::connection::{Api, Settings};
use crate::done::Done;
use crate::print::{self, field, line, relative, short};

/// Of a note in a table.
const NOTE_CHARS: usize = 40;

pub async fn run(settings: &Settings, args: KeysArgs) -> anyhow::Result<Done> {
    let api = Api::open_as_operator(settings).await?;
    match args.command {
        KeysCommand::Create(args) => create(&api, args).await,
        KeysCommand::List(args) => list(&api, &args).await,
        KeysCommand::Revoke(args) => revoke(&api, args).await,
    }
}

async fn create(api: &Api, args: CreateKeyArgs) -> anyhow::Result<Done> {
    let now = ambient::now();
    let ends = args.expires_in.map(|after| now.checked_add(after));
    let order = KeyOrder {
        owner: args.owner,
        access: match args.all {
            true => Access::All,
            false => Access::Own,
        },
        tasks_per_minute: Some(args.tasks_per_minute),
        expires_at: ends
            .transpose()
            .context("--expires-in reaches past the end of the calendar")?,
        note: args.note,
    };
    let created: KeyCreated = api.call(names::OPS_KEY_CREATE, &order).await?;
    if args.json {
        print::json(&created);
        return Ok(Done::Well);
    }
    let key = &created.key;
    field("key", key.id.as_str());
    field("owner", key.owner.as_str());
    field("sees", sees(key));
    field("pace", &format!("{} tasks a minute", key.tasks_per_minute));
    field("expires", &expires(key, now));
    if !key.note.is_empty() {
        field("note", &key.note);
    }
    field("token", &created.token.expose());
    line("");
    line("Keep the token now: it is not shown again. Send it as `Authorization: Bearer <token>`.");
    Ok(Done::Well)
}

async fn list(api: &Api, args: &ListKeysArgs) -> anyhow::Result<Done> {
    let KeyList { keys } = api.call(names::OPS_KEY_LIST, &json!({})).await?;
    if args.json {
        keys.iter().for_each(print::json);
        return Ok(Done::Well);
    }
    if keys.is_empty() {
        line("no keys");
        return Ok(Done::Well);
    }
    let now = ambient::now();
    let rows: Vec<_> = keys.iter().map(|key| row(key, now)).collect();
    print::table(
        [
            "KEY", "OWNER", "SEES", "A MINUTE", "MADE", "EXPIRES", "NOTE",
        ],
        &rows,
    );
    Ok(Done::Well)
}

async fn revoke(api: &Api, args: RevokeKeyArgs) -> anyhow::Result<Done> {
    let named = KeyRef { id: args.id };
    let revoked: KeyRef = api.call(names::OPS_KEY_REVOKE, &named).await?;
    match args.json {
        true => print::json(&revoked),
        false => line(&format!(
            "{}: revoked; requests with it are refused",
            revoked.id
        )),
    }
    Ok(Done::Well)
}

fn row(key: &KeyView, now: Timestamp) -> [String; 7] {
    [
        key.id.to_string(),
        key.owner.to_string(),
        sees(key).to_owned(),
        key.tasks_per_minute.to_string(),
        relative(now, key.created_at),
        expires(key, now),
        short(&key.note, NOTE_CHARS),
    ]
}

fn sees(key: &KeyView) -> &'static str {
    match key.access {
        Access::Own => "its owner's tasks",
        Access::All => "all tasks",
    }
}

fn expires(key: &KeyView, now: Timestamp) -> String {
    match key.expires_at {
        None => "never".to_owned(),
        Some(at) if at <= now => format!("expired {}", relative(now, at)),
        Some(at) => relative(now, at),
    }
}
