//! API keys on a real server, as the user who keeps them in the product.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

use std::sync::Mutex;

use async_nats::Client;
use jiff::Timestamp;
use spotreel_bus::jetstream::JetStreamError;
use spotreel_bus::{KeyRefused, KeyRing, keys, names};
use spotreel_domain::api_key::{Access, ApiKey, KeyId, Owner, Token};
use spotreel_test_kit::{Nats, until};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + seconds).unwrap()
}

fn token(number: u8) -> Token {
    Token::new(KeyId::from_random(number.into()), [number; 32])
}

fn key(number: u8) -> ApiKey {
    let token = token(number);
    ApiKey {
        id: token.id().clone(),
        owner: Owner::parse("anna").unwrap(),
        secret_sha256: token.secret_sha256(),
        access: Access::Own,
        tasks_per_minute: 60,
        created_at: at(number.into()),
        expires_at: None,
        note: String::new(),
    }
}

struct Followed {
    ring: KeyRing,
    stopping: CancellationToken,
    running: JoinHandle<Vec<bool>>,
}

/// A ring that is kept current; at its end come the changes of its readiness.
fn follow(client: &Client) -> Followed {
    let (ring, stopping) = (KeyRing::new(client), CancellationToken::new());
    let running = tokio::spawn({
        let (ring, stopping) = (ring.clone(), stopping.clone());
        async move {
            let said = Mutex::new(Vec::new());
            let say = |state: Result<(), String>| said.lock().unwrap().push(state.is_ok());
            ring.run(&stopping, say).await;
            said.into_inner().unwrap()
        }
    });
    Followed {
        ring,
        stopping,
        running,
    }
}

impl Followed {
    fn find(&self, number: u8) -> Result<ApiKey, KeyRefused> {
        self.ring.find(&token(number).expose(), at(100))
    }

