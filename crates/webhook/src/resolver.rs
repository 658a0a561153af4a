//! Names to addresses, of which each is checked.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use spotreel_domain::webhook::{AllowedHosts, is_metadata, is_public};

/// How a name is looked up; a test has a DNS of its own.
pub type Lookup = Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync>;

/// As the system does it.
pub fn system_lookup() -> Lookup {
    Arc::new(|name| {
        async move {
            let found = tokio::net::lookup_host((name, 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        }
        .boxed()
    })
}

/// Gives the addresses of a name if requests may go to all of them, else none.
pub struct CheckedResolver {
    lookup: Lookup,
    allowed: AllowedHosts,
}

/// Why a name leads nowhere.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    #[error("the name cannot be resolved")]
    Lookup(#[source] io::Error),
    #[error("the name has no address")]
    Nothing,
    #[error("the name has an address that is not public")]
    NotPublic,
}

impl CheckedResolver {
    pub fn new(lookup: Lookup, allowed: AllowedHosts) -> Self {
        Self { lookup, allowed }
    }
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let name = name.as_str().to_owned();
        let allowed = self.allowed.contains(&name);
        let found = (self.lookup)(name);
        Box::pin(async move {
            let found = found.await.map_err(ResolveError::Lookup)?;
            Ok(checked(&found, allowed)?)
        })
    }
}

fn checked(found: &[IpAddr], allowed: bool) -> Result<Addrs, ResolveError> {
    if found.is_empty() {
        return Err(ResolveError::Nothing);
    }
    let may_go = |address: &IpAddr| !is_metadata(*address) && (allowed || is_public(*address));
    if !found.iter().all(may_go) {
        return Err(ResolveError::NotPublic);
    }
    // The port is that of the URL.
    let addresses: Vec<_> = found
        .iter()
        .map(|address| SocketAddr::new(*address, 0))
        .collect();
    Ok(Box::new(addresses.into_iter()))
}
