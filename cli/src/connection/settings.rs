//! Where the server is and who we are: from flags, a `dev` directory, the environment, or a context of the `nats`
//! command.
//!
//! The first place that says anything is taken whole, so that a password never goes to another place's server; flags
//! then change single values of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use spotreel_bus::NatsConfig;

use crate::args::ConnectionArgs;

/// Written by `dev` when everything is ready.
pub const ENDPOINTS: &str = "endpoints.env";
/// Beside the client's, in `dev`'s file and in the environment: who may give orders.
pub const OPERATOR_USER: &str = "SPOTREEL_OPERATOR_USER";
pub const OPERATOR_PASSWORD: &str = "SPOTREEL_OPERATOR_PASSWORD";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Client,
    /// As far as the place names one; otherwise the client, who may be one.
    Operator,
}

/// Everything that a connection is made from. A value, so that tests need not touch the process's environment.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub args: ConnectionArgs,
    pub variables: BTreeMap<String, String>,
    /// Where the `nats` command keeps its files.
    pub nats_home: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error(
        "{} does not exist: `spotreel dev --dir {}` is not running, or not ready yet",
        dir.join(ENDPOINTS).display(), dir.display()
    )]
    NotReady { dir: PathBuf },
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("there is no nats context {name:?} ({} is missing): `nats context ls` lists them", path.display())]
    NoContext { name: String, path: PathBuf },
    #[error("{} is not a context file of the nats command", path.display())]
    BadContext {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error(
        "the nats context {name:?} uses {what}, which spotreel does not support: use user and password, or creds"
    )]
    Unsupported { name: String, what: &'static str },
}

/// What we read of a context; the others of its keys are the nats command's own.
#[derive(Default, Deserialize)]
#[serde(default)]
struct NatsContext {
    url: String,
    user: String,
    password: String,
    creds: String,
    token: String,
    nkey: String,
    cert: String,
}

impl Settings {
    pub fn from_process(args: ConnectionArgs) -> Self {
        let variables: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(_, value)| !value.is_empty())
            .collect();
        let config = variables
            .get("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(Path::new(variables.get("HOME")?).join(".config")));
        Self {
            args,
            nats_home: config.map(|config| config.join("nats")),
            variables,
        }
    }

    /// The client's connection, or the operator's where `--operator` says so.
    pub fn nats(&self) -> Result<NatsConfig, SettingsError> {
        let who = match self.args.operator {
            true => Who::Operator,
            false => Who::Client,
        };
        self.nats_as(who)
    }

    pub fn nats_as(&self, who: Who) -> Result<NatsConfig, SettingsError> {
        let mut config = self.place(who)?;
        let flags = &self.args;
        if let Some(url) = &flags.nats_url {
            config.url.clone_from(url);
        }
        if let Some(user) = &flags.nats_user {
            config.user = Some(user.clone());
            config.creds = None;
        }
        if let Some(password) = &flags.nats_password {
            config.password = Some(password.clone());
        }
        if let Some(creds) = &flags.nats_creds {
            config.creds = Some(creds.clone());
        }
        Ok(config)
    }

    /// What `dev` or the environment says beside the connection, such as the environment's name.
    pub fn variable(&self, name: &str) -> Result<Option<String>, SettingsError> {
        match &self.args.dir {
            Some(dir) => Ok(endpoints(dir)?.get(name).cloned()),
            None => Ok(self.variables.get(name).cloned()),
        }
    }

    /// The key for the HTTP API: what `dev`'s directory says, else the environment. Unlike a password it belongs to no
    /// place: `dev` writes none, and who makes one with `spotreel keys create` exports it.
    pub fn api_key(&self) -> Result<Option<String>, SettingsError> {
        const NAME: &str = "SPOTREEL_API_KEY";
        Ok(self
            .variable(NAME)?
            .or_else(|| self.variables.get(NAME).cloned()))
    }

