//! A batch ⇄ `spotreel.batch.v1.Batch`.

use jiff::Timestamp;
use prost::Message;
use spotreel_domain::batch::{
    Batch, BatchId, Blocked, Breaker, FailedStart, Instance, InstanceState, Launch, LaunchState,
    Penalty, PoolName, Residency, Status, Stop, Usage,
};
use spotreel_domain::fleet::cloud::{Place, PlaceError};
use spotreel_domain::money::Usd;
use spotreel_proto::batch::v1 as wire;

use super::{DecodeError, from_word, time, word};

pub fn encode(batch: &Batch) -> Vec<u8> {
    to_wire(batch).encode_to_vec()
}

pub fn decode(payload: &[u8]) -> Result<Batch, DecodeError> {
    from_wire(wire::Batch::decode(payload)?)
}

fn to_wire(batch: &Batch) -> wire::Batch {
    use wire::batch::Status as W;
    wire::Batch {
        pool: batch.id.pool.to_string(),
        number: batch.id.number,
        rule: batch.rule.clone(),
        why: batch.why.clone(),
        units: batch.units,
        slot: batch.slot.clone(),
        requested_at_ms: batch.requested_at.as_millisecond(),
        first_ready_at_ms: batch.first_ready_at.map(Timestamp::as_millisecond),
        ended_at_ms: batch.ended_at.map(Timestamp::as_millisecond),
        deadline_ms: batch.deadline.as_millisecond(),
        launches: batch.launches.iter().map(launch_to_wire).collect(),
        instances: batch.instances.iter().map(instance_to_wire).collect(),
        penalties: batch.penalties.iter().map(penalty_to_wire).collect(),
        breaker: breaker_to_wire(&batch.breaker),
        blocked: batch.blocked.as_ref().map(|blocked| wire::Blocked {
            by: word(&blocked.by),
            sentence: blocked.sentence.clone(),
            since_ms: blocked.since.as_millisecond(),
        }),
        stop: batch.stop.as_ref().map(|stop| wire::Stop {
            mode: word(&stop.mode),
            by: stop.by.clone(),
            reason: stop.reason.clone(),
            at_ms: stop.at.as_millisecond(),
        }),
        empty_listings: batch.empty_listings,
        tasks_done: batch.tasks_done,
        residency: batch.residency.as_ref().map(residency_to_wire),
        at_ms: batch.at.as_millisecond(),
        status: Some(match &batch.status {
            Status::Requested => W::Requested(wire::Requested {}),
            Status::Launching => W::Launching(wire::Launching {}),
            Status::Running => W::Running(wire::Running {}),
            Status::Draining => W::Draining(wire::Draining {}),
            Status::Settled => W::Settled(wire::Settled {}),
            Status::Failed { reason } => W::Failed(wire::Failed {
                reason: reason.clone(),
            }),
        }),
    }
}

fn from_wire(batch: wire::Batch) -> Result<Batch, DecodeError> {
    use wire::batch::Status as W;
    if batch.number == 0 {
        return Err(DecodeError::Field("number"));
    }
    Ok(Batch {
        id: BatchId {
            pool: PoolName::parse(&batch.pool).map_err(|_| DecodeError::Field("pool"))?,
            number: batch.number,
        },
        status: match batch.status.ok_or(DecodeError::Field("status"))? {
            W::Requested(_) => Status::Requested,
            W::Launching(_) => Status::Launching,
            W::Running(_) => Status::Running,
            W::Draining(_) => Status::Draining,
            W::Settled(_) => Status::Settled,
            W::Failed(failed) => Status::Failed {
                reason: failed.reason,
            },
        },
        rule: batch.rule,
        why: batch.why,
        units: batch.units,
        slot: batch.slot,
        requested_at: time(batch.requested_at_ms, "requested_at_ms")?,
        first_ready_at: some_time(batch.first_ready_at_ms, "first_ready_at_ms")?,
        ended_at: some_time(batch.ended_at_ms, "ended_at_ms")?,
        deadline: time(batch.deadline_ms, "deadline_ms")?,
        launches: all(batch.launches, launch_from_wire)?,
        instances: all(batch.instances, instance_from_wire)?,
        penalties: all(batch.penalties, penalty_from_wire)?,
        breaker: batch
            .breaker
            .map(breaker_from_wire)
            .transpose()?
            .unwrap_or_default(),
        blocked: batch.blocked.map(blocked_from_wire).transpose()?,
        stop: batch.stop.map(stop_from_wire).transpose()?,
        empty_listings: batch.empty_listings,
        tasks_done: batch.tasks_done,
        residency: batch.residency.map(residency_from_wire).transpose()?,
        at: time(batch.at_ms, "at_ms")?,
    })
}

