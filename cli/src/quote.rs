//! `spotreel quote`: what tasks will take and cost, before any is submitted.

use spotreel_api::{Offer, PriceOf, Quote, QuoteQuery, TaskRequest};
use spotreel_bus::names;
use spotreel_domain::{Quality, Usd};

use crate::args::QuoteArgs;
use crate::connection::{Api, Settings};
use crate::done::Done;
use crate::print::{self, field, line, span, table};

pub async fn run(settings: &Settings, args: QuoteArgs) -> anyhow::Result<Done> {
    let api = Api::open(settings).await?;
    let query = QuoteQuery {
        task: TaskRequest {
            model: args.model,
            size: args.size,
            frames: args.frames,
            quality: args.quality.map(Quality::from),
            steps: args.steps,
            ..TaskRequest::default()
        },
        tasks: args.tasks,
    };
    let quote: Quote = api.call(names::QUOTE, &query).await?;
    if args.json {
        print::json(&quote);
    } else {
        show(&quote);
    }
    Ok(match quote.offers.is_empty() {
        true => Done::Failed,
        false => Done::Well,
    })
}

fn show(quote: &Quote) {
    let Quote {
        model,
        width,
        height,
        frames,
        steps,
        ..
    } = quote;
    field(
        "videos",
        &format!(
            "{} of {model}, {width}x{height}, {frames} frames, {steps} steps",
            quote.tasks
        ),
    );
    field("pool", quote.pool.as_str());
    if let Some(none) = &quote.none {
        field("no offer", none);
        return;
    }
    line("");
    let header = [
        "TYPE", "GPU", "PRICE", "A VIDEO", "COSTS", "MACHINES", "ALL IN", "COST",
    ];
    let rows: Vec<_> = quote.offers.iter().map(row).collect();
    table(header, &rows);
    line("");
    let guessed = quote.offers.iter().any(|offer| !offer.measured);
    line("Render time only: an instance also boots for one or two minutes, which is charged.");
    if guessed {
        line("~ calculated, up to 40 % off; measured once such tasks were rendered on that type.");
    }
}

/// Cents from a dollar on, tenths of a thousandth below: a quote is no bill.
#[expect(
    clippy::cast_precision_loss,
    reason = "an amount of money is far below 2^53 micro-dollars"
)]
fn dollars(amount: Usd) -> String {
    let value = amount.micros() as f64 / 1e6;
    match value < 1.0 {
        true => format!("${value:.4}"),
        false => format!("${value:.2}"),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "seconds for people; as casts saturate"
)]
fn row(offer: &Offer) -> [String; 8] {
    let about = if offer.measured { "" } else { "~" };
    let most = match offer.price {
        PriceOf::Market => "",
        PriceOf::Cap => "≤ ",
    };
    [
        offer.kind.clone(),
        offer.gpu.clone(),
        format!("{most}{}/h", dollars(offer.per_hour)),
        format!("{about}{}", span(offer.seconds as u64)),
        format!("{most}{about}{}", dollars(offer.per_video)),
        offer.machines.to_string(),
        format!("{about}{}", span(offer.all_seconds as u64)),
        format!("{most}{about}{}", dollars(offer.all)),
    ]
}
