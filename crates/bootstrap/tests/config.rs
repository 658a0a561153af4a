//! The layers of a configuration, and what is refused.

use std::io::Write;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use spotreel_bootstrap::config::{ConfigError, Sources, load_from, parse_override};
use spotreel_bootstrap::{HttpConfig, Secret, ShutdownConfig, TelemetryConfig};

const DEFAULTS: &str = r#"
largest_batch = 100
code = "0042"
[nats]
url = "nats://default"
[telemetry]
[http]
[shutdown]
grace = "10s"
"#;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sample {
    largest_batch: u32,
    code: String,
    nats: Nats,
    http: HttpConfig,
    telemetry: TelemetryConfig,
    shutdown: ShutdownConfig,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nats {
    url: String,
    password: Option<Secret>,
    #[serde(default)]
    attempts: Option<u8>,
}

fn load(variables: &[(&str, &str)], overrides: &[(&str, &str)]) -> Result<Sample, ConfigError> {
    load_from(&sources(variables, overrides))
}

fn sources(variables: &[(&str, &str)], overrides: &[(&str, &str)]) -> Sources<'static> {
    let owned = |pairs: &[(&str, &str)]| {
        pairs
            .iter()
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
            .collect()
    };
    Sources {
        name: "intake",
        defaults: DEFAULTS,
        variables: owned(variables),
        overrides: owned(overrides),
        ..Sources::default()
    }
}

#[test]
fn each_layer_is_stronger_than_the_one_before() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "nats.url = \"nats://file\"\nlargest_batch = 7").unwrap();
    let url = |variables: &[(&str, &str)], overrides: &[(&str, &str)]| {
        let config: Sample = load_from(&Sources {
            file: Some(file.path()),
            ..sources(variables, overrides)
        })
        .unwrap();
        assert_eq!(config.largest_batch, 7, "other keys of the file stay");
        config.nats.url
    };

    assert_eq!(load(&[], &[]).unwrap().nats.url, "nats://default");
    assert_eq!(url(&[], &[]), "nats://file");
    // Listed strongest first, so that the order of the environment can't be what decides.
    let variables = [
        ("SPOTREEL_INTAKE_NATS__URL", "nats://own"),
        ("SPOTREEL_NATS__URL", "nats://shared"),
        ("NATS_URL", "nats://conventional"),
    ];
    assert_eq!(url(&variables[2..], &[]), "nats://conventional");
    assert_eq!(url(&variables[1..], &[]), "nats://shared");
    assert_eq!(url(&variables, &[]), "nats://own");
    assert_eq!(
        url(&variables, &[("nats.url", "nats://flag")]),
        "nats://flag"
    );
}

#[test]
fn text_takes_the_type_of_its_key() {
    let config = load(
        &[
            ("SPOTREEL_INTAKE_LARGEST_BATCH", "12"),
            ("SPOTREEL_INTAKE_CODE", "0017"),
            ("SPOTREEL_INTAKE_NATS__ATTEMPTS", "3"),
            ("NATS_PASSWORD", "123456"),
            ("RUST_LOG", "debug"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318"),
            ("SPOTREEL_HTTP__LISTEN", ""),
        ],
        &[
            ("shutdown.grace", "2m 5s"),
            ("telemetry.format", "json"),
            ("http.listen", "[::1]:80"),
        ],
    )
    .unwrap();
    assert_eq!(config.largest_batch, 12);
    assert_eq!(
        config.code, "0017",
        "digits stay text where the default is text"
    );
    assert_eq!(config.nats.attempts, Some(3));
    assert_eq!(config.nats.password.unwrap().expose(), "123456");
    assert_eq!(config.shutdown.grace, Duration::from_secs(125));
    assert_eq!(config.telemetry.log, "debug");
    assert_eq!(
        config.telemetry.otlp_endpoint.as_deref(),
        Some("http://127.0.0.1:4318")
    );
    assert_eq!(config.http.listen.to_string(), "[::1]:80");
}

#[test]
fn unknown_keys_are_refused_by_name_and_place() {
    let told = |variables, overrides| load(variables, overrides).unwrap_err().to_string();

    let error = told(&[("SPOTREEL_INTAKE_NATS__URLL", "x")], &[]);
    assert!(error.contains("`nats.urll`"), "{error}");
    assert!(error.contains("SPOTREEL_INTAKE_NATS__URLL"), "{error}");
    assert!(error.contains("url, password"), "{error}");

    let error = told(&[], &[("http.port", "80")]);
    assert!(
        error.contains("`http.port` from --set http.port"),
        "{error}"
    );

    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "largest_bach = 7").unwrap();
    let error = load_from::<Sample>(&Sources {
        file: Some(file.path()),
        ..sources(&[], &[])
    })
    .unwrap_err();
    let error = error.to_string();
    assert!(error.contains("`largest_bach` from the file"), "{error}");
    assert!(
        error.contains(&file.path().display().to_string()),
        "{error}"
    );
}

#[test]
fn wrong_and_missing_values_name_key_and_place() {
    let error = load(&[("SPOTREEL_INTAKE_LARGEST_BATCH", "many")], &[])
        .unwrap_err()
        .to_string();
    assert!(error.contains("`largest_batch`"), "{error}");
    assert!(error.contains("SPOTREEL_INTAKE_LARGEST_BATCH"), "{error}");

    let defaults = "largest_batch = 1\ncode = \"\"\n[nats]\n[http]\n[telemetry]\n[shutdown]";
    let error = load_from::<Sample>(&Sources {
        defaults,
        ..sources(&[], &[])
    })
    .unwrap_err();
    let error = error.to_string();
    assert!(error.contains("`nats.url` is missing"), "{error}");
    assert!(error.contains("SPOTREEL_INTAKE_NATS__URL"), "{error}");

    assert!(matches!(
        parse_override("nats.url"),
        Err(ConfigError::Override { .. })
    ));
    assert_eq!(
        parse_override("a=b=c").unwrap(),
        ("a".to_owned(), "b=c".to_owned())
    );
}

#[test]
fn what_belongs_to_other_programs_is_left_alone() {
    let config = load(
        &[
            ("SPOTREEL_FLEET_LARGEST_FLEET", "9"),
            ("SPOTREEL_FLEET_NATS__URL", "nats://fleet"),
            ("SPOTREEL_S3__BUCKET", "this program has no s3 section"),
            ("SPOTREEL_CONFIG", "/a/file"),
            ("SPOTREEL_BIN_DIR", "/a/folder"),
            ("HOME", "/root"),
        ],
        &[],
    )
    .unwrap();
    assert_eq!(config.nats.url, "nats://default");
}
