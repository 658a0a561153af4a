//! What a client said, to tell the same submission again from another one.

use sha2::{Digest, Sha256};
use spotreel_domain::model::MAX_PROMPT_CHARS;
use spotreel_domain::task::{TaskLora, TaskSpec};

use super::text::normal;
use super::{ImageSource, MAX_LABEL_CHARS, MAX_LABELS, TaskRequest, Valid};

/// A character of UTF-8 has at most four bytes; what comes on top is for model, size and line ends.
const MAX_BYTES: usize = 4 * (3 * MAX_PROMPT_CHARS + 2 * MAX_LABELS * MAX_LABEL_CHARS);

impl TaskRequest {
    /// SHA-256 of the request as the client wrote it: defaults, which an upgrade may change, are not in
    /// it. Nor is the deadline, since a client that says "in one hour" writes another one each time. None: the texts are
    /// longer than any task's, so no task was ever made of them.
    pub fn digest(&self) -> Option<[u8; 32]> {
        let texts = [&self.prompt, &self.model].into_iter();
        let texts = texts.chain(&self.negative_prompt).chain(&self.size);
        let labels = self.labels.iter().flat_map(|(key, value)| [key, value]);
        let texts = texts.chain(self.loras.iter().map(|lora| &lora.name));
        let texts = texts.chain(&self.callback_url);
        if texts.chain(labels).map(String::len).sum::<usize>() > MAX_BYTES {
            return None;
        }
        let said = Self {
            id: None,
            idempotency_key: None,
            model: self.model.clone(),
            prompt: normal(&self.prompt),
            negative_prompt: self.negative_prompt.as_deref().map(normal),
            size: self.size.clone(),
            frames: self.frames,
            quality: self.quality,
            steps: self.steps,
            guidance: self.guidance,
            guidance_high_noise: self.guidance_high_noise,
            shift: self.shift,
            seed: self.seed,
            image: self.image.as_ref().map(|image| match image {
                ImageSource::S3Key(key) => ImageSource::S3Key(key.clone()),
                ImageSource::Base64(text) => {
                    ImageSource::Base64(hex::encode(Sha256::digest(text.as_bytes())))
                }
            }),
            loras: self.loras.clone(),
            preview: self.preview,
            priority: self.priority,
            expires_at: None,
            labels: self.labels.clone(),
            callback_url: self.callback_url.clone(),
        };
        // Fields go in the order of the struct and labels in that of their keys: the text is the same on every machine.
        let text = serde_json::to_vec(&said).ok()?;
        Some(Sha256::digest(text).into())
    }
}

impl Valid {
    /// The fields in which this request asks for something else than `first`, as far as its own show it.
    pub fn fields_that_differ(&self, first: &TaskSpec) -> Vec<&'static str> {
        let asked = &self.spec;
        let image = match &self.image {
            // Where it lies is known only once it was stored.
            Some(ImageSource::Base64(_)) => first.image.is_none(),
            _ => asked.image != first.image,
        };
        // Those of a tier are the pack's, which may have another by now.
        let tier = asked.quality.is_some() && asked.quality == first.quality;
        let unpinned = |loras: &[TaskLora]| -> Vec<TaskLora> {
            let unpinned = |lora: &TaskLora| TaskLora {
                sha256: None,
                ..lora.clone()
            };
            loras.iter().map(unpinned).collect()
        };
        [
            ("model", asked.model != first.model),
            ("prompt", asked.prompt != first.prompt),
            (
                "negative_prompt",
                asked.negative_prompt != first.negative_prompt,
            ),
            (
                "size",
                !self.size_of_picture && (asked.width, asked.height) != (first.width, first.height),
            ),
            ("frames", asked.frames != first.frames),
            ("quality", asked.quality != first.quality),
            ("steps", !tier && asked.steps != first.steps),
            ("guidance", !tier && asked.guidance != first.guidance),
            (
                "guidance_high_noise",
                !tier && asked.guidance_high_noise != first.guidance_high_noise,
            ),
            ("shift", !tier && asked.shift != first.shift),
            ("seed", self.seed_given && asked.seed != first.seed),
            ("image", image),
            ("loras", unpinned(&asked.loras) != unpinned(&first.loras)),
            ("preview", asked.preview != first.preview),
            ("priority", asked.priority != first.priority),
            ("labels", asked.labels != first.labels),
            ("callback_url", asked.callback_url != first.callback_url),
        ]
        .into_iter()
        .filter_map(|(field, differs)| differs.then_some(field))
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn fox() -> TaskRequest {
        TaskRequest {
            model: "ti2v-5B".into(),
            prompt: "a red fox".into(),
            labels: [("b".to_owned(), "2".to_owned())].into(),
            ..TaskRequest::default()
        }
    }

