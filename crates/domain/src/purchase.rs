//! How many machines may be bought. Trigger asks before it requests a batch and fleet before each launch; both ask here, so
//! that no batch is requested for which nothing may be launched.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::money::Usd;
use crate::spend::Spend;
use crate::trigger::Budgets;

/// EC2 bills a minute at least.
const LEAST_SPAN: Duration = Duration::from_secs(60);
/// More machines than any account runs: the search for a number that a budget admits ends there.
const MOST_UNITS: u32 = 10_000;

/// What makes the number of units another than the work alone.
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

/// What a purchase is held against.
#[derive(Clone, Copy, Debug)]
pub struct Purchase<'a> {
    pub budgets: &'a Budgets,
    /// Of all pools, with what runs of this batch.
    pub spend: Spend,
    /// What this batch has cost, and what an hour of it costs now.
    pub batch: Usd,
    pub batch_rate: Usd,
    /// Units of this batch that run or may run.
    pub committed: u32,
    /// How long a unit takes for all that is left, and for one task.
    pub work: Duration,
    pub task: Duration,
    /// Time in which the queue should be empty.
    pub target: Duration,
}

impl Purchase<'_> {
    /// The most units, up to `wanted`, that the budgets pay for at this price; and the budget that pays for no more.
    pub fn units(&self, wanted: u32, price: Usd) -> (u32, Option<Limit>) {
        let Some(first) = self.exceeded(wanted, price) else {
            return (wanted, None);
        };
        let fewer = (1..wanted.min(MOST_UNITS)).rev();
        let mut limit = first;
        for units in fewer {
            match self.exceeded(units, price) {
                None => return (units, Some(limit)),
                Some(other) => limit = other,
            }
        }
        (0, Some(limit))
    }

    /// The first budget that does not pay for this number of further units: by the hour their rate, the others until the work is done
    /// or the target is reached, whichever comes first. What runs goes on costing meanwhile, in all pools.
    fn exceeded(&self, units: u32, price: Usd) -> Option<Limit> {
        let (bought, span) = (price.times(units), self.span(units));
        let rate = self.spend.per_hour + bought;
        let ahead = rate.per_hour_for(span);
        let batch = self.batch + (self.batch_rate + bought).per_hour_for(span);
        let budgets = self.budgets;
        [
            (Limit::BudgetPerHour, budgets.per_hour, rate),
            (Limit::BudgetPerBatch, budgets.per_batch, batch),
            (
                Limit::BudgetPerDay,
                budgets.per_day,
                self.spend.today + ahead,
            ),
            (
                Limit::BudgetPerMonth,
                budgets.per_month,
                self.spend.this_month + ahead,
            ),
        ]
        .into_iter()
        .find_map(|(limit, budget, sum)| (sum > budget?).then_some(limit))
    }

    /// How long each of them has to be paid for. A budget that is smaller than the work buys fewer units, not none; the
    /// first of a batch is worth its money as soon as that suffices for a task.
    fn span(&self, units: u32) -> Duration {
        let task = self.task.max(LEAST_SPAN);
        match (self.committed, units) {
            (0, 1) => task,
            _ => {
                let share = self.work / self.committed.saturating_add(units).max(1);
                share.min(self.target).max(task)
            }
        }
    }

    /// What one unit needs of this budget.
    pub fn least(&self, limit: Limit, price: Usd) -> Usd {
        match limit {
            Limit::BudgetPerHour => price,
            _ => price.per_hour_for(self.span(1)),
        }
    }
}

impl Budgets {
    /// Whether one of them counts what all pools have cost.
    pub fn count_all_pools(&self) -> bool {
        self.per_hour.is_some() || self.per_day.is_some() || self.per_month.is_some()
    }

    /// The budget of this name, and what is left of it before a new batch.
    pub fn left(&self, limit: Limit, spend: &Spend) -> Option<(Usd, Usd)> {
        let (budget, spent) = match limit {
            Limit::BudgetPerHour => (self.per_hour, spend.per_hour),
            Limit::BudgetPerBatch => (self.per_batch, Usd::ZERO),
            Limit::BudgetPerDay => (self.per_day, spend.today),
            Limit::BudgetPerMonth => (self.per_month, spend.this_month),
            _ => return None,
        };
        budget.map(|budget| (budget, budget.saturating_sub(spent)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);
    const PRICE: Usd = Usd::from_cents(50);

    fn purchase(budgets: &Budgets) -> Purchase<'_> {
        Purchase {
            budgets,
            spend: Spend::default(),
            batch: Usd::ZERO,
            batch_rate: Usd::ZERO,
            committed: 0,
            work: 21 * HOUR,
            task: HOUR / 10,
            target: 2 * HOUR,
        }
    }

    fn per_day(cents: i64) -> Budgets {
        Budgets {
            per_day: Some(Usd::from_cents(cents)),
            ..Budgets::default()
        }
    }

    #[test]
    fn a_budget_below_the_work_buys_fewer_units_and_not_none() {
        // 21 hours at 0.50 are 10.50; until the target a unit costs 1.00.
        let day = per_day(1_000);
        let units = |wanted| purchase(&day).units(wanted, PRICE);
        assert_eq!(units(11), (10, Some(Limit::BudgetPerDay)));
        assert_eq!(units(10), (10, None));
        let rest = per_day(6);
        assert_eq!(purchase(&rest).units(5, PRICE).0, 1, "a task costs 0.05");
        let nothing = per_day(4);
        assert_eq!(purchase(&nothing).units(5, PRICE).0, 0);
    }

    #[test]
    fn what_runs_in_any_pool_is_paid_for_meanwhile() {
        let day = per_day(1_000);
        let spend = Spend {
            per_hour: Usd::from_cents(300),
            today: Usd::from_cents(200),
            ..Spend::default()
        };
        let other = Purchase {
            spend,
            ..purchase(&day)
        };
        // 8.00 less two hours at 3.00 leave two units.
        assert_eq!(other.units(10, PRICE), (2, Some(Limit::BudgetPerDay)));
        let running = Purchase {
            committed: 10,
            batch: Usd::from_cents(200),
            batch_rate: Usd::from_cents(300),
            ..other
        };
        assert_eq!(running.units(1, PRICE).0, 1);
        assert_eq!(
            Purchase {
                work: 100 * HOUR,
                ..running
            }
            .units(4, PRICE)
            .0,
            2
        );
    }

    #[test]
    fn each_budget_counts_for_itself() {
        let with = |change: fn(&mut Budgets)| {
            let mut budgets = Budgets::default();
            change(&mut budgets);
            budgets
        };
        for (budgets, expected) in [
            (
                with(|b| b.per_hour = Some(Usd::from_cents(120))),
                (2, Some(Limit::BudgetPerHour)),
            ),
            (
                with(|b| b.per_batch = Some(Usd::from_cents(310))),
                (3, Some(Limit::BudgetPerBatch)),
            ),
            (
                with(|b| b.per_month = Some(Usd::from_cents(410))),
                (4, Some(Limit::BudgetPerMonth)),
            ),
            (Budgets::default(), (11, None)),
        ] {
            assert_eq!(purchase(&budgets).units(11, PRICE), expected);
        }
    }
}
