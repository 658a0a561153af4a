//! Who loses his machine: because its price rose above what he pays, because the pool shrank, because the pool was struck,
//! or because the trace says so.
//!
//! Of the interruptions of one pool, more than 92 % come within three minutes of another (Spot-and-Scoot, arXiv
//! 2604.16457). So the hazard strikes pools, not instances: a strike takes a share of them, one after the other.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::Market;
use super::draw::{Dice, Die};
use super::interruption::{Interruption, Reason, Reclaim, ReclaimKind, Running};

/// Minimum time between two reclaims of a capacity pool; also the time step of the hazard.
const SLOT_MS: i64 = 60_000;
/// All that a strike takes goes within this time, which is less than three minutes.
const SPREAD_MS: f64 = 150_000.0;

/// What a strike does to one of the instances it takes.
struct Fate {
    hint: Option<Timestamp>,
    at: Timestamp,
    kind: ReclaimKind,
}

impl Market {
    /// Whom the market takes after `from` and up to `to`, in order of time. An instance is taken once and hinted at once,
    /// as long as it is in `running`; who was taken no longer counts against the capacity.
    pub fn reclaims(
        &mut self,
        running: &[Running],
        from: Timestamp,
        to: Timestamp,
    ) -> Vec<Reclaim> {
        let here = |id: &String| running.iter().any(|instance| instance.instance_id == *id);
        self.taken.retain(here);
        self.hinted.retain(here);

        let mut pools: BTreeMap<(&str, &str), Vec<&Running>> = BTreeMap::new();
        for instance in running {
            if !self.taken.contains(&instance.instance_id) {
                let pool = (instance.kind.as_str(), instance.zone.as_str());
                pools.entry(pool).or_default().push(instance);
            }
        }
        let mut found = Vec::new();
        for ((kind, zone), mut instances) in pools {
            instances.sort_by_key(|instance| (instance.since, &instance.instance_id));
            found.append(&mut self.strikes(kind, zone, &instances, from, to));
            found.append(&mut self.too_dear(kind, zone, &instances, to));
            found.append(&mut self.no_room(kind, zone, &instances, &found, to));
        }
        found.append(&mut self.scripted(running, from, to));
        found.sort_by(|a, b| (a.at, &a.instance_id).cmp(&(b.at, &b.instance_id)));
        found.retain(|reclaim| self.is_news(reclaim));
        found
    }

    /// An instance is taken once; after that, or a second time, no hint.
    fn is_news(&mut self, reclaim: &Reclaim) -> bool {
        let id = &reclaim.instance_id;
        if self.taken.contains(id) {
            return false;
        }
        match reclaim.kind {
            ReclaimKind::Rebalance => self.hinted.insert(id.clone()),
            ReclaimKind::Notice { .. } | ReclaimKind::Silent => self.taken.insert(id.clone()),
        }
    }

    fn too_dear(&self, kind: &str, zone: &str, pool: &[&Running], to: Timestamp) -> Vec<Reclaim> {
        let Some(price) = self.price(kind, zone, to) else {
            return Vec::new();
        };
        pool.iter()
            .filter(|instance| instance.max_price.is_some_and(|max| price > max))
            .map(|instance| self.sudden(instance, to, Reason::Price))
            .collect()
    }

    /// The youngest go first.
    fn no_room(
        &self,
        kind: &str,
        zone: &str,
        pool: &[&Running],
        going: &[Reclaim],
        to: Timestamp,
    ) -> Vec<Reclaim> {
        let goes = |instance: &&&Running| {
            going.iter().any(|reclaim| {
                reclaim.kind != ReclaimKind::Rebalance
                    && reclaim.instance_id == instance.instance_id
            })
        };
        let room = usize::try_from(self.capacity(kind, zone, to)).unwrap_or(usize::MAX);
        pool.iter()
            .filter(|instance| !goes(instance))
            .skip(room)
            .map(|instance| self.sudden(instance, to, Reason::Capacity))
            .collect()
    }

    /// Nobody saw it coming, so there was no hint.
    fn sudden(&self, instance: &Running, at: Timestamp, reason: Reason) -> Reclaim {
        let mut die = Dice::new(self.config.seed, &["sudden", &instance.instance_id])
            .nth(at.as_millisecond());
        Reclaim {
            instance_id: instance.instance_id.clone(),
            at,
            kind: self.with_or_without_a_word(&mut die),
            reason,
        }
    }

