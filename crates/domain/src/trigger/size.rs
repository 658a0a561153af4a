//! Number of units that a queue needs, is allowed, and can pay for. Used by trigger for a request and by fleet during the batch.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::rules::{Budgets, Sizing, USUAL_TASKS_PER_GPU_HOUR};
use super::words;
use crate::money::Usd;
use crate::purchase::{Limit, Purchase};
use crate::spend::Spend;

/// A quotient this close above a whole number is that number: 1/3 three times must not need a second unit.
const ROUNDING: f64 = 1e-9;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct SizeInput {
    /// Tasks that are not finished.
    pub tasks: u64,
    /// What the pool's last batches took for one, whatever those were.
    pub seconds_per_task: Option<f64>,
    /// By the cost model, as finished tasks have corrected it, for what is queued.
    pub modelled: Option<f64>,
    /// Until a new unit renders. Absent: at once.
    pub startup: Option<Duration>,
    /// Units that stay whatever the queue needs.
    pub resident_units: u32,
    /// The most that the account's quota admits.
    pub quota_units: Option<u32>,
    /// Of one unit for an hour; absent: no budget limits, and the caller must not launch for money.
    pub unit_price: Option<Usd>,
    pub budgets: Budgets,
    /// Of all pools.
    pub spend: Spend,
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

impl SizeInput {
    /// A new batch for all of the tasks.
    pub fn purchase(&self, sizing: &Sizing) -> Purchase<'_> {
        let each = sizing.pace(self.seconds_per_task, self.modelled).seconds;
        #[expect(
            clippy::cast_precision_loss,
            reason = "a queue is far below 2^53 tasks"
        )]
        let span =
            |tasks: u64| Duration::try_from_secs_f64(tasks as f64 * each).unwrap_or(Duration::MAX);
        Purchase {
            budgets: &self.budgets,
            spend: self.spend,
            batch: Usd::ZERO,
            batch_rate: Usd::ZERO,
            committed: 0,
            work: span(self.tasks),
            task: span(1),
            target: sizing.target,
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
    /// What is reckoned for the tasks of now goes before what a person has written down, and that before a mean of the past:
    /// those may have been other tasks.
    pub fn pace(&self, measured: Option<f64>, modelled: Option<f64>) -> Pace {
        let hourly = |tasks: f64| 3_600.0 / tasks;
        let known = [
            ("by the cost model", modelled),
            ("as configured", self.tasks_per_gpu_hour.map(hourly)),
            ("measured", measured),
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

    /// What of the target a new unit renders in. At least half of it: where that is too little, more units would not help.
    pub fn window(&self, startup: Option<Duration>) -> Duration {
        let startup = startup.unwrap_or_default();
        self.target.saturating_sub(startup).max(self.target / 2)
    }
}

/// `ceil(work / (target - startup))` within its limits. Quota and budgets go before the least number.
pub fn size(input: &SizeInput, sizing: &Sizing) -> Size {
    let Pace {
        seconds: each,
        origin,
    } = sizing.pace(input.seconds_per_task, input.modelled);
    let window = sizing.window(input.startup);
    let needed = units_for(input.tasks, each, window);
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
    for (limit, most) in ceilings {
        if let Some(most) = most.filter(|most| units > *most) {
            (units, limited_by) = (most, Some(limit));
        }
    }
    if let Some(price) = input.unit_price.filter(|price| price.is_positive())
        && let (most, Some(limit)) = input.purchase(sizing).units(units, price)
    {
        (units, limited_by) = (most, Some(limit));
    }

    let starts = match window < sizing.target {
        true => format!(" less {} to start", words::span(sizing.target - window)),
        false => String::new(),
    };
    let mut sentence = format!(
        "{} × {}s ({origin}) / {}{starts} = {}",
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