    fn place(&self, who: Who) -> Result<NatsConfig, SettingsError> {
        if let Some(dir) = &self.args.dir {
            return Ok(from_variables(&endpoints(dir)?, who));
        }
        if let Some(name) = &self.args.context {
            return self.context(name);
        }
        let said = ["NATS_URL", "NATS_USER", "NATS_PASSWORD", "NATS_CREDS"];
        if said.iter().any(|name| self.variables.contains_key(*name)) {
            return Ok(from_variables(&self.variables, who));
        }
        if let Some(name) = self.variables.get("NATS_CONTEXT") {
            return self.context(name);
        }
        match self.selected_context() {
            Some(name) if self.args.nats_url.is_none() => self.context(&name),
            _ => Ok(NatsConfig::default()),
        }
    }

    fn selected_context(&self) -> Option<String> {
        let text = std::fs::read_to_string(self.nats_home.as_ref()?.join("context.txt")).ok()?;
        Some(text.trim().to_owned()).filter(|name| !name.is_empty())
    }

    fn context(&self, name: &str) -> Result<NatsConfig, SettingsError> {
        let home = self.nats_home.clone().unwrap_or_default();
        let path = home.join("context").join(format!("{name}.json"));
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(SettingsError::NoContext {
                    name: name.to_owned(),
                    path,
                });
            }
            Err(source) => return Err(SettingsError::Read { path, source }),
        };
        let context: NatsContext = serde_json::from_slice(&text)
            .map_err(|source| SettingsError::BadContext { path, source })?;
        let foreign = [
            (&context.token, "a token"),
            (&context.nkey, "an nkey"),
            (&context.cert, "a client certificate"),
        ];
        if let Some((_, what)) = foreign.into_iter().find(|(value, _)| !value.is_empty()) {
            return Err(SettingsError::Unsupported {
                name: name.to_owned(),
                what,
            });
        }
        let said = |value: String| Some(value).filter(|value| !value.is_empty());
        Ok(NatsConfig {
            url: said(context.url).unwrap_or_else(|| NatsConfig::default().url),
            user: said(context.user),
            password: said(context.password),
            creds: said(context.creds).map(|path| self.expand(&path)),
        })
    }

    fn expand(&self, path: &str) -> String {
        match (path.strip_prefix("~/"), self.variables.get("HOME")) {
            (Some(rest), Some(home)) => format!("{home}/{rest}"),
            _ => path.to_owned(),
        }
    }
}

/// What `dev` wrote into its directory.
fn endpoints(dir: &Path) -> Result<BTreeMap<String, String>, SettingsError> {
    let path = dir.join(ENDPOINTS);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(parse_env(&text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(SettingsError::NotReady {
                dir: dir.to_owned(),
            })
        }
        Err(source) => Err(SettingsError::Read { path, source }),
    }
}

fn from_variables(variables: &BTreeMap<String, String>, who: Who) -> NatsConfig {
    let get = |name: &str| variables.get(name).cloned();
    let url = get("NATS_URL").unwrap_or_else(|| NatsConfig::default().url);
    if let (Who::Operator, Some(user)) = (who, get(OPERATOR_USER)) {
        return NatsConfig {
            url,
            user: Some(user),
            password: get(OPERATOR_PASSWORD),
            creds: None,
        };
    }
    NatsConfig {
        url,
        user: get("NATS_USER"),
        password: get("NATS_PASSWORD"),
        creds: get("NATS_CREDS"),
    }
}

