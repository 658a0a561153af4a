//! The one way in which tests start a real nats-server, and what every test of real programs needs: ports that stay
//! one's own, child processes that leave nothing behind, and waiting for conditions.
//!
//! It is a package of its own so that the tests of `crates/bus` can use it too.

mod condition;
mod nats;
mod port;
mod process;
mod server;
mod users;

pub use condition::{POLL, always, eventually, until};
pub use nats::{Nats, layout, provision};
pub use port::free_port;
pub use process::Process;
pub use server::Server;
pub use users::{client, config, password};

/// The repository's root.
pub fn root() -> std::path::PathBuf {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors()
        .nth(2)
        .expect("this package lies two folders below the root")
        .to_owned()
}
