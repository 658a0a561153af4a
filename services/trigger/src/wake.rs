//! Messages that wake trigger. A message only says that something may have changed; trigger reads the state again.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::consumer::{DeliverPolicy, push};
use futures::StreamExt;
use jiff::Timestamp;
use spotreel_bootstrap::{Context, ambient};
use spotreel_bus::controls;
use spotreel_bus::names::{BATCHLOG_ALL, TASKS};
use spotreel_pool::arrivals::{self, Arrivals, HOUR};
use tokio::sync::Notify;

/// Between tries to hear again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Delay before the log is read after a message: a plain subscriber receives a message before it is stored.
const STORED_AFTER: Duration = Duration::from_millis(5);

type WakeError = Box<dyn std::error::Error + Send + Sync>;

/// Wakes trigger after each new task is stored, until told to stop.
pub async fn on_tasks(client: Client, wake: Arc<Notify>, heard: Arc<Arrivals>, ctx: Context) {
    while !ctx.stopping.is_cancelled() {
        let hearing = Box::pin(tasks(&client, &wake, &heard));
        again(&ctx, "new tasks", hearing).await;
    }
}

/// Wakes trigger after each change of a batch or an order, until told to stop.
pub async fn on_changes(client: Client, wake: Arc<Notify>, ctx: Context) {
    while !ctx.stopping.is_cancelled() {
        again(&ctx, "batches and orders", changes(&client, &wake)).await;
    }
}

async fn tasks(client: &Client, wake: &Notify, heard: &Arrivals) -> Result<(), WakeError> {
    let context = async_nats::jetstream::new(client.clone());
    let consumer = push::OrderedConfig {
        deliver_subject: client.new_inbox(),
        filter_subject: "spotreel.log.*.queued.>".into(),
        headers_only: true,
        deliver_policy: DeliverPolicy::New,
        ..push::OrderedConfig::default()
    };
    let stream = context.get_stream_no_info(TASKS).await?;
    let mut entries = stream.create_consumer(consumer).await?.messages().await?;
    let mut counted_to = heard.seed(client, ambient::now()).await?;
    wake.notify_one();
    while let Some(entry) = entries.next().await {
        let entry = entry?;
        wake.notify_one();
        // A consumer that had heard nothing and was made anew, as after a restart of the server, begins with the
        // oldest entry of the log: those came once, and long ago.
        let info = entry.info()?;
        let came = Timestamp::from_nanosecond(info.published.unix_timestamp_nanos())?;
        let new = info.stream_sequence > counted_to && came > ambient::now() - HOUR;
        if let Some(model) = arrivals::model_of(&entry.subject).filter(|_| new) {
            heard.note(model, came);
            counted_to = info.stream_sequence;
        }
    }
    Ok(())
}

async fn changes(client: &Client, wake: &Notify) -> Result<(), WakeError> {
    let batches = client.subscribe(BATCHLOG_ALL).await?;
    let orders = controls::watch(client).await?;
    let mut changes = futures::stream::select(batches, orders);
    while changes.next().await.is_some() {
        tokio::time::sleep(STORED_AFTER).await;
        wake.notify_one();
    }
    Ok(())
}

/// Hears until told to stop, or until that ends too early: then waits a little.
async fn again(ctx: &Context, what: &str, hearing: impl Future<Output = Result<(), WakeError>>) {
    let Some(ended) = ctx.stopping.run_until_cancelled(hearing).await else {
        return;
    };
    let error = ended.err().map(|error| error.to_string());
    tracing::warn!(
        error,
        what,
        "event subscription lost; polling until it is restored"
    );
    let pause = tokio::time::sleep(RETRY_AFTER);
    ctx.stopping.run_until_cancelled(pause).await;
}
