//! The NATS server: finding one that is new enough, and its configuration.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use super::file::write_atomically;

const SERVER_CONF: &str = include_str!("../../../deploy/nats/nats-server.conf");
const ACCOUNTS_CONF: &str = include_str!("../../../deploy/nats/accounts.conf");

/// The first version with all that the streams use.
const LEAST: (u32, u32) = (2, 14);

/// From SPOTREEL_NATS_SERVER, PATH, or a `.venv/bin` above this directory or this program.
pub fn find() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("SPOTREEL_NATS_SERVER") {
        let path = PathBuf::from(path);
        check(&path)?;
        return Ok(path);
    }
    let on_path = std::env::var_os("PATH");
    let on_path = on_path.iter().flat_map(std::env::split_paths);
    let starts = [std::env::current_dir().ok(), std::env::current_exe().ok()];
    let above: Vec<PathBuf> = starts
        .iter()
        .flatten()
        .flat_map(|start| {
            start
                .ancestors()
                .map(|dir| dir.join(".venv/bin"))
                .collect::<Vec<_>>()
        })
        .collect();
    let mut refused = None;
    for dir in on_path.chain(above) {
        let path = dir.join("nats-server");
        if !path.is_file() {
            continue;
        }
        match check(&path) {
            Ok(()) => return Ok(path),
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    match refused {
        Some(error) => Err(error),
        None => bail!(
            "there is no nats-server in SPOTREEL_NATS_SERVER, PATH or .venv/bin: `make tools` installs one"
        ),
    }
}

fn check(path: &Path) -> anyhow::Result<()> {
    let least = format!("{}.{}", LEAST.0, LEAST.1);
    let output = Command::new(path)
        .arg("--version")
        .output()
        .with_context(|| {
            format!(
                "cannot run {}: `make tools` installs nats-server {least} or later",
                path.display()
            )
        })?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match version(&text) {
        Some(version) if version >= LEAST => Ok(()),
        Some((major, minor)) => bail!(
            "{} is nats-server {major}.{minor}, and {least} or later is needed: `make tools` installs one",
            path.display()
        ),
        None => bail!(
            "{} does not say its version ({:?}): `make tools` installs nats-server {least} or later",
            path.display(),
            text.trim()
        ),
    }
}

/// `nats-server: v2.14.0-RC.1` → (2, 14).
fn version(text: &str) -> Option<(u32, u32)> {
    let number = text
        .split_whitespace()
        .find_map(|word| word.strip_prefix('v'))?;
    let mut parts = number.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Writes the configuration that the containers use too; gives the path of its main file.
pub fn write_configuration(dir: &Path) -> anyhow::Result<PathBuf> {
    let conf = dir.join("nats/conf");
    std::fs::create_dir_all(&conf).with_context(|| format!("cannot make {}", conf.display()))?;
    write_atomically(&conf.join("accounts.conf"), ACCOUNTS_CONF)?;
    let main = conf.join("nats-server.conf");
    write_atomically(&main, SERVER_CONF)?;
    Ok(main)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared() {
        assert_eq!(version("nats-server: v2.14.0\n"), Some((2, 14)));
        assert_eq!(version("nats-server: v2.15.1-RC.2\n"), Some((2, 15)));
        assert_eq!(version("command not found"), None);
        assert!(version("nats-server: v2.9.25").unwrap() < LEAST);
        assert!(version("nats-server: v3.0.0").unwrap() >= LEAST);
    }

    #[test]
    fn the_configuration_is_the_deployed_one() {
        let dir = tempfile::tempdir().unwrap();
        let main = write_configuration(dir.path()).unwrap();
        let text = std::fs::read_to_string(&main).unwrap();
        assert!(text.contains("include ./accounts.conf"));
        assert!(main.with_file_name("accounts.conf").is_file());
    }
}
