//! The work of a pool: which of its instance types can render the queued tasks, and in what time.
//!
//! A pool's types differ in memory. What the largest card can render, smaller ones may not, so the tasks are sorted into
//! levels: the hardest first, each with all that is harder. A machine counts for a level if it can render the level's
//! easiest task.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::batch::{Batch, Instance};
use crate::fleet::observation::{Need, Work};
use crate::model::Model;
use crate::pool::{Cloud, PoolConfig};
use crate::render_time::{Corrections, Gpu, Job, Weights, load_seconds, needed_gb, needs};
use crate::spend;
use crate::trigger::{SizeInput, Sizing, size};

/// From a launch to a worker that takes tasks, where nothing was measured: a minute of EC2, and an image of 6 GB that is
/// pulled and unpacked.
const USUAL_BOOT: Duration = Duration::from_secs(4 * 60);
/// Parts of a task come from shares of a sample: what they sum up to is rounded up, but not for this.
const ROUNDING: f64 = 1e-6;

/// A task of a queue, as the log has it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampled {
    pub job: Job,
    /// A worker says that it has it.
    pub in_hand: bool,
    /// Number of tasks that it stands for, itself included, as long as it waits.
    pub stands_for: f64,
}

/// The unfinished tasks of a pool's models.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Demand(BTreeMap<(Model, Option<Job>), Count>);

/// Shares of a sample, so not whole.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Count {
    waiting: f64,
    in_hand: f64,
}

/// A demand, held against the types of a pool.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Workload {
    /// Unfinished tasks that a machine of the pool can render.
    pub tasks: u64,
    /// Of one of them, on the slowest card that can: a queue that is ready too early costs what one machine more takes to
    /// boot. None: the cost model knows none of the cards, or a person has set a speed that nothing has corrected.
    pub seconds: Option<f64>,
    pub unrenderable: Option<Unrenderable>,
    /// Until a machine has loaded the largest of the models.
    load: Duration,
    levels: Vec<Level>,
}

/// Tasks that no type of the pool can render.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unrenderable {
    pub tasks: u64,
    pub sentence: String,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Level {
    kinds: BTreeSet<String>,
    waiting: f64,
    /// Of all its tasks together, on the slowest cards.
    seconds: f64,
    /// Of those that are not in a harder level.
    own_seconds: f64,
    /// The same on machines of one type, as far as that can render them.
    seconds_on: BTreeMap<String, f64>,
}

/// One part of the demand, with the types that can render it and the seconds that each takes for one task.
struct Able {
    model: Model,
    count: Count,
    seconds_on: BTreeMap<String, f64>,
}

impl Demand {
    /// `tasks`: how many of each model are not finished. `samples`: some of them, which stand for the others.
    pub fn new(tasks: &BTreeMap<Model, u64>, samples: &BTreeMap<Model, Vec<Sampled>>) -> Self {
        let mut parts: BTreeMap<_, Count> = BTreeMap::new();
        for (model, tasks) in tasks.iter().filter(|(_, tasks)| **tasks > 0) {
            let sample = samples.get(model).map_or(&[][..], Vec::as_slice);
            let (in_hand, waiting): (Vec<&Sampled>, Vec<&Sampled>) =
                sample.iter().partition(|one| one.in_hand);
            let (tasks, taken) = (float(*tasks), float(in_hand.len() as u64));
            let taken = taken.min(tasks);
            for one in &in_hand {
                let share = taken / float(in_hand.len() as u64);
                parts.entry((*model, Some(one.job))).or_default().in_hand += share;
            }
            let left = tasks - taken;
            let all: f64 = waiting.iter().map(|one| one.stands_for).sum();
            for one in &waiting {
                let share = left * one.stands_for / all;
                parts.entry((*model, Some(one.job))).or_default().waiting += share;
            }
            if waiting.is_empty() && left > 0.0 {
                parts.entry((*model, None)).or_default().waiting += left;
            }
        }
        Self(parts)
    }
}

impl PoolConfig {
    /// The card of one of the pool's types.
    pub fn gpu(&self, kind: &str) -> Option<Gpu> {
        let kind = self.kinds.iter().find(|of| of.name == kind)?;
        kind.gpu.or_else(|| Gpu::of_instance_type(&kind.name))
    }