    #[test]
    fn the_same_request_has_the_same_digest_in_every_version() {
        // Written down once: another value would turn a repeated submission into a conflict after an upgrade.
        let digest = hex::encode(fox().digest().unwrap());
        assert_eq!(
            digest,
            "f931a06526f1bd287882d58691379f5be9773508f58da83754814a9393d5472c"
        );
    }

    #[test]
    fn name_deadline_and_defaults_are_not_in_the_digest() {
        let named = TaskRequest {
            id: Some("fox-1".into()),
            expires_at: Some(Timestamp::UNIX_EPOCH),
            ..fox()
        };
        assert_eq!(named.digest(), fox().digest());
        let composed = |prompt: &str| TaskRequest {
            prompt: prompt.into(),
            ..fox()
        };
        assert_eq!(composed("\u{e9}").digest(), composed("e\u{301}").digest());
        let windows = composed("\u{feff}a\r\nb");
        assert_eq!(windows.digest(), composed("a\nb").digest());
        let spec = windows.validate(Timestamp::UNIX_EPOCH).unwrap().spec;
        assert_eq!(spec.prompt, "a\nb");
        for other in [
            composed("a blue fox"),
            TaskRequest {
                steps: Some(50),
                ..fox()
            },
            TaskRequest {
                labels: Default::default(),
                ..fox()
            },
        ] {
            assert_ne!(other.digest(), fox().digest());
        }
    }

    #[test]
    fn fields_that_differ_are_named() {
        let valid = |request: &TaskRequest| request.validate(Timestamp::UNIX_EPOCH).unwrap();
        let other = TaskRequest {
            size: Some("704x1280".into()),
            steps: Some(7),
            seed: Some(1),
            ..fox()
        };
        let named = valid(&other).fields_that_differ(&valid(&fox()).spec);
        assert_eq!(named, ["size", "steps", "seed"]);
        assert!(
            valid(&fox())
                .fields_that_differ(&valid(&fox()).spec)
                .is_empty()
        );
    }

    /// The comparison is a list written by hand: a field that it forgets is found here.
    #[test]
    fn every_field_of_a_request_is_compared() {
        let valid = |request: serde_json::Value| {
            let request: TaskRequest = serde_json::from_value(request).unwrap();
            request.validate(Timestamp::UNIX_EPOCH).unwrap()
        };
        let first = valid(serde_json::json!({
            "model": "i2v-A14B", "prompt": "a red fox", "quality": "best",
            "image": { "s3_key": "images/fox.png" }, "labels": { "b": "2" },
        }));
        let other = valid(serde_json::json!({
            "model": "t2v-A14B", "prompt": "a blue fox", "negative_prompt": "", "size": "832x480", "frames": 5,
            "steps": 7, "guidance": 1.5, "guidance_high_noise": 1.5, "shift": 1.5, "seed": 1,
            "loras": [{ "name": "ink" }], "preview": true, "priority": "high",
            "callback_url": "https://example.org/done",
        }));
        // serde names the fields to whoever sends another.
        let error = serde_json::from_str::<TaskRequest>(r#"{"": 0}"#).unwrap_err();
        let error = error.to_string();
        let fields = error.split('`').skip(3).step_by(2);
        let names_and_deadline = ["id", "idempotency_key", "expires_at"];
        let compared: Vec<_> = fields
            .filter(|field| !names_and_deadline.contains(field))
            .collect();
        assert_eq!(other.fields_that_differ(&first.spec), compared);
    }
}
