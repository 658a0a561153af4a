//! Sends deliveries of webhooks: one signed request, to public addresses only, within one deadline.
//!
//! The receiver is chosen by somebody else, so the client trusts nothing about it:
//!
//! - An address in the URL is checked before the request, since it never reaches the resolver. A name is resolved by
//!   [`CheckedResolver`]; if one of its addresses is not allowed, none is used. The connection goes to the addresses that were
//!   checked, so a second answer of DNS cannot lead elsewhere.
//! - No redirect is followed, no proxy of the environment is used, nothing is repeated by the HTTP library.
//! - One deadline covers name, connection, TLS, request and the head of the answer. Of the body at most 64 kB are read, for a
//!   second at most and only so that the connection can be used again; nothing of it is kept.

mod resolver;
mod sender;

pub use resolver::{CheckedResolver, Lookup, system_lookup};
pub use sender::{BuildError, Sender, SignedDelivery};
