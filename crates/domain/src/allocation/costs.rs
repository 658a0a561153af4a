//! Sums of ledgers by day, month, batch, pool, model, owner or label.

use std::collections::BTreeMap;
use std::fmt;

use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ledger::CostCell;
use super::lines::CostLines;
use crate::api_key::Owner;
use crate::batch::BatchId;
use crate::money::Usd;

/// Rows of a report; the rest is summed in one more. A person reads no more, and a day or a month has a row each in any span
/// that is kept.
pub const MAX_ROWS: usize = 1_000;

/// What a row of a report stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum CostGroup {
    #[default]
    Day,
    Month,
    Batch,
    Pool,
    Model,
    Owner,
    /// The values of one label.
    Label(String),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is nothing to sum by: write day, month, batch, pool, model, owner, or label:NAME with the name of a label"
)]
pub struct BadCostGroup(String);

impl CostGroup {
    pub fn parse(text: &str) -> Result<Self, BadCostGroup> {
        Ok(match text {
            "day" => Self::Day,
            "month" => Self::Month,
            "batch" => Self::Batch,
            "pool" => Self::Pool,
            "model" => Self::Model,
            "owner" => Self::Owner,
            _ => match text.strip_prefix("label:") {
                Some(name) if !name.is_empty() => Self::Label(name.to_owned()),
                _ => return Err(BadCostGroup(text.chars().take(100).collect())),
            },
        })
    }

    fn key(&self, batch: &BatchId, cell: &CostCell) -> Option<String> {
        match self {
            Self::Day => Some(cell.day.to_string()),
            Self::Month => Some(cell.day.strftime("%Y-%m").to_string()),
            Self::Batch => Some(batch.to_string()),
            Self::Pool => Some(batch.pool.to_string()),
            Self::Model => cell.model.map(|model| model.to_string()),
            Self::Owner => cell.owner.as_ref().map(Owner::to_string),
            Self::Label(name) => cell.labels.get(name).cloned(),
        }
    }

    fn is_time(&self) -> bool {
        matches!(self, Self::Day | Self::Month)
    }
}

impl fmt::Display for CostGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Day => f.write_str("day"),
            Self::Month => f.write_str("month"),
            Self::Batch => f.write_str("batch"),
            Self::Pool => f.write_str("pool"),
            Self::Model => f.write_str("model"),
            Self::Owner => f.write_str("owner"),
            Self::Label(name) => write!(f, "label:{name}"),
        }
    }
}

impl TryFrom<String> for CostGroup {
    type Error = BadCostGroup;
    fn try_from(text: String) -> Result<Self, BadCostGroup> {
        Self::parse(&text)
    }
}

impl From<CostGroup> for String {
    fn from(group: CostGroup) -> Self {
        group.to_string()
    }
}

