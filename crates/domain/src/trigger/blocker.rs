//! Blockers: reasons against a launch, for any rule.

use std::time::Duration;

use jiff::Timestamp;

use super::decision::{Blocker, BlockerKind};
use super::finding::pending;
use super::rules::Rules;
use super::size::{Size, SizeInput, size};
use super::view::{Prices, View};
use super::words::{moment, units};
use crate::money::Usd;
use crate::purchase::Limit;
use crate::time::later;

const FIRST_BACK_OFF: Duration = Duration::from_secs(60);
/// Capacity comes back within minutes or not for hours; a quarter of an hour costs the one little and the other nothing.
const LONGEST_BACK_OFF: Duration = Duration::from_secs(15 * 60);

/// Back-off after a number of batches in a row that never served: 1, 2, 4, 8, 15, 15 … minutes.
pub fn back_off(failed_in_row: u32) -> Duration {
    match failed_in_row.checked_sub(1) {
        None => Duration::ZERO,
        Some(doublings) => (FIRST_BACK_OFF * 2u32.pow(doublings.min(4))).min(LONGEST_BACK_OFF),
    }
}

pub(super) fn all(view: &View, rules: &Rules, sized: &Size, now: Timestamp) -> Vec<Blocker> {
    let mut blockers: Vec<Blocker> = [
        hold(view, now),
        counts(view),
        prices(view),
        back_off_running(view, now),
        no_type(view),
    ]
    .into_iter()
    .flatten()
    .collect();
    blockers.extend(view.pool_blockers.iter().cloned());
    for own in [no_pool(view), out_of_limit(view, rules, sized)]
        .into_iter()
        .flatten()
    {
        // Fleet's own word has the better reason.
        if blockers.iter().all(|blocker| blocker.kind != own.kind) {
            blockers.push(own);
        }
    }
    blockers
}

/// A hold goes before every rule; only a person who asks for a batch by force goes before a hold.
fn hold(view: &View, now: Timestamp) -> Option<Blocker> {
    let hold = view.hold.as_ref()?;
    let more = match pending(view, now) {
        // Only for the batch that is asked for: without a task there is none, and no other rule may use the gap.
        Some(run) if run.force && view.queued > 0 => return None,
        Some(run) if run.force => "; the batch that is asked for by force needs a task",
        Some(_) => "; a batch is asked for, but without force",
        None => "",
    };
    let sentence = format!(
        "launches are held by {}, reason \"{}\"{more}; resume them, or run now with force",
        hold.by, hold.reason
    );
    Some(blocker(BlockerKind::Hold, sentence, Some(hold.since)))
}

fn counts(view: &View) -> Option<Blocker> {
    let since = view.counts_stale_since?;
    let sentence = format!(
        "queue counts are not trusted since {}: the sweeper's status record in monitor is missing or out of date",
        moment(since)
    );
    Some(blocker(BlockerKind::CountsStale, sentence, Some(since)))
}

fn prices(view: &View) -> Option<Blocker> {
    match &view.prices {
        Prices::Unknown { since, reason } => {
            let sentence = format!(
                "prices are unknown since {}: {reason}; launches are blocked until they are known",
                moment(*since)
            );
            Some(blocker(BlockerKind::PricesUnknown, sentence, Some(*since)))
        }
        Prices::Known(market) if market.usable.is_none() && market.cheapest.is_none() => {
            let sentence =
                "no instance type of the pool has a price: check its types and zones".to_owned();
            Some(blocker(
                BlockerKind::PricesUnknown,
                sentence,
                Some(market.as_of),
            ))
        }
        Prices::Known(_) | Prices::NoCloud => None,
    }
}

