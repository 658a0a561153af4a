//! `spotreel`: what a person types.

mod alarms;
mod args;
mod batches;
mod connection;
mod costs;
mod csv;
mod dev;
mod done;
mod events;
mod fleet;
mod get;
mod keys;
mod models;
mod orders;
mod print;
mod provision;
mod proxy;
mod quote;
mod reap;
mod search;
mod submit;
mod tasks;
mod template;
mod top;
mod watch;
mod webhooks;
mod why;

use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::args::{Cli, Command, FleetCommand};
use crate::connection::Settings;
use crate::done::Done;

fn main() -> ExitCode {
    init_log();
    if let Err(error) = proxy::spare_this_machine() {
        return fail(&error);
    }
    let cli = Cli::parse();
    // One thread: the kernel ends the children of `dev` with the thread that started them.
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    let done = runtime.block_on(execute(cli));
    runtime.shutdown_background();
    match done {
        Ok(Done::Well) => ExitCode::SUCCESS,
        Ok(Done::Failed) => ExitCode::FAILURE,
        Err(error) => fail(&error),
    }
}

/// What is changed in a stream is told at once: a command that fails later prints no table.
const LOG: &str = "warn,spotreel_bus::provision=info,async_nats=off,aws_config=off";

/// Warnings, or what RUST_LOG asks for. The libraries tell each failure to their caller too, and there is a sentence for
/// it.
fn init_log() {
    let filter = EnvFilter::try_from_default_env();
    let on_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt()
        .with_ansi(on_terminal)
        .with_env_filter(filter.unwrap_or_else(|_| EnvFilter::new(LOG)))
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false)
        .init();
}

async fn execute(cli: Cli) -> anyhow::Result<Done> {
    let dir = cli.connection.dir.clone();
    let settings = Settings::from_process(cli.connection);
    match cli.command {
        Command::Dev(args) => Box::pin(dev::run(dir, args)).await,
        Command::DevChild(args) => dev::child::run(&args),
        Command::Provision(args) => Box::pin(provision::run(&settings, args)).await,
        Command::Submit(args) => Box::pin(submit::run(&settings, *args)).await,
        Command::Watch(args) => watch::run(&settings, args).await,
        Command::List(args) => tasks::list(&settings, args).await,
        Command::Search(args) => search::run(&settings, args).await,
        Command::Status(args) => tasks::status(&settings, args).await,
        Command::Get(args) => get::run(&settings, args).await,
        Command::Cancel(args) => tasks::cancel(&settings, args).await,
        Command::Retry(args) => tasks::retry(&settings, args).await,
        Command::Quote(args) => quote::run(&settings, args).await,
        Command::Why(args) => why::run(&settings, args).await,
        Command::Batches(args) => Box::pin(batches::run(&settings, args)).await,
        Command::Fleet(args) => match args.command {
            None => fleet::run(&settings, args).await,
            Some(FleetCommand::Reap(args)) => Box::pin(reap::run(&settings, args)).await,
            Some(FleetCommand::Template(args)) => Box::pin(template::run(&settings, *args)).await,
        },
        Command::Top(args) => Box::pin(top::run(&settings, args)).await,
        Command::Events(args) => events::run(&settings, args).await,
        Command::Alarms(args) => alarms::run(&settings, args).await,
        Command::Receipt(args) => costs::receipt(&settings, args).await,
        Command::Cost(args) => costs::cost(&settings, args).await,
        Command::Run(args) => orders::run(&settings, args).await,
        Command::Hold(args) => orders::hold(&settings, args).await,
        Command::Resume(args) => orders::resume(&settings, args).await,
        Command::Stop(args) => orders::stop(&settings, args).await,
        Command::Drain(args) => orders::drain(&settings, args).await,
        Command::Keys(args) => keys::run(&settings, args).await,
        Command::Webhooks(args) => Box::pin(webhooks::run(&settings, args)).await,
        Command::Models(args) => Box::pin(models::run(&settings, args)).await,
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("spotreel: {error:#}");
    ExitCode::FAILURE
}
