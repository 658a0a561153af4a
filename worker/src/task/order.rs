//! In which order a worker asks its queues: high priority first, the loaded model first, and no queue starves.

use std::collections::BTreeMap;

use spotreel_domain::{Lane, Model};

/// One in this number of looks starts with normal priority, so that a stream of high priority cannot hold back the rest for ever.
const LOW_END_FIRST: u64 = 8;
/// One in this number of looks starts with the model that was served longest ago, so that the loaded one cannot hold back
/// the others for ever. Not a multiple of the above, or of both only the low end would ever be seen.
const LEAST_SERVED_FIRST: u64 = 13;
/// At every fifth look the back lane of a priority comes before its front one, so that short queues of many owners cannot hold
/// back the long one of another for ever. No divisor of the others, for the same reason.
const BACK_FIRST: u64 = 5;

/// Of one lane what is loaded, then what is on the disk, then the others.
pub fn sort<T>(
    sources: &mut [T],
    what: impl Fn(&T) -> (Lane, Model),
    loaded: Option<Model>,
    is_here: impl Fn(Model) -> bool,
    looks: u64,
    served: &BTreeMap<Model, u64>,
) {
    let back_first = looks.is_multiple_of(BACK_FIRST);
    let rank = |lane: Lane| (lane.priority, lane.back != back_first);
    sources.sort_by_cached_key(|source| {
        let (lane, model) = what(source);
        (rank(lane), Some(model) != loaded, !is_here(model))
    });
    if looks.is_multiple_of(LEAST_SERVED_FIRST) {
        sources.sort_by_key(|source| {
            let (lane, model) = what(source);
            (rank(lane), served.get(&model))
        });
    }
    if looks.is_multiple_of(LOW_END_FIRST) {
        sources.sort_by_key(|source| std::cmp::Reverse(what(source).0.priority));
    }
}

#[cfg(test)]
mod tests {
    use spotreel_domain::Priority;

    use super::*;

    fn queues() -> Vec<(Lane, Model)> {
        let of = |lane| Model::ALL.map(|model| (lane, model));
        Lane::ALL.into_iter().flat_map(of).collect()
    }

    fn order(loaded: Option<Model>, here: &[Model], looks: u64) -> Vec<(Lane, Model)> {
        let mut order = queues();
        let is_here = |model| here.contains(&model);
        sort(
            &mut order,
            |queue| *queue,
            loaded,
            is_here,
            looks,
            &BTreeMap::new(),
        );
        order
    }

    #[test]
    fn what_is_loaded_comes_before_what_is_here_before_the_others() {
        let (loaded, here, away) = (Model::I2vA14b, Model::T2vA14b, Model::Ti2v5b);
        let found = order(Some(loaded), &[loaded, here], 1);
        let models = [loaded, here, away].repeat(Lane::ALL.len());
        assert_eq!(
            found.iter().map(|queue| queue.1).collect::<Vec<_>>(),
            models
        );
        let lanes: Vec<_> = found.iter().step_by(3).map(|queue| queue.0).collect();
        assert_eq!(lanes, Lane::ALL);
        let first = |looks| order(Some(loaded), &[], looks)[0].0;
        assert_eq!(first(LOW_END_FIRST), Lane::front(Priority::Normal));
        assert_eq!(first(BACK_FIRST), Lane::back(Priority::High));
        let both = LOW_END_FIRST * BACK_FIRST;
        assert_eq!(first(both), Lane::back(Priority::Normal));
    }

    /// Every queue always has work, and each task loads its model.
    #[test]
    fn nobody_starves() {
        /// Of a thousand looks, by lane: as much for each as is promised, shared by three models.
        const LEAST: [u32; 4] = [150, 30, 15, 1];
        let mut served = BTreeMap::new();
        let mut taken: BTreeMap<_, u32> = BTreeMap::new();
        let mut loaded = None;
        for looks in 1..=10_000 {
            let mut order = queues();
            let is_here = |model| model == Model::Ti2v5b;
            sort(&mut order, |queue| *queue, loaded, is_here, looks, &served);
            let (lane, model) = order[0];
            *taken.entry((lane, model)).or_default() += 1;
            served.insert(model, looks);
            loaded = Some(model);
        }
        assert_eq!(taken.len(), queues().len(), "{taken:?}");
        for ((lane, model), count) in taken {
            let at = Lane::ALL.iter().position(|each| *each == lane).unwrap();
            assert!(count >= 10 * LEAST[at], "{lane:?} {model}: {count}");
        }
    }
}
