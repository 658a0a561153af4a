//! Videos that were interrupted, made once more in peace: they must be the same, byte for byte.

use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};
use spotreel_bus::Recorded;
use spotreel_domain::task::{State, TaskSpec};
use spotreel_tests::Verdict;
use spotreel_tests::harness::{Api, System};

/// So many are made again, if there are more.
const MOST: usize = 20;

pub async fn compare(
    system: &mut System,
    resumed: &[&Recorded],
    seed: u64,
    within: Duration,
) -> Verdict {
    let mut verdict = Verdict::new(
        "resume",
        "a video that was interrupted is the uninterrupted one, byte for byte",
    );
    let mut rng = StdRng::seed_from_u64(seed);
    let chosen: Vec<&&Recorded> = resumed.sample(&mut rng, MOST).collect();
    if chosen.is_empty() {
        return verdict;
    }
    calm_worker(system).await;
    let api = system.api().await;
    let until = Instant::now() + within;
    let mut pairs = Vec::new();
    for one in chosen {
        let id = format!("twin-{}", one.sequence);
        match api
            .ask::<Value>("submit", &again(&id, &one.task.spec))
            .await
        {
            Ok(_) => pairs.push((id, one)),
            Err(error) => verdict.check(false, || {
                format!("{} was not taken again: {error:?}", one.task.id)
            }),
        }
    }
    for (id, one) in pairs {
        let State::Succeeded { artifact } = &one.task.state else {
            continue;
        };
        let twin = wait(&api, &id, until).await;
        verdict.check(twin.as_deref() == Some(artifact.sha256.as_str()), || {
            let from = one.task.attempts.last().map_or(0, |last| last.from_step);
            format!(
                "{}, resumed at step {from}, is {}, in peace {twin:?}",
                one.task.id, artifact.sha256
            )
        });
    }
    verdict
}

/// One worker, whose engine takes directives for what they are in production: text.
async fn calm_worker(system: &mut System) {
    let engine = system.site.programs.engine(None);
    let spec = system.worker_spec().engine(&engine);
    system.add_worker_as(spec).await;
}

async fn wait(api: &Api, id: &str, until: Instant) -> Option<String> {
    while Instant::now() < until {
        match api.get(id).await {
            Some(view) if view.state == "succeeded" => {
                return view.video.map(|video| video.artifact.sha256);
            }
            Some(view) if view.state == "failed" => return None,
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    None
}

fn again(id: &str, spec: &TaskSpec) -> Value {
    let mut body = json!({
        "id": id, "model": spec.model.as_str(), "prompt": spec.prompt, "frames": spec.frames,
        "size": format!("{}x{}", spec.width, spec.height), "steps": spec.steps, "seed": spec.seed,
        "guidance": spec.guidance, "shift": spec.shift,
    });
    if let Some(guidance) = spec.guidance_high_noise {
        body["guidance_high_noise"] = json!(guidance);
    }
    if let Some(negative) = &spec.negative_prompt {
        body["negative_prompt"] = json!(negative);
    }
    if let Some(key) = &spec.image {
        body["image"] = json!({ "s3_key": key });
    }
    body
}