    async fn stop(self) -> Vec<bool> {
        self.stopping.cancel();
        self.running.await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_key_opens_from_its_making_to_its_revocation() {
    let nats = Nats::for_services().await;
    let intake = nats.client("intake").await;
    keys::put(&intake, &key(1)).await.unwrap();
    let followed = follow(&nats.client("intake").await);
    assert_eq!(followed.find(1), Err(KeyRefused::Unknown));
    assert!(!followed.ring.is_ready());
    followed.ring.ready().await;
    assert_eq!(followed.find(1), Ok(key(1)));
    assert_eq!(followed.ring.health(), Ok(()));

    keys::put(&intake, &key(2)).await.unwrap();
    until("the new key opens", async || followed.find(2) == Ok(key(2))).await;
    let other = Token::new(token(2).id().clone(), [9; 32]);
    let refused = followed.ring.find(&other.expose(), at(100));
    assert_eq!(refused, Err(KeyRefused::Unknown));
    let refused = followed.ring.find("Bearer of bad news", at(100));
    assert_eq!(refused, Err(KeyRefused::Malformed));

    keys::revoke(&intake, &key(1).id).await.unwrap();
    until("the revoked key is refused", async || {
        followed.find(1) == Err(KeyRefused::Unknown)
    })
    .await;
    assert_eq!(followed.find(2), Ok(key(2)));
    assert!(followed.ring.is_ready());
    assert_eq!(followed.stop().await, [true]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_id_is_given_once_and_revoked_once() {
    let nats = Nats::for_services().await;
    let intake = nats.client("intake").await;
    assert!(keys::list(&intake).await.unwrap().is_empty());
    for number in [2, 1, 3] {
        keys::put(&intake, &key(number)).await.unwrap();
    }
    assert_eq!(
        keys::list(&intake).await.unwrap(),
        [key(1), key(2), key(3)],
        "the oldest first"
    );
    let other = ApiKey {
        owner: Owner::parse("ben").unwrap(),
        ..key(2)
    };
    let again = keys::put(&intake, &other).await;
    assert!(matches!(again, Err(JetStreamError::Conflict)), "{again:?}");

    keys::revoke(&intake, &key(2).id).await.unwrap();
    assert_eq!(keys::list(&intake).await.unwrap(), [key(1), key(3)]);
    for id in [key(2).id, key(7).id] {
        let again = keys::revoke(&intake, &id).await;
        assert!(matches!(again, Err(JetStreamError::NotFound)), "{again:?}");
    }
    let again = keys::put(&intake, &other).await;
    assert!(matches!(again, Err(JetStreamError::Conflict)), "{again:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_but_intake_reads_or_writes_keys() {
    let nats = Nats::for_services().await;
    keys::put(&nats.client("intake").await, &key(1))
        .await
        .unwrap();
    let others = [
        "trigger", "fleet", "notifier", "monitor", "worker", "client", "operator",
    ];
    let tries = others.map(async |user| {
        let other = nats.client(user).await;
        let wanted = key(2);
        let (read, written) = tokio::join!(keys::list(&other), keys::put(&other, &wanted));
        // What is forbidden is not answered.
        assert!(
            matches!(
                read,
                Err(JetStreamError::Unknown(_) | JetStreamError::NoResponder(_))
            ),
            "{user}: {read:?}"
        );
        assert!(
            matches!(
                written,
                Err(JetStreamError::Unknown(_) | JetStreamError::NoResponder(_))
            ),
            "{user}: {written:?}"
        );
    });
    futures::future::join_all(tries).await;
    let stored = keys::list(&nats.client("intake").await).await.unwrap();
    assert_eq!(stored, [key(1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_key_has_an_end() {
    let nats = Nats::for_services().await;
    let intake = nats.client("intake").await;
    let ends = ApiKey {
        expires_at: Some(at(50)),
        ..key(1)
    };
    keys::put(&intake, &ends).await.unwrap();
    let followed = follow(&intake);
    followed.ring.ready().await;
    let text = token(1).expose();
    assert_eq!(followed.ring.find(&text, at(49)), Ok(ends));
    let refused = followed.ring.find(&text, at(50));
    assert_eq!(refused, Err(KeyRefused::Expired));
    let wrong = Token::new(token(1).id().clone(), [9; 32]);
    assert_eq!(
        followed.ring.find(&wrong.expose(), at(50)),
        Err(KeyRefused::Unknown),
        "who has no secret does not learn that the key was one"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn after_a_restart_the_ring_holds_what_the_bucket_holds() {
    let mut nats = Nats::for_services().await;
    let intake = nats.client("intake").await;
    for number in [1, 2] {
        keys::put(&intake, &key(number)).await.unwrap();
    }
    let followed = follow(&intake);
    followed.ring.ready().await;

    nats.kill9();
    until("the ring says so", async || !followed.ring.is_ready()).await;
    assert_eq!(followed.find(1), Ok(key(1)), "it keeps what it knew");
    let lost = followed.ring.health().unwrap_err();
    assert!(lost.contains("connection"), "{lost}");

    nats.begin().await;
    let root = nats.client("provision").await;
    keys::revoke(&root, &key(1).id).await.unwrap();
    until("the ring is current again", async || {
        followed.ring.is_ready()
    })
    .await;
    until("the revocation is seen", async || followed.find(1).is_err()).await;
    assert_eq!(followed.find(2), Ok(key(2)));
    keys::put(&root, &key(3)).await.unwrap();
    until("a new key is seen", async || followed.find(3) == Ok(key(3))).await;
    let said = followed.stop().await;
    assert!(said.len() >= 3, "{said:?}");
    assert!(
        said.windows(2).all(|pair| pair[0] != pair[1] || !pair[0]),
        "{said:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_bucket_that_is_missing_is_named_and_waited_for() {
    let nats = Nats::start().await;
    let followed = follow(&nats.client("intake").await);
    until("the ring says what is missing", async || {
        let health = followed.ring.health();
        health.is_err_and(|lost| lost.contains("spotreel provision"))
    })
    .await;
    let root = nats.client("provision").await;
    let layout = spotreel_bus::provision::Layout::default();
    spotreel_bus::provision::apply(&root, &layout)
        .await
        .unwrap();
    followed.ring.ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_no_key_opens_nothing() {
    let nats = Nats::for_services().await;
    let root = nats.client("provision").await;
    keys::put(&root, &key(1)).await.unwrap();
    let followed = follow(&nats.client("intake").await);
    followed.ring.ready().await;
    // Under another's name, and in the place of a good one.
    let stray = serde_json::to_vec(&key(2)).unwrap();
    let subject = |number| format!("$KV.{}.{}", names::KEYS_BUCKET, key(number).id);
    for (number, payload) in [(3, stray), (1, b"{}".to_vec())] {
        root.publish(subject(number), payload.into()).await.unwrap();
    }
    until("the good one is gone", async || followed.find(1).is_err()).await;
    for number in [2, 3] {
        assert_eq!(followed.find(number), Err(KeyRefused::Unknown));
    }
    assert!(followed.ring.is_ready());
}