    pub fn workload(&self, demand: &Demand, learnt: &Corrections) -> Workload {
        let tasks = demand.0.values().map(|of| of.waiting + of.in_hand).sum();
        if self.cloud == Cloud::None {
            // Of one's own machines nothing is known.
            return Workload {
                tasks: whole(tasks),
                ..Workload::default()
            };
        }
        let mut able = Vec::new();
        let mut unable = Vec::new();
        for ((model, job), count) in &demand.0 {
            let (job, seconds_on) = self.able(*model, *job, learnt);
            match seconds_on.is_empty() {
                true => unable.push((job, *count)),
                false => able.push(Able {
                    model: *model,
                    count: *count,
                    seconds_on,
                }),
            }
        }
        let is_idle = able.is_empty();
        if is_idle {
            // For machines that stay although nothing waits: one usual video of each model, which counts as none.
            let usual = self.models.iter().map(|model| {
                let (_, seconds_on) = self.able(*model, None, learnt);
                Able {
                    model: *model,
                    count: Count::default(),
                    seconds_on,
                }
            });
            able.extend(usual.filter(|able| !able.seconds_on.is_empty()));
        }
        let weight = |of: &Able| match is_idle {
            true => 1.0,
            false => of.count.waiting + of.count.in_hand,
        };
        let total: f64 = able.iter().map(weight).sum();
        let seconds: f64 = able.iter().map(|of| weight(of) * of.slowest()).sum();
        let corrected = |of: &Able| {
            let mut kinds = of.seconds_on.keys().filter_map(|kind| self.gpu(kind));
            kinds.any(|gpu| learnt.factor(of.model, gpu).is_some())
        };
        let known = self.rules.sizing.tasks_per_gpu_hour.is_none() || able.iter().any(corrected);
        let load = able.iter().map(|of| load_seconds(of.model));
        Workload {
            tasks: if is_idle { 0 } else { whole(total) },
            seconds: (known && total > 0.0).then(|| seconds / total),
            unrenderable: self.unrenderable(&unable),
            load: Duration::from_secs_f64(load.fold(0.0, f64::max)),
            levels: levels(&able),
        }
    }

    /// The types that can render a task, each with its seconds. Of a task that was not looked at it is taken that it is its
    /// model's usual one, in the largest size that one of the cards can render.
    fn able(
        &self,
        model: Model,
        job: Option<Job>,
        learnt: &Corrections,
    ) -> (Job, BTreeMap<String, f64>) {
        let on = |job: Job| {
            let kinds = self.kinds.iter().filter_map(|kind| {
                let gpu = self.gpu(&kind.name)?;
                gpu.weights(&job)?;
                Some((kind.name.clone(), self.seconds(&job, gpu, learnt)))
            });
            (job, kinds.collect::<BTreeMap<_, _>>())
        };
        match job {
            Some(job) => on(job),
            None => {
                let sizes = model.limits().sizes.iter();
                let mut usual = sizes.map(|size| on(Job::usual(model, *size)));
                let largest = usual.find(|(_, kinds)| !kinds.is_empty());
                largest.unwrap_or_else(|| on(Job::smallest_usual(model)))
            }
        }
    }

    /// What finished tasks have said goes before what a person has written down, and that before plain arithmetic.
    fn seconds(&self, job: &Job, gpu: Gpu, learnt: &Corrections) -> f64 {
        match self.rules.sizing.tasks_per_gpu_hour {
            Some(speed) if learnt.factor(job.model, gpu).is_none() => 3_600.0 / speed,
            _ => learnt.seconds(job, gpu),
        }
    }

    fn unrenderable(&self, unable: &[(Job, Count)]) -> Option<Unrenderable> {
        let tasks = whole(unable.iter().map(|(_, of)| of.waiting + of.in_hand).sum());
        let needed = |job: &Job| needed_gb(job, Weights::Float8);
        let hardest = unable
            .iter()
            .max_by(|(a, _), (b, _)| needed(a).total_cmp(&needed(b)));
        let (job, _) = hardest.filter(|_| tasks > 0)?;
        let (what, has) = (if tasks == 1 { "task" } else { "tasks" }, needs(job));
        Some(Unrenderable {
            tasks,
            sentence: format!(
                "{tasks} {what} can be rendered by no type of the pool: {has}; add a type, or cancel them"
            ),
        })
    }
}

