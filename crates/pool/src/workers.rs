//! Which worker renders what. A task in hand counts for one pool only; otherwise other pools would buy too few instances.

use std::collections::BTreeMap;

use async_nats::Client;
use spotreel_bus::jetstream::JetStreamError;
use spotreel_bus::kv;
use spotreel_domain::Model;
use spotreel_domain::batch::PoolName;
use spotreel_domain::pool::Pools;
use spotreel_proto::worker::v1::Presence;

use crate::queue::Queues;

/// What live workers say of themselves.
pub async fn read(client: &Client) -> Result<Vec<Presence>, JetStreamError> {
    Ok(newest_words(kv::presences(client).await?))
}

/// Of a bought machine the newest word only: an earlier life of its worker may have left one, and what that had in hand
/// waits. A machine of one's own may have several workers.
fn newest_words(mut presences: Vec<Presence>) -> Vec<Presence> {
    presences.sort_by(|a, b| (&a.instance, b.at_ms).cmp(&(&b.instance, a.at_ms)));
    presences.dedup_by(|b, a| !b.pool.is_empty() && a.instance == b.instance);
    presences
}

/// Number of tasks that workers have in hand, by pool.
///
/// A worker that names a pool counts for that one. One of one's own machines names none: it counts for the one pool among
/// those whose models it serves that has the most tasks in hand which nobody else accounts for. No pool has more of them
/// than were delivered. The last words of a machine that has ended do not count.
pub fn rendering(
    pools: &Pools,
    queues: &Queues,
    workers: &[Presence],
    has_ended: impl Fn(&str) -> bool,
) -> BTreeMap<PoolName, u64> {
    let mut rendering = BTreeMap::new();
    let mut unaccounted: BTreeMap<&PoolName, u64> = pools
        .pool
        .iter()
        .map(|(name, pool)| (name, queues.in_hand(&pool.models)))
        .collect();
    let mut account = |pool: &PoolName, unaccounted: &mut BTreeMap<&PoolName, u64>| {
        if let Some(left) = unaccounted.get_mut(pool).filter(|left| **left > 0) {
            *left -= 1;
            *rendering.entry(pool.clone()).or_default() += 1;
        }
    };
    let busy = workers
        .iter()
        .filter(|worker| !worker.task.is_empty() && !has_ended(&worker.instance));
    let mut own = Vec::new();
    for worker in busy {
        let named = PoolName::parse(&worker.pool).ok();
        match named.filter(|name| pools.pool.contains_key(name)) {
            Some(name) => account(&name, &mut unaccounted),
            None => own.push(served_by(pools, worker)),
        }
    }
    // Who can be of one pool only is not left without its task by one that can be of several.
    own.sort_by_key(Vec::len);
    for pools in own {
        let most = pools
            .into_iter()
            .max_by_key(|pool| unaccounted.get(pool).copied());
        if let Some(pool) = most {
            account(pool, &mut unaccounted);
        }
    }
    rendering
}

/// The pools of which this worker serves a model.
fn served_by<'a>(pools: &'a Pools, worker: &Presence) -> Vec<&'a PoolName> {
    let serves = |model: &Model| worker.models.iter().any(|name| name == model.as_str());
    let pools = pools.pool.iter();
    pools
        .filter(|(_, pool)| pool.models.iter().any(serves))
        .map(|(name, _)| name)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use spotreel_domain::pool::PoolConfig;

    const SMALL: &[Model] = &[Model::Ti2v5b];
    const LARGE: &[Model] = &[Model::T2vA14b, Model::I2vA14b];

    fn name(text: &str) -> PoolName {
        PoolName::parse(text).unwrap()
    }

    fn two_pools() -> Pools {
        let pool = |models: &[Model]| PoolConfig {
            models: models.to_vec(),
            ..PoolConfig::default()
        };
        Pools {
            pool: [(name("large"), pool(LARGE)), (name("small"), pool(SMALL))].into(),
        }
    }

    fn busy(instance: &str, pool: &str, at_ms: i64) -> Presence {
        Presence {
            worker: format!("w-{instance}-{at_ms}"),
            instance: instance.into(),
            models: Model::ALL.map(|model| model.as_str().to_owned()).into(),
            task: format!("task-{instance}-{at_ms}"),
            pool: pool.into(),
            at_ms,
            ..Presence::default()
        }
    }

    fn count(queues: &Queues, workers: &[Presence]) -> (u64, u64) {
        let found = rendering(&two_pools(), queues, workers, |id| id == "i-ended");
        let of = |pool| found.get(&name(pool)).copied().unwrap_or_default();
        (of("small"), of("large"))
    }

    #[test]
    fn a_worker_counts_for_the_pool_that_it_names_and_for_no_other() {
        let queues = Queues::with([(Model::Ti2v5b, 5, 2), (Model::T2vA14b, 5, 2)]);
        let workers = [busy("i-1", "small", 1), busy("i-2", "small", 1)];
        assert_eq!(count(&queues, &workers), (2, 0));
    }

    #[test]
    fn a_worker_of_ones_own_counts_once() {
        let queues = Queues::with([(Model::Ti2v5b, 5, 1), (Model::T2vA14b, 5, 2)]);
        let workers = [busy("desk", "", 1), busy("desk", "", 2)];
        assert_eq!(count(&queues, &workers), (1, 1));
        let with_bought = [
            busy("i-1", "large", 1),
            busy("desk", "", 1),
            busy("desk", "", 2),
        ];
        assert_eq!(count(&queues, &with_bought), (1, 2));
        let narrow = Presence {
            models: vec![Model::T2vA14b.as_str().to_owned()],
            ..busy("rack", "", 1)
        };
        let one_each = Queues::with([(Model::Ti2v5b, 0, 1), (Model::T2vA14b, 0, 1)]);
        assert_eq!(count(&one_each, &[busy("desk", "", 1), narrow]), (1, 1));
    }

    #[test]
    fn last_words_do_not_count() {
        let queues = Queues::with([(Model::Ti2v5b, 5, 5)]);
        let said = vec![busy("i-1", "small", 1), busy("i-1", "small", 2)];
        assert_eq!(
            count(&queues, &newest_words(said)),
            (1, 0),
            "an earlier life"
        );
        assert_eq!(count(&queues, &[busy("i-ended", "small", 1)]), (0, 0));
        let idle = Queues::with([(Model::Ti2v5b, 5, 0)]);
        assert_eq!(
            count(&idle, &[busy("i-1", "small", 1)]),
            (0, 0),
            "it has ended"
        );
    }
}
