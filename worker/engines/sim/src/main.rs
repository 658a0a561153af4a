//! The engine without a GPU: same contract, same steps and checkpoints as the real one, an honest H.264 video at the
//! task's own size, in seconds. It calls itself `sim` in the picture and in the metadata, so nobody takes it for Wan.
//!
//! The picture comes from the prompt, the negative prompt, the image's bytes and the seed by arithmetic that every CPU
//! does alike, so a resumed render gives the same file as an uninterrupted one, wherever it runs.

mod channel;
mod checkpoint;
mod current;
mod denoise;
mod faults;
mod jpeg;
mod log;
mod overlay;
mod pack;
mod picture;
mod recipe;
mod render;
mod session;
mod text;
mod video;
mod writer;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use nix::sys::signal::{SigSet, Signal};

use channel::Outbox;
use log::log;

/// Simulated renderer without a GPU; speaks the engine contract on fd 0.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Minimum time of each step in milliseconds, to imitate a GPU.
    #[arg(long, default_value_t = 0)]
    step_ms: u64,
    /// Obey fault directives in prompts, such as {{crash@3#1}}; for tests.
    #[arg(long)]
    allow_faults: bool,
    /// Require a model pack and share encoded text, as an engine with weights does.
    #[arg(long)]
    packs: bool,
    /// Use stdin and stdout in place of the socket on fd 0, to try the contract by hand.
    #[arg(long)]
    stdio: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    answer_sigusr1().context("cannot block SIGUSR1")?;
    let (input, output) = transport(args.stdio)?;
    let options = session::Options {
        least_step: Duration::from_millis(args.step_ms),
        faults: args.allow_faults,
        packs: args.packs,
    };
    session::run(input, &Outbox::new(output), options)
}

/// The channel's two directions. fd 0 is given away and becomes /dev/null: nothing else may read the conversation.
fn transport(stdio: bool) -> anyhow::Result<(Box<dyn Read + Send>, Box<dyn Write + Send>)> {
    if stdio {
        return Ok((Box::new(io::stdin()), Box::new(io::stdout())));
    }
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    socket
        .peer_addr()
        .context("fd 0 is not a socket; run by hand with --stdio")?;
    nix::unistd::dup2_stdin(File::open("/dev/null")?)?;
    Ok((Box::new(socket.try_clone()?), Box::new(socket)))
}

/// A worker that lost patience sends SIGUSR1 before anything harder: the engine says in its log that it is alive.
fn answer_sigusr1() -> nix::Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGUSR1);
    signals.thread_block()?;
    thread::spawn(move || {
        while signals.wait().is_ok() {
            log("SIGUSR1: the process is alive and takes signals");
        }
    });
    Ok(())
}
