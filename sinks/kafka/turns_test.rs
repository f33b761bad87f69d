//! The membership by which instances take turns, against a real coordinator. Each of these fails without the
//! rule that it names.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::{DescribeGroupsRequest, GroupId, LeaveGroupRequest};
use kafka_protocol::protocol::StrBytes;
use millrace_core::progress::Progress;
use millrace_core::turn::Turn;
use millrace_kafka::{Settings, group};
use millrace_ledger::reader::Connection;
use tokio::time::timeout;
use xtask::services::{Home, Kafka, KafkaConfig};

const PATIENCE: Duration = Duration::from_secs(30);
/// Several times what a member takes to hear that the members are counted anew.
const HEARD: Duration = Duration::from_secs(4);

/// A connector, and the coordinator of its group.
struct Coordinator {
    kafka: Kafka,
    settings: Settings,
}

impl Coordinator {
    async fn new() -> Self {
        let home = Home::temporary().expect("a temporary directory");
        let kafka = Kafka::start_new(&KafkaConfig::default(), &home).await.expect("Kafka starts");
        let raw = serde_json::json!({ "bootstrap": [kafka.bootstrap()] });
        let raw = serde_json::from_value(raw).expect("the table parses");
        Self { kafka, settings: Settings::resolve(raw, "orders").expect("the settings are right") }
    }

    fn join(&self, instance: &str) -> Member {
        let progress = Arc::<Progress>::default();
        Member { turn: group::join(&self.settings, instance, progress.clone()), progress }
    }

    fn group(&self) -> GroupId {
        GroupId(StrBytes::from_string(self.settings.transactional_id.clone()))
    }

    /// The ids of the members that own something.
    async fn owners(&self) -> Vec<StrBytes> {
        let mut connection = Connection::open(&self.kafka.bootstrap()).await.expect("a connection");
        let request = DescribeGroupsRequest::default().with_groups(vec![self.group()]);
        let answer = connection.call(&request).await.expect("the coordinator answers");
        let members = answer.groups.into_iter().flat_map(|group| group.members);
        // Version, count of topics, names: without a topic there is nothing but the first two and a length.
        let owners =
            members.filter(|member| member.member_assignment.get(5).is_some_and(|topics| *topics > 0));
        owners.map(|member| member.member_id).collect()
    }

    /// Takes a member out of the group, as the end of its session does; it hears so at its next heartbeat.
    async fn give_up(&self, member: StrBytes) {
        let mut connection = Connection::open(&self.kafka.bootstrap()).await.expect("a connection");
        let member = MemberIdentity::default().with_member_id(member);
        let request = LeaveGroupRequest::default().with_group_id(self.group()).with_members(vec![member]);
        let answer = connection.call(&request).await.expect("the coordinator answers");
        assert_eq!(answer.error_code, 0);
    }
}

struct Member {
    turn: Turn,
    progress: Arc<Progress>,
}

impl Member {
    async fn come(&mut self) {
        timeout(PATIENCE, self.turn.come(&self.progress)).await.expect("its turn comes");
    }

    async fn comes_within(&mut self, limit: Duration) -> bool {
        timeout(limit, self.turn.come(&self.progress)).await.is_ok()
    }
}

/// Rule: a turn is proved, not remembered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_was_given_up_and_has_not_heard_has_no_turn_until_it_is_a_member_again() {
    let coordinator = Coordinator::new().await;
    let mut one = coordinator.join("one");
    one.come().await;
    for round in 0..5 {
        let owners = coordinator.owners().await;
        coordinator.give_up(owners.into_iter().next().expect("it owns the partition")).await;
        one.come().await;
        assert_eq!(coordinator.owners().await.len(), 1, "round {round}: it only remembered its turn");
    }
}

/// Rule: a turn stays where it is for as long as its owner lives, whoever comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_stays_with_its_owner_and_goes_to_the_next_when_it_leaves() {
    let coordinator = Coordinator::new().await;
    let mut one = coordinator.join("one");
    one.come().await;
    let (mut two, mut three) = (coordinator.join("two"), coordinator.join("three"));
    assert!(!two.comes_within(HEARD).await && !three.comes_within(Duration::from_secs(1)).await);
    assert!(one.turn.is_mine() && one.comes_within(HEARD).await);
    assert_eq!(two.progress.active_instance().as_deref(), Some("one"));

    one.turn.leave().await;
    let (came, waits) = tokio::select! {
        () = two.come() => (two, three),
        () = three.come() => (three, two),
    };
    let mut waits = waits;
    // The one that left comes back, and stands by.
    let mut one = coordinator.join("one");
    assert!(!one.comes_within(HEARD).await && !waits.comes_within(Duration::from_secs(1)).await);
    assert!(came.turn.is_mine());
}
