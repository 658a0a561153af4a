//! Hybrid mode: two thresholds and a minimum time between changes, so that the mode does not flap.

use jiff::Timestamp;

use super::decision::{Mode, ModeFinding};
use super::rules::{HybridRule, Rules};
use super::size::{SizeInput, size};
use super::view::View;
use super::words::{span, units};
use crate::time::{elapsed, later};

/// What the mode is from now on, and when a change that is only waiting for the dwell time comes.
pub(super) fn steer(
    view: &View,
    rules: &Rules,
    now: Timestamp,
) -> (ModeFinding, Option<Timestamp>) {
    let before = view.mode.mode;
    let Some(rule) = &rules.hybrid else {
        let off = ModeFinding {
            mode: Mode::Batch,
            changed: before != Mode::Batch,
            resident_units: 0,
            sentence: "batches only: hybrid is switched off".to_owned(),
        };
        return (off, None);
    };
    let rate = view.arrivals_per_hour;
    let wanted = match before {
        Mode::Batch if rate > rule.resident_above => Mode::Resident,
        Mode::Resident if rate < rule.on_demand_below => Mode::Batch,
        stays => stays,
    };
    let dwelt = view.mode.since.map(|since| later(since, rule.dwell));
    let waits = dwelt.filter(|dwelt| wanted != before && *dwelt > now);
    let mode = if waits.is_some() { before } else { wanted };
    let resident_units = match mode {
        Mode::Batch => 0,
        Mode::Resident => resident_units(rule, view, rules),
    };
    let is = match mode {
        Mode::Batch => "batches".to_owned(),
        Mode::Resident => format!("{} stay", units(resident_units)),
    };
    let why = match (mode, waits) {
        (_, Some(dwelt)) => format!(
            "the mode changes in {}, when the present one has lasted {}",
            span(elapsed(now, dwelt)),
            span(rule.dwell)
        ),
        (Mode::Batch, None) => format!("machines stay above {}/h", rule.resident_above),
        (Mode::Resident, None) => format!("until there are fewer than {}/h", rule.on_demand_below),
    };
    let finding = ModeFinding {
        mode,
        changed: mode != before,
        resident_units,
        sentence: format!("{rate} tasks came in the last hour: {is}; {why}"),
    };
    (finding, waits)
}

/// What the arrivals may grow by before machines that are sent away would be missing again.
const SPARE_PERCENT: u64 = 25;

/// As configured, or as many as keep up with the arrivals; within the sizes allowed. More stay as soon as the arrivals
/// need them, fewer only once a quarter more arrivals would not need the present number: a rate that goes up and down
/// by a few tasks buys and ends no machine each time.
fn resident_units(rule: &HybridRule, view: &View, rules: &Rules) -> u32 {
    let before = view.resident_units.min(rules.sizing.max);
    if let Some(units) = rule.resident_units {
        return units.min(rules.sizing.max);
    }
    let rate = view.arrivals_per_hour;
    let grown = rate.saturating_add(rate.saturating_mul(SPARE_PERCENT).div_ceil(100));
    let (least, most) = (keeps_up(rate, view, rules), keeps_up(grown, view, rules));
    before.clamp(least, most)
}

fn keeps_up(rate: u64, view: &View, rules: &Rules) -> u32 {
    let hourly = super::rules::Sizing {
        target: std::time::Duration::from_secs(3_600),
        ..rules.sizing.clone()
    };
    let arrivals = SizeInput {
        tasks: rate,
        seconds_per_task: view.seconds_per_task,
        modelled: view.seconds_modelled,
        ..SizeInput::default()
    };
    size(&arrivals, &hourly).units
}
