//! What is refused of a file of pools before anything runs.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

use spotreel_domain::batch::PoolName;
use spotreel_domain::pool::{Cloud, PoolConfig, Pools, SubnetConfig};

fn pools(subnets: &[(&str, &str)]) -> Pools {
    let subnets = subnets.iter().map(|(id, zone)| SubnetConfig {
        id: (*id).to_owned(),
        zone: (*zone).to_owned(),
    });
    let pool = PoolConfig {
        cloud: Cloud::Aws,
        subnets: subnets.collect(),
        ..PoolConfig::default()
    };
    Pools {
        pool: [(PoolName::parse("gpu").unwrap(), pool)].into(),
    }
}

#[test]
fn two_subnets_of_one_zone_are_refused_since_ec2_does() {
    let fits = pools(&[("subnet-1", "us-east-2a"), ("subnet-2", "us-east-2b")]);
    assert_eq!(fits.validate(), Ok(()));
    let twice = pools(&[
        ("subnet-1", "us-east-2a"),
        ("subnet-2", "us-east-2b"),
        ("subnet-3", "us-east-2a"),
    ]);
    let problems = twice.validate().unwrap_err().to_string();
    assert_eq!(
        problems,
        "`pool.gpu.subnets.2`: us-east-2a has subnet-1 already, and EC2 refuses a fleet with two subnets of one zone; \
         name one subnet a zone"
    );
}

#[test]
fn tags_that_ec2_refuses_or_that_are_fleets_own_are_refused_before_anything_runs() {
    let with = |key: &str, value: &str| {
        let mut pools = pools(&[("subnet-1", "us-east-2a")]);
        let pool = pools.pool.values_mut().next().unwrap();
        pool.tags.insert(key.to_owned(), value.to_owned());
        pools.validate().map_err(|problems| problems.to_string())
    };
    assert_eq!(with("cost-center", "42 (films)"), Ok(()));
    assert_eq!(with("team:owner@home", ""), Ok(()));
    for (key, said) in [
        ("spotreel:env", "not for people to set"),
        ("AWS:x", "not for people to set"),
        ("cost center", "EC2 refuses the key"),
        ("a/b", "EC2 refuses the key"),
        ("_index", "EC2 refuses the key"),
        ("", "EC2 refuses the key"),
    ] {
        let problems = with(key, "v").unwrap_err();
        assert!(
            problems.starts_with("`pool.gpu.tags`: ") && problems.contains(said),
            "{problems}"
        );
    }
    let problems = with("long", &"x".repeat(257)).unwrap_err();
    assert!(problems.contains("longer than EC2 takes"), "{problems}");
}