/// `KEY=value` lines as a shell would take them, without any expansion.
fn parse_env(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.strip_prefix("export ").unwrap_or(line).split_once('='))
        .map(|(key, value)| {
            (
                key.trim().to_owned(),
                value.trim_matches(['\'', '"']).to_owned(),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home() -> (tempfile::TempDir, Settings) {
        let dir = tempfile::tempdir().unwrap();
        let contexts = dir.path().join("context");
        std::fs::create_dir(&contexts).unwrap();
        let prod = r#"{"description":"x","url":"nats://prod:4222","user":"me","password":"pw","creds":""}"#;
        std::fs::write(contexts.join("prod.json"), prod).unwrap();
        std::fs::write(
            contexts.join("file.json"),
            r#"{"url":"","creds":"~/me.creds"}"#,
        )
        .unwrap();
        std::fs::write(contexts.join("token.json"), r#"{"token":"t"}"#).unwrap();
        let variables = BTreeMap::from([("HOME".to_owned(), "/home/me".to_owned())]);
        let nats_home = Some(dir.path().to_owned());
        (
            dir,
            Settings {
                nats_home,
                variables,
                ..Settings::default()
            },
        )
    }

    #[test]
    fn contexts_are_read_as_the_nats_command_has_them() {
        let (dir, mut settings) = home();
        assert_eq!(
            settings.nats().unwrap().url,
            "nats://127.0.0.1:4222",
            "nothing is selected"
        );
        std::fs::write(dir.path().join("context.txt"), "prod\n").unwrap();
        let prod = settings.nats().unwrap();
        assert_eq!(
            (prod.url.as_str(), prod.user.as_deref()),
            ("nats://prod:4222", Some("me"))
        );
        assert_eq!(prod.creds, None);

        settings.args.context = Some("file".into());
        assert_eq!(
            settings.nats().unwrap().creds.as_deref(),
            Some("/home/me/me.creds")
        );
        settings.args.context = Some("token".into());
        assert!(settings.nats().unwrap_err().to_string().contains("a token"));
        settings.args.context = Some("gone".into());
        assert!(
            settings
                .nats()
                .unwrap_err()
                .to_string()
                .contains("nats context ls")
        );
    }

    #[test]
    fn one_place_is_taken_whole_and_flags_change_it() {
        let (dir, mut settings) = home();
        std::fs::write(dir.path().join("context.txt"), "prod").unwrap();
        settings
            .variables
            .insert("NATS_URL".into(), "nats://other:4222".into());
        let config = settings.nats().unwrap();
        assert_eq!(
            (config.url.as_str(), config.password),
            ("nats://other:4222", None)
        );

        settings.args.nats_user = Some("you".into());
        assert_eq!(settings.nats().unwrap().user.as_deref(), Some("you"));

        settings.args.dir = Some(dir.path().to_owned());
        assert!(
            settings
                .nats()
                .unwrap_err()
                .to_string()
                .contains("not ready yet")
        );
        let text =
            "# made by spotreel dev\nNATS_URL=nats://127.0.0.1:9\nexport NATS_USER='client'\n";
        std::fs::write(dir.path().join(ENDPOINTS), text).unwrap();
        let config = settings.nats().unwrap();
        assert_eq!(
            (config.url.as_str(), config.user.as_deref()),
            ("nats://127.0.0.1:9", Some("you"))
        );
    }

    #[test]
    fn an_exported_api_key_is_obeyed_in_a_directory_too() {
        let (dir, mut settings) = home();
        settings.args.dir = Some(dir.path().to_owned());
        std::fs::write(
            dir.path().join(ENDPOINTS),
            "SPOTREEL_API=http://127.0.0.1:9\n",
        )
        .unwrap();
        assert_eq!(settings.api_key().unwrap(), None);
        let exported = ("SPOTREEL_API_KEY".to_owned(), "spotreel_a_b".to_owned());
        settings.variables.extend([exported]);
        assert_eq!(settings.api_key().unwrap().as_deref(), Some("spotreel_a_b"));
    }

    #[test]
    fn orders_are_given_by_the_operator_where_there_is_one() {
        let (_dir, mut settings) = home();
        let set = |settings: &mut Settings, name: &str, value: &str| {
            settings.variables.insert(name.into(), value.into())
        };
        set(&mut settings, "NATS_USER", "client");
        set(&mut settings, "NATS_PASSWORD", "pw");
        let user = |settings: &Settings, who| settings.nats_as(who).unwrap().user.unwrap();
        assert_eq!(user(&settings, Who::Operator), "client");
        set(&mut settings, OPERATOR_USER, "boss");
        set(&mut settings, OPERATOR_PASSWORD, "secret");
        assert_eq!(user(&settings, Who::Operator), "boss");
        assert_eq!(user(&settings, Who::Client), "client");
        settings.args.operator = true;
        let config = settings.nats().unwrap();
        assert_eq!(config.user.as_deref(), Some("boss"));
        assert_eq!(config.password.as_deref(), Some("secret"));
        settings.args.nats_user = Some("me".into());
        assert_eq!(user(&settings, Who::Operator), "me");
    }
}
