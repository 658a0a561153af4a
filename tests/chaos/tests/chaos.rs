//! One seed of the chaos run, small enough for every test run; `make chaos` does more.

use std::time::Duration;

use spotreel_chaos::ChaosOptions;

/// It kills fleet while nobody can read what was spent, then storage and NATS, and the market takes machines with and
/// without a word.
const SEED: u64 = 22;
/// The faults take 26 s. If pool `large` then holds the hourly budget with two machines, the batch of pool `default` is given
/// up (`patience.blocked`, 20 s) and asked for again a minute later, and its six tasks take another 20 s.
const MOST: Duration = Duration::from_secs(180);

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_under_faults() {
    let options = ChaosOptions {
        seed: SEED,
        tasks: 25,
        instances: 3,
        dir: None,
        keep: false,
        most: MOST,
    };
    let report = Box::pin(spotreel_chaos::run(&options))
        .await
        .expect("the run comes to its end");
    assert!(report.passed(), "{report}");
}
