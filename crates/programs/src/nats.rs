//! The NATS server and its users.

use std::path::{Path, PathBuf};

use crate::Invocation;

/// The users of `deploy/nats/accounts.conf`.
pub const USERS: [&str; 10] = [
    "provision",
    "intake",
    "trigger",
    "fleet",
    "notifier",
    "monitor",
    "worker",
    "clients-provision",
    "client",
    "operator",
];

/// The server on the loopback, with its streams in `store` and the password of each user.
pub fn server(
    program: PathBuf,
    config: &Path,
    port: u16,
    store: &Path,
    password: impl Fn(&str) -> String,
) -> Invocation {
    let passwords = USERS.map(|user| (password_variable(user), password(user)));
    Invocation::new(program)
        .args(["-c", &config.display().to_string()])
        .args(["-a", "127.0.0.1", "-p", &port.to_string()])
        .args(["-sd", &store.display().to_string()])
        .envs(passwords)
}

/// The variable from which `accounts.conf` reads the password of `user`.
pub fn password_variable(user: &str) -> String {
    let name = user.replace('-', "_").to_uppercase();
    format!("SPOTREEL_{name}_PASSWORD")
}

/// What a program needs to connect as `user`.
pub fn login(url: &str, user: &str, password: &str) -> [(String, String); 3] {
    [("URL", url), ("USER", user), ("PASSWORD", password)]
        .map(|(key, value)| (format!("SPOTREEL_NATS__{key}"), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_password_of_the_accounts_is_given() {
        let accounts = include_str!("../../../deploy/nats/accounts.conf");
        let wanted = accounts.split("password: $").skip(1).map(|rest| {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
            rest[..end.unwrap_or(rest.len())].to_owned()
        });
        let given: BTreeSet<_> = USERS.iter().map(|user| password_variable(user)).collect();
        assert_eq!(wanted.collect::<BTreeSet<_>>(), given);
    }
}
