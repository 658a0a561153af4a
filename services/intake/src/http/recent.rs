//! What other services answered a moment ago, for everybody who asks the same now.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use spotreel_api::{ApiError, BatchView, BatchesQuery, FleetQuery, FleetView, Why, WhyQuery};
use tokio::sync::Mutex;
use tokio::time::{Duration, Instant};

use crate::intake::Intake;

/// An open page asks every few seconds, and each answer costs trigger or fleet a look at the logs. Answers of this age are given
/// again, so a hundred pages cost the same as one.
const GOOD_FOR: Duration = Duration::from_secs(1);

#[derive(Clone, Default)]
pub(super) struct Recent {
    pub why: Kept<WhyQuery, Why>,
    pub fleet: Kept<FleetQuery, FleetView>,
    pub batches: Kept<BatchesQuery, Vec<BatchView>>,
}

/// The newest question, and its answer, a refusal, too, with the time when it came.
type Answered<Q, A> = Option<(Q, Instant, Result<A, ApiError>)>;

#[derive(Clone)]
pub(super) struct Kept<Q, A>(Arc<Mutex<Answered<Q, A>>>);

impl<Q, A> Default for Kept<Q, A> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(None)))
    }
}

impl<Q: Serialize + PartialEq, A: DeserializeOwned + Clone> Kept<Q, A> {
    /// Sends one question at a time: others wait for its answer.
    pub async fn ask(
        &self,
        intake: &Intake,
        verb: &'static str,
        question: Q,
    ) -> Result<A, ApiError> {
        let mut kept = self.0.lock().await;
        if let Some((same, came, answer)) = &*kept
            && *same == question
            && came.elapsed() < GOOD_FOR
        {
            return answer.clone();
        }
        let answer = intake.ask(verb, &question).await;
        *kept = Some((question, Instant::now(), answer.clone()));
        answer
    }
}
