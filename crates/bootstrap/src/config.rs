//! Configuration in layers, each stronger than the one before:
//!
//! 1. the program's own `<name>.toml`, compiled in: every key with its default and why;
//! 2. a file: `--config FILE` or `SPOTREEL_CONFIG`;
//! 3. the environment, see [`environment`](crate::environment);
//! 4. `--set key=value`.
//!
//! A key that nobody knows is refused, in any layer: a setting with a typing error must not be a setting without
//! effect. Errors name the layer and the key, and say what to do.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use figment::error::Kind;
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::environment;

/// Everything that a configuration is made of. A value, so that tests need not touch the process's environment.
#[derive(Clone, Debug, Default)]
pub struct Sources<'a> {
    /// The program: `intake`. Its variables begin with `SPOTREEL_INTAKE_`.
    pub name: &'a str,
    /// The compiled-in TOML.
    pub defaults: &'a str,
    pub file: Option<&'a Path>,
    /// What names that file; empty: `--config` or `SPOTREEL_CONFIG`.
    pub named_by: &'a str,
    pub variables: Vec<(String, String)>,
    /// From `--set`, in the order given.
    pub overrides: Vec<(String, String)>,
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("the defaults compiled into {name} are not valid TOML: this is a bug")]
    Defaults {
        name: String,
        source: toml::de::Error,
    },
    #[error("can't read the file {}: check {named_by}", path.display())]
    File {
        path: PathBuf,
        named_by: String,
        source: std::io::Error,
    },
    #[error("{} is not valid TOML", path.display())]
    Syntax {
        path: PathBuf,
        source: toml::de::Error,
    },
    #[error("--set {text:?} has no '=': write --set key=value, such as --set nats.url=nats://host")]
    Override { text: String },
    #[error("unknown key `{key}` from {origin}: {hint}")]
    UnknownKey {
        key: String,
        origin: String,
        hint: String,
    },
    #[error("`{key}` is missing: set it in the file, by {variable}, or by --set {key}=…")]
    Missing { key: String, variable: String },
    #[error("`{key}` from {origin}: {reason}")]
    Invalid {
        key: String,
        origin: String,
        reason: String,
    },
    #[error("`{key}` {rule}")]
    Rule {
        key: &'static str,
        rule: &'static str,
    },
}

/// Refuses the value of `key` unless `holds`; for [`Config::validate`](crate::Config::validate).
///
/// # Errors
/// When `holds` is false.
pub fn require(holds: bool, key: &'static str, rule: &'static str) -> Result<(), ConfigError> {
    match holds {
        true => Ok(()),
        false => Err(ConfigError::Rule { key, rule }),
    }
}

/// Loads from the process's environment; see [`load_from`].
///
/// # Errors
/// When a layer can't be read, or says what the program doesn't know or can't use.
pub fn load<C: DeserializeOwned>(
    name: &str,
    defaults: &str,
    file: Option<&Path>,
    overrides: &[(String, String)],
) -> Result<C, ConfigError> {
    load_from(&Sources {
        name,
        defaults,
        file,
        variables: process_variables(),
        overrides: overrides.to_vec(),
        ..Sources::default()
    })
}

/// Loads from the given sources and nothing else.
///
/// # Errors
/// When a layer can't be read, or says what the program doesn't know or can't use.
pub fn load_from<C: DeserializeOwned>(sources: &Sources<'_>) -> Result<C, ConfigError> {
    let defaults: Dict =
        toml::from_str(sources.defaults).map_err(|source| ConfigError::Defaults {
            name: sources.name.to_owned(),
            source,
        })?;
    let sections: Vec<String> = defaults
        .iter()
        .filter(|(_, value)| matches!(value, Value::Dict(..)))
        .map(|(key, _)| key.clone())
        .collect();
    let known = Value::from(defaults.clone());
    let typed = |key: &str, text: &str| {
        let value = environment::value(text, known.find_ref(key));
        environment::nested(key, value)
    };

    let mut layers = vec![ConfigLayer::new(
        format!("the defaults of {}", sources.name),
        defaults,
    )];
    if let Some(path) = sources.file {
        layers.push(ConfigLayer::new(
            format!("the file {}", path.display()),
            read(path, sources.named_by)?,
        ));
    }
    for setting in environment::settings(sources.name, &sections, &sources.variables) {
        let origin = format!("the environment variable {}", setting.variable);
        layers.push(ConfigLayer::new(origin, typed(&setting.key, &setting.text)));
    }
    for (key, text) in &sources.overrides {
        layers.push(ConfigLayer::new(format!("--set {key}"), typed(key, text)));
    }

    let figment = layers.into_iter().fold(Figment::new(), Figment::merge);
    figment
        .extract_lossy()
        .map_err(|error| explain(sources.name, &error))
}

/// As `--check-config` prints it.
///
/// # Errors
/// When TOML can't express it.
pub fn as_toml(value: &impl Serialize) -> Result<String, toml::ser::Error> {
    toml::to_string(value)
}

/// Splits the `key=value` of a `--set`.
///
/// # Errors
/// When there is no `=`, or nothing before it.
pub fn parse_override(text: &str) -> Result<(String, String), ConfigError> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => {
            Ok((key.trim().to_owned(), value.to_owned()))
        }
        _ => Err(ConfigError::Override {
            text: text.to_owned(),
        }),
    }
}

/// This process's environment. Variables that aren't text are nobody's configuration.
pub(crate) fn process_variables() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

fn read(path: &Path, named_by: &str) -> Result<Dict, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::File {
        path: path.to_owned(),
        named_by: match named_by {
            "" => "--config or SPOTREEL_CONFIG".to_owned(),
            named_by => named_by.to_owned(),
        },
        source,
    })?;
    toml::from_str(&text).map_err(|source| ConfigError::Syntax {
        path: path.to_owned(),
        source,
    })
}

/// Turns figment's error into one of ours. Figment keeps earlier errors behind the last; one at a time is enough for
/// a person to act on.
fn explain(name: &str, error: &figment::Error) -> ConfigError {
    let origin = error.metadata.as_ref().map_or_else(
        || "the configuration".to_owned(),
        |metadata| metadata.name.to_string(),
    );
    let key = error.path.join(".");
    match &error.kind {
        Kind::UnknownField(_, []) => {
            let hint = "nothing can be set here; take it away".to_owned();
            ConfigError::UnknownKey { key, origin, hint }
        }
        Kind::UnknownField(_, expected) => {
            let hint = format!("take it away, or choose one of {}", expected.join(", "));
            ConfigError::UnknownKey { key, origin, hint }
        }
        Kind::MissingField(field) => {
            let key = error
                .path
                .iter()
                .map(String::as_str)
                .chain([field.as_ref()]);
            let key = key.collect::<Vec<_>>().join(".");
            let variable = format!(
                "SPOTREEL_{}_{}",
                name.replace('-', "_").to_uppercase(),
                key.replace('.', "__").to_uppercase()
            );
            ConfigError::Missing { key, variable }
        }
        kind => ConfigError::Invalid {
            key,
            origin,
            reason: kind.to_string(),
        },
    }
}

/// One layer, with the name that errors give it.
struct ConfigLayer {
    origin: String,
    dict: Dict,
}

impl ConfigLayer {
    fn new(origin: String, dict: Dict) -> Self {
        Self { origin, dict }
    }
}

impl Provider for ConfigLayer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.clone())
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        Ok(BTreeMap::from([(Profile::Default, self.dict.clone())]))
    }
}

impl fmt::Debug for ConfigLayer {
    /// The origin only: a layer may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigLayer")
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}
