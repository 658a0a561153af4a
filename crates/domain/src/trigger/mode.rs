//! Batches or machines that stay: two thresholds and a dwell time, so that a rate near one of them does not flap.

use jiff::Timestamp;

use super::decision::ModeFinding;
use super::rules::{HybridRule, Rules};
use super::size::{SizeInput, size};
use super::view::{Mode, View};
use super::words::{elapsed, later, span, units};

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

/// As configured, or as many as keep up with the arrivals; within the sizes allowed.
fn resident_units(rule: &HybridRule, view: &View, rules: &Rules) -> u32 {
    let sizing = &rules.sizing;
    rule.resident_units
        .map(|units| units.min(sizing.max))
        .unwrap_or_else(|| {
            let hourly = super::rules::Sizing {
                target: std::time::Duration::from_secs(3_600),
                ..sizing.clone()
            };
            let arrivals = SizeInput {
                tasks: view.arrivals_per_hour,
                seconds_per_task: view.seconds_per_task,
                modelled: view.seconds_modelled,
                ..SizeInput::default()
            };
            size(&arrivals, &hourly).units
        })
}
