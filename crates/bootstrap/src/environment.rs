//! Which environment variables speak to a program, and what they say.
//!
//! | variable | key | who reads it |
//! |---|---|---|
//! | `NATS_URL`, `OTEL_EXPORTER_OTLP_ENDPOINT`, … | see [`CONVENTIONAL`] | programs with that section |
//! | `SPOTREEL_<SECTION>__<KEY>` | `section.key` | programs with that section |
//! | `SPOTREEL_<NAME>_<KEY>`, `…__…` for nesting | `key`, `section.key` | that program |
//!
//! Anything else is somebody else's and is left alone. An empty variable counts as unset, because that is what
//! compose files and CI systems pass for a value they don't have.

use figment::value::{Dict, Value};

/// Every variable of ours begins so.
const OURS: &str = "SPOTREEL_";

/// Sections that a shared variable may set for every program that has them. A section of one program only is set by
/// `SPOTREEL_<NAME>_…`.
const SHARED: &[&str] = &["nats", "s3", "telemetry", "http", "shutdown"];

/// Names that the world already uses, and the keys they mean: the lowest environment layer.
pub const CONVENTIONAL: &[(&str, &str)] = &[
    ("NATS_URL", "nats.url"),
    ("NATS_USER", "nats.user"),
    ("NATS_PASSWORD", "nats.password"),
    ("NATS_CREDS", "nats.creds"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "telemetry.otlp_endpoint"),
    ("RUST_LOG", "telemetry.log"),
];

/// The key that a variable sets, if it speaks to this program in this layer.
type KeyOf<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// One variable that speaks to this program.
pub(crate) struct Setting {
    pub variable: String,
    /// The key, dotted.
    pub key: String,
    pub text: String,
}

/// The settings for program `name` among `variables`, weakest first.
pub(crate) fn settings(
    name: &str,
    sections: &[String],
    variables: &[(String, String)],
) -> Vec<Setting> {
    let own = format!("{OURS}{}_", name.replace('-', "_").to_uppercase());
    let has = |key: &str| {
        sections
            .iter()
            .any(|section| Some(section.as_str()) == head(key))
    };

    let conventional = |variable: &str| {
        let (_, key) = CONVENTIONAL
            .iter()
            .find(|(conventional, _)| *conventional == variable)?;
        has(key).then(|| (*key).to_owned())
    };
    let shared = |variable: &str| {
        let key = key(variable.strip_prefix(OURS)?);
        let section = head(&key).filter(|section| SHARED.contains(section));
        (section.is_some() && key.contains('.') && has(&key)).then_some(key)
    };
    let of_this_program = |variable: &str| variable.strip_prefix(&own).map(key);

    let layers: [&KeyOf<'_>; 3] = [&conventional, &shared, &of_this_program];
    layers
        .iter()
        .flat_map(|key_of| {
            variables
                .iter()
                .filter(|(_, text)| !text.is_empty())
                .filter_map(|(variable, text)| {
                    let key = key_of(variable)?;
                    Some(Setting {
                        variable: variable.clone(),
                        key,
                        text: text.clone(),
                    })
                })
        })
        .collect()
}

/// The value that a text means, judged by the key's default: a password of digits stays a string where the default is
/// one. Without a default a text stays a text (numbers are read from it later), unless it is a list or a table.
pub(crate) fn value(text: &str, default: Option<&Value>) -> Value {
    let parsed: Value = text.parse().unwrap_or_else(|never| match never {});
    match (&parsed, default) {
        (Value::Dict(..) | Value::Array(..), Some(Value::String(..))) => Value::from(text),
        (Value::Dict(..) | Value::Array(..), _)
        | (Value::Num(..) | Value::Bool(..), Some(Value::Num(..) | Value::Bool(..))) => parsed,
        (Value::String(..), _) if text.starts_with('"') => parsed,
        _ => Value::from(text),
    }
}

/// `{a: {b: value}}` for the key `a.b`.
pub(crate) fn nested(key: &str, value: Value) -> Dict {
    match key.split_once('.') {
        Some((head, rest)) => Dict::from([(head.to_owned(), nested(rest, value).into())]),
        None => Dict::from([(key.to_owned(), value)]),
    }
}

fn key(variable: &str) -> String {
    variable.to_lowercase().replace("__", ".")
}

fn head(key: &str) -> Option<&str> {
    key.split('.').next()
}
