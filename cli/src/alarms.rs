//! `spotreel alarms`: what fires, since when, and what to do about it.

use jiff::Timestamp;
use spotreel_api::{AlarmView, AlarmsQuery, AlarmsView};
use spotreel_bootstrap::ambient;
use spotreel_bus::names;

use crate::args::AlarmsArgs;
use crate::connection::{Api, Settings};
use crate::done::Done;
use crate::print::{self, line, relative};

/// Looks that monitor must have missed until its answer is called old.
const MISSED_LOOKS: u64 = 6;
/// Longest interval of looks that monitor's configuration allows: that of a monitor that does not say.
const RAREST_LOOK_S: u64 = 60;

/// Of a sentence, with what to do.
const LONGEST: usize = 400;

/// With `--check` a firing alarm is a failure, for scripts.
pub async fn run(settings: &Settings, args: AlarmsArgs) -> anyhow::Result<Done> {
    let api = Api::open(settings).await?;
    let query = AlarmsQuery {
        firing: args.firing,
    };
    let view: AlarmsView = api.call(names::ALARMS, &query).await?;
    let now = ambient::now();
    if args.json {
        print::json(&view);
    } else {
        show(&view, now);
    }
    let fires = view.alarms.iter().any(|alarm| alarm.state == "firing");
    Ok(match args.check && (fires || is_old(&view, now)) {
        true => Done::Failed,
        false => Done::Well,
    })
}

/// Whether monitor has stopped looking: what it said last is no news.
pub fn is_old(view: &AlarmsView, now: Timestamp) -> bool {
    let every = view.every_s.unwrap_or(RAREST_LOOK_S);
    let longest = i64::try_from(every.saturating_mul(MISSED_LOOKS)).unwrap_or(i64::MAX);
    let looked_at = view.looked_at;
    looked_at.is_none_or(|at| now.as_second() - at.as_second() > longest)
}

fn show(view: &AlarmsView, now: Timestamp) {
    if is_old(view, now) {
        let last = view
            .looked_at
            .map_or("not yet".to_owned(), |at| relative(now, at));
        eprintln!("spotreel: monitor looked at the system {last}: these alarms may be out of date");
    }
    if view.alarms.is_empty() {
        line("no alarms");
        return;
    }
    let rows: Vec<_> = view.alarms.iter().map(|alarm| row(alarm, now)).collect();
    print::table(["ALARM", "STATE", "SINCE", "WHAT, AND WHAT TO DO"], &rows);
}

fn row(alarm: &AlarmView, now: Timestamp) -> [String; 4] {
    let name = match &alarm.about {
        Some(about) => format!("{} ({about})", alarm.name),
        None => alarm.name.to_string(),
    };
    let state = match alarm.state.as_str() {
        "firing" => "FIRING".to_owned(),
        other => other.to_owned(),
    };
    let what = match alarm.state.as_str() {
        "resolved" => alarm.sentence.clone(),
        _ => format!("{}. To do: {}", alarm.sentence, alarm.what_to_do),
    };
    [
        name,
        state,
        relative(now, alarm.since),
        print::short(&what, LONGEST),
    ]
}

#[cfg(test)]
mod tests {
    use spotreel_domain::alarm::AlarmName;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_796_000_000 + second).unwrap()
    }

    fn alarm(state: &str) -> AlarmView {
        AlarmView {
            name: AlarmName::BatchBlocked,
            about: Some("default".into()),
            state: state.into(),
            since: at(0),
            fired_at: None,
            sentence: "pool default: the quota is used up".into(),
            what_to_do: "look at `spotreel why`".into(),
        }
    }

    #[test]
    fn what_fires_stands_out_with_what_to_do() {
        let [name, state, since, what] = row(&alarm("firing"), at(90));
        assert_eq!(
            [&name, &state, &since],
            ["batch_blocked (default)", "FIRING", "90 s ago"]
        );
        assert!(what.ends_with("To do: look at `spotreel why`"), "{what}");
        let [_, state, _, what] = row(&alarm("resolved"), at(90));
        assert_eq!(state, "resolved");
        assert!(!what.contains("To do"), "{what}");
    }

    #[test]
    fn a_monitor_that_has_missed_six_looks_is_no_witness() {
        let view = |looked_at, every_s| AlarmsView {
            looked_at,
            every_s,
            alarms: Vec::new(),
        };
        assert!(is_old(&view(None, Some(10)), at(0)));
        for (every_s, longest) in [(Some(10), 60), (Some(60), 360), (None, 360)] {
            let view = view(Some(at(0)), every_s);
            assert!(!is_old(&view, at(longest)));
            assert!(is_old(&view, at(longest + 1)));
        }
    }
}
