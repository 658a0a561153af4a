//! Reads the log through durable consumers: a health check and the metrics for each.

use async_nats::Client;
use spotreel_bootstrap::Context;
use spotreel_bus::Consumer;
use spotreel_bus::consume::{ConsumerSpec, Notice};

pub use spotreel_bus::Handled;

use crate::config::ConsumerConfig;
use crate::metrics;

/// Failures in a row of one event until the check fails: with the default delay half a minute, longer than a restart of the
/// server. The log keeps what monitor has not handled, so it fills until a person has looked.
const TRIES_UNTIL_ERROR: u32 = 6;

/// Not ready until the consumer has been found.
pub(crate) fn consumer(
    client: &Client,
    consumer: &'static str,
    concurrent: usize,
    config: &ConsumerConfig,
    ctx: &Context,
) -> Consumer {
    let check = format!("consumer {consumer}");
    ctx.health.expect(&check);
    let health = ctx.health.clone();
    let spec = ConsumerSpec {
        consumer,
        program: ctx.name,
        concurrent,
        pull_wait: config.pull_wait,
        retry_first: config.retry_after,
        retry_longest: config.retry_after,
        tries_until_error: TRIES_UNTIL_ERROR,
    };
    Consumer::new(client, spec, &ctx.stopping, move |notice| match notice {
        Notice::Check(state) => health.set(&check, state),
        Notice::Failed => metrics::retry(consumer),
        Notice::Held => metrics::held(consumer),
        Notice::Unreadable => metrics::unreadable(consumer),
    })
}
