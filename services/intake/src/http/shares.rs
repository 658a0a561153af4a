//! Shares of a limited resource: a total for all callers, and a part of it for each owner of keys.
//!
//! Callers without a key are not told apart, so for them the bound in all is the only one.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use spotreel_api::ApiError;
use spotreel_domain::Owner;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error;
use crate::keys::Caller;

#[derive(Clone)]
pub struct Shares {
    inner: Arc<Inner>,
}

struct Inner {
    what: &'static str,
    all: Arc<Semaphore>,
    each: usize,
    /// Owners that hold nothing are not in it.
    held: Mutex<HashMap<Owner, usize>>,
}

/// What one caller holds, until it is dropped.
pub struct Share {
    inner: Arc<Inner>,
    owner: Option<Owner>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Shares {
    /// `what` completes the sentence "owner anna has 64 …".
    pub fn new(what: &'static str, all: usize, each: usize) -> Self {
        Self {
            inner: Arc::new(Inner {
                what,
                all: Arc::new(Semaphore::new(all)),
                each: each.clamp(1, all),
                held: Mutex::default(),
            }),
        }
    }

    /// One of them, at once or not at all.
    pub fn take(&self, caller: Option<&Caller>) -> Result<Share, ApiError> {
        let mut share = self.none_yet(caller);
        share.grow(1)?;
        Ok(share)
    }

    /// A share that holds nothing.
    pub fn none_yet(&self, caller: Option<&Caller>) -> Share {
        Share {
            inner: self.inner.clone(),
            owner: caller.and_then(Caller::owner).cloned(),
            permit: None,
        }
    }
}

impl Share {
    pub fn size(&self) -> usize {
        self.permit
            .as_ref()
            .map_or(0, OwnedSemaphorePermit::num_permits)
    }

    /// Takes `more` at once, or nothing.
    pub fn grow(&mut self, more: usize) -> Result<(), ApiError> {
        let Inner {
            what,
            all,
            each,
            held,
        } = &*self.inner;
        // A panic elsewhere leaves the map whole: every change of it is one call.
        let mut held = held.lock();
        if let Some(owner) = &self.owner {
            let has = held.get(owner).copied().unwrap_or(0);
            if has + more > *each {
                return Err(error::share_taken(owner, *each, what));
            }
        }
        let permits = u32::try_from(more).unwrap_or(u32::MAX);
        let Ok(permits) = all.clone().try_acquire_many_owned(permits) else {
            return Err(error::busy(&format!(
                "all callers together have {what}, as many as fit"
            )));
        };
        match &mut self.permit {
            Some(permit) => permit.merge(permits),
            none => *none = Some(permits),
        }
        if let Some(owner) = &self.owner {
            *held.entry(owner.clone()).or_default() += more;
        }
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let size = self.size();
        let Some(owner) = self.owner.take() else {
            return;
        };
        let mut held = self.inner.held.lock();
        if let Some(has) = held.get_mut(&owner) {
            *has = has.saturating_sub(size);
            if *has == 0 {
                held.remove(&owner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use spotreel_api::ErrorCode;
    use spotreel_domain::ApiKey;
    use spotreel_domain::api_key::{Access, KeyId};

    use super::*;

    fn caller(number: u64, owner: &str) -> Caller {
        Caller::Key(Arc::new(ApiKey {
            id: KeyId::from_random(number),
            owner: Owner::parse(owner).unwrap(),
            secret_sha256: String::new(),
            access: Access::Own,
            tasks_per_minute: 1,
            created_at: Timestamp::UNIX_EPOCH,
            expires_at: None,
            note: String::new(),
        }))
    }

    #[test]
    fn one_owner_never_holds_what_belongs_to_others() {
        let shares = Shares::new("requests at work", 4, 2);
        // Another key of the same owner changes nothing.
        let (anna, again, ben) = (caller(1, "anna"), caller(2, "anna"), caller(3, "ben"));
        let first = shares.take(Some(&anna)).ok().unwrap();
        let _second = shares.take(Some(&again)).ok().unwrap();
        let refused = shares.take(Some(&anna)).err().unwrap();
        assert_eq!(refused.code, ErrorCode::RateLimited);
        assert_eq!(refused.retry_after_s, Some(1));
        for word in ["anna", "2", "requests at work"] {
            assert!(refused.message.contains(word), "{}", refused.message);
        }
        let _third = shares.take(Some(&ben)).ok().unwrap();
        let _fourth = shares.take(None).ok().unwrap();
        let full = shares.take(Some(&ben)).err().unwrap();
        assert_eq!(full.code, ErrorCode::Unavailable);
        drop(first);
        shares.take(Some(&anna)).ok().unwrap();
    }

    #[test]
    fn a_share_that_was_refused_more_keeps_what_it_had() {
        let shares = Shares::new("KiB of bodies", 10, 4);
        let anna = caller(1, "anna");
        let mut share = shares.none_yet(Some(&anna));
        share.grow(3).unwrap();
        assert!(share.grow(2).is_err());
        assert_eq!(share.size(), 3);
        drop(share);
        assert!(shares.inner.held.lock().is_empty());
        assert_eq!(shares.inner.all.available_permits(), 10);
    }
}