fn launch_to_wire(launch: &Launch) -> wire::Launch {
    use wire::launch::State as W;
    wire::Launch {
        seq: launch.seq,
        lifecycle: word(&launch.lifecycle),
        units: launch.units,
        request: launch.request.clone(),
        state: Some(match &launch.state {
            LaunchState::Unanswered {
                at,
                empty_listings,
                sealed,
                sends,
            } => W::Dispatched(wire::Dispatched {
                at_ms: at.as_millisecond(),
                empty_listings: *empty_listings,
                sealed: *sealed,
                sends: *sends,
            }),
            LaunchState::Answered {
                at,
                fleet,
                instances,
                errors,
            } => W::Answered(wire::Answered {
                at_ms: at.as_millisecond(),
                fleet: fleet.clone(),
                instances: instances.clone(),
                errors: errors.iter().map(error_to_wire).collect(),
            }),
            LaunchState::Rejected { at, error } => W::Rejected(wire::Rejected {
                at_ms: at.as_millisecond(),
                error: Some(error_to_wire(error)),
            }),
            LaunchState::Closed { at } => W::Closed(wire::Closed {
                at_ms: at.as_millisecond(),
            }),
        }),
    }
}

fn launch_from_wire(launch: wire::Launch) -> Result<Launch, DecodeError> {
    use wire::launch::State as W;
    let at = |ms| time(ms, "launch.at_ms");
    Ok(Launch {
        seq: launch.seq,
        lifecycle: from_word(launch.lifecycle, "launch.lifecycle")?,
        units: launch.units,
        request: launch.request,
        state: match launch.state.ok_or(DecodeError::Field("launch.state"))? {
            W::Dispatched(dispatched) => LaunchState::Unanswered {
                at: at(dispatched.at_ms)?,
                empty_listings: dispatched.empty_listings,
                sealed: dispatched.sealed,
                // The first records have no count: their call may have been made.
                sends: dispatched.sends.max(1),
            },
            W::Answered(answered) => LaunchState::Answered {
                at: at(answered.at_ms)?,
                fleet: answered.fleet,
                instances: answered.instances,
                errors: all(answered.errors, error_from_wire)?,
            },
            W::Rejected(rejected) => LaunchState::Rejected {
                at: at(rejected.at_ms)?,
                error: error_from_wire(
                    rejected
                        .error
                        .ok_or(DecodeError::Field("launch.rejected.error"))?,
                )?,
            },
            W::Closed(closed) => LaunchState::Closed {
                at: at(closed.at_ms)?,
            },
        },
    })
}

fn instance_to_wire(instance: &Instance) -> wire::Instance {
    use wire::instance::State as W;
    let usage = &instance.usage;
    wire::Instance {
        id: instance.id.clone(),
        place: Some(place_to_wire(&instance.place)),
        lifecycle: word(&instance.lifecycle),
        launch: instance.launch,
        launched_at_ms: instance.launched_at.as_millisecond(),
        ready_at_ms: instance.ready_at.map(Timestamp::as_millisecond),
        silent_since_ms: instance.silent_since.map(Timestamp::as_millisecond),
        absences: instance.absences,
        absent_since_ms: instance.absent_since.map(Timestamp::as_millisecond),
        hinted: instance.hinted,
        rate_micros: instance.rate.micros(),
        cost_micros: instance.cost.micros(),
        billed_to_ms: instance.billed_to.as_millisecond(),
        pending: usage.pending,
        began_at_ms: usage.began_at.map(Timestamp::as_millisecond),
        left_at_ms: usage.left_at.map(Timestamp::as_millisecond),
        gone_at_ms: usage.gone_at.map(Timestamp::as_millisecond),
        taken: usage.taken,
        volume_micros: usage.volume.micros(),
        address_micros: usage.address.micros(),
        state: Some(match &instance.state {
            InstanceState::Booting => W::Booting(wire::Booting {}),
            InstanceState::Serving => W::Serving(wire::Serving {}),
            InstanceState::Draining { why, mode, since } => W::Draining(wire::Leaves {
                why: word(why),
                mode: word(mode),
                since_ms: since.as_millisecond(),
            }),
            InstanceState::Terminating {
                why,
                since,
                called_at,
            } => W::Terminating(wire::Ends {
                why: word(why),
                since_ms: since.as_millisecond(),
                called_at_ms: called_at.map(Timestamp::as_millisecond),
            }),
            InstanceState::Gone { ending, at } => W::Gone(wire::Gone {
                ending: word(ending),
                at_ms: at.as_millisecond(),
            }),
        }),
    }
}

