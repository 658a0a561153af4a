//! What can be seen of a render: pictures of the unfinished video, and its first frame.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod spot;

use futures::StreamExt;
use spot::Stage;
use spotreel_api::{PreviewImage, Progress};
use spotreel_domain::task::{Artifact, State};

const MODEL: &str = "ti2v-5B";
const OFTEN: (&str, &str) = ("preview.every_steps", "4");
const MAX_BYTES: u64 = 1 << 20;

async fn is_jpeg(stage: &Stage, key: &str) -> bool {
    let bytes = stage.store.get_bytes(key, MAX_BYTES).await.unwrap();
    bytes.starts_with(&[0xff, 0xd8, 0xff])
}

async fn video(stage: &Stage, id: &str) -> Artifact {
    match stage.ended(id).await.state {
        State::Succeeded { artifact } => artifact,
        state => panic!("{state:?}"),
    }
}

/// The key that a link is to.
fn key(preview: &PreviewImage) -> String {
    let path = preview.url.split('?').next().unwrap();
    let at = path.find("checkpoints/").unwrap();
    path[at..].to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_asks_for_previews_tells_the_newest_with_its_progress_and_no_other_does() {
    let stage = Stage::set().await;
    let mut told = stage.client.subscribe("spotreel.progress.*").await.unwrap();
    stage.submit_with("plain", 12, MODEL, "a fox").await;
    let _worker = stage.worker("w1", 50, &[OFTEN]);
    video(&stage, "plain").await;
    stage
        .submit_as("shown", 12, MODEL, "a fox", |task| task.spec.preview = true)
        .await;
    let mut seen: Vec<PreviewImage> = Vec::new();
    while seen.len() < 2 {
        let message = told.next().await.unwrap();
        let progress: Progress = serde_json::from_slice(&message.payload).unwrap();
        let Some(preview) = progress.preview_image else {
            continue;
        };
        assert_eq!(progress.id.as_str(), "shown");
        assert!(preview.step <= progress.step);
        if seen.last() != Some(&preview) {
            seen.push(preview);
        }
    }
    assert_eq!(seen.iter().map(|p| p.step).collect::<Vec<_>>(), [4, 8]);
    for preview in &seen {
        assert!(preview.url.contains("X-Amz-Signature="), "{}", preview.url);
        assert!(is_jpeg(&stage, &key(preview)).await);
    }
    let (plain, shown) = (video(&stage, "plain").await, video(&stage, "shown").await);
    assert_eq!(plain.sha256, shown.sha256, "it is the same video");
    // Whoever removes the checkpoints of an ended task removes these with them.
    let task = stage.task("shown").await;
    assert!(seen.iter().all(|preview| task.owns_object(&key(preview))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_video_has_its_first_frame_beside_it() {
    let stage = Stage::set().await;
    let _worker = stage.worker("w1", 0, &[]);
    stage.submit("a", 4).await;
    let artifact = video(&stage, "a").await;
    let poster = artifact.poster.unwrap();
    assert_eq!(poster, artifact.key.replace(".mp4", ".jpg"));
    assert!(is_jpeg(&stage, &poster).await);
}
