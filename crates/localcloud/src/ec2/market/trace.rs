//! A market from a file: CSV (`.csv`, a header line, no quotes) or JSON lines (any other name), one row a change.
//!
//! | column | meaning |
//! |---|---|
//! | `at_seconds` | seconds after the market's start, with a fraction if need be; rows may come in any order |
//! | `type`, `zone` | the pool; `*` means any, in rows that only interrupt |
//! | `price` | from now on, in dollars an hour; empty: as before |
//! | `capacity` | from now on, instances that the pool holds; empty: as before |
//! | `interrupt` | `notice`, `rebalance` or `silent`, and how many (`notice 2`; one if it says nothing, or `all`): the oldest in the pool |
//!
//! The columns `price`, `capacity` and `interrupt` may be missing. Before its first row a pool has that row's price and
//! capacity.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;

use super::interruption::{ANY, Interruption, ReclaimKind};
use super::{HISTORY, Market};

/// A trace is read whole; AWS's history of all GPU types for 90 days is a few megabytes.
const LARGEST: u64 = 64 << 20;

/// Why a trace is refused.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}, line {line}: {rule}", path.display())]
    Line {
        path: PathBuf,
        line: usize,
        rule: String,
    },
}

/// A row as it is written, in either form.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    at_seconds: f64,
    #[serde(rename = "type")]
    kind: String,
    zone: String,
    price: Option<f64>,
    capacity: Option<u32>,
    interrupt: Option<String>,
}

/// What a pool was told by its earliest row, and when.
type First = std::collections::BTreeMap<(String, String), (Timestamp, i64)>;

/// Reads the file into the market's pools and script.
pub(super) fn apply(path: &Path, market: &mut Market) -> Result<(), TraceError> {
    let text = read(path).map_err(|source| TraceError::Read {
        path: path.to_owned(),
        source,
    })?;
    let mut header: Option<Vec<&str>> = None;
    let csv = path.extension().is_some_and(|extension| extension == "csv");
    let (mut prices, mut capacities) = (First::new(), First::new());
    for (line, content) in text.lines().enumerate() {
        let refuse = |rule: String| TraceError::Line {
            path: path.to_owned(),
            line: line + 1,
            rule,
        };
        if content.trim().is_empty() {
            continue;
        }
        let row = match &header {
            None if csv => {
                header = Some(content.split(',').map(str::trim).collect());
                continue;
            }
            Some(header) => from_csv(header, content),
            None => serde_json::from_str(content).map_err(|error| error.to_string()),
        };
        let row = row.map_err(refuse)?;
        row.apply(market, &mut prices, &mut capacities)
            .map_err(refuse)?;
    }
    for ((kind, zone), (_, value)) in prices {
        if let Ok(pool) = market.pool_mut(&kind, &zone) {
            pool.price.fix(value);
        }
    }
    for ((kind, zone), (_, value)) in capacities {
        if let Ok(pool) = market.pool_mut(&kind, &zone) {
            pool.capacity.fix(value);
        }
    }
    market.script.sort_by_key(|line| line.at);
    Ok(())
}

fn read(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > LARGEST {
        return Err(io::Error::other(format!("more than {LARGEST} bytes")));
    }
    fs::read_to_string(path)
}

/// The same row as JSON would say it, so that both forms obey the same rules.
fn from_csv(header: &[&str], content: &str) -> Result<Row, String> {
    let cells: Vec<&str> = content.split(',').map(str::trim).collect();
    if cells.len() != header.len() {
        let (found, wanted) = (cells.len(), header.len());
        return Err(format!("{found} columns where the header has {wanted}"));
    }
    let filled = header
        .iter()
        .zip(cells)
        .filter(|(_, cell)| !cell.is_empty());
    let mut row = serde_json::Map::new();
    for (name, cell) in filled {
        let value = match *name {
            "at_seconds" | "price" | "capacity" => serde_json::from_str(cell)
                .map_err(|_| format!("{name} is not a number: {cell:?}"))?,
            _ => serde_json::Value::from(cell),
        };
        row.insert((*name).to_owned(), value);
    }
    serde_json::from_value(row.into()).map_err(|error| error.to_string())
}

impl Row {
    fn apply(
        self,
        market: &mut Market,
        prices: &mut First,
        capacities: &mut First,
    ) -> Result<(), String> {
        let start = market.config.start;
        let at = Duration::try_from_secs_f64(self.at_seconds)
            .ok()
            .filter(|at| *at <= HISTORY)
            .and_then(|at| start.checked_add(at).ok())
            .ok_or("at_seconds must be from 0 to 90 days")?;
        let sets = self.price.is_some() || self.capacity.is_some();
        if !sets && self.interrupt.is_none() {
            return Err("neither price nor capacity nor interrupt".to_owned());
        }
        if sets || (self.kind != ANY && self.zone != ANY) {
            let pool = market.pool_mut(&self.kind, &self.zone);
            let pool = pool.map_err(|error| error.to_string())?;
            let key = (self.kind.clone(), self.zone.clone());
            if let Some(price) = self.price {
                let price = micros(price)?;
                pool.price.set(at, price);
                keep_first(prices, key.clone(), at, price);
            }
            if let Some(capacity) = self.capacity {
                let capacity = i64::from(capacity);
                pool.capacity.set(at, capacity);
                keep_first(capacities, key, at, capacity);
            }
        }
        if let Some(words) = &self.interrupt {
            let (reclaim, count) = interruption(words, market.config.notice)?;
            market.script.push(Interruption {
                at,
                kind: self.kind,
                zone: self.zone,
                count,
                reclaim,
            });
        }
        Ok(())
    }
}

fn keep_first(first: &mut First, pool: (String, String), at: Timestamp, value: i64) {
    let known = first.entry(pool).or_insert((at, value));
    if at <= known.0 {
        *known = (at, value);
    }
}

#[expect(clippy::cast_possible_truncation, reason = "at most 10^10")]
fn micros(dollars: f64) -> Result<i64, String> {
    if !(0.0..=10_000.0).contains(&dollars) {
        return Err("price must be from 0 to 10000 dollars an hour".to_owned());
    }
    Ok((dollars * 1e6).round() as i64)
}

fn interruption(words: &str, lead: Duration) -> Result<(ReclaimKind, usize), String> {
    let mut words = words.split_whitespace();
    let reclaim = match words.next() {
        Some("notice") => ReclaimKind::Notice { lead },
        Some("rebalance") => ReclaimKind::Rebalance,
        Some("silent") => ReclaimKind::Silent,
        _ => return Err("interrupt must begin with notice, rebalance or silent".to_owned()),
    };
    let count = match words.next() {
        None => 1,
        Some("all") => usize::MAX,
        Some(count) => count
            .parse()
            .map_err(|_| format!("interrupt must end with a number or all, not {count:?}"))?,
    };
    match words.next() {
        None => Ok((reclaim, count)),
        Some(more) => Err(format!("interrupt has a word too many: {more:?}")),
    }
}
