//! Objects that were checked lately: a thousand tasks may begin with one picture, which is read once.

use std::collections::HashMap;
use std::time::SystemTime;

use parking_lot::{Mutex, MutexGuard};
use spotreel_s3::ObjectInfo;

use super::KeptImage;

/// With keys of 512 bytes this is a megabyte.
const MOST: usize = 1_000;

/// One state of a client's object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Object {
    key: String,
    bytes: u64,
    last_modified: SystemTime,
}

/// From an object to the picture that was made of it.
#[derive(Debug, Default)]
pub struct Seen(Mutex<HashMap<Object, KeptImage>>);

impl Object {
    /// None where the store does not say when it was written: nothing would tell its successor from it.
    pub fn new(key: &str, found: &ObjectInfo) -> Option<Self> {
        Some(Self {
            key: key.to_owned(),
            bytes: found.bytes,
            last_modified: found.last_modified?,
        })
    }
}

impl Seen {
    pub fn recall(&self, object: &Object) -> Option<KeptImage> {
        self.map().get(object).cloned()
    }

    pub fn remember(&self, object: Object, kept: KeptImage) {
        let mut map = self.map();
        // To forget costs one reading each, so all at once will do.
        if map.len() >= MOST {
            map.clear();
        }
        map.insert(object, kept);
    }

    /// A panic elsewhere leaves the map whole: every write is one insert.
    fn map(&self) -> MutexGuard<'_, HashMap<Object, KeptImage>> {
        self.0.lock()
    }
}
