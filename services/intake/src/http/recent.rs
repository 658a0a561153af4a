//! What other services answered a moment ago, for everybody who asks the same now.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use spotreel_api::{ApiError, BatchView, BatchesQuery, FleetQuery, FleetView, Why, WhyQuery};
use tokio::time::{Duration, Instant};

use crate::intake::Intake;

/// An open page asks every few seconds, and each answer costs trigger or fleet a look at the logs. Answers of this age are given
/// again, so a hundred pages cost the same as one.
const GOOD_FOR: Duration = Duration::from_secs(1);
/// Different questions whose answers are kept. More than the page has; one more is asked for its caller alone.
const MOST_QUESTIONS: usize = 16;

#[derive(Clone, Default)]
pub(super) struct Recent {
    pub why: Kept<WhyQuery, Why>,
    pub fleet: Kept<FleetQuery, FleetView>,
    pub batches: Kept<BatchesQuery, Vec<BatchView>>,
}

/// The answers of the last moment, by question. Clones share them.
#[derive(Clone)]
pub(super) struct Kept<Q, A>(Arc<Mutex<Slots<Q, A>>>);

type Slots<Q, A> = Vec<(Q, Slot<A>)>;

/// The newest answer to one question, a refusal, too, with the time when it came. Who holds the lock asks.
type Slot<A> = Arc<tokio::sync::Mutex<Option<(Instant, Result<A, ApiError>)>>>;

impl<Q, A> Default for Kept<Q, A> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<Q: Serialize + PartialEq + Clone, A: DeserializeOwned + Clone> Kept<Q, A> {
    pub async fn ask(
        &self,
        intake: &Intake,
        verb: &'static str,
        question: Q,
    ) -> Result<A, ApiError> {
        let asked = intake.ask(verb, &question);
        self.answer(&question, asked).await
    }
}

impl<Q: PartialEq + Clone, A: Clone> Kept<Q, A> {
    /// The answer of a moment ago, or else a new one. Who asks the same meanwhile waits for it; other questions do not.
    async fn answer(
        &self,
        question: &Q,
        asked: impl Future<Output = Result<A, ApiError>>,
    ) -> Result<A, ApiError> {
        let slot = self.slot(question);
        let mut kept = slot.lock().await;
        if let Some((_, answer)) = kept.as_ref().filter(|kept| is_good(kept)) {
            return answer.clone();
        }
        let answer = asked.await;
        *kept = Some((Instant::now(), answer.clone()));
        answer
    }

    fn slot(&self, question: &Q) -> Slot<A> {
        let mut slots = self.0.lock();
        if let Some((_, slot)) = slots.iter().find(|(same, _)| same == question) {
            return Arc::clone(slot);
        }
        // Kept while somebody asks, and while its answer is good.
        slots.retain(|(_, slot)| {
            let good = |kept: &Option<_>| kept.as_ref().is_some_and(is_good);
            Arc::strong_count(slot) > 1 || slot.try_lock().is_ok_and(|kept| good(&kept))
        });
        let slot = Slot::default();
        if slots.len() < MOST_QUESTIONS {
            slots.push((question.clone(), Arc::clone(&slot)));
        }
        slot
    }
}

fn is_good<A>((came, _): &(Instant, A)) -> bool {
    came.elapsed() < GOOD_FOR
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_question_without_an_answer_holds_up_no_other_and_evicts_none() {
        let kept = Kept::<u8, u8>::default();
        let mut silent = Box::pin(kept.answer(&1, pending()));
        assert!(silent.as_mut().now_or_never().is_none());
        let other = kept.answer(&2, ready(Ok(20))).now_or_never();
        assert_eq!(other, Some(Ok(20)));
        let again = kept.answer(&2, ready(Ok(21))).now_or_never();
        assert_eq!(again, Some(Ok(20)), "it is asked again");
        let third = kept.answer(&3, ready(Ok(30))).now_or_never();
        assert_eq!(third, Some(Ok(30)));
        let again = kept.answer(&2, ready(Ok(22))).now_or_never();
        assert_eq!(again, Some(Ok(20)), "the third question took its place");
        // Whoever asked gave up: the next one asks.
        drop(silent);
        let first = kept.answer(&1, ready(Ok(10))).now_or_never();
        assert_eq!(first, Some(Ok(10)));
    }

    #[tokio::test]
    async fn the_same_question_is_asked_once_for_all_and_again_later() {
        let kept = Kept::<u8, u8>::default();
        let (say, heard) = tokio::sync::oneshot::channel();
        let asked = async { Ok(heard.await.expect("it is said")) };
        let mut first = Box::pin(kept.answer(&1, asked));
        assert!(first.as_mut().now_or_never().is_none());
        let mut second = Box::pin(kept.answer(&1, ready(Ok(11))));
        assert!(second.as_mut().now_or_never().is_none());
        say.send(10).expect("it is waited for");
        assert_eq!(first.await, Ok(10));
        assert_eq!(second.await, Ok(10));
        let slot = kept.slot(&1);
        let mut of_long_ago = slot.lock().await;
        let (came, _) = of_long_ago.as_mut().expect("it was answered");
        *came = came
            .checked_sub(GOOD_FOR)
            .expect("the machine is up longer");
        drop(of_long_ago);
        assert_eq!(kept.answer(&1, ready(Ok(12))).await, Ok(12));
    }

    #[tokio::test]
    async fn only_some_answers_are_kept() {
        let kept = Kept::<usize, usize>::default();
        for question in 0..MOST_QUESTIONS + 8 {
            assert_eq!(
                kept.answer(&question, ready(Ok(question))).await,
                Ok(question)
            );
        }
        assert_eq!(kept.0.lock().len(), MOST_QUESTIONS);
    }
}
