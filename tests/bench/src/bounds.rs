//! What everything here is made of, measured raw between the rounds: one durable append, one call of EC2, one put and
//! one listing of S3. Nothing that waits for them can be faster.

use std::collections::HashMap;
use std::time::Instant;

use async_nats::jetstream::stream::{Config, StorageType};
use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use spotreel_bus::connect::REQUEST_TIMEOUT;
use spotreel_bus::jetstream::{self, PubAck};
use spotreel_ec2::Ec2;
use spotreel_s3::Store;

use super::samples::Samples;
use super::stage::ENV;

const STREAM: &str = "BENCH";
const SUBJECT: &str = "bench.raw";
/// A batch with a machine or two weighs about so much.
const APPENDED: usize = 1_500;
const APPENDS_A_ROUND: usize = 5;
const CALLS_A_ROUND: usize = 3;

pub struct Bounds {
    client: Client,
    ec2: Ec2,
    store: Store,
    put_so_far: usize,
    pub append: Samples,
    /// DescribeInstances by tag.
    pub call: Samples,
    pub put: Samples,
    pub list: Samples,
}

impl Bounds {
    /// A stream with the settings of those that are measured: on file, one replica, on a server that syncs always.
    pub async fn new(client: &Client, ec2: &Ec2, store: &Store) -> Self {
        let config = Config {
            name: STREAM.into(),
            subjects: vec![SUBJECT.into()],
            storage: StorageType::File,
            num_replicas: 1,
            allow_direct: true,
            max_bytes: 64 << 20,
            ..Config::default()
        };
        let context = async_nats::jetstream::new(client.clone());
        let made = context.create_stream(config).await;
        made.expect("the bench may make a stream of its own");
        Self {
            client: client.clone(),
            ec2: ec2.clone(),
            store: store.clone(),
            put_so_far: 0,
            append: Samples::default(),
            call: Samples::default(),
            put: Samples::default(),
            list: Samples::default(),
        }
    }

    /// A few of each, while nothing else runs.
    pub async fn measure(&mut self) {
        for _ in 0..APPENDS_A_ROUND {
            let payload = Bytes::from(vec![7; APPENDED]);
            let headers = HeaderMap::new();
            let began = Instant::now();
            let append = jetstream::request::<PubAck>(
                &self.client,
                SUBJECT,
                headers,
                payload,
                REQUEST_TIMEOUT,
            );
            append.await.expect("NATS stores");
            self.append.add(ms(began));
        }
        for _ in 0..CALLS_A_ROUND {
            let began = Instant::now();
            self.ec2.list(ENV).await.expect("the cloud answers");
            self.call.add(ms(began));
        }
    }

    /// A put as the worker puts a checkpoint of so many bytes, and a listing as it looks for one.
    pub async fn measure_storage(&mut self, bytes: usize) {
        let dir = tempfile::tempdir().expect("a directory can be made");
        for _ in 0..CALLS_A_ROUND {
            self.put_so_far += 1;
            let body = vec![u8::try_from(self.put_so_far % 251).unwrap_or_default(); bytes];
            let hash = hex::encode(Sha256::digest(&body));
            let path = dir.path().join("body");
            std::fs::write(&path, &body).expect("a file can be written");
            let key = format!("bench/{}", self.put_so_far);
            let kind = "application/octet-stream";
            let began = Instant::now();
            let put = self
                .store
                .put_file_if_absent(&key, &path, &hash, kind, HashMap::new());
            put.await.expect("S3 stores");
            self.put.add(ms(began));
            let began = Instant::now();
            let listed = self.store.list(&key).await.expect("S3 lists");
            self.list.add(ms(began));
            assert_eq!(listed.len(), 1, "what was put is listed");
        }
    }
}

pub fn ms(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1_000.0
}
