//! A task ⇄ `spotreel.task.v1.Task`.

use jiff::Timestamp;
use prost::Message;
use spotreel_domain::model::Expert;
use spotreel_domain::task::{Artifact, Attempt, Failure, State, Task, TaskLora, TaskSpec};
use spotreel_domain::{Model, Owner, Priority, Quality, TaskId};
use spotreel_proto::task::v1 as wire;

use super::{DecodeError, from_word, time, word};

pub fn encode(task: &Task) -> Vec<u8> {
    to_wire(task).encode_to_vec()
}

pub fn decode(payload: &[u8]) -> Result<Task, DecodeError> {
    from_wire(wire::Task::decode(payload)?)
}

fn to_wire(task: &Task) -> wire::Task {
    use wire::task::State as W;
    let spec = &task.spec;
    wire::Task {
        id: task.id.to_string(),
        spec: Some(wire::Spec {
            model: spec.model.as_str().into(),
            priority: spec.priority as u32,
            prompt: spec.prompt.clone(),
            negative_prompt: spec.negative_prompt.clone(),
            width: spec.width,
            height: spec.height,
            frames: spec.frames,
            fps: spec.fps,
            steps: spec.steps,
            guidance: spec.guidance,
            guidance_high_noise: spec.guidance_high_noise,
            shift: spec.shift,
            seed: spec.seed,
            image: spec.image.clone(),
            expires_at_ms: spec.expires_at.map(Timestamp::as_millisecond),
            labels: spec.labels.clone(),
            quality: spec.quality.map(|tier| tier.as_str().to_owned()),
            loras: spec.loras.iter().map(lora_to_wire).collect(),
            preview: spec.preview,
            crop_percent: spec.crop_percent,
            callback_url: spec.callback_url.clone(),
        }),
        content_hash: task.content_hash.clone(),
        request_digest: task.request_digest.map(Vec::from),
        submitted_at_ms: task.submitted_at.as_millisecond(),
        back: task.back,
        round: task.round,
        entry: task.entry,
        born: task.born,
        previous_entry: task.previous_entry,
        start: task.start,
        failures: task.failures,
        lost_in_row: task.lost_in_row,
        checkpoints_void_to: task.checkpoints_void_to,
        attempts: task.attempts.iter().map(attempt_to_wire).collect(),
        attempts_total: task.attempts_total,
        at_ms: task.at.as_millisecond(),
        owner: task.owner.clone().map(String::from),
        state: Some(match &task.state {
            State::Queued { not_before } => W::Queued(wire::Queued {
                not_before_ms: not_before.map(Timestamp::as_millisecond),
            }),
            State::Started => W::Started(wire::Started {}),
            State::Succeeded { artifact } => W::Succeeded(wire::Succeeded {
                artifact: Some(artifact_to_wire(artifact)),
            }),
            State::Failed { error } => W::Failed(wire::Failed {
                error: Some(failure_to_wire(error)),
            }),
            State::Cancelled => W::Cancelled(wire::Cancelled {}),
            State::Expired => W::Expired(wire::Expired {}),
        }),
    }
}

