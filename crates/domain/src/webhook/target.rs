//! The address of a receiver, as people write it.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use url::{Host, Url};

use super::address::{is_metadata, is_public};

/// What servers and proxies take.
pub const MAX_URL_BYTES: usize = 2_048;
/// Ports on which web servers listen; another one could be a mail server's or a database's. A host that an operator has allowed
/// may have any port.
pub const PORTS: [u16; 4] = [80, 443, 8_080, 8_443];

/// An http or https URL without a password. [`WebhookUrl::permit`] says whether requests may go there.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WebhookUrl(Url);

/// Hosts to which requests may go although their addresses are not public, by name or address; never metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AllowedHosts(Vec<String>);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTarget {
    #[error("a URL has at most {MAX_URL_BYTES} bytes")]
    Long,
    #[error("not a URL: write it as https://example.org/path")]
    Syntax,
    #[error("the URL must begin with https:// or http://")]
    Scheme,
    #[error(
        "the URL must not hold a user or a password: verify the signature of each delivery instead"
    )]
    Password,
    #[error(
        "port {0} is not open to webhooks: use 80, 443, 8080 or 8443, or ask an operator to add the host to webhooks.allow_hosts of notifier and, for a callback_url, of intake"
    )]
    Port(u16),
    #[error(
        "{0} is not a public address: use a public one, or ask an operator to add the host to webhooks.allow_hosts of notifier and, for a callback_url, of intake"
    )]
    NotPublic(String),
    #[error(
        "{0} is the address of an instance's metadata, which webhooks never reach: use another host"
    )]
    Metadata(String),
}

impl WebhookUrl {
    pub fn parse(text: &str) -> Result<Self, BadTarget> {
        if text.len() > MAX_URL_BYTES {
            return Err(BadTarget::Long);
        }
        let mut url = Url::parse(text.trim()).map_err(|_| BadTarget::Syntax)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(BadTarget::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(BadTarget::Password);
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(BadTarget::Syntax);
        }
        url.set_fragment(None);
        let target = Self(url);
        match target.literal() {
            Some(address) if is_metadata(address) => Err(BadTarget::Metadata(target.host())),
            _ => Ok(target),
        }
    }

    /// Refuses what can be seen to lead inside without asking DNS; the client checks each address that DNS gives.
    pub fn permit(&self, allowed: &AllowedHosts) -> Result<(), BadTarget> {
        let host = self.host();
        if self.literal().is_some_and(is_metadata) {
            return Err(BadTarget::Metadata(host));
        }
        if allowed.contains(&host) {
            return Ok(());
        }
        let local = host == "localhost" || host.ends_with(".localhost");
        if local || self.literal().is_some_and(|address| !is_public(address)) {
            return Err(BadTarget::NotPublic(host));
        }
        match self.0.port_or_known_default() {
            Some(port) if !PORTS.contains(&port) => Err(BadTarget::Port(port)),
            _ => Ok(()),
        }
    }

    /// The address, where the URL has one in place of a name. `url` has read every way to write it: 0x7f.1 is 127.0.0.1.
    pub fn literal(&self) -> Option<IpAddr> {
        match self.0.host()? {
            Host::Ipv4(address) => Some(address.into()),
            Host::Ipv6(address) => Some(address.into()),
            Host::Domain(_) => None,
        }
    }

    /// The host without its port and the rest of the URL, which may hold a secret: for logs.
    pub fn host(&self) -> String {
        let host = self.0.host_str().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host.trim_end_matches('.').to_owned()
    }

    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl AllowedHosts {
    pub fn new(hosts: impl IntoIterator<Item = String>) -> Self {
        Self(hosts.into_iter().collect())
    }

    pub fn contains(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.');
        let same = |one: &String| one.trim_end_matches('.').eq_ignore_ascii_case(host);
        self.0.iter().any(same)
    }
}

impl fmt::Debug for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WebhookUrl({})", self.host())
    }
}

impl TryFrom<String> for WebhookUrl {
    type Error = BadTarget;

    fn try_from(text: String) -> Result<Self, BadTarget> {
        Self::parse(&text)
    }
}

impl From<WebhookUrl> for String {
    fn from(target: WebhookUrl) -> Self {
        target.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permit(text: &str, allowed: &[&str]) -> Result<(), BadTarget> {
        let allowed = AllowedHosts::new(allowed.iter().map(|&host| host.to_owned()));
        WebhookUrl::parse(text)?.permit(&allowed)
    }

    #[test]
    fn public_hosts_on_web_ports_are_permitted() {
        for text in [
            "https://example.org/hooks?key=1",
            "http://example.org",
            "https://example.org:8443/",
            "https://93.184.216.34/",
            "https://[2606:4700:4700::1111]/",
        ] {
            assert_eq!(permit(text, &[]), Ok(()), "{text}");
        }
    }

    #[test]
    fn what_leads_inside_is_refused_however_it_is_written() {
        for text in [
            "http://127.0.0.1/",
            "http://127.1/",
            "http://2130706433/",
            "http://0x7f.0.0.1/",
            "http://0177.0.0.1/",
            "http://[::1]/",
            "http://[::ffff:10.0.0.1]/",
            "http://localhost/",
            "http://LOCALHOST./",
            "http://a.localhost/",
            "http://192.168.1.1:8080/",
        ] {
            let refused = permit(text, &[]);
            assert!(
                matches!(refused, Err(BadTarget::NotPublic(_))),
                "{text}: {refused:?}"
            );
        }
        for text in [
            "http://169.254.169.254/latest",
            "http://[fd00:ec2::254]/",
            "http://0xa9fea9fe/",
        ] {
            let refused = permit(text, &["169.254.169.254", "fd00:ec2::254"]);
            assert!(
                matches!(refused, Err(BadTarget::Metadata(_))),
                "{text}: {refused:?}"
            );
        }
        assert_eq!(
            permit("https://example.org:5432/", &[]),
            Err(BadTarget::Port(5_432))
        );
    }

    #[test]
    fn an_operator_opens_a_host_with_all_its_ports_and_no_other() {
        let allowed = ["127.0.0.1", "::1", "Receiver.Internal"];
        for text in [
            "http://127.0.0.1:9/",
            "http://[::1]:9/",
            "http://receiver.internal:9/",
        ] {
            assert_eq!(permit(text, &allowed), Ok(()), "{text}");
        }
        assert!(permit("http://127.0.0.2/", &allowed).is_err());
    }

    #[test]
    fn only_plain_web_urls_are_targets() {
        let long = format!("https://example.org/{}", "a".repeat(MAX_URL_BYTES));
        for (text, refused) in [
            ("ftp://example.org/", BadTarget::Scheme),
            ("file:///etc/passwd", BadTarget::Scheme),
            ("https://anna:pw@example.org/", BadTarget::Password),
            ("https://anna@example.org/", BadTarget::Password),
            ("example.org/hook", BadTarget::Syntax),
            ("https://", BadTarget::Syntax),
            ("", BadTarget::Syntax),
            (&long, BadTarget::Long),
        ] {
            assert_eq!(WebhookUrl::parse(text), Err(refused), "{text}");
        }
    }

    #[test]
    fn a_target_prints_as_its_host_only() {
        let target =
            WebhookUrl::parse("https://hooks.example.org/secret?token=1").expect("it is one");
        assert_eq!(format!("{target:?}"), "WebhookUrl(hooks.example.org)");
    }
}
