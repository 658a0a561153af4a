//! `spotreel.alarms`: what fires now and what has fired, with what to do. Also the data of an alarm's event.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use spotreel_domain::alarm::{Alarm, AlarmBoard, AlarmName, AlarmNotice};
use utoipa::{IntoParams, ToSchema};

/// What `spotreel.alarms` is asked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields, default)]
pub struct AlarmsQuery {
    /// Only those that fire now.
    pub firing: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AlarmsView {
    /// When monitor last looked; absent: it has not yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub looked_at: Option<Timestamp>,
    /// Seconds between two looks; absent: an older monitor does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_s: Option<u64>,
    /// Those that fire first, then those that are pending, then those that have resolved within seven days.
    pub alarms: Vec<AlarmView>,
}

/// One alarm, as it is now or as its event tells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AlarmView {
    pub name: AlarmName,
    /// Of which pool, program or budget, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// `firing`, `pending` (its condition holds, and not for long enough yet) or `resolved`.
    pub state: String,
    /// When it entered this state.
    pub since: Timestamp,
    /// When it fired; absent: not yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fired_at: Option<Timestamp>,
    /// What was found, with numbers and units.
    pub sentence: String,
    pub what_to_do: String,
}

impl From<&Alarm> for AlarmView {
    fn from(alarm: &Alarm) -> Self {
        Self {
            name: alarm.name,
            about: alarm.about.clone(),
            state: match alarm.state.as_str() {
                "ok" => "resolved".to_owned(),
                other => other.to_owned(),
            },
            since: alarm.since,
            fired_at: alarm.fired_at,
            sentence: alarm.sentence.clone(),
            what_to_do: alarm.name.what_to_do().to_owned(),
        }
    }
}

impl From<&AlarmNotice> for AlarmView {
    fn from(notice: &AlarmNotice) -> Self {
        Self {
            name: notice.name,
            about: notice.about.clone(),
            state: notice.state.as_str().to_owned(),
            since: notice.at,
            fired_at: Some(notice.fired_at),
            sentence: notice.sentence.clone(),
            what_to_do: notice.name.what_to_do().to_owned(),
        }
    }
}

impl AlarmsView {
    /// `board` is `None` before the first look; `every` is the time between two looks.
    pub fn of(board: Option<&AlarmBoard>, every: Duration, query: &AlarmsQuery) -> Self {
        let alarms = board.map(|board| &board.alarms[..]).unwrap_or_default();
        let rank = |alarm: &Alarm| match alarm.state.as_str() {
            "firing" => 0,
            "pending" => 1,
            _ => 2,
        };
        let mut shown: Vec<&Alarm> = alarms.iter().collect();
        shown.retain(|alarm| alarm.is_firing() || !query.firing);
        shown.sort_by_key(|alarm| (rank(alarm), std::cmp::Reverse(alarm.since)));
        Self {
            looked_at: board.map(|board| board.at),
            every_s: Some(every.as_secs().max(1)),
            alarms: shown.into_iter().map(AlarmView::from).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use spotreel_domain::alarm::{AlarmState, NoticeState};

    use super::*;
    use crate::CloudEvent;

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(1_796_000_000 + 60 * minute).unwrap()
    }

    fn alarm(name: AlarmName, state: AlarmState, minute: i64) -> Alarm {
        Alarm {
            name,
            about: None,
            state,
            since: at(minute),
            sentence: "seen".into(),
            fired_at: Some(at(minute)),
            has_stopped: false,
        }
    }

    #[test]
    fn what_fires_comes_first_and_the_newest_of_it() {
        let calm = Duration::ZERO;
        let firing = AlarmState::Firing { calm };
        let mut board = AlarmBoard::new(at(9));
        board.alarms = vec![
            alarm(AlarmName::Backlog, AlarmState::Ok, 8),
            alarm(AlarmName::Budget, firing, 1),
            alarm(
                AlarmName::LogRoom,
                AlarmState::Pending { held: calm, calm },
                9,
            ),
            alarm(AlarmName::EventsCopy, firing, 3),
        ];
        let shown = |firing| {
            let view = AlarmsView::of(Some(&board), calm, &AlarmsQuery { firing });
            view.alarms
                .into_iter()
                .map(|alarm| (alarm.name, alarm.state))
                .collect::<Vec<_>>()
        };
        let first = [
            (AlarmName::EventsCopy, "firing".into()),
            (AlarmName::Budget, "firing".into()),
        ];
        assert_eq!(shown(true), first);
        assert_eq!(shown(false)[..2], first);
        let rest = [
            (AlarmName::LogRoom, "pending".into()),
            (AlarmName::Backlog, "resolved".into()),
        ];
        assert_eq!(shown(false)[2..], rest);
        let none = AlarmsView::of(None, Duration::from_secs(10), &AlarmsQuery::default());
        assert_eq!((none.looked_at, none.every_s), (None, Some(10)));
    }

    #[test]
    fn an_event_names_the_alarm_and_its_state() {
        let event = CloudEvent::of_alarm(&AlarmNotice {
            number: 17,
            name: AlarmName::Backlog,
            about: None,
            state: NoticeState::Resolved,
            at: at(2),
            fired_at: at(1),
            sentence: "12 unfinished tasks".into(),
        });
        assert_eq!(event.id, "alarm-backlog/17");
        assert_eq!(event.kind, "io.spotreel.alarm.resolved.v1");
        assert_eq!(event.subject, "backlog");
        assert_eq!(
            (event.data.since, event.data.fired_at),
            (at(2), Some(at(1)))
        );
        assert!(event.data.what_to_do.contains("spotreel why"));
    }
}