fn from_wire(task: wire::Task) -> Result<Task, DecodeError> {
    use wire::task::State as W;
    let spec = task.spec.ok_or(DecodeError::Field("spec"))?;
    Ok(Task {
        id: TaskId::parse(&task.id).map_err(|_| DecodeError::Field("id"))?,
        owner: task
            .owner
            .map(Owner::try_from)
            .transpose()
            .map_err(|_| DecodeError::Field("owner"))?,
        spec: TaskSpec {
            model: Model::parse(&spec.model).ok_or(DecodeError::Field("spec.model"))?,
            priority: match spec.priority {
                0 => Priority::High,
                1 => Priority::Normal,
                _ => return Err(DecodeError::Field("spec.priority")),
            },
            prompt: spec.prompt,
            negative_prompt: spec.negative_prompt,
            width: spec.width,
            height: spec.height,
            frames: spec.frames,
            fps: spec.fps,
            quality: spec
                .quality
                .map(|tier| Quality::parse(&tier).ok_or(DecodeError::Field("spec.quality")))
                .transpose()?,
            steps: spec.steps,
            guidance: spec.guidance,
            guidance_high_noise: spec.guidance_high_noise,
            shift: spec.shift,
            seed: spec.seed,
            image: spec.image,
            crop_percent: spec.crop_percent,
            loras: spec
                .loras
                .into_iter()
                .map(lora_from_wire)
                .collect::<Result<_, _>>()?,
            preview: spec.preview,
            expires_at: spec
                .expires_at_ms
                .map(|ms| time(ms, "spec.expires_at_ms"))
                .transpose()?,
            labels: spec.labels,
            callback_url: spec.callback_url,
        },
        content_hash: task.content_hash,
        request_digest: task
            .request_digest
            .map(|digest| {
                digest
                    .try_into()
                    .map_err(|_| DecodeError::Field("request_digest"))
            })
            .transpose()?,
        submitted_at: time(task.submitted_at_ms, "submitted_at_ms")?,
        back: task.back,
        round: task.round,
        entry: task.entry,
        born: task.born,
        previous_entry: task.previous_entry,
        start: task.start,
        failures: task.failures,
        lost_in_row: task.lost_in_row,
        checkpoints_void_to: task.checkpoints_void_to,
        attempts: task
            .attempts
            .into_iter()
            .map(attempt_from_wire)
            .collect::<Result<_, _>>()?,
        attempts_total: task.attempts_total,
        at: time(task.at_ms, "at_ms")?,
        state: match task.state.ok_or(DecodeError::Field("state"))? {
            W::Queued(queued) => State::Queued {
                not_before: queued
                    .not_before_ms
                    .map(|ms| time(ms, "not_before_ms"))
                    .transpose()?,
            },
            W::Started(_) => State::Started,
            W::Succeeded(done) => State::Succeeded {
                artifact: done
                    .artifact
                    .map(artifact_from_wire)
                    .ok_or(DecodeError::Field("artifact"))?,
            },
            W::Failed(failed) => State::Failed {
                error: failure_from_wire(failed.error.ok_or(DecodeError::Field("error"))?)?,
            },
            W::Cancelled(_) => State::Cancelled,
            W::Expired(_) => State::Expired,
        },
    })
}

fn attempt_to_wire(attempt: &Attempt) -> wire::Attempt {
    wire::Attempt {
        worker: attempt.worker.clone(),
        instance: attempt.instance.clone(),
        started_at_ms: attempt.started_at.as_millisecond(),
        ended_at_ms: attempt.ended_at.map(Timestamp::as_millisecond),
        outcome: word(&attempt.outcome),
        from_step: attempt.from_step,
        rendering_at_ms: attempt.rendering_at.map(Timestamp::as_millisecond),
        steps_done: attempt.steps_done,
        error: attempt.error.as_ref().map(failure_to_wire),
    }
}

fn attempt_from_wire(attempt: wire::Attempt) -> Result<Attempt, DecodeError> {
    Ok(Attempt {
        worker: attempt.worker,
        instance: attempt.instance,
        started_at: time(attempt.started_at_ms, "attempt.started_at_ms")?,
        ended_at: attempt
            .ended_at_ms
            .map(|ms| time(ms, "attempt.ended_at_ms"))
            .transpose()?,
        outcome: from_word(attempt.outcome, "attempt.outcome")?,
        from_step: attempt.from_step,
        rendering_at: attempt
            .rendering_at_ms
            .map(|ms| time(ms, "attempt.rendering_at_ms"))
            .transpose()?,
        steps_done: attempt.steps_done,
        error: attempt.error.map(failure_from_wire).transpose()?,
    })
}

fn failure_to_wire(failure: &Failure) -> wire::Failure {
    wire::Failure {
        kind: word(&failure.kind),
        message: failure.message.clone(),
    }
}

fn failure_from_wire(failure: wire::Failure) -> Result<Failure, DecodeError> {
    Ok(Failure {
        kind: from_word(failure.kind, "failure.kind")?,
        message: failure.message,
    })
}

fn artifact_to_wire(artifact: &Artifact) -> wire::Artifact {
    let a = artifact.clone();
    wire::Artifact {
        bucket: a.bucket,
        key: a.key,
        sha256: a.sha256,
        bytes: a.bytes,
        width: a.width,
        height: a.height,
        frames: a.frames,
        fps: a.fps,
        engine: a.engine,
        poster: a.poster,
    }
}

