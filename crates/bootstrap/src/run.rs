//! From a command line to an exit code.

use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Arg, ArgAction, ArgMatches, Command};
use tokio::runtime::Runtime;

use crate::config::{self, ConfigError, Sources};
use crate::lifecycle::{Context, ProgramEnd, ProgramFailure, Signals, live};
use crate::sections::Config;
use crate::{http, metrics, probe, telemetry};

/// The program failed: it couldn't start, or a task that it can't do without ended.
pub const EXIT_FAILED: u8 = 1;
/// The command line or the configuration was refused. A supervisor need not try again.
pub const EXIT_CONFIG: u8 = 2;
/// The program was told to stop and had to cut tasks off: the grace was too short, or a second signal came.
pub const EXIT_HARD_STOP: u8 = 3;
/// The program found that this machine can't do its work: a task ended with [`UnfitMachine`]. A supervisor should not
/// start it here again.
pub const EXIT_UNFIT_MACHINE: u8 = 4;

/// How long tasks that were cut off may take to drop what they hold, child processes above all.
const DROP_TIMEOUT: Duration = Duration::from_secs(1);

/// The sections that every program has, whether its defaults name them or not.
const EVERY_PROGRAM: &[&str] = &["http", "telemetry", "shutdown"];

/// Runs a program until it is told to stop: `main` is this one call.
///
/// `start` sets the program up, spawns its tasks and returns; only then is the program ready. It is cut off when the
/// stop comes first. The program runs until SIGTERM or SIGINT, until a task [`spawn`](Context::spawn)ed ends, or until
/// somebody cancels [`Context::stopping`]; then tasks have `shutdown.grace` to finish.
///
/// Exits with 0 after a clean stop, or [`EXIT_FAILED`], [`EXIT_CONFIG`], [`EXIT_HARD_STOP`], [`EXIT_UNFIT_MACHINE`].
pub fn run<C, S, F>(name: &'static str, defaults: &str, start: S) -> ExitCode
where
    C: Config,
    S: FnOnce(C, Context) -> F,
    F: Future<Output = anyhow::Result<()>>,
{
    let matches = match command(name).try_get_matches() {
        Ok(matches) => matches,
        // Help and version are errors to clap, and print to stdout; `exit_code` tells them from real ones.
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.exit_code() == 0 {
                0
            } else {
                EXIT_CONFIG
            });
        }
    };
    let config: C = match configure(name, defaults, &matches) {
        Ok(config) => config,
        Err(error) => return refuse(name, EXIT_CONFIG, &error.into()),
    };
    if let Err(error) = config.validate() {
        return refuse(name, EXIT_CONFIG, &error);
    }
    if matches.get_flag("check-config") {
        let text = config::as_toml(&config).map_err(anyhow::Error::new);
        return match text.and_then(|text| Ok(text + &config.named_files()?)) {
            Ok(text) => {
                print!("{text}");
                ExitCode::SUCCESS
            }
            Err(error) => refuse(name, EXIT_FAILED, &error),
        };
    }
    if matches.get_flag("check-health") {
        return match probe::ready(config.common().http.listen) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => refuse(name, EXIT_FAILED, &error.into()),
        };
    }
    let runtime = match Runtime::new().context("can't start the runtime") {
        Ok(runtime) => runtime,
        Err(error) => return refuse(name, EXIT_FAILED, &error),
    };
    let code = execute(name, &runtime, config, start)
        .unwrap_or_else(|(code, error)| refuse(name, code, &error));
    runtime.shutdown_timeout(DROP_TIMEOUT);
    code
}

