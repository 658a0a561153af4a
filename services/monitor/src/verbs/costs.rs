//! What batches cost in a span of time.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use spotreel_api::{ApiError, CostsQuery, ErrorCode, MAX_COST_DAYS, USUAL_COST_DAYS};
use spotreel_bootstrap::ambient;
use spotreel_bus::jetstream::JetStreamError;
use spotreel_bus::reply::{refuse, unavailable};
use spotreel_domain::allocation::{CostQuery, CostReport, CostSum};

use crate::verbs::Requests;

pub async fn answer(requests: Arc<Requests>, query: CostsQuery) -> Result<CostReport, ApiError> {
    let now = ambient::now();
    let query = checked(query, now)?;
    let books = &requests.books;
    // A batch may be closed while the sums are made: those that are open are read first, and counted only while they are.
    let open = books.open().await;
    let open = open.map_err(|error| unavailable("the ledgers of running batches", &error))?;
    let since = query.from.to_zoned(TimeZone::UTC);
    let since = since.map_or(now, |midnight| midnight.timestamp());
    let since = since.clamp(Timestamp::UNIX_EPOCH, now.max(Timestamp::UNIX_EPOCH));
    let mut report = CostSum::new(query);
    let mut closed = BTreeSet::new();
    let mut pages = books.stream.costs_since(since);
    let of_closed = |error: JetStreamError| unavailable("the ledgers of closed batches", &error);
    while let Some(page) = pages.next().await.map_err(of_closed)? {
        for (batch, cells) in page {
            report.add(&batch, &cells);
            closed.insert(batch);
        }
    }
    let open = open.ledgers.iter();
    for ledger in open.filter(|open| !closed.contains(&open.batch)) {
        report.add(&ledger.batch, &ledger.cells);
    }
    Ok(report.finish())
}

fn checked(query: CostsQuery, now: Timestamp) -> Result<CostQuery, ApiError> {
    let today = now.to_zoned(TimeZone::UTC).date();
    let to = query.to.unwrap_or(later(today, 1));
    let from = query.from.unwrap_or(later(to, -USUAL_COST_DAYS));
    if from >= to {
        let message = format!(
            "from is {from} and to is {to}: from is the first day, to the day after the last one"
        );
        return Err(refuse(ErrorCode::Invalid, message));
    }
    if from < later(to, -MAX_COST_DAYS) {
        let message = format!(
            "from {from} to {to} is longer than {MAX_COST_DAYS} days, for which costs are kept: ask for a shorter time"
        );
        return Err(refuse(ErrorCode::Invalid, message));
    }
    Ok(CostQuery {
        from,
        to,
        by: query.by,
        owner: query.owner,
    })
}

fn later(day: Date, days: i32) -> Date {
    day.saturating_add(Span::new().days(days))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn days(from: Option<&str>, to: Option<&str>) -> Result<(String, String), String> {
        let query = CostsQuery {
            from: from.map(|day| day.parse().unwrap()),
            to: to.map(|day| day.parse().unwrap()),
            ..CostsQuery::default()
        };
        let now = "2026-11-30T23:59:59Z".parse().unwrap();
        let checked = checked(query, now).map_err(|refused| refused.message)?;
        Ok((checked.from.to_string(), checked.to.to_string()))
    }

    #[test]
    fn a_span_ends_today_and_has_thirty_days() {
        let span = |from: &str, to: &str| Ok((from.to_owned(), to.to_owned()));
        assert_eq!(days(None, None), span("2026-11-01", "2026-12-01"));
        let month = days(None, Some("2026-11-01"));
        assert_eq!(month, span("2026-10-02", "2026-11-01"));
        let open = days(Some("2026-11-30"), None);
        assert_eq!(open, span("2026-11-30", "2026-12-01"));
    }

    #[test]
    fn a_span_without_days_or_with_too_many_is_refused() {
        for (from, to, word) in [
            ("2026-11-30", "2026-11-30", "the day after"),
            ("2026-12-02", "2026-12-01", "the day after"),
            ("-009999-01-01", "9999-12-31", "400 days"),
            ("2025-10-26", "2026-12-01", "400 days"),
        ] {
            let refused = days(Some(from), Some(to)).unwrap_err();
            assert!(refused.contains(word), "{refused}");
        }
        assert!(days(Some("2025-10-27"), Some("2026-12-01")).is_ok());
        assert!(days(None, Some("-009999-01-01")).is_err());
    }
}