fn instance_from_wire(instance: wire::Instance) -> Result<Instance, DecodeError> {
    Ok(Instance {
        id: instance.id,
        place: instance
            .place
            .map(place_from_wire)
            .ok_or(DecodeError::Field("instance.place"))?,
        lifecycle: from_word(instance.lifecycle, "instance.lifecycle")?,
        launch: instance.launch,
        launched_at: time(instance.launched_at_ms, "instance.launched_at_ms")?,
        ready_at: some_time(instance.ready_at_ms, "instance.ready_at_ms")?,
        state: instance_state(instance.state.ok_or(DecodeError::Field("instance.state"))?)?,
        silent_since: some_time(instance.silent_since_ms, "instance.silent_since_ms")?,
        absences: instance.absences,
        absent_since: some_time(instance.absent_since_ms, "instance.absent_since_ms")?,
        hinted: instance.hinted,
        rate: Usd::from_micros(instance.rate_micros),
        cost: Usd::from_micros(instance.cost_micros),
        billed_to: time(instance.billed_to_ms, "instance.billed_to_ms")?,
        usage: Usage {
            pending: instance.pending,
            began_at: some_time(instance.began_at_ms, "instance.began_at_ms")?,
            left_at: some_time(instance.left_at_ms, "instance.left_at_ms")?,
            gone_at: some_time(instance.gone_at_ms, "instance.gone_at_ms")?,
            taken: instance.taken,
            volume: Usd::from_micros(instance.volume_micros),
            address: Usd::from_micros(instance.address_micros),
        },
    })
}

fn instance_state(state: wire::instance::State) -> Result<InstanceState, DecodeError> {
    use wire::instance::State as W;
    let since = |ms| time(ms, "instance.since_ms");
    Ok(match state {
        W::Booting(_) => InstanceState::Booting,
        W::Serving(_) => InstanceState::Serving,
        W::Draining(leaves) => InstanceState::Draining {
            why: from_word(leaves.why, "instance.why")?,
            mode: from_word(leaves.mode, "instance.mode")?,
            since: since(leaves.since_ms)?,
        },
        W::Terminating(ends) => InstanceState::Terminating {
            why: from_word(ends.why, "instance.why")?,
            since: since(ends.since_ms)?,
            called_at: some_time(ends.called_at_ms, "instance.called_at_ms")?,
        },
        W::Gone(gone) => InstanceState::Gone {
            ending: from_word(gone.ending, "instance.ending")?,
            at: time(gone.at_ms, "instance.gone.at_ms")?,
        },
    })
}

fn penalty_to_wire(penalty: &Penalty) -> wire::Penalty {
    wire::Penalty {
        place: penalty.place.as_ref().map(place_to_wire),
        lifecycle: word(&penalty.lifecycle),
        class: word(&penalty.class),
        code: penalty.code.clone(),
        message: penalty.message.clone(),
        until_ms: penalty.until.as_millisecond(),
        times: penalty.times,
    }
}

fn penalty_from_wire(penalty: wire::Penalty) -> Result<Penalty, DecodeError> {
    Ok(Penalty {
        place: penalty.place.map(place_from_wire),
        lifecycle: from_word(penalty.lifecycle, "penalty.lifecycle")?,
        class: from_word(penalty.class, "penalty.class")?,
        code: penalty.code,
        message: penalty.message,
        until: time(penalty.until_ms, "penalty.until_ms")?,
        times: penalty.times,
    })
}