    fn with_or_without_a_word(&self, die: &mut Die) -> ReclaimKind {
        if die.part() < self.config.silent_share {
            ReclaimKind::Silent
        } else {
            ReclaimKind::Notice {
                lead: self.config.notice,
            }
        }
    }

    fn strikes(
        &self,
        kind: &str,
        zone: &str,
        pool: &[&Running],
        from: Timestamp,
        to: Timestamp,
    ) -> Vec<Reclaim> {
        let mut found = Vec::new();
        for struck_at in self.strikes_of(kind, zone, from, to) {
            for instance in pool.iter().filter(|instance| instance.since <= struck_at) {
                let Some(fate) = self.fate(instance, struck_at) else {
                    continue;
                };
                let hint = fate.hint.filter(|at| *at >= instance.since);
                let steps = [
                    hint.map(|at| (at, ReclaimKind::Rebalance)),
                    Some((fate.at, fate.kind)),
                ];
                for (at, kind) in steps.into_iter().flatten() {
                    if at > from && at <= to {
                        found.push(Reclaim {
                            instance_id: instance.instance_id.clone(),
                            at,
                            kind,
                            reason: Reason::Hazard,
                        });
                    }
                }
            }
        }
        found
    }

    /// The strikes of a pool that can be felt, or hinted at, between the two moments.
    fn strikes_of(
        &self,
        kind: &str,
        zone: &str,
        from: Timestamp,
        to: Timestamp,
    ) -> impl Iterator<Item = Timestamp> + use<> {
        let config = &self.config;
        let share = config.event_share.clamp(0.01, 1.0); // a strike takes somebody
        let minutes = 60_000.0 / 3_600_000.0;
        let chance = config.hazard_per_hour / share * minutes;
        let spread = Duration::from_millis(180_000);
        let first = from.checked_sub(spread).unwrap_or(from);
        let last = to.checked_add(config.rebalance_lead).unwrap_or(to);
        let first = first.as_millisecond().div_euclid(SLOT_MS);
        let last = last.as_millisecond().div_euclid(SLOT_MS);
        let slots = if chance > 0.0 { first..last + 1 } else { 0..0 };
        let dice = Dice::new(config.seed, &["strike", kind, zone]);
        slots
            .filter(move |slot| dice.nth(*slot).part() < chance)
            .filter_map(|slot| Timestamp::from_millisecond(slot * SLOT_MS).ok())
    }

    /// What a strike does to an instance; None: it is spared.
    fn fate(&self, instance: &Running, struck_at: Timestamp) -> Option<Fate> {
        let config = &self.config;
        let mut die = Dice::new(config.seed, &["fate", &instance.instance_id])
            .nth(struck_at.as_millisecond());
        if die.part() >= config.event_share {
            return None;
        }
        let delay = Duration::try_from_secs_f64(die.part() * SPREAD_MS / 1000.0).ok()?;
        let at = struck_at.checked_add(delay).ok()?;
        let kind = self.with_or_without_a_word(&mut die);
        let hinted = kind != ReclaimKind::Silent && die.part() < config.rebalance_share;
        let hint = at.checked_sub(config.rebalance_lead).ok();
        Some(Fate {
            hint: hint.filter(|_| hinted),
            at,
            kind,
        })
    }

    /// The trace's own interruptions take those who ran longest.
    fn scripted(&self, running: &[Running], from: Timestamp, to: Timestamp) -> Vec<Reclaim> {
        let mut oldest: Vec<&Running> = running.iter().collect();
        oldest.sort_by_key(|instance| (instance.since, &instance.instance_id));
        let mut found: Vec<Reclaim> = Vec::new();
        let due = |line: &&Interruption| line.at > from && line.at <= to;
        for line in self.script.iter().filter(due) {
            let hit: Vec<Reclaim> = oldest
                .iter()
                .filter(|instance| {
                    line.means(instance) && !self.taken.contains(&instance.instance_id)
                })
                .filter(|instance| {
                    !found.iter().any(|earlier| {
                        earlier.instance_id == instance.instance_id
                            && earlier.kind != ReclaimKind::Rebalance
                    })
                })
                .take(line.count)
                .map(|instance| Reclaim {
                    instance_id: instance.instance_id.clone(),
                    at: line.at,
                    kind: line.reclaim,
                    reason: Reason::Script,
                })
                .collect();
            found.extend(hit);
        }
        found
    }
}
