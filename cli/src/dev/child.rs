//! The moment between `dev` and one of its programs.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, bail};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::getppid;

use crate::args::DevChildArgs;
use crate::done::Done;

/// Asks the kernel to end this process with `dev`, however that ends, and becomes the program. A process of its own
/// does this because std can run it between fork and exec only as unsafe code.
pub fn run(args: &DevChildArgs) -> anyhow::Result<Done> {
    prctl::set_pdeathsig(Signal::SIGKILL).context("cannot tie this process to its parent")?;
    // It may have died before that line.
    if getppid().as_raw() != args.parent {
        bail!("the parent is gone");
    }
    let Some((program, rest)) = args.command.split_first() else {
        bail!("no program is named")
    };
    Err(Command::new(program).args(rest).exec()).with_context(|| format!("cannot run {program}"))
}
