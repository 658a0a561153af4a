//! The user data of an instance: `deploy/user-data.sh` with a pool's values filled in.

use std::time::Duration;

use spotreel_domain::Model;

const TEMPLATE: &str = include_str!("../../../deploy/user-data.sh");
/// EC2 takes no more, before base64.
pub const MAX_BYTES: usize = 16 * 1024;
/// A machine that lives shorter than it boots renders nothing.
const SHORTEST_LIFE: Duration = Duration::from_secs(15 * 60);
/// Maximum life of an instance: it bounds the cost of a forgotten one.
const LONGEST_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

/// None of it is secret: whoever may describe the machine can read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserData {
    /// Maximum life of the instance: it shuts itself down after this time.
    pub max_life: Duration,
    /// Time without work after which the worker exits; `None`: never.
    pub idle: Option<Duration>,
    /// Where the worker's parameters lie in the parameter store: `/spotreel/prod/worker`.
    pub parameters: String,
    /// By digest: `registry/name@sha256:…`. A tag may be another program tomorrow.
    pub image: String,
    /// What the worker takes, and what is read ahead, in this order.
    pub models: Vec<Model>,
    /// For videos and checkpoints; none: the parameter `s3.bucket` names it, and goes before this one.
    pub bucket: Option<String>,
    /// The bucket that has their packs; none: the worker's image brings them.
    pub models_bucket: Option<String>,
    /// A small image with `spotreel`, by digest: reads packs ahead while the worker's image comes.
    pub models_image: Option<String>,
    /// Hand the machine's GPUs to the worker.
    pub gpus: bool,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UserDataError {
    #[error("max_life of {0:?} is not between 15 minutes and 7 days")]
    Life(Duration),
    #[error("image {0:?} must be named by digest: registry/name@sha256:<64 hex digits>")]
    Image(String),
    #[error("parameters {0:?} is not a path such as /spotreel/prod/worker")]
    Parameters(String),
    #[error("models is empty: name at least one model")]
    NoModels,
    #[error("{0} {1:?} is not a bucket name: write it without s3:// and without a path")]
    Bucket(&'static str, String),
    #[error("models_image requires models_bucket")]
    NothingToRead,
    #[error("the script has {0} bytes, but EC2 accepts at most 16,384")]
    TooLong(usize),
}

impl UserData {
    /// The script. Every value is checked, so that none can end a quotation in it.
    pub fn render(&self) -> Result<String, UserDataError> {
        if self.max_life < SHORTEST_LIFE || self.max_life > LONGEST_LIFE {
            return Err(UserDataError::Life(self.max_life));
        }
        if !is_by_digest(&self.image) {
            return Err(UserDataError::Image(self.image.clone()));
        }
        if !self.parameters.starts_with('/') || !is_plain(&self.parameters) {
            return Err(UserDataError::Parameters(self.parameters.clone()));
        }
        self.check_models()?;
        let names: Vec<_> = self.models.iter().map(|model| model.as_str()).collect();
        let minutes = self.max_life.as_secs().div_ceil(60).to_string();
        let idle = match self.idle {
            Some(idle) => format!("{}s", idle.as_secs()),
            None => "off".to_owned(),
        };
        let script = TEMPLATE
            .replace("@@MAX_LIFE_MINUTES@@", &minutes)
            .replace("@@IDLE@@", &idle)
            .replace("@@PARAMETERS@@", self.parameters.trim_end_matches('/'))
            .replace("@@IMAGE@@", &self.image)
            .replace("@@BUCKET@@", self.bucket.as_deref().unwrap_or_default())
            .replace("@@MODELS_LIST@@", &format!("{names:?}"))
            .replace("@@MODELS@@", &names.join(" "))
            .replace(
                "@@MODELS_BUCKET@@",
                self.models_bucket.as_deref().unwrap_or_default(),
            )
            .replace(
                "@@MODELS_IMAGE@@",
                self.models_image.as_deref().unwrap_or_default(),
            )
            .replace("@@GPUS@@", if self.gpus { "--gpus all" } else { "" });
        match script.len() {
            bytes if bytes > MAX_BYTES => Err(UserDataError::TooLong(bytes)),
            _ => Ok(script),
        }
    }

    fn check_models(&self) -> Result<(), UserDataError> {
        if self.models.is_empty() {
            return Err(UserDataError::NoModels);
        }
        for (key, bucket) in [
            ("bucket", &self.bucket),
            ("models_bucket", &self.models_bucket),
        ] {
            let is_name =
                |text: &String| !text.is_empty() && !text.contains([':', '/']) && is_plain(text);
            if let Some(wrong) = bucket.as_ref().filter(|bucket| !is_name(bucket)) {
                return Err(UserDataError::Bucket(key, wrong.clone()));
            }
        }
        match (&self.models_bucket, &self.models_image) {
            (None, Some(_)) => Err(UserDataError::NothingToRead),
            (Some(_), Some(image)) if !is_by_digest(image) => {
                Err(UserDataError::Image(image.clone()))
            }
            _ => Ok(()),
        }
    }
}

fn is_by_digest(image: &str) -> bool {
    let Some((name, digest)) = image.split_once("@sha256:") else {
        return false;
    };
    let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    !name.is_empty() && is_plain(name) && digest.len() == 64 && digest.chars().all(hex)
}

/// Means nothing to a shell, quoted or not.
fn is_plain(text: &str) -> bool {
    text.chars()
        .all(|c| c.is_ascii_alphanumeric() || "./:_-".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data() -> UserData {
        UserData {
            max_life: Duration::from_secs(4 * 3600),
            idle: Some(Duration::from_secs(300)),
            parameters: "/spotreel/prod/worker/".into(),
            image: format!(
                "registry.example/spotreel/worker@sha256:{}",
                "a1".repeat(32)
            ),
            models: vec![Model::Ti2v5b, Model::T2vA14b],
            bucket: Some("renders".into()),
            models_bucket: Some("wan-packs".into()),
            models_image: Some(format!(
                "registry.example/spotreel@sha256:{}",
                "b2".repeat(32)
            )),
            gpus: true,
        }
    }

    #[test]
    fn a_script_is_whole_and_fits() {
        let script = data().render().unwrap();
        assert!(script.starts_with("#!/bin/bash\n"));
        assert!(!script.contains("@@"), "a mark is left");
        assert!(script.contains("\nminutes=240\n"));
        assert!(script.contains("PARAMETERS='/spotreel/prod/worker'"));
        assert!(script.contains("spotreel models pull ti2v-5B t2v-A14B --bucket"));
        assert!(script.contains(r#"'SPOTREEL_WORKER_MODELS=["ti2v-5B", "t2v-A14B"]'"#));
        assert!(script.contains("BUCKET='renders'"));
        assert!(script.len() < MAX_BYTES * 3 / 4, "{} bytes", script.len());
    }

    #[test]
    fn what_could_be_another_program_or_a_command_is_refused() {
        type Change = fn(&mut UserData);
        let refused = |change: Change| {
            let mut data = data();
            change(&mut data);
            data.render().unwrap_err()
        };
        let image = |e| matches!(e, UserDataError::Image(_));
        assert!(image(refused(
            |d| d.image = "registry.example/worker:latest".into()
        )));
        assert!(image(refused(
            |d| d.image = format!("w'; rm -rf /@sha256:{}", "a1".repeat(32))
        )));
        assert!(image(refused(
            |d| d.image = format!("worker@sha256:{}", "A1".repeat(32))
        )));
        let parameters = refused(|d| d.parameters = "/spotreel/$(id)".into());
        assert!(matches!(parameters, UserDataError::Parameters(_)));
        for bucket in ["", "s3://models", "models/wan", "$(id)"] {
            let wrong = |key| UserDataError::Bucket(key, bucket.into());
            let mut of_models = data();
            of_models.models_bucket = Some(bucket.into());
            assert_eq!(of_models.render(), Err(wrong("models_bucket")));
            let mut of_videos = data();
            of_videos.bucket = Some(bucket.into());
            assert_eq!(of_videos.render(), Err(wrong("bucket")));
        }
        assert!(image(refused(
            |d| d.models_image = Some("registry.example/spotreel:1".into())
        )));
        let nowhere = refused(|d| d.models_bucket = None);
        assert_eq!(nowhere, UserDataError::NothingToRead);
        assert_eq!(refused(|d| d.models.clear()), UserDataError::NoModels);
        for life in [Duration::ZERO, Duration::from_secs(30 * 24 * 3600)] {
            let mut data = data();
            data.max_life = life;
            assert_eq!(data.render(), Err(UserDataError::Life(life)));
        }
    }
}
