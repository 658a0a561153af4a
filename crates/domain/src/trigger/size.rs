//! How many units a queue needs, may have, and can be paid for. Trigger asks it at the launch, fleet during the batch.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::rules::{Budgets, Sizing, USUAL_TASKS_PER_GPU_HOUR};
use super::view::Spend;
use super::words;
use crate::money::Usd;

/// A quotient this close above a whole number is that number: 1/3 three times must not need a second unit.
const ROUNDING: f64 = 1e-9;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct SizeInput {
    /// Tasks that are not finished.
    pub tasks: u64,
    /// Measured.
    pub seconds_per_task: Option<f64>,
    /// By the cost model.
    pub modelled: Option<f64>,
    /// Units that stay whatever the queue needs.
    pub resident_units: u32,
    /// The most that the account's quota admits.
    pub quota_units: Option<u32>,
    /// Of one unit for an hour; absent: no budget limits, and the caller must not launch for money.
    pub unit_price: Option<Usd>,
    pub left: BudgetLeft,
}

/// What each budget still admits; absent: there is no such budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetLeft {
    /// A rate.
    pub per_hour: Option<Usd>,
    pub per_batch: Option<Usd>,
    pub per_day: Option<Usd>,
    pub per_month: Option<Usd>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// 0 when quota or budget admit none.
    pub units: u32,
    /// The arithmetic.
    pub sentence: String,
    /// What made it another number than the work alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limited_by: Option<Limit>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    Min,
    Resident,
    Max,
    Quota,
    BudgetPerHour,
    BudgetPerBatch,
    BudgetPerDay,
    BudgetPerMonth,
}

impl Limit {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Min => "sizing.min",
            Self::Resident => "the resident units",
            Self::Max => "sizing.max",
            Self::Quota => "the quota",
            Self::BudgetPerHour => "budgets.per_hour",
            Self::BudgetPerBatch => "budgets.per_batch",
            Self::BudgetPerDay => "budgets.per_day",
            Self::BudgetPerMonth => "budgets.per_month",
        }
    }
}

impl Budgets {
    /// What is left of them before a new batch.
    pub fn left(&self, spend: &Spend) -> BudgetLeft {
        let left = |budget: Option<Usd>, spent| budget.map(|b: Usd| b.saturating_sub(spent));
        BudgetLeft {
            per_hour: left(self.per_hour, spend.per_hour),
            per_batch: self.per_batch,
            per_day: left(self.per_day, spend.today),
            per_month: left(self.per_month, spend.this_month),
        }
    }
}

/// What a unit takes for a task, and how that is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    pub seconds: f64,
    pub origin: &'static str,
}

impl Sizing {
    /// What was measured goes before what a person has written down, and that before what is reckoned.
    pub fn pace(&self, measured: Option<f64>, modelled: Option<f64>) -> Pace {
        let hourly = |tasks: f64| 3_600.0 / tasks;
        let known = [
            ("measured", measured),
            ("as configured", self.tasks_per_gpu_hour.map(hourly)),
            ("by the cost model", modelled),
        ];
        let usable = |seconds: &f64| seconds.is_finite() && *seconds > 0.0;
        known
            .into_iter()
            .find_map(|(origin, seconds)| {
                let seconds = seconds.filter(usable)?;
                Some(Pace { seconds, origin })
            })
            .unwrap_or(Pace {
                seconds: hourly(USUAL_TASKS_PER_GPU_HOUR),
                origin: "assumed, nothing measured yet",
            })
    }
}

/// `ceil(work / target)` within its limits. Quota and budgets go before the least number.
pub fn size(input: &SizeInput, sizing: &Sizing) -> Size {
    let Pace {
        seconds: each,
        origin,
    } = sizing.pace(input.seconds_per_task, input.modelled);
    let needed = units_for(input.tasks, each, sizing.target);
    let mut units = needed;
    let mut limited_by = None;
    for (limit, least) in [
        (Limit::Min, sizing.min),
        (Limit::Resident, input.resident_units),
    ] {
        if units < least {
            (units, limited_by) = (least, Some(limit));
        }
    }
    let ceilings = [
        (Limit::Max, Some(sizing.max)),
        (Limit::Quota, input.quota_units),
    ];
    for (limit, most) in ceilings.into_iter().chain(affordable(input, sizing.target)) {
        if let Some(most) = most.filter(|most| units > *most) {
            (units, limited_by) = (most, Some(limit));
        }
    }

    let mut sentence = format!(
        "{} × {}s ({origin}) / {} = {}",
        words::tasks(input.tasks),
        (each * 10.0).round() / 10.0,
        words::span(sizing.target),
        words::units(needed),
    );
    if let Some(limit) = limited_by {
        let way = if units < needed { "only " } else { "" };
        sentence += &format!("; {way}{units} by {}", limit.as_str());
    }
    if let Some(price) = input.unit_price.filter(|price| price.is_positive()) {
        let cost = price.times(units).per_hour_for(sizing.target);
        let target = words::span(sizing.target);
        sentence += &format!("; {units} × {price}/h × {target} = {cost} at most by the target");
    }
    Size {
        units,
        sentence,
        limited_by,
    }
}

fn units_for(tasks: u64, seconds_per_task: f64, target: Duration) -> u32 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a queue is far below 2^53 tasks"
    )]
    let exact = tasks as f64 * seconds_per_task / target.as_secs_f64();
    let whole = (exact - ROUNDING).ceil().max(0.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float becomes the nearest u32; NaN, of nothing in no time, becomes 0"
    )]
    let units = whole as u32;
    units
}

/// Whole units that each budget pays: the hourly one at their rate, the others until the target.
fn affordable(input: &SizeInput, target: Duration) -> [(Limit, Option<u32>); 4] {
    let price = input.unit_price.filter(|price| price.is_positive());
    let units = |left: Option<Usd>, span: Duration| {
        let cost = price?.per_hour_for(span).micros().max(1);
        Some(u32::try_from(left?.micros().max(0) / cost).unwrap_or(u32::MAX))
    };
    let (hour, left) = (Duration::from_secs(3_600), input.left);
    [
        (Limit::BudgetPerHour, units(left.per_hour, hour)),
        (Limit::BudgetPerBatch, units(left.per_batch, target)),
        (Limit::BudgetPerDay, units(left.per_day, target)),
        (Limit::BudgetPerMonth, units(left.per_month, target)),
    ]
}
