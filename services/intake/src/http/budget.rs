//! How many bytes of bodies are held at once.

use bytes::{Bytes, BytesMut};
use spotreel_api::ApiError;

use super::shares::{Share, Shares};
use crate::config::{ApiConfig, LARGEST_BODY};
use crate::keys::Caller;

const KIB: usize = 1_024;
/// What a whole body may hold without asking: one on every connection still fits everywhere.
const FREE: usize = 16 * KIB;

/// The memory that all bodies together may hold.
#[derive(Clone)]
pub(super) struct Budget {
    kib: Shares,
}

/// Bytes with the part of the budget that they take, until they are dropped.
pub(super) struct Held {
    bytes: BytesMut,
    /// Number of bytes that need no share.
    free: usize,
    share: Share,
}

impl Budget {
    pub fn new(config: &ApiConfig) -> Self {
        let all = config.body_memory_mib * KIB;
        let each = config.share(all).max(LARGEST_BODY.div_ceil(KIB));
        Self {
            kib: Shares::new("KiB of bodies in memory", all, each),
        }
    }

    /// For a whole body.
    pub fn hold(&self, caller: &Caller) -> Held {
        Held {
            bytes: BytesMut::new(),
            free: FREE,
            share: self.kib.none_yet(Some(caller)),
        }
    }

    /// For one of many that are held at the same time: all of it counts.
    pub fn hold_part(&self, caller: &Caller) -> Held {
        Held {
            free: 0,
            ..self.hold(caller)
        }
    }
}

impl Held {
    /// Adds to what is held. The budget gives at once or not at all: who waited would keep what it has meanwhile, and
    /// all would wait for each other.
    pub fn add(&mut self, chunk: &[u8]) -> Result<(), ApiError> {
        let wanted = (self.bytes.len() + chunk.len())
            .saturating_sub(self.free)
            .div_ceil(KIB);
        let had = self.share.size();
        if wanted > had {
            self.share.grow(wanted - had)?;
        }
        self.bytes.extend_from_slice(chunk);
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes, and their part of the budget, which is theirs for as long as somebody holds them.
    pub fn into_parts(self) -> (Bytes, Share) {
        (self.bytes.freeze(), self.share)
    }
}
