//! Which pool gives how many instances: pure, so that the same offers give the same launch.

use super::error::Refusal;

/// Number of free units below which a capacity pool counts as scarce; price-capacity-optimized then uses it last.
const SCARCE: u32 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strategy {
    LowestPrice,
    PriceCapacityOptimized,
    CapacityOptimized,
    Diversified,
}

impl Strategy {
    /// Both spellings are AWS's: requests say `lowest-price`, old ones `lowestPrice`.
    pub fn parse(text: Option<&str>) -> Result<Self, Refusal> {
        match text.unwrap_or("lowest-price") {
            "lowest-price" | "lowestPrice" => Ok(Self::LowestPrice),
            "price-capacity-optimized" | "priceCapacityOptimized" => {
                Ok(Self::PriceCapacityOptimized)
            }
            "capacity-optimized" | "capacityOptimized" => Ok(Self::CapacityOptimized),
            "diversified" => Ok(Self::Diversified),
            "capacity-optimized-prioritized" | "prioritized" => {
                Err(Refusal::unsupported("Allocation by priority"))
            }
            other => Err(Refusal::invalid(other, "AllocationStrategy")),
        }
    }
}

/// One pool that may give instances.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AllocationPool {
    /// Micro-dollars an hour for one unit of capacity.
    pub unit_price: f64,
    pub weight: f64,
    pub free: u32,
    pub vcpus: u32,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct AllocationLimits {
    /// Units of capacity to reach.
    pub target: f64,
    /// vCPUs that the account may still start.
    pub vcpus: u32,
    /// Instances at most.
    pub instances: u32,
    /// Micro-dollars that an hour of all of them may cost.
    pub total_price: f64,
}

/// How many of each pool, and which pools were asked in vain.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Allocation {
    pub counts: Vec<u32>,
    pub fulfilled: f64,
    /// No units left though more were wanted.
    pub exhausted: Vec<usize>,
    /// Would have gone over the account's quota.
    pub over_quota: Vec<usize>,
    /// Would have cost more than all may.
    pub too_dear: Vec<usize>,
}

/// Places one instance after the other where the strategy likes it best.
pub(crate) fn allocate(
    pools: &[AllocationPool],
    strategy: Strategy,
    limits: AllocationLimits,
) -> Allocation {
    let mut counts = vec![0_u32; pools.len()];
    let (mut fulfilled, mut vcpus, mut instances) = (0.0, limits.vcpus, 0);
    let (mut price, price_of) = (0.0, |pool: &AllocationPool| pool.unit_price * pool.weight);
    while fulfilled < limits.target && instances < limits.instances {
        let open = (0..pools.len()).filter(|&at| {
            counts[at] < pools[at].free
                && pools[at].vcpus <= vcpus
                && price + price_of(&pools[at]) <= limits.total_price
        });
        let best = open.min_by(|&a, &b| {
            let (a, b) = (
                rank(strategy, &pools[a], counts[a]),
                rank(strategy, &pools[b], counts[b]),
            );
            a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
        });
        let Some(at) = best else { break };
        counts[at] += 1;
        instances += 1;
        vcpus -= pools[at].vcpus;
        price += price_of(&pools[at]);
        fulfilled += pools[at].weight;
    }
    let short = fulfilled < limits.target && instances < limits.instances;
    let (mut exhausted, mut over_quota, mut too_dear) = (Vec::new(), Vec::new(), Vec::new());
    for (at, pool) in pools.iter().enumerate() {
        if counts[at] >= pool.free && (short || pool.free == 0) {
            exhausted.push(at);
        } else if short && pool.vcpus > vcpus {
            over_quota.push(at);
        } else if short && price + price_of(pool) > limits.total_price {
            too_dear.push(at);
        }
    }
    Allocation {
        counts,
        fulfilled,
        exhausted,
        over_quota,
        too_dear,
    }
}

/// Smaller is better.
fn rank(strategy: Strategy, pool: &AllocationPool, placed: u32) -> (u8, f64) {
    let spare = pool.free - placed;
    match strategy {
        Strategy::LowestPrice => (0, pool.unit_price),
        Strategy::Diversified => (0, f64::from(placed)),
        Strategy::CapacityOptimized => (0, -f64::from(spare)),
        // The fuller a pool gets, the dearer it looks: that spreads a launch over pools of like price.
        Strategy::PriceCapacityOptimized => {
            let filled = f64::from(placed) / f64::from(pool.free);
            (u8::from(spare < SCARCE), pool.unit_price * (1.0 + filled))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(unit_price: f64, free: u32) -> AllocationPool {
        AllocationPool {
            unit_price,
            weight: 1.0,
            free,
            vcpus: 4,
        }
    }

    const FOUR: AllocationLimits = AllocationLimits {
        target: 4.0,
        vcpus: 1000,
        instances: 1000,
        total_price: f64::INFINITY,
    };

    #[test]
    fn the_cheapest_pool_first_and_then_the_next() {
        let pools = [pool(2.0, 10), pool(1.0, 3)];
        let found = allocate(&pools, Strategy::LowestPrice, FOUR);
        assert_eq!((found.counts, found.exhausted), (vec![1, 3], vec![]));
    }

    #[test]
    fn all_together_cost_no_more_than_they_may() {
        let pools = [pool(1.0, 1000), pool(3.0, 1000)];
        let limits = AllocationLimits {
            total_price: 2.5,
            ..FOUR
        };
        let found = allocate(&pools, Strategy::LowestPrice, limits);
        assert_eq!((found.counts, found.too_dear), (vec![2, 0], vec![0, 1]));
    }

    #[test]
    fn capacity_and_price_spread() {
        let pools = [pool(1.0, 8), pool(1.1, 8), pool(0.5, 2)];
        let found = allocate(&pools, Strategy::PriceCapacityOptimized, FOUR);
        assert_eq!(found.counts, [2, 2, 0], "the scarce one is left alone");
    }

    #[test]
    fn what_stops_a_launch_is_told() {
        let found = allocate(&[pool(1.0, 3)], Strategy::LowestPrice, FOUR);
        assert_eq!((found.counts, found.exhausted), (vec![3], vec![0]));
        let quota = AllocationLimits { vcpus: 9, ..FOUR };
        let found = allocate(&[pool(1.0, 9)], Strategy::LowestPrice, quota);
        assert_eq!((found.counts, found.over_quota), (vec![2], vec![0]));
    }
}
