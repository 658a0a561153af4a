use super::*;

const HOUR: u64 = 3600;

fn running(count: usize) -> Vec<Running> {
    (0..count)
        .map(|number| Running {
            instance_id: format!("i-{number:04}"),
            kind: KIND.to_owned(),
            zone: ZONE.to_owned(),
            since: after(number as u64),
            max_price: None,
        })
        .collect()
}

fn ids(reclaims: &[Reclaim]) -> Vec<&str> {
    reclaims
        .iter()
        .map(|one| one.instance_id.as_str())
        .collect()
}

/// A market with much hazard and nothing else.
fn hazardous(seed: u64, hazard_per_hour: f64) -> Market {
    market(MarketConfig {
        seed,
        hazard_per_hour,
        ..calm()
    })
}

#[test]
fn a_calm_market_takes_nobody() {
    let mut market = market(calm());
    assert!(
        market
            .reclaims(&running(50), after(0), after(99 * HOUR))
            .is_empty()
    );
}

#[test]
fn whoever_pays_too_little_goes_once() {
    let mut market = market(calm());
    let mut fleet = running(3);
    fleet[0].max_price = Some(400_000);
    fleet[1].max_price = Some(377_000);
    assert!(market.reclaims(&fleet, after(0), after(100)).is_empty());
    market.set_price(KIND, ZONE, 390_000, after(150)).unwrap();
    let taken = market.reclaims(&fleet, after(100), after(200));
    assert_eq!(ids(&taken), ["i-0001"]);
    assert_eq!(taken[0].reason, Reason::Price);
    assert!(market.reclaims(&fleet, after(200), after(300)).is_empty());
}

#[test]
fn a_pool_that_shrinks_takes_the_youngest() {
    let mut market = market(calm());
    let fleet = running(5);
    market.set_capacity(KIND, ZONE, 3, after(100)).unwrap();
    let taken = market.reclaims(&fleet, after(0), after(200));
    assert_eq!(ids(&taken), ["i-0003", "i-0004"]);
    assert!(taken.iter().all(|one| one.reason == Reason::Capacity));
    // Who was taken no longer counts, though he may be there for two more minutes.
    assert!(market.reclaims(&fleet, after(200), after(300)).is_empty());
    market.set_capacity(KIND, ZONE, 2, after(300)).unwrap();
    assert_eq!(
        ids(&market.reclaims(&fleet, after(300), after(400))),
        ["i-0002"]
    );
}

#[test]
fn other_pools_are_left_alone() {
    let mut market = market(calm());
    let mut fleet = running(2);
    fleet[0].zone = "us-east-2b".to_owned();
    market.set_capacity(KIND, ZONE, 0, after(1)).unwrap();
    assert_eq!(
        ids(&market.reclaims(&fleet, after(0), after(10))),
        ["i-0001"]
    );
}

#[test]
fn the_pace_of_asking_changes_nothing() {
    let fleet = running(20);
    let at_once = hazardous(11, 0.5).reclaims(&fleet, after(60), after(60 + 6 * HOUR));
    let mut slow = hazardous(11, 0.5);
    let mut one_by_one = Vec::new();
    for second in (60..60 + 6 * HOUR).step_by(5) {
        one_by_one.extend(slow.reclaims(&fleet, after(second), after(second + 5)));
    }
    assert!(!at_once.is_empty());
    assert_eq!(at_once, one_by_one);
    assert_ne!(
        at_once,
        hazardous(12, 0.5).reclaims(&fleet, after(60), after(60 + 6 * HOUR))
    );
}

#[test]
fn the_hazard_is_about_what_was_asked_for() {
    // 300 fleets of 20 for an hour at 0.3: 1,800 of 6,000 in expectation, a little less since nobody goes twice.
    let fleet = running(20);
    let taken: usize = (0..300)
        .map(|seed| {
            let reclaims = hazardous(seed, 0.3).reclaims(&fleet, after(60), after(60 + HOUR));
            reclaims
                .iter()
                .filter(|one| one.kind != ReclaimKind::Rebalance)
                .count()
        })
        .sum();
    assert!((1_200..=2_000).contains(&taken), "{taken}");
}

#[test]
fn most_interruptions_of_a_pool_come_within_three_minutes_of_another() {
    let fleet = running(20);
    let (mut near, mut all) = (0, 0);
    for seed in 0..200 {
        let reclaims = hazardous(seed, 0.05).reclaims(&fleet, after(60), after(60 + 12 * HOUR));
        let times: Vec<Timestamp> = reclaims
            .iter()
            .filter(|one| one.kind != ReclaimKind::Rebalance)
            .map(|one| one.at)
            .collect();
        for (this, at) in times.iter().enumerate() {
            let close = |(other, then): (usize, &Timestamp)| {
                other != this && at.duration_since(*then).abs().as_secs() <= 180
            };
            all += 1;
            near += usize::from(times.iter().enumerate().any(close));
        }
    }
    assert!(all > 500, "{all}");
    assert!(near * 100 > all * 92, "{near} of {all}");
}

#[test]
fn some_are_told_some_are_hinted_at_some_hear_nothing() {
    let fleet = running(20);
    let (mut noticed, mut silent, mut hinted) = (0, 0, 0);
    for seed in 0..100 {
        let reclaims = hazardous(seed, 0.2).reclaims(&fleet, after(900), after(900 + 6 * HOUR));
        let mut hints = BTreeSet::new();
        for one in &reclaims {
            match one.kind {
                ReclaimKind::Rebalance => {
                    assert!(hints.insert(&one.instance_id), "one hint each");
                    hinted += 1;
                }
                ReclaimKind::Notice { lead } => {
                    assert_eq!(lead.as_secs(), 120);
                    noticed += 1;
                }
                ReclaimKind::Silent => {
                    assert!(!hints.contains(&one.instance_id), "silence is silent");
                    silent += 1;
                }
            }
        }
    }
    let part = |some: usize| some * 100 / (noticed + silent);
    assert!((6..=14).contains(&part(silent)), "{silent} of {noticed}");
    assert!((20..=35).contains(&part(hinted)), "{hinted} of {noticed}");
}

#[test]
fn an_id_that_comes_again_is_taken_again() {
    let mut market = market(calm());
    let fleet = running(1);
    market.set_capacity(KIND, ZONE, 0, after(1)).unwrap();
    assert_eq!(market.reclaims(&fleet, after(0), after(10)).len(), 1);
    assert!(market.reclaims(&[], after(10), after(20)).is_empty());
    assert_eq!(market.reclaims(&fleet, after(20), after(30)).len(), 1);
}
