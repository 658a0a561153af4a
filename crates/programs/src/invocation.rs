//! A program with everything it is told.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::CloudAccess;

#[derive(Clone, Debug)]
pub struct Invocation {
    pub program: PathBuf,
    /// Arguments before the settings.
    pub args: Vec<String>,
    /// `--set key=value`.
    pub settings: Vec<(String, String)>,
    /// Variables of the environment; a later one overrides an earlier one of the same name.
    pub variables: Vec<(String, String)>,
}

impl Invocation {
    pub fn new(program: PathBuf) -> Self {
        Self {
            program,
            args: Vec::new(),
            settings: Vec::new(),
            variables: Vec::new(),
        }
    }

    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.settings.push((key.to_owned(), value.to_owned()));
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn envs(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        self.variables.extend(variables);
        self
    }

    /// Health and metrics of the program answer at this address.
    pub fn listening(self, http: SocketAddr) -> Self {
        self.env("SPOTREEL_HTTP__LISTEN", &http.to_string())
    }

    /// For a worker: the command of its engine.
    pub fn engine(self, command: &[String]) -> Self {
        self.set("engine.command", &serde_json::json!(command).to_string())
    }

    /// For trigger and fleet: the pools of this file, with instances of this cloud.
    pub fn buying(self, pools: &Path, cloud: &CloudAccess) -> Self {
        self.set("pools", &pools.display().to_string())
            .set("ec2.region", &cloud.region)
            .set("ec2.endpoint_url", &cloud.endpoint)
    }

    /// All arguments, the settings last.
    pub fn arguments(&self) -> impl Iterator<Item = String> + '_ {
        let settings = self.settings.iter();
        let settings =
            settings.flat_map(|(key, value)| ["--set".to_owned(), format!("{key}={value}")]);
        self.args.iter().cloned().chain(settings)
    }

    /// The command as a line of a shell, without the variables.
    pub fn shell_line(&self) -> String {
        let program = self.program.display().to_string();
        let words = std::iter::once(program).chain(self.arguments());
        words
            .map(|word| quoted(&word))
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// As one word of a shell.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_what_was_quoted() {
        let text = "it's $HOME; `id`";
        let line = Invocation::new("printf".into()).args(["%s", text]);
        let shell = std::process::Command::new("sh")
            .args(["-c", &line.shell_line()])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(shell.stdout).unwrap(), text);
    }
}
