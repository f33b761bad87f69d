//! The servers' handles, against real servers: what a test does to a server happens, and undoes.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tokio_postgres::NoTls;
use xtask::services::{
    Config, Home, Kafka, KafkaConfig, Lifetime, Mongodb, MongodbConfig, Postgres, PostgresConfig, Registry,
    RegistryConfig, Server, Services, Shutdown,
};

fn running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, fields)| !fields.trim_start().starts_with('Z'))
}

async fn number(postgres: &Postgres, query: &str) -> Option<String> {
    let (client, connection) = tokio_postgres::connect(&postgres.url(), NoTls).await.ok()?;
    let connection = tokio::spawn(connection);
    let rows = client.simple_query(query).await.ok()?;
    connection.abort();
    rows.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0)?.to_owned()),
        _ => None,
    })
}

#[tokio::test]
async fn postgres_keeps_its_data_and_port_through_kill_pause_and_every_kind_of_stop() {
    let postgres =
        Postgres::start_new(&PostgresConfig::default(), &Home::temporary().unwrap()).await.unwrap();
    let (port, dir) = (postgres.port(), postgres.dir().to_owned());
    number(&postgres, "CREATE TABLE kept AS SELECT 7 AS n").await;

    let killed = postgres.pid().unwrap();
    postgres.kill();
    assert!(!running(killed) && !postgres.alive());
    postgres.start().await.unwrap();
    assert_ne!(postgres.pid(), Some(killed));

    postgres.pause();
    assert!(postgres.alive() && !postgres.ready().await, "a paused server lives and is silent");
    postgres.resume();
    postgres.wait_ready().await.unwrap();

    for how in [Shutdown::Smart, Shutdown::Fast, Shutdown::Immediate] {
        postgres.stop_with(how).await.unwrap();
        assert!(!postgres.alive(), "{how:?}");
        postgres.start().await.unwrap();
    }
    assert_eq!(number(&postgres, "SELECT n FROM kept").await.as_deref(), Some("7"));
    assert_eq!(number(&postgres, "SHOW wal_level").await.as_deref(), Some("logical"));
    assert_eq!(postgres.port(), port);

    let pid = postgres.pid().unwrap();
    drop(postgres);
    assert!(!running(pid) && !dir.exists(), "a dropped handle leaves nothing");
}

#[tokio::test]
async fn postgres_refuses_a_wrong_password() {
    let postgres =
        Postgres::start_new(&PostgresConfig::default(), &Home::temporary().unwrap()).await.unwrap();
    let url = postgres.url().replace(postgres.password(), "wrong");
    let error = tokio_postgres::connect(&url, NoTls).await.err().unwrap();
    assert_eq!(error.code().unwrap().code(), "28P01");
}

#[tokio::test]
async fn kafka_answers_again_after_a_kill_a_pause_and_a_restart() {
    let home = Home::temporary().unwrap();
    let config = KafkaConfig {
        heap_mb: 512,
        properties: vec![("log.retention.hours".into(), "1".into())],
        ..KafkaConfig::default()
    };
    let kafka = Kafka::start_new(&config, &home).await.unwrap();
    let (bootstrap, broker) = (kafka.bootstrap(), &kafka.brokers()[0]);
    kafka.kill();
    assert!(!broker.alive());
    kafka.start().await.unwrap();
    kafka.pause();
    assert!(broker.alive() && !broker.ready().await);
    kafka.resume();
    broker.wait_ready().await.unwrap();
    kafka.restart().await.unwrap();
    assert_eq!(kafka.bootstrap(), bootstrap);
    let log = std::fs::read_to_string(broker.log()).unwrap();
    assert!(log.contains("log.retention.hours = 1\n"), "the caller's property is the one that counts");
}

#[tokio::test]
async fn a_replica_set_keeps_what_a_majority_has_when_its_primary_is_killed() {
    let config = MongodbConfig { members: 3, auth: true, ..MongodbConfig::default() };
    let set = Mongodb::start_new(&config, &Home::temporary().unwrap()).await.unwrap();
    let client = mongodb::Client::with_uri_str(set.url()).await.unwrap();
    let kept = client.database("shop").collection("kept");
    kept.insert_one(mongodb::bson::doc! { "_id": 7 }).await.unwrap();

    let first = set.primary().await.unwrap();
    let (port, pid) = (first.port(), first.pid().unwrap());
    first.kill();
    assert!(!running(pid));
    let second = set.primary().await.unwrap();
    assert_ne!(second.port(), port);
    set.start().await.unwrap();
    let found = kept.find_one(mongodb::bson::doc! {}).await.unwrap();
    assert_eq!(found, Some(mongodb::bson::doc! { "_id": 7 }));
}