fn levels(able: &[Able]) -> Vec<Level> {
    let mut levels: BTreeMap<(usize, BTreeSet<String>), Level> = BTreeMap::new();
    for part in able {
        let kinds: BTreeSet<String> = part.seconds_on.keys().cloned().collect();
        levels.entry((kinds.len(), kinds)).or_default();
    }
    for ((_, kinds), level) in &mut levels {
        level.kinds.clone_from(kinds);
        // What fewer types can render is a part of it.
        let within = |of: &&Able| of.seconds_on.keys().all(|kind| kinds.contains(kind));
        for part in able.iter().filter(within) {
            let tasks = part.count.waiting + part.count.in_hand;
            level.waiting += part.count.waiting;
            level.seconds += tasks * part.slowest();
            if part.seconds_on.len() == kinds.len() {
                level.own_seconds += tasks * part.slowest();
            }
            for kind in kinds {
                let each = part.seconds_on.get(kind).copied();
                *level.seconds_on.entry(kind.clone()).or_default() +=
                    tasks * each.unwrap_or_else(|| part.slowest());
            }
        }
    }
    levels.into_values().collect()
}

impl Able {
    fn slowest(&self) -> f64 {
        self.seconds_on.values().copied().fold(0.0, f64::max)
    }
}

impl Workload {
    /// The pool's types that can render something of this. None: nothing is known of them.
    pub fn kinds(&self) -> Option<&BTreeSet<String>> {
        self.levels.last().map(|all| &all.kinds)
    }

    /// From a launch to the first step of a render, by what the pool's machines took before.
    pub fn startup(&self, boot: Option<Duration>) -> Duration {
        boot.unwrap_or(USUAL_BOOT) + self.load
    }

    /// What fleet has to do, with the machines that the batch has. `before`: what booting took in the batches before.
    pub fn work(
        &self,
        batch: &Batch,
        rendering: u64,
        keep: u32,
        measured: Option<f64>,
        before: Option<Duration>,
        sizing: &Sizing,
    ) -> (Work, Vec<Need>) {
        let startup = self.startup(spend::boot([batch]).or(before));
        let active = batch.instances.iter().filter(|i| i.is_active());
        let active: Vec<&Instance> = active.collect();
        // The sample is older than what the workers say.
        let runnable = self.tasks.max(rendering);
        let input = SizeInput {
            tasks: runnable,
            seconds_per_task: measured,
            modelled: self.seconds,
            startup: Some(startup),
            resident_units: keep,
            ..SizeInput::default()
        };
        let window = sizing.window(Some(startup));
        let needs = self.levels.iter().map(|level| Need {
            kinds: level.kinds.clone(),
            waiting: whole(level.waiting),
            sized: level.sized(&active, window, sizing),
            own: units(level.own_seconds / window.as_secs_f64()),
        });
        let needs: Vec<_> = needs.collect();
        // Faster cards than the slowest may be there.
        let enough = needs.last().map(|all| all.sized.max(sizing.min).max(keep));
        let sized = size(&input, sizing).units;
        let each = sizing.pace(measured, self.seconds).seconds;
        let work = Work {
            runnable,
            rendering,
            sized: enough.map_or(sized, |enough| sized.min(enough)),
            seconds: whole(float(runnable) * each),
        };
        (work, needs)
    }
}

impl Level {
    /// Machines of its types, those included that are there: these do a part of it within the target.
    fn sized(&self, active: &[&Instance], window: Duration, sizing: &Sizing) -> u32 {
        let there = active
            .iter()
            .filter_map(|i| self.seconds_on.get(&i.place.kind));
        let (mut count, mut done) = (0, 0.0);
        for seconds in there {
            count += 1;
            done += sizing.target.as_secs_f64() / seconds.max(1.0);
        }
        let all = self.seconds / window.as_secs_f64();
        let further = all * (1.0 - f64::min(done, 1.0));
        units(all).min(units(further).saturating_add(count))
    }
}

fn units(exact: f64) -> u32 {
    u32::try_from(whole(exact)).unwrap_or(u32::MAX)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float becomes the nearest u64; NaN becomes 0"
)]
fn whole(exact: f64) -> u64 {
    (exact - ROUNDING).ceil().max(0.0) as u64
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a queue is far below 2^53 tasks"
)]
fn float(count: u64) -> f64 {
    count as f64
}
