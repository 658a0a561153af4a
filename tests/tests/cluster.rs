//! The same promises on three nodes, and with one of them dying.

use std::time::Duration;

use futures::future::join_all;
use spotreel_bus::TaskLog;
use spotreel_bus::names::TASKS;
use spotreel_tests::cases;
use spotreel_tests::harness::cluster::NODES;
use spotreel_tests::harness::tasks::{submitted, task_id};
use spotreel_tests::harness::{NatsCluster, eventually};

const LEASE: Duration = Duration::from_secs(3);
const SOON: Duration = Duration::from_secs(60);

async fn one_client_a_node(cluster: &NatsCluster) -> Vec<async_nats::Client> {
    join_all((0..NODES).map(|node| cluster.client_of(node, "provision"))).await
}

// A3 is the reason for the case's look at the filter: two filters over one task admit two winners on a cluster only.
#[tokio::test(flavor = "multi_thread")]
async fn of_twelve_racers_on_three_servers_one_writes_the_next_event() {
    let cluster = NatsCluster::provisioned(LEASE).await;
    cases::one_of_many_wins(&one_client_a_node(&cluster).await, 12, 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_on_three_servers_are_stored_whole_or_not_at_all() {
    let cluster = NatsCluster::provisioned(LEASE).await;
    cases::a_batch_is_stored_whole_or_not_at_all(&one_client_a_node(&cluster).await, 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn queue_and_lease_on_three_servers() {
    let cluster = NatsCluster::provisioned(LEASE).await;
    let client = cluster.client("provision").await;
    cases::a_delivery_comes_back_until_it_is_acked(&client, LEASE).await;
    cases::a_lease_holds_until_the_log_says_otherwise(&client, LEASE).await;
    cases::a_deleted_entry_is_counted_nowhere(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_event_is_lost_or_doubled_when_the_leader_is_killed() {
    const WRITERS: usize = 6;
    const EACH: usize = 40;
    let mut cluster = NatsCluster::provisioned(LEASE).await;
    let client = cluster.client("provision").await;
    let log = TaskLog::open(&client).await;
    let writers = (0..WRITERS).map(|_| {
        let log = log.clone();
        tokio::spawn(async move {
            let mut written = Vec::new();
            for _ in 0..EACH {
                let id = task_id("load");
                let sequence = cases::append(&log, submitted(&id), 0).await;
                written.push((id, sequence.expect("an election is waited for")));
            }
            written
        })
    });
    let writers: Vec<_> = writers.collect();
    for _ in 0..2 {
        let leader = eventually("the log has a leader", SOON, || {
            cluster.leader(&client, TASKS)
        })
        .await;
        cluster.kill9(leader);
        eventually("another node leads", SOON, || async {
            cluster
                .leader(&client, TASKS)
                .await
                .filter(|next| *next != leader)
        })
        .await;
        cluster.start_node(leader).await;
    }
    let mut sequences = Vec::new();
    for writer in writers {
        let written = tokio::time::timeout(SOON * 2, writer)
            .await
            .expect("it ends");
        for (id, sequence) in written.expect("no panic") {
            let last = eventually("the log answers", SOON, || async {
                log.last(&id).await.ok()
            })
            .await;
            assert_eq!(
                last.map(|event| event.sequence),
                Some(sequence),
                "{id} is where it was said to be"
            );
            let history = cases::history(&log, &id, 1).await;
            assert_eq!(history.len(), 1, "{id} is there once");
            sequences.push(sequence);
        }
    }
    sequences.sort_unstable();
    sequences.dedup();
    assert_eq!(sequences.len(), WRITERS * EACH);
}
