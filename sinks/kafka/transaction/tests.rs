//! A session of transactions against a mock broker.

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use super::*;

const SIZES: Sizes = Sizes { batch_bytes: 1_000_000, record_bytes: 1_048_588 };

async fn session() -> (MockCluster<'static, DefaultProducerContext>, Session) {
    let cluster = MockCluster::new(1).unwrap();
    let servers = cluster.bootstrap_servers();
    let raw = serde_json::json!({ "bootstrap": servers.split(',').collect::<Vec<_>>() });
    let raw = serde_json::from_value(raw).unwrap();
    let settings = Arc::new(Settings::resolve(raw, "orders").unwrap());
    let name = settings.position_topic.clone();
    cluster.create_topic(&name, 2, 1).unwrap();
    let producer = |nth| Producer::new(&settings, nth, Duration::from_millis(500), SIZES).unwrap();
    let producers = [producer(0), producer(1)];
    for producer in &producers {
        producer.init().await.unwrap();
    }
    let position_topic = [producers[0].topic(&name).unwrap(), producers[1].topic(&name).unwrap()];
    let topics = Arc::new(Topics::new(settings.clone(), Arc::default()));
    let keys = Keys::new("orders", "shop");
    let session = Session::new(producers, position_topic, settings, topics, keys, Arc::default(), SIZES);
    (cluster, session)
}

fn position(n: u64) -> EncodedBatch {
    let end = Some(Position::new(format!("{{\"n\":{n}}}")));
    EncodedBatch { end, whole: true, drained: true, seq: n, ..EncodedBatch::default() }
}

#[tokio::test]
async fn a_doubtful_commit_ends_the_session_although_it_was_committed() {
    let (cluster, mut session) = session().await;
    for n in 1..=4 {
        session.send(&position(n)).await.unwrap();
        session.settled().await.unwrap();
    }
    cluster.broker_round_trip_time(1, Duration::from_millis(450)).unwrap();
    session.send(&position(5)).await.unwrap();
    let stop = session.settled().await.unwrap_err();
    assert!(stop.is_doubtful(), "{stop:?}");
    assert_eq!(session.newest.as_ref().map(Position::as_str), Some("{\"n\":5}"));
}

#[tokio::test]
async fn what_is_whole_behind_a_pending_commit_is_committed_at_the_end_too() {
    let (cluster, mut session) = session().await;
    cluster.broker_round_trip_time(1, Duration::from_millis(20)).unwrap();
    session.send(&position(1)).await.unwrap();
    // Nothing but a position would not wait for the one before it, and this stands for data.
    session.begin().await.unwrap();
    let open = session.open.as_mut().unwrap();
    (open.records, open.whole, open.end) = (1, true, position(2).end);
    session.finish().await.unwrap();
    assert_eq!(session.newest.as_ref().map(Position::as_str), Some("{\"n\":2}"));
}