async fn ask(registry: &Registry, request: &str, body: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", registry.port())).await.unwrap();
    let text = format!(
        "{request} HTTP/1.0\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn the_registry_knows_an_id_again_after_a_kill() {
    let registry =
        Registry::start_new(&RegistryConfig::default(), &Home::temporary().unwrap()).await.unwrap();
    let path = "/apis/ccompat/v7";
    let posted =
        ask(&registry, &format!("POST {path}/subjects/a/versions"), r#"{"schema":"\"string\""}"#).await;
    assert!(posted.ends_with(r#"{"id":1}"#), "{posted}");
    registry.kill();
    registry.start().await.unwrap();
    let found = ask(&registry, &format!("GET {path}/schemas/ids/1"), "").await;
    assert!(found.contains(r#""schema":"\"string\"""#), "{found}");
}

#[tokio::test]
async fn lasting_servers_outlive_their_handles_and_down_leaves_nothing() {
    let root = Home::temporary().unwrap().dir;
    let home = Home { dir: root.join("services"), lifetime: Lifetime::Lasting };
    let config = Config::default();
    let first = Services::up(&config, &home).await.unwrap();
    let urls = (first.kafka.bootstrap(), first.registry.url(), first.postgres.url());
    drop(first);

    let registry = Server::all(&home).unwrap().into_iter().find(|server| server.name() == "registry");
    let registry = registry.unwrap();
    assert!(registry.alive());
    registry.kill();
    let second = Services::up(&config, &home).await.unwrap();
    assert_eq!(urls, (second.kafka.bootstrap(), second.registry.url(), second.postgres.url()));

    drop(second);
    let borrowed = Home { lifetime: Lifetime::Borrowed, ..home.clone() };
    drop(Services::up(&config, &borrowed).await.unwrap());

    let pids: Vec<u32> = Server::all(&home).unwrap().iter().filter_map(Server::pid).collect();
    assert_eq!(pids.len(), 4, "kafka, the registry, postgres and mongodb");
    assert!(pids.iter().all(|&pid| running(pid)), "neither kind of handle ends what is not its own");
    assert_eq!(Services::down(&home).await.unwrap(), 4);
    assert!(!pids.iter().any(|&pid| running(pid)));
    assert_eq!(std::fs::read_dir(&root).unwrap().count(), 0);
    std::fs::remove_dir(root).unwrap();
}

/// Not a test by itself: the next one runs it in a process of its own, and kills that.
#[tokio::test]
#[ignore = "started and killed by the test after it"]
async fn a_process_that_is_to_be_killed_starts_a_server() {
    let report = std::env::var_os("MILLRACE_TEST_VICTIM").expect("the place to report to");
    let postgres =
        Postgres::start_new(&PostgresConfig::default(), &Home::temporary().unwrap()).await.unwrap();
    assert!(postgres.alive());
    let text = format!("{} {}", postgres.pid().unwrap(), postgres.dir().display());
    let next = Path::new(&report).with_extension("next");
    std::fs::write(&next, text).unwrap();
    std::fs::rename(next, report).unwrap();
    tokio::time::sleep(Duration::from_secs(120)).await;
}

#[tokio::test]
async fn a_server_dies_with_the_process_that_started_it_even_when_that_is_killed() {
    let root = Home::temporary().unwrap().dir;
    let report = root.join("report");
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "a_process_that_is_to_be_killed_starts_a_server"])
        .env("MILLRACE_TEST_VICTIM", &report)
        .spawn()
        .unwrap();
    let started = wait_until(|| report.exists()).await;
    let text = std::fs::read_to_string(&report).unwrap_or_default();
    victim.kill().unwrap();
    victim.wait().unwrap();
    assert!(started, "the victim has started a server");
    let (pid, dir) = text.split_once(' ').unwrap();
    let pid: u32 = pid.parse().unwrap();
    assert!(wait_until(|| !running(pid)).await, "the server is gone");

    assert!(Path::new(dir).exists());
    let next = Home::temporary().unwrap();
    assert!(!Path::new(dir).exists(), "the next process sweeps what it left");
    std::fs::remove_dir(next.dir).unwrap();
    std::fs::remove_dir_all(root).unwrap();
}

async fn wait_until(condition: impl Fn() -> bool) -> bool {
    let seen = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), seen).await.is_ok()
}
