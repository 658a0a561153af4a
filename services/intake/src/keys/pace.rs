//! How many tasks a minute each key may submit. Each intake counts for itself; over all tasks of one intake,
//! [`QueueLimits`](crate::submit::limits::QueueLimits) hold.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock, Reference};
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use parking_lot::Mutex;
use spotreel_api::ApiError;
use spotreel_domain::ApiKey;
use spotreel_domain::api_key::KeyId;

use crate::error;

/// Time after which an unused key has its full rate again, so that its counter can be dropped.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);
/// Keys remembered at a time: twice as many as there may be, since revoked ones linger for a minute.
const MOST_KEYS: usize = 2 * spotreel_bus::keys::MAX_KEYS;

pub struct KeyPace<C: Clock = DefaultClock> {
    clock: C,
    keys: Mutex<HashMap<KeyId, Paced<C>>>,
}

struct Paced<C: Clock> {
    tasks_per_minute: NonZeroU32,
    rate: RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<C::Instant>>,
    used: C::Instant,
}

impl KeyPace {
    pub fn new() -> Self {
        Self::with_clock(DefaultClock::default())
    }
}

impl<C: Clock + Clone> KeyPace<C> {
    fn with_clock(clock: C) -> Self {
        Self {
            clock,
            keys: Mutex::new(HashMap::new()),
        }
    }

    /// Whether this key may submit this number of tasks now: all or none.
    pub fn check(&self, key: &ApiKey, tasks: usize) -> Result<(), ApiError> {
        if tasks == 0 {
            return Ok(());
        }
        let most = NonZeroU32::new(key.tasks_per_minute).unwrap_or(NonZeroU32::MIN);
        let one_call = || {
            let message =
                format!("a call with this key takes at most {most} tasks: send them in several");
            error::too_large(message)
        };
        let tasks = u32::try_from(tasks).ok().and_then(NonZeroU32::new);
        let tasks = tasks.ok_or_else(one_call)?;
        let now = self.clock.now();
        // A panic elsewhere leaves the map whole: every change of it is one call.
        let mut keys = self.keys.lock();
        if !keys.contains_key(&key.id) {
            make_room(&mut keys, now);
        }
        let paced = keys
            .entry(key.id.clone())
            .and_modify(|paced| paced.used = now)
            .or_insert_with(|| self.paced(most, now));
        if paced.tasks_per_minute != most {
            *paced = self.paced(most, now);
        }
        match paced.rate.check_n(tasks) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(not_yet)) => {
                let message = format!(
                    "this key may submit {most} tasks a minute: send this call again later"
                );
                let after = not_yet.wait_time_from(now);
                Err(error::rate_limited(message, after))
            }
            Err(_) => Err(one_call()),
        }
    }

    fn paced(&self, tasks_per_minute: NonZeroU32, now: C::Instant) -> Paced<C> {
        let quota = Quota::per_minute(tasks_per_minute);
        Paced {
            tasks_per_minute,
            rate: RateLimiter::direct_with_clock(quota, self.clock.clone()),
            used: now,
        }
    }
}

fn make_room<C: Clock>(keys: &mut HashMap<KeyId, Paced<C>>, now: C::Instant) {
    if keys.len() < MOST_KEYS {
        return;
    }
    keys.retain(|_, paced| Duration::from(now.duration_since(paced.used)) < FORGOTTEN_AFTER);
    if keys.len() >= MOST_KEYS {
        let quietest = keys.iter().min_by_key(|(_, paced)| paced.used);
        let quietest = quietest.map(|(id, _)| id.clone());
        quietest.and_then(|id| keys.remove(&id));
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;
    use jiff::Timestamp;
    use spotreel_api::ErrorCode;
    use spotreel_domain::api_key::{Access, Owner};

    use super::*;

    fn key(number: u64, tasks_per_minute: u32) -> ApiKey {
        ApiKey {
            id: KeyId::from_random(number),
            owner: Owner::parse("anna").unwrap(),
            secret_sha256: String::new(),
            access: Access::Own,
            tasks_per_minute,
            created_at: Timestamp::UNIX_EPOCH,
            expires_at: None,
            note: String::new(),
        }
    }

    fn paced() -> (FakeRelativeClock, KeyPace<FakeRelativeClock>) {
        let clock = FakeRelativeClock::default();
        (clock.clone(), KeyPace::with_clock(clock))
    }

    #[test]
    fn a_key_has_its_tasks_a_minute_and_hears_when_there_are_more() {
        let (clock, pace) = paced();
        let (anna, ben) = (key(1, 60), key(2, 60));
        pace.check(&anna, 0).unwrap();
        pace.check(&anna, 40).unwrap();
        pace.check(&anna, 20).unwrap();
        let refused = pace.check(&anna, 10).unwrap_err();
        assert_eq!(refused.code, ErrorCode::RateLimited);
        assert_eq!(refused.retry_after_s, Some(10));
        pace.check(&ben, 60).unwrap();
        clock.advance(Duration::from_secs(10));
        pace.check(&anna, 10).unwrap();
        assert!(pace.check(&anna, 1).is_err());
    }

    #[test]
    fn a_call_that_can_never_pass_is_told_so() {
        let (_clock, pace) = paced();
        for tasks in [61, usize::MAX] {
            let refused = pace.check(&key(1, 60), tasks).unwrap_err();
            assert_eq!(refused.code, ErrorCode::TooLarge);
        }
        pace.check(&key(1, 60), 60).unwrap();
    }

    #[test]
    fn keys_are_forgotten_in_time_and_never_too_many() {
        let (clock, pace) = paced();
        let held = || pace.keys.lock().len();
        let most = MOST_KEYS as u64;
        for number in 0..most + 10 {
            pace.check(&key(number, 1), 1).unwrap();
            clock.advance(Duration::from_millis(1));
        }
        assert_eq!(held(), MOST_KEYS);
        assert!(pace.check(&key(most + 9, 1), 1).is_err());
        clock.advance(FORGOTTEN_AFTER);
        pace.check(&key(most + 10, 1), 1).unwrap();
        assert_eq!(held(), 1);
    }
}