fn artifact_from_wire(a: wire::Artifact) -> Artifact {
    Artifact {
        bucket: a.bucket,
        key: a.key,
        sha256: a.sha256,
        bytes: a.bytes,
        width: a.width,
        height: a.height,
        frames: a.frames,
        fps: a.fps,
        engine: a.engine,
        poster: a.poster,
    }
}

fn lora_to_wire(lora: &TaskLora) -> wire::Lora {
    wire::Lora {
        name: lora.name.clone(),
        strength: lora.strength,
        expert: lora.expert.map(|expert| expert.as_str().to_owned()),
        sha256: lora.sha256.clone(),
    }
}

fn lora_from_wire(lora: wire::Lora) -> Result<TaskLora, DecodeError> {
    let expert = lora
        .expert
        .map(|expert| Expert::parse(&expert).ok_or(DecodeError::Field("spec.loras.expert")));
    Ok(TaskLora {
        name: lora.name,
        strength: lora.strength,
        expert: expert.transpose()?,
        sha256: lora.sha256,
    })
}

#[cfg(test)]
mod tests {
    use spotreel_api::TaskRequest;

    use super::*;

    fn task(owner: Option<Owner>) -> Task {
        let request = TaskRequest {
            model: "ti2v-5B".into(),
            prompt: "a red fox".into(),
            ..Default::default()
        };
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let valid = request.validate(now).unwrap();
        let id = TaskId::parse("fox-1").unwrap();
        Task::submit_for(owner, id, valid.spec, valid.content_hash, now).1
    }

    #[test]
    fn an_owner_goes_over_the_wire_and_back() {
        for owner in [None, Some(Owner::parse("anna").unwrap())] {
            let task = task(owner);
            assert_eq!(decode(&encode(&task)).unwrap(), task);
        }
        let mut bad = to_wire(&task(None));
        bad.owner = Some("No/One".into());
        let refused = decode(&bad.encode_to_vec());
        assert!(matches!(refused, Err(DecodeError::Field("owner"))));
    }

    #[test]
    fn a_digest_goes_over_the_wire_and_back_and_may_be_missing() {
        let mut task = task(None);
        assert_eq!(decode(&encode(&task)).unwrap().request_digest, None);
        task.request_digest = Some([7; 32]);
        assert_eq!(decode(&encode(&task)).unwrap(), task);
    }

    #[test]
    fn a_tier_goes_over_the_wire_and_back() {
        for quality in Quality::ALL {
            let mut task = task(None);
            task.spec.quality = Some(quality);
            assert_eq!(decode(&encode(&task)).unwrap(), task);
        }
        let mut bad = to_wire(&task(None));
        bad.spec.as_mut().unwrap().quality = Some("ultra".into());
        let refused = decode(&bad.encode_to_vec());
        assert!(matches!(refused, Err(DecodeError::Field("spec.quality"))));
    }

    #[test]
    fn what_a_worker_tells_of_its_attempt_goes_over_the_wire_and_back() {
        let task = task(None);
        let (_, mut running) = task.started("w", "i-1", 4, task.at).unwrap();
        assert_eq!(decode(&encode(&running)).unwrap(), running);
        let attempt = running.attempts.last_mut().unwrap();
        (attempt.rendering_at, attempt.steps_done) = (Some(attempt.started_at), Some(9));
        assert_eq!(decode(&encode(&running)).unwrap(), running);
    }

    #[test]
    fn loras_previews_and_crops_go_over_the_wire_and_back() {
        let mut task = task(None);
        let lora = TaskLora {
            name: "fox".into(),
            strength: 0.8,
            expert: Some(Expert::Low),
            sha256: Some("aa".into()),
        };
        let bare = TaskLora {
            expert: None,
            sha256: None,
            ..lora.clone()
        };
        task.spec.loras = vec![lora, bare];
        task.spec.preview = true;
        task.spec.crop_percent = Some(12);
        assert_eq!(decode(&encode(&task)).unwrap(), task);
    }
}