fn breaker_to_wire(breaker: &Breaker) -> Option<wire::Breaker> {
    (*breaker != Breaker::default()).then(|| wire::Breaker {
        failures: breaker.failures,
        pauses: breaker.pauses,
        until_ms: breaker.until.map(Timestamp::as_millisecond),
        last: breaker.last.as_ref().map(|last| wire::FailedStart {
            instance: last.instance.clone(),
            place: Some(place_to_wire(&last.place)),
            reason: last.reason.clone(),
            console: last.console.clone(),
        }),
    })
}

fn breaker_from_wire(breaker: wire::Breaker) -> Result<Breaker, DecodeError> {
    let last = breaker.last.map(|last| {
        let place = last.place.ok_or(DecodeError::Field("breaker.place"))?;
        Ok::<_, DecodeError>(FailedStart {
            instance: last.instance,
            place: place_from_wire(place),
            reason: last.reason,
            console: last.console,
        })
    });
    Ok(Breaker {
        failures: breaker.failures,
        pauses: breaker.pauses,
        until: some_time(breaker.until_ms, "breaker.until_ms")?,
        last: last.transpose()?,
    })
}

fn residency_to_wire(residency: &Residency) -> wire::Residency {
    let idle = residency.idle.iter().map(|(instance, since)| wire::Idle {
        instance: instance.clone(),
        since_ms: since.as_millisecond(),
    });
    wire::Residency {
        units: residency.units,
        until_ms: residency.until.map(Timestamp::as_millisecond),
        idle_seconds: residency.idle_seconds,
        idle_micros: residency.idle_cost.micros(),
        boots_saved: residency.boots_saved,
        boot_seconds_saved: residency.boot_seconds_saved,
        boot_micros_saved: residency.boot_cost_saved.micros(),
        idle: idle.collect(),
    }
}

fn residency_from_wire(residency: wire::Residency) -> Result<Residency, DecodeError> {
    let idle = residency.idle.into_iter();
    let idle = idle.map(|idle| Ok((idle.instance, time(idle.since_ms, "residency.since_ms")?)));
    Ok(Residency {
        units: residency.units,
        until: some_time(residency.until_ms, "residency.until_ms")?,
        idle_seconds: residency.idle_seconds,
        idle_cost: Usd::from_micros(residency.idle_micros),
        boots_saved: residency.boots_saved,
        boot_seconds_saved: residency.boot_seconds_saved,
        boot_cost_saved: Usd::from_micros(residency.boot_micros_saved),
        idle: idle.collect::<Result<_, DecodeError>>()?,
    })
}

fn blocked_from_wire(blocked: wire::Blocked) -> Result<Blocked, DecodeError> {
    Ok(Blocked {
        by: from_word(blocked.by, "blocked.by")?,
        sentence: blocked.sentence,
        since: time(blocked.since_ms, "blocked.since_ms")?,
    })
}

fn stop_from_wire(stop: wire::Stop) -> Result<Stop, DecodeError> {
    Ok(Stop {
        mode: from_word(stop.mode, "stop.mode")?,
        by: stop.by,
        reason: stop.reason,
        at: time(stop.at_ms, "stop.at_ms")?,
    })
}

fn error_to_wire(error: &PlaceError) -> wire::PlaceError {
    wire::PlaceError {
        place: error.place.as_ref().map(place_to_wire),
        class: word(&error.class),
        code: error.code.clone(),
        message: error.message.clone(),
    }
}

fn error_from_wire(error: wire::PlaceError) -> Result<PlaceError, DecodeError> {
    Ok(PlaceError {
        place: error.place.map(place_from_wire),
        class: from_word(error.class, "error.class")?,
        code: error.code,
        message: error.message,
    })
}

fn place_to_wire(place: &Place) -> wire::Place {
    wire::Place {
        kind: place.kind.clone(),
        zone: place.zone.clone(),
    }
}

fn place_from_wire(place: wire::Place) -> Place {
    Place {
        kind: place.kind,
        zone: place.zone,
    }
}

fn some_time(ms: Option<i64>, field: &'static str) -> Result<Option<Timestamp>, DecodeError> {
    ms.map(|ms| time(ms, field)).transpose()
}

fn all<W, D>(
    wire: Vec<W>,
    read: impl Fn(W) -> Result<D, DecodeError>,
) -> Result<Vec<D>, DecodeError> {
    wire.into_iter().map(read).collect()
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
