//! A value over time: what is drawn, until somebody sets it.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::config::MarketConfig;
use super::draw::Dice;

/// How much of a stray is left a step later: half of it after seven steps.
const MEMORY: f64 = 0.9;
/// Steps that a draw remembers; what is older weighs less than a hundredth.
const REMEMBERED: i64 = 48;
/// One over the standard deviation of a sum of even draws in -1..1, each weighing [`MEMORY`] times the next:
/// sqrt(3 × (1 - MEMORY²)).
const UNIT: f64 = 0.754_983_443_527_075;
/// Strays of more standard deviations are cut off.
const FARTHEST: f64 = 3.0;
/// AWS shows Spot prices in steps of $0.0001.
const TICK_MICROS: i64 = 100;
/// No price falls below this part of its base.
const CHEAPEST: f64 = 0.1;

#[derive(Debug)]
pub(super) struct Series {
    source: Source,
    /// Before it, the value is that of this moment.
    epoch: Timestamp,
    /// What was set, from when on; from the first of them on nothing is drawn.
    set: BTreeMap<Timestamp, i64>,
}

#[derive(Debug)]
enum Source {
    Fixed(i64),
    Drawn {
        dice: Dice,
        /// In milliseconds, as `phase`, which keeps pools from moving all at once.
        step: i64,
        phase: i64,
        base: i64,
        swing: f64,
        tick: i64,
        lowest: i64,
        highest: i64,
    },
}

impl Series {
    pub fn price(
        config: &MarketConfig,
        epoch: Timestamp,
        kind: &str,
        zone: &str,
        base: i64,
        highest: i64,
    ) -> Self {
        let dice = Dice::new(config.seed, &["price", kind, zone]);
        Self {
            source: Source::drawn(dice, config.price_step, base, config.price_swing).within(
                TICK_MICROS,
                scaled(base, CHEAPEST),
                highest,
            ),
            epoch,
            set: BTreeMap::new(),
        }
    }

    pub fn capacity(config: &MarketConfig, epoch: Timestamp, kind: &str, zone: &str) -> Self {
        let dice = Dice::new(config.seed, &["capacity", kind, zone]);
        let base = i64::from(config.capacity);
        Self {
            source: Source::drawn(dice, config.capacity_step, base, config.capacity_swing),
            epoch,
            set: BTreeMap::new(),
        }
    }

    /// Before the first setting the value is this and not drawn.
    pub fn fix(&mut self, value: i64) {
        self.source = Source::Fixed(value);
    }

    pub fn set(&mut self, at: Timestamp, value: i64) {
        self.set.insert(at, value);
    }

    pub fn at(&self, at: Timestamp) -> i64 {
        match self.set.range(..=at).next_back() {
            Some((_, value)) => *value,
            None => self.source.at(at.max(self.epoch)),
        }
    }

    /// The changes from `from` to `to`, and before them the last one up to `from`.
    pub fn changes(&self, from: Timestamp, to: Timestamp) -> Vec<(Timestamp, i64)> {
        let mut points: Vec<(Timestamp, i64)> = Vec::new();
        let mut push = |at: Timestamp, value: i64| match points.last_mut() {
            Some(last) if last.1 == value => {}
            Some(last) if last.0 <= from && at <= from => *last = (at, value),
            _ => points.push((at, value)),
        };
        let set_from = self.set.keys().next().copied().unwrap_or(Timestamp::MAX);
        if to >= self.epoch && set_from > self.epoch {
            push(self.epoch, self.source.at(self.epoch));
            let steps = self.source.steps(self.epoch, to);
            for at in steps.take_while(|at| *at < set_from) {
                push(at, self.source.at(at));
            }
        }
        for (at, value) in self.set.range(..=to) {
            push(*at, *value);
        }
        points
    }
}

impl Source {
    fn drawn(dice: Dice, step: Duration, base: i64, swing: f64) -> Self {
        if swing == 0.0 || step.is_zero() {
            return Self::Fixed(base);
        }
        let step = i64::try_from(step.as_millis()).unwrap_or(i64::MAX).max(1);
        Self::Drawn {
            phase: scaled(step, dice.nth(i64::MIN).part()),
            dice,
            step,
            base,
            swing,
            tick: 1,
            lowest: 0,
            highest: i64::MAX,
        }
    }

    fn within(mut self, in_ticks: i64, at_least: i64, at_most: i64) -> Self {
        if let Self::Drawn {
            tick,
            lowest,
            highest,
            ..
        } = &mut self
        {
            (*tick, *lowest, *highest) = (in_ticks, at_least, at_most.max(at_least));
        }
        self
    }

    fn at(&self, at: Timestamp) -> i64 {
        match self {
            Self::Fixed(value) => *value,
            Self::Drawn {
                dice,
                step,
                phase,
                base,
                swing,
                tick,
                lowest,
                highest,
            } => {
                let number = (at.as_millisecond() - phase).div_euclid(*step);
                let value = scaled(*base, 1.0 + swing * stray(*dice, number));
                (value / tick * tick).clamp(*lowest, *highest)
            }
        }
    }

    /// The moments after `from` and up to `to` at which a new value is drawn.
    fn steps(&self, from: Timestamp, to: Timestamp) -> impl Iterator<Item = Timestamp> + use<> {
        let (step, phase) = match self {
            Self::Fixed(_) => (i64::MAX, i64::MAX),
            Self::Drawn { step, phase, .. } => (*step, *phase),
        };
        let number = from.as_millisecond().saturating_sub(phase).div_euclid(step);
        let first = number
            .saturating_add(1)
            .saturating_mul(step)
            .saturating_add(phase);
        std::iter::successors(Some(first), move |at| at.checked_add(step))
            .map_while(|at| Timestamp::from_millisecond(at).ok())
            .take_while(move |at| *at <= to)
    }
}

/// How far the value of this step lies from its base, in standard deviations: new ones pull it about, old ones fade.
fn stray(dice: Dice, number: i64) -> f64 {
    let mut sum = 0.0;
    for back in (0..REMEMBERED).rev() {
        sum = sum * MEMORY + (dice.nth(number - back).part() * 2.0 - 1.0);
    }
    (sum * UNIT).clamp(-FARTHEST, FARTHEST)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "prices, counts and steps are far below 2^53; `as` saturates"
)]
fn scaled(base: i64, by: f64) -> i64 {
    (base as f64 * by).round() as i64
}
