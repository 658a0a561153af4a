//! Receipts against the cloud's bill.

use std::collections::BTreeMap;
use std::time::Duration;

use spotreel_domain::batch::Receipt;
use spotreel_tests::Verdict;

use super::market::CloudBill;
use super::pools::KINDS;
use super::records::Story;
use crate::record::Book;

/// Fleet knows that a machine is gone once a listing shows it: rounds, faults of the cloud and its own deaths come
/// before that. So many seconds of a machine's price may stand between receipt and bill.
const SEEN_LATE_S: i64 = 20;
const HOUR_S: i64 = 3_600;
/// A minute is billed at least, also of what ran for seconds. Where the price moves in it, fleet takes all of it at
/// one price, and the bill each second at its own.
const LEAST_S: u64 = 60;
/// As far as a run moves prices.
const MOST_PERCENT: i64 = 300;

/// What everything cost, in micro-dollars.
#[derive(Clone, Copy, Debug, Default)]
pub struct Costs {
    pub billed: i64,
    /// The receipts' total over the same machines.
    pub booked: i64,
    /// The receipts' total over machines that the bill does not know.
    pub booked_alone: i64,
    pub billed_seconds: i64,
}

pub fn receipts(stories: &[Story], bill: &CloudBill, book: &Book) -> (Verdict, Costs) {
    let mut verdict = Verdict::new(
        "bill",
        "a receipt says what the bill says, but for the seconds until an end is seen and prices that move",
    );
    let mut costs = Costs::default();
    let lines: BTreeMap<_, _> = bill
        .lines
        .iter()
        .map(|line| (line.instance_id.as_str(), line))
        .collect();
    for story in stories {
        let last = story.last();
        let receipt = Receipt::of(&last.batch, last.batch.ended_at.unwrap_or(last.batch.at));
        for line in &receipt.lines {
            let booked = line.cost.micros();
            let Some(billed) = lines.get(line.instance.as_str()) else {
                costs.booked_alone += booked;
                continue;
            };
            costs.booked += booked;
            costs.billed += billed.micros;
            costs.billed_seconds += billed.seconds;
            // No machine of the pool costs more than the dearest cap, but while the market is above it.
            let dearest = KINDS.iter().map(|(_, cents)| cents * 10_000).max();
            let dearest = dearest.unwrap_or_default();
            let until = line.launched_at + Duration::from_secs(line.seconds.max(LEAST_S));
            let moved = book.price_moves.iter().any(|(kind, at)| {
                *kind == line.place.kind && *at >= line.launched_at && *at <= until
            });
            let bound = if moved {
                dearest * MOST_PERCENT / 100 * LEAST_S.cast_signed() / HOUR_S
            } else if billed.seconds == 0 && !billed.interrupted {
                // Ended by a call before it ran: EC2 does not say so, and fleet counts the minute that may be billed.
                dearest * LEAST_S.cast_signed() / HOUR_S + 1
            } else {
                dearest * SEEN_LATE_S / HOUR_S + 1
            };
            verdict.check((booked - billed.micros).abs() <= bound, || {
                format!(
                    "{} of {}: {} s cost {} µ$, the receipt says {booked} for {} s",
                    line.instance, story.id, billed.seconds, billed.micros, line.seconds
                )
            });
        }
    }
    (verdict, costs)
}
