//! The requests that a service holds at the same time, and their memory. Nobody else bounds it: what is not read lies in the
//! client's queue, each message with up to 8 MB.

use std::sync::Arc;

use spotreel_api::{ApiError, ErrorCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::reply::refuse;

/// Requests that wait for a place, for each that has one: clients ask in bursts.
const WAITING: usize = 8;
/// Bytes of a request that the budget does not count: with them, all that wait together stay below the budget.
const FREE: usize = 16 * KIB;
const KIB: usize = 1_024;
/// What fills a bound here is a matter of seconds.
const RETRY_AFTER_S: u64 = 1;

pub struct Room {
    places: Arc<Semaphore>,
    held: Arc<Semaphore>,
    kib: Arc<Semaphore>,
}

/// What one request has of it.
pub struct RoomShare {
    places: Arc<Semaphore>,
    _held: OwnedSemaphorePermit,
    _kib: Option<OwnedSemaphorePermit>,
}

impl Room {
    /// `at_once` is the number of requests at work; `memory_mib` is at least what one message may have.
    pub fn new(at_once: usize, memory_mib: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(at_once)),
            held: Arc::new(Semaphore::new(at_once * WAITING)),
            kib: Arc::new(Semaphore::new(memory_mib * KIB)),
        }
    }

    /// Lets a request of `bytes` in, before anything of it is read. At once or not at all: whoever waited would hold its
    /// bytes meanwhile.
    pub fn admit(&self, bytes: usize) -> Result<RoomShare, ApiError> {
        let message = "too many requests, or too large ones, arrive at the same time: send it again a little later";
        self.share(bytes).ok_or_else(|| ApiError {
            retry_after_s: Some(RETRY_AFTER_S),
            ..refuse(ErrorCode::Unavailable, message)
        })
    }

    fn share(&self, bytes: usize) -> Option<RoomShare> {
        let kib = u32::try_from(bytes.saturating_sub(FREE).div_ceil(KIB)).ok()?;
        Some(RoomShare {
            places: self.places.clone(),
            _held: self.held.clone().try_acquire_owned().ok()?,
            _kib: match kib {
                0 => None,
                kib => Some(self.kib.clone().try_acquire_many_owned(kib).ok()?),
            },
        })
    }
}

impl RoomShare {
    /// Its place among the requests at work, once there is one.
    pub async fn enter(&self) -> OwnedSemaphorePermit {
        let place = self.places.clone().acquire_owned().await;
        place.expect("the semaphore is never closed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_a_budget_of_bytes() {
        let room = Room::new(2, 8);
        let large = 5 << 20;
        let first = room.admit(large);
        assert!(first.is_ok());
        let refused = room.admit(large).err().unwrap();
        assert_eq!(
            refused.code,
            ErrorCode::Unavailable,
            "two of them are more than 8 MiB"
        );
        let small: Vec<_> = (0..2 * WAITING - 1).map(|_| room.admit(FREE)).collect();
        assert!(small.iter().all(Result::is_ok));
        assert!(room.admit(0).is_err(), "as many are held as may wait");
        drop((first, small));
        assert!(room.admit(large).is_ok());
    }
}
