//! The passwords of one directory: drawn once, kept in a file that only its owner can read.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use spotreel_bootstrap::{Secret, ambient};
use spotreel_programs::nats;

use super::file::write_atomically;

const FILE: &str = "secrets.json";

/// The name of the local cloud's secret key; its access key is no secret.
const S3: &str = "s3";
pub const S3_ACCESS_KEY: &str = "spotreel-dev";

/// Name → password.
#[derive(Debug)]
pub struct Secrets(BTreeMap<String, Secret>);

impl Secrets {
    /// Reads them, and draws those that are missing.
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join(FILE);
        let mut texts: BTreeMap<String, String> = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).with_context(|| {
                format!(
                    "{} is damaged: remove it to draw new passwords",
                    path.display()
                )
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        let before = texts.len();
        for name in nats::USERS.into_iter().chain([S3]) {
            texts.entry(name.to_owned()).or_insert_with(draw);
        }
        if texts.len() > before {
            write_atomically(&path, &serde_json::to_string_pretty(&texts)?)?;
        }
        Ok(Self(
            texts
                .into_iter()
                .map(|(name, text)| (name, Secret::new(text)))
                .collect(),
        ))
    }

    pub fn of(&self, name: &str) -> &str {
        self.0
            .get(name)
            .expect("every name is drawn in open")
            .expose()
    }

    pub fn s3(&self) -> &str {
        self.of(S3)
    }
}

/// 128 bits. The letter in front keeps nats-server from reading a password of digits as a number.
fn draw() -> String {
    format!(
        "p{:016x}{:016x}",
        ambient::random_u64(),
        ambient::random_u64()
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn passwords_stay_the_same_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let first = Secrets::open(dir.path()).unwrap();
        let again = Secrets::open(dir.path()).unwrap();
        assert_eq!(first.of("intake"), again.of("intake"));
        assert_ne!(first.of("intake"), first.of("worker"));
        let mode = std::fs::metadata(dir.path().join(FILE))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
