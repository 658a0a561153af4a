//! Who asks. A NATS client stands in an account of its own and is trusted with every task; over HTTP it is the key
//! that says whose tasks are meant.

use std::sync::Arc;

use spotreel_api::{ApiError, Violation};
use spotreel_domain::{ApiKey, Owner, Task};

use crate::error;

#[derive(Clone, Debug)]
pub enum Caller {
    /// A NATS client; and whoever reaches the HTTP address while `api.auth` is off.
    Trusted,
    Key(Arc<ApiKey>),
}

impl Caller {
    /// Whose the tasks are that this caller submits.
    pub fn owner(&self) -> Option<&Owner> {
        match self {
            Self::Trusted => None,
            Self::Key(key) => Some(&key.owner),
        }
    }

    pub fn may_see(&self, task: &Task) -> bool {
        self.may_see_of(task.owner.as_ref())
    }

    pub fn may_see_of(&self, owner: Option<&Owner>) -> bool {
        match self {
            Self::Trusted => true,
            Self::Key(key) => key.may_see(owner),
        }
    }

    /// The checked query, unless it names an owner whose tasks the caller may not see. All broken rules are told at once.
    pub fn permit<T>(
        &self,
        owner: Option<&str>,
        checked: Result<T, Vec<Violation>>,
    ) -> Result<T, ApiError> {
        let named = owner.and_then(|named| Owner::parse(named).ok());
        match named.filter(|named| !self.may_see_of(Some(named))) {
            None => checked.map_err(error::invalid),
            Some(_) => {
                let mut broken = checked.err().unwrap_or_default();
                let message = "this key sees the tasks of its own owner only: leave owner out";
                broken.push(Violation::new("owner", "access", message));
                Err(error::invalid(broken))
            }
        }
    }

    /// Refuses a key that sees the tasks of one owner only. `what`: in the plural.
    pub fn must_see_all(&self, what: &str) -> Result<(), ApiError> {
        match self.may_see_of(None) {
            true => Ok(()),
            false => Err(error::not_for_owners(what)),
        }
    }
}