fn command(name: &'static str) -> Command {
    let binary = format!("spotreel-{name}");
    Command::new(name)
        .bin_name(binary.clone())
        .display_name(binary)
        .version(env!("CARGO_PKG_VERSION"))
        .about(format!("The {name} program of spotreel"))
        .after_help(
            "Exit codes: 0 clean stop, 1 failed, 2 configuration refused, 3 stopped before all work had ended, \
             4 this machine cannot do the work (worker).",
        )
        .arg(
            Arg::new("config")
                .long("config")
                .value_name("FILE")
                .env("SPOTREEL_CONFIG")
                .value_parser(clap::value_parser!(PathBuf))
                .help("TOML file whose keys replace the defaults"),
        )
        .arg(
            Arg::new("set")
                .long("set")
                .value_name("KEY=VALUE")
                .action(ArgAction::Append)
                .help(
                    "Value of one key, such as nats.url=nats://host; overrides file and environment; can be repeated",
                ),
        )
        .arg(
            Arg::new("check-config")
                .long("check-config")
                .action(ArgAction::SetTrue)
                .help("Check the configuration, print it without secrets, and exit"),
        )
        .arg(
            Arg::new("check-health")
                .long("check-health")
                .action(ArgAction::SetTrue)
                .conflicts_with("check-config")
                .help(
                    "Ask the running program at http.listen whether it is ready; exit with 0 (ready) or 1",
                ),
        )
}

fn configure<C: Config>(
    name: &str,
    defaults: &str,
    matches: &ArgMatches,
) -> Result<C, ConfigError> {
    let overrides = matches
        .get_many::<String>("set")
        .unwrap_or_default()
        .map(|text| config::parse_override(text))
        .collect::<Result<_, _>>()?;
    config::load_from(&Sources {
        name,
        defaults: &with_sections(name, defaults)?,
        file: matches.get_one::<PathBuf>("config").map(PathBuf::as_path),
        variables: config::process_variables(),
        overrides,
        ..Sources::default()
    })
}

/// Adds the sections that every program has to defaults that don't name them: an empty section is all defaults.
fn with_sections(name: &str, defaults: &str) -> Result<String, ConfigError> {
    let named: toml::Table = toml::from_str(defaults).map_err(|source| ConfigError::Defaults {
        name: name.to_owned(),
        source,
    })?;
    let missing = EVERY_PROGRAM
        .iter()
        .filter(|section| !named.contains_key(**section));
    Ok(missing.fold(defaults.to_owned(), |text, section| {
        format!("{text}\n[{section}]\n")
    }))
}

fn execute<C, S, F>(
    name: &'static str,
    runtime: &Runtime,
    config: C,
    start: S,
) -> Result<ExitCode, (u8, anyhow::Error)>
where
    C: Config,
    S: FnOnce(C, Context) -> F,
    F: Future<Output = anyhow::Result<()>>,
{
    let failed = |error: anyhow::Error| (EXIT_FAILED, error);
    let entered = runtime.enter();
    let telemetry = telemetry::init(name, config.common().telemetry)
        .map_err(|error| (EXIT_CONFIG, error.into()))?;
    let recorder = metrics::install(name).map_err(|error| failed(error.into()))?;
    let mut signals = Signals::catch().map_err(|error| failed(error.into()))?;
    let listen = config.common().http.listen;
    let grace = config.common().shutdown.grace;

    let (listener, address) = runtime.block_on(http::bind(listen)).map_err(failed)?;
    let ctx = Context::new(name, address);
    tracing::info!(program = name, version = env!("CARGO_PKG_VERSION"), http = %address, "listening");
    let ending = runtime.block_on(async {
        tokio::spawn(http::serve(
            listener,
            ctx.health.clone(),
            ctx.pages.clone(),
            recorder,
        ));
        live(&ctx, start(config, ctx.clone()), &mut signals, grace).await
    });

    let code = match (ctx.failure(), ending) {
        (Some(ProgramFailure::UnfitMachine), _) => EXIT_UNFIT_MACHINE,
        (Some(ProgramFailure::Program), _) => EXIT_FAILED,
        (None, ProgramEnd::Hard) => EXIT_HARD_STOP,
        (None, ProgramEnd::Clean) => 0,
    };
    tracing::info!(code, "stopped");
    telemetry.shutdown();
    drop(entered);
    Ok(ExitCode::from(code))
}

/// Says why on stderr, in one line and without a log prefix: there may be no log yet.
fn refuse(name: &str, code: u8, error: &anyhow::Error) -> ExitCode {
    eprintln!("spotreel-{name}: {error:#}");
    ExitCode::from(code)
}
