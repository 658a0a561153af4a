//! Reads the log through durable consumers: a health check and the metrics for each.

use async_nats::Client;
use spotreel_bootstrap::Context;
use spotreel_bus::Consumer;
use spotreel_bus::consume::{ConsumerSpec, Notice};

pub use spotreel_bus::Handled;

use crate::config::ConsumerConfig;
use crate::metrics;

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
        tries_until_error: None,
    };
    Consumer::new(client, spec, &ctx.stopping, move |notice| match notice {
        Notice::Check(state) => health.set(&check, state),
        Notice::Failed => metrics::retry(consumer),
        Notice::Held => metrics::held(consumer),
        Notice::Unreadable => metrics::unreadable(consumer),
    })
}