/// Which costs are summed.
#[derive(Clone, Debug, PartialEq)]
pub struct CostQuery {
    /// The first day.
    pub from: Date,
    /// The day after the last one.
    pub to: Date,
    pub by: CostGroup,
    /// The costs of one owner's tasks alone.
    pub owner: Option<Owner>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CostReport {
    /// The first day, in UTC.
    #[schema(value_type = String, format = Date)]
    pub from: Date,
    /// The day after the last one.
    #[schema(value_type = String, format = Date)]
    pub to: Date,
    #[schema(value_type = String, example = "day")]
    pub by: CostGroup,
    pub total: Usd,
    pub lines: CostLines,
    /// Videos finished in this time.
    pub videos: u64,
    /// The mean of all days from `from` to `to`, also of those without costs.
    pub mean_per_day: Usd,
    /// What the month of the last day costs if all of its days cost the mean.
    pub projected_month: Usd,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub highest_day: Option<CostDay>,
    /// Days and months in their order, anything else with the highest cost first.
    pub rows: Vec<CostRow>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CostDay {
    #[schema(value_type = String, format = Date)]
    pub day: Date,
    pub total: Usd,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CostRow {
    /// Absent: costs without an owner, a model or the label; or the sum of all rows beyond the largest ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    pub total: Usd,
    pub lines: CostLines,
    pub videos: u64,
}

/// A report while it is summed.
pub struct CostSum {
    query: CostQuery,
    rows: BTreeMap<Option<String>, (CostLines, u64)>,
    days: BTreeMap<Date, Usd>,
}

impl CostSum {
    pub fn new(query: CostQuery) -> Self {
        Self {
            query,
            rows: BTreeMap::new(),
            days: BTreeMap::new(),
        }
    }

    pub fn add(&mut self, batch: &BatchId, cells: &[CostCell]) {
        let CostQuery {
            from,
            to,
            by,
            owner,
        } = &self.query;
        for cell in cells {
            let is_theirs = owner.is_none() || *owner == cell.owner;
            if !is_theirs || cell.day < *from || cell.day >= *to {
                continue;
            }
            let row = self.rows.entry(by.key(batch, cell)).or_default();
            row.0 += cell.lines;
            row.1 += cell.videos;
            *self.days.entry(cell.day).or_default() += cell.lines.total();
        }
    }

    pub fn finish(self) -> CostReport {
        let CostQuery { from, to, by, .. } = self.query;
        let row = |(key, (lines, videos)): (Option<String>, (CostLines, u64))| CostRow {
            key,
            total: lines.total(),
            lines,
            videos,
        };
        let mut rows: Vec<CostRow> = self.rows.into_iter().map(row).collect();
        let lines: CostLines = rows.iter().map(|row| row.lines).sum();
        let videos = rows.iter().map(|row| row.videos).sum();
        if !by.is_time() {
            // Stable: of equal costs the first by name.
            rows.sort_by_key(|row| std::cmp::Reverse(row.total));
        }
        let others = rows.split_off(rows.len().min(MAX_ROWS));
        if !others.is_empty() {
            let lines: CostLines = others.iter().map(|row| row.lines).sum();
            rows.push(CostRow {
                key: None,
                total: lines.total(),
                lines,
                videos: others.iter().map(|row| row.videos).sum(),
            });
        }
        let days = (to - from).get_days();
        let total = lines.total();
        let mean = Usd::from_micros(total.micros() / i64::from(days.max(1)));
        let last = to.yesterday().unwrap_or(to);
        let month = u32::from(last.days_in_month().unsigned_abs());
        let highest = self.days.into_iter().max_by_key(|(_, total)| *total);
        CostReport {
            from,
            to,
            by,
            total,
            lines,
            videos,
            mean_per_day: mean,
            projected_month: mean.times(month),
            highest_day: highest.map(|(day, total)| CostDay { day, total }),
            rows,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;

    fn cell(day: &str, owner: Option<&str>, team: Option<&str>, micros: i64) -> CostCell {
        CostCell {
            day: day.parse().unwrap(),
            owner: owner.map(|owner| Owner::parse(owner).unwrap()),
            model: Some(Model::Ti2v5b),
            labels: team
                .map(|team| ("team".to_owned(), team.to_owned()))
                .into_iter()
                .collect(),
            lines: CostLines {
                rendering: Usd::from_micros(micros),
                ..CostLines::default()
            },
            videos: 1,
        }
    }

    fn cells() -> Vec<CostCell> {
        vec![
            cell("2026-11-29", None, None, 1),
            cell("2026-11-30", Some("anna"), Some("films"), 20),
            cell("2026-11-30", Some("ben"), Some("ads"), 300),
            cell("2026-12-01", Some("anna"), None, 4_000),
        ]
    }

    fn report(by: &str, owner: Option<&str>) -> CostReport {
        let mut report = CostSum::new(CostQuery {
            from: "2026-11-30".parse().unwrap(),
            to: "2026-12-02".parse().unwrap(),
            by: CostGroup::parse(by).unwrap(),
            owner: owner.map(|owner| Owner::parse(owner).unwrap()),
        });
        report.add(&BatchId::parse("default-1").unwrap(), &cells());
        report.add(&BatchId::parse("large-7").unwrap(), &cells()[3..]);
        report.finish()
    }

    fn rows(report: &CostReport) -> Vec<(&str, i64)> {
        let mut rows = Vec::new();
        for CostRow { key, total, .. } in &report.rows {
            rows.push((key.as_deref().unwrap_or("-"), total.micros()));
        }
        rows
    }

    #[test]
    fn each_group_adds_up_to_the_same_total() {
        let expected: [(&str, &[(&str, i64)]); 7] = [
            ("day", &[("2026-11-30", 320), ("2026-12-01", 8_000)]),
            ("month", &[("2026-11", 320), ("2026-12", 8_000)]),
            ("batch", &[("default-1", 4_320), ("large-7", 4_000)]),
            ("pool", &[("default", 4_320), ("large", 4_000)]),
            ("model", &[("ti2v-5B", 8_320)]),
            ("owner", &[("anna", 8_020), ("ben", 300)]),
            ("label:team", &[("-", 8_000), ("ads", 300), ("films", 20)]),
        ];
        for (by, expected) in expected {
            let report = report(by, None);
            assert_eq!(rows(&report), expected, "by {by}");
            assert_eq!(report.total.micros(), 8_320, "by {by}");
            assert_eq!(report.videos, 4, "by {by}");
            assert_eq!(report.mean_per_day.micros(), 4_160, "by {by}");
            assert_eq!(report.projected_month.micros(), 31 * 4_160, "by {by}");
            let highest = report.highest_day.unwrap();
            assert_eq!(highest.day.to_string(), "2026-12-01", "by {by}");
        }
    }

    #[test]
    fn an_owner_sees_what_its_tasks_cost_and_nothing_else() {
        let report = report("label:team", Some("anna"));
        assert_eq!(rows(&report), [("-", 8_000), ("films", 20)]);
        assert_eq!(report.total.micros(), 8_020);
    }

    #[test]
    fn what_is_beyond_the_largest_rows_is_summed() {
        let day = |team: usize| cell("2026-11-30", None, Some(&team.to_string()), 1);
        let cells: Vec<_> = (0..MAX_ROWS + 5).map(day).collect();
        let mut report = CostSum::new(CostQuery {
            from: "2026-11-30".parse().unwrap(),
            to: "2026-12-01".parse().unwrap(),
            by: CostGroup::Label("team".into()),
            owner: None,
        });
        report.add(&BatchId::parse("default-1").unwrap(), &cells);
        let report = report.finish();
        assert_eq!(report.rows.len(), MAX_ROWS + 1);
        let others = report.rows.last().unwrap();
        assert_eq!((others.key.as_ref(), others.total.micros()), (None, 5));
        assert_eq!(report.total.micros(), 1_005);
    }

    #[test]
    fn a_group_is_written_as_it_is_read() {
        for text in [
            "day",
            "month",
            "batch",
            "pool",
            "model",
            "owner",
            "label:a b",
        ] {
            assert_eq!(CostGroup::parse(text).unwrap().to_string(), text);
        }
        for bad in ["", "label:", "label", "year", "Day"] {
            let refused = CostGroup::parse(bad).unwrap_err().to_string();
            assert!(refused.contains("label:NAME"), "{refused}");
        }
    }
}