/// A person who asks after the failure is not made to wait: the batch answers the request, so that happens once.
fn back_off_running(view: &View, now: Timestamp) -> Option<Blocker> {
    let past = &view.past;
    let failed_at = past.failed_at?;
    let until = later(failed_at, back_off(past.failed_in_row));
    if until <= now || pending(view, now).is_some_and(|run| run.at > failed_at) {
        return None;
    }
    let batches = match past.failed_in_row {
        1 => "the last batch".to_owned(),
        n => format!("the last {n} batches"),
    };
    let why = past.failure.as_deref().unwrap_or("no worker became ready");
    // Fleet's own hold has told it.
    let is_told = view
        .hold
        .as_ref()
        .is_some_and(|hold| hold.reason.contains(why));
    let why = match is_told {
        true => String::new(),
        false => format!(" ({why})"),
    };
    Some(Blocker {
        kind: BlockerKind::BackOff,
        sentence: format!(
            "{batches} never served{why}: the next try is at {}",
            moment(until)
        ),
        since: Some(failed_at),
        until: Some(until),
    })
}

fn no_pool(view: &View) -> Option<Blocker> {
    let Prices::Known(market) = &view.prices else {
        return None;
    };
    if market.usable.is_some() {
        return None;
    }
    let quote = market.cheapest.as_ref()?;
    let sentence = if quote.price > quote.cap {
        format!(
            "all Spot prices are above their caps: the cheapest, {}, costs {}, {} above its cap of {}",
            quote.pool,
            quote.price,
            quote.price - quote.cap,
            quote.cap
        )
    } else {
        format!(
            "no capacity pool is available: {} costs {}, under its cap of {}, but is in back-off after failures",
            quote.pool, quote.price, quote.cap
        )
    };
    let since = Some(market.as_of);
    Some(blocker(BlockerKind::NoPoolUnderCap, sentence, since))
}

/// Nothing that waits can be rendered by a machine of the pool.
fn no_type(view: &View) -> Option<Blocker> {
    let rest = view.unrenderable.as_ref().filter(|_| view.queued == 0)?;
    Some(blocker(
        BlockerKind::NoTypeFits,
        rest.sentence.clone(),
        None,
    ))
}

/// Quota or budget do not admit one unit.
fn out_of_limit(view: &View, rules: &Rules, sized: &Size) -> Option<Blocker> {
    if sized.units > 0 {
        return None;
    }
    let limit = sized.limited_by?;
    if limit == Limit::Quota {
        let sentence = "the account's quota allows no further unit".to_owned();
        return Some(blocker(BlockerKind::Quota, sentence, None));
    }
    let (budget, left) = rules.budgets.left(limit, &view.committed())?;
    let input = input(view, rules, 0, view.least_price());
    let needs = input
        .purchase(&rules.sizing)
        .least(limit, input.unit_price?);
    let sentence = format!(
        "{} of {budget} has {left} left, one unit needs {needs}{}",
        limit.as_str(),
        reserved(view, limit)
    );
    Some(blocker(BlockerKind::Budget, sentence, None))
}

/// Why money is missing although it is not spent yet. The budget of a batch is this pool's alone.
fn reserved(view: &View, limit: Limit) -> String {
    let reserved = &view.reserved;
    if reserved.is_none() || limit == Limit::BudgetPerBatch {
        return String::new();
    }
    let each = reserved.batches.iter();
    let each: Vec<_> = each
        .map(|(id, count)| format!("{} of batch {id}", units(*count)))
        .collect();
    format!(
        "; {} for up to {}/h come first and are not launched yet",
        each.join(", "),
        reserved.per_hour
    )
}

/// What a launch of now would be.
pub(super) fn sized(view: &View, rules: &Rules, resident_units: u32) -> Size {
    let at = |price| size(&input(view, rules, resident_units, price), &rules.sizing);
    let usual = at(view.unit_price());
    match usual.units {
        // Fleet leaves out what is too dear.
        0 => at(view.least_price()),
        _ => usual,
    }
}

fn input(view: &View, rules: &Rules, resident_units: u32, unit_price: Option<Usd>) -> SizeInput {
    SizeInput {
        tasks: view.work.max(view.queued),
        seconds_per_task: view.seconds_per_task,
        modelled: view.seconds_modelled,
        startup: view.startup_s.map(Duration::from_secs),
        resident_units,
        quota_units: view.quota_units,
        unit_price,
        budgets: rules.budgets,
        spend: view.committed(),
    }
}

fn blocker(kind: BlockerKind, sentence: String, since: Option<Timestamp>) -> Blocker {
    Blocker {
        kind,
        sentence,
        since,
        until: None,
    }
}
