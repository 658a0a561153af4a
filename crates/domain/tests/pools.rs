//! What is refused of a file of pools before anything runs.

#![allow(clippy::unwrap_used)] // a test: what cannot be is a failure

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
