//! What the tests of all crates share: a real nats-server, services within the test's process or as programs, tasks and
//! batches in the logs, requests to services, and waiting for conditions. A crate's own stage keeps what is particular to it.
//!
//! Real programs need ports that stay one's own, and child processes that leave nothing behind.

mod ask;
mod condition;
mod logs;
mod nats;
mod older;
mod port;
mod process;
mod program;
mod rights;
mod server;
mod service;
pub mod tasks;
mod users;

pub use ask::{ask, request};
pub use condition::{POLL, always, eventually, until};
pub use logs::{Logs, Written, pool, spot_instance};
pub use nats::{Nats, layout, provision};
pub use older::{js, provisioned_before_alarms};
pub use port::free_port;
pub use process::Process;
pub use program::{
    Program, bin_dir, binary, command, metric, page, printed, refusal, without_settings,
};
pub use rights::refused_rights;
pub use server::Server;
pub use service::{context, failing, load_config, stop};
pub use users::{client, config, password};

/// The repository's root.
pub fn root() -> std::path::PathBuf {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors()
        .nth(2)
        .expect("this package lies two folders below the root")
        .to_owned()
}

/// The smallest pack of a model, which the tests of its engine use.
pub fn tiny_pack(model: &str) -> std::path::PathBuf {
    root().join("worker/engines/wan/packs/tiny").join(model)
}
