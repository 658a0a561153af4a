//! Encoded text in S3, so that a prompt is encoded once for all its tasks: the text encoder is the largest part of a model
//! to load. Nothing depends on it: an object that is missing or broken only means that the engine encodes by itself.

use std::collections::HashMap;
use std::path::Path;

use sha2::{Digest, Sha256};
use spotreel_domain::chain;
use spotreel_domain::task::TaskSpec;
use spotreel_packs::Index;
use spotreel_s3::Store;

use crate::engine::protocol::{EmbeddingsFile, EmbeddingsInfo, EngineHello};

/// What decides the text encoder's part of a pack.
const COMPONENTS: [&str; 2] = ["text_encoder", "tokenizer"];

/// Where the encoded text of a task lies: named by all that decides its bits. None: the engine does not share it.
pub fn key(hello: &EngineHello, index: &Index, spec: &TaskSpec) -> Option<String> {
    let decided_by = hello.embeddings.as_ref()?;
    let files = COMPONENTS.iter().flat_map(|part| index.component(part));
    let mut hashes: Vec<_> = files.map(|file| (&file.path, &file.sha256)).collect();
    hashes.sort();
    let engine = (&hello.name, &hello.version, decided_by);
    let texts = (&spec.prompt, &spec.negative_prompt);
    let all = serde_json::json!([engine, hashes, index.compute, texts]);
    let hash = hex::encode(Sha256::digest(all.to_string()));
    Some(format!("embeddings/{hash}.safetensors"))
}

pub async fn fetch(store: &Store, key: &str, work_dir: &Path) -> Option<EmbeddingsFile> {
    let path = work_dir.join("embeddings.safetensors");
    match store.get_to_file(key, &path).await {
        Ok(info) => {
            count("found");
            let sha256 = info.sha256?;
            Some(EmbeddingsFile { path, sha256 })
        }
        Err(error) => {
            count("missing");
            tracing::debug!(
                key,
                error = chain(&error),
                "stored encoded text not available; encoding the prompt"
            );
            None
        }
    }
}

/// Beside the render.
pub fn upload(store: Store, key: String, info: EmbeddingsInfo) {
    tokio::spawn(async move {
        let put = store.put_file_if_absent(
            &key,
            &info.path,
            &info.sha256,
            "application/octet-stream",
            HashMap::new(),
        );
        match put.await {
            Ok(_) => tracing::debug!(key, bytes = info.bytes, "encoded text uploaded"),
            Err(error) => {
                tracing::debug!(key, error = chain(&error), "upload of encoded text failed");
            }
        }
    });
}

fn count(outcome: &'static str) {
    metrics::counter!("spotreel_worker_embeddings_total", "outcome" => outcome).increment(1);
}

#[cfg(test)]
mod tests {
    use spotreel_api::TaskRequest;
    use spotreel_bootstrap::ambient;

    use super::*;

    fn index(encoder: &str) -> Index {
        let file =
            |path: &str, sha: &str| serde_json::json!({"path": path, "bytes": 1, "sha256": sha});
        let index = serde_json::json!({
            "format": "wanpack/1", "model": "t2v-A14B", "compute": "bfloat16", "source": {}, "license": "Apache-2.0",
            "files": [file("text_encoder/model.safetensors", encoder), file("tokenizer/tokenizer.json", "bb"),
                file("transformer/diffusion_pytorch_model.safetensors", "cc")],
        });
        serde_json::from_value(index).unwrap()
    }

    #[test]
    fn all_that_decides_the_bits_is_in_the_key_and_nothing_else() {
        let request = TaskRequest {
            model: "t2v-A14B".into(),
            prompt: "a red fox".into(),
            ..TaskRequest::default()
        };
        let spec = request.validate(ambient::now()).unwrap().spec;
        let mut hello = EngineHello::default();
        assert_eq!(key(&hello, &index("aa"), &spec), None);
        hello.embeddings = Some("h100".into());
        let known = key(&hello, &index("aa"), &spec).unwrap();
        assert!(
            known.starts_with("embeddings/") && known.len() == "embeddings/.safetensors".len() + 64
        );
        let same = TaskSpec {
            seed: spec.seed + 1,
            steps: 7,
            ..spec.clone()
        };
        assert_eq!(key(&hello, &index("aa"), &same).unwrap(), known);
        let other = |change: fn(&mut TaskSpec)| {
            let mut spec = spec.clone();
            change(&mut spec);
            key(&hello, &index("aa"), &spec).unwrap()
        };
        let absent = known.clone();
        let others = [
            other(|spec| spec.prompt.push('.')),
            // Really empty is not the model's own.
            other(|spec| spec.negative_prompt = Some(String::new())),
            key(&hello, &index("ab"), &spec).unwrap(),
            key(
                &EngineHello {
                    embeddings: Some("l40s".into()),
                    ..hello.clone()
                },
                &index("aa"),
                &spec,
            )
            .unwrap(),
            key(
                &EngineHello {
                    version: "2".into(),
                    ..hello.clone()
                },
                &index("aa"),
                &spec,
            )
            .unwrap(),
        ];
        assert!(others.iter().all(|key| *key != absent));
    }
}
