//! A proxy in the person's environment is for other machines: what goes to this one never takes it.

use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::Context;

const PROXIES: [&str; 3] = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"];
const THIS_MACHINE: [&str; 3] = ["127.0.0.1", "localhost", "::1"];
const EXCEPTIONS: [&str; 2] = ["no_proxy", "NO_PROXY"];

/// Begins this program again with loopback addresses in NO_PROXY, if a proxy is set and they are not there. All HTTP
/// clients read that variable, those of `dev`'s programs too; std can change it in a running process only by unsafe code.
pub fn spare_this_machine() -> anyhow::Result<()> {
    let is_set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
    let proxied = PROXIES
        .iter()
        .any(|name| is_set(name) || is_set(&name.to_ascii_lowercase()));
    // Clients differ in which of the two names goes first, so both get what either says.
    let said: Vec<String> = EXCEPTIONS
        .map(|name| env::var(name).unwrap_or_default())
        .into();
    if !proxied || said.iter().all(|list| spares_all(list)) {
        return Ok(());
    }
    let list = extended(&said);
    let program = env::current_exe().context("cannot find this program")?;
    let mut arguments = env::args_os();
    let mut again = Command::new(program);
    if let Some(name) = arguments.next() {
        again.arg0(name);
    }
    again.args(arguments);
    again.envs(EXCEPTIONS.map(|name| (name, &list)));
    Err(again.exec()).context("cannot restart with loopback addresses in NO_PROXY")
}

fn spares_all(list: &str) -> bool {
    THIS_MACHINE
        .iter()
        .all(|here| entries(list).any(|one| one == *here))
}

fn entries(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|one| !one.is_empty())
}

fn extended(said: &[String]) -> String {
    let mut all: Vec<&str> = Vec::new();
    for one in said
        .iter()
        .flat_map(|list| entries(list))
        .chain(THIS_MACHINE)
    {
        if !all.contains(&one) {
            all.push(one);
        }
    }
    all.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_this_machine_never_take_the_proxy() {
        let list = extended(&["corp.example, localhost".into(), String::new()]);
        assert_eq!(list, "corp.example,localhost,127.0.0.1,::1");
        // The program that begins again does not begin a third time.
        assert!(spares_all(&list));
        assert!(!spares_all("localhost"));
        assert!(!spares_all(""));
    }
}
