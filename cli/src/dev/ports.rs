//! The ports of one directory: any free ones at first, the same ones again as long as they are free.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

use anyhow::Context;

use super::file::write_atomically;

const FILE: &str = "ports.json";

/// Name → port on the loopback.
#[derive(Debug)]
pub struct Ports(BTreeMap<String, u16>);

impl Ports {
    /// A port for each name, kept in `dir`. A `fixed` one must be free.
    pub fn settle(
        dir: &Path,
        names: &[String],
        fixed: Option<(&str, u16)>,
    ) -> anyhow::Result<Self> {
        let path = dir.join(FILE);
        // A damaged file costs the old ports, nothing else.
        let mut wanted: BTreeMap<String, u16> = std::fs::read(&path)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        wanted.retain(|name, _| names.contains(name));
        let mut held = Vec::new();
        if let Some((name, port)) = fixed {
            let listener = bind(port)
                .with_context(|| format!("port {port} for {name} is taken: choose another"))?;
            held.push(listener);
            wanted.insert(name.to_owned(), port);
        }
        // All are held until the last one is found, or one would be given twice.
        let mut found = BTreeMap::new();
        for name in names {
            let before = wanted.get(name).copied();
            if fixed.is_some_and(|(fixed, _)| fixed == name) {
                found.insert(name.clone(), before.unwrap_or_default());
                continue;
            }
            let listener = match before.map(bind) {
                Some(Ok(listener)) => listener,
                _ => bind(0).context("no free port")?,
            };
            found.insert(name.clone(), listener.local_addr()?.port());
            held.push(listener);
        }
        write_atomically(&path, &serde_json::to_string_pretty(&found)?)?;
        Ok(Self(found))
    }

    pub fn address(&self, name: &str) -> SocketAddr {
        SocketAddr::from((
            Ipv4Addr::LOCALHOST,
            self.0.get(name).copied().unwrap_or_default(),
        ))
    }
}

fn bind(port: u16) -> std::io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_stay_unless_they_are_taken() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["a".to_owned(), "b".to_owned()];
        let first = Ports::settle(dir.path(), &names, None).unwrap();
        let again = Ports::settle(dir.path(), &names, None).unwrap();
        assert_eq!(first.0, again.0);
        assert_ne!(first.address("a"), first.address("b"));

        let _taken = TcpListener::bind(first.address("a")).unwrap();
        let moved = Ports::settle(dir.path(), &names, None).unwrap();
        assert_ne!(first.address("a"), moved.address("a"));
        assert_eq!(first.address("b"), moved.address("b"));

        let port = first.address("a").port();
        assert!(Ports::settle(dir.path(), &names, Some(("a", port))).is_err());
    }
}
