//! Apache Kafka in KRaft mode: every node is broker and controller, from Maven's jars, no scripts.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::home::{Home, free_port};
use super::install::{Download, Origin};
use super::process::{Launch, run_to_end};
use super::server::{Kind, Record, Server, lost_its_port};
use super::{blocking, random_hex};
use crate::{Context, Error, Result};

/// The versions there is a recipe for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum KafkaVersion {
    #[default]
    V4_3_0,
}

impl KafkaVersion {
    fn download(self) -> Download {
        match self {
            Self::V4_3_0 => Download {
                name: "kafka-4.3.0",
                from: Origin::Jars(&[
                    "org.apache.kafka:kafka_2.13:4.3.0",
                    "org.apache.kafka:kafka-tools:4.3.0",
                    "org.apache.logging.log4j:log4j-slf4j-impl:2.24.3",
                    "org.apache.logging.log4j:log4j-core:2.24.3",
                ]),
                sums: include_str!("sums/kafka-4.3.0.sha256"),
            },
        }
    }
}

/// What a cluster is to be like.
#[derive(Debug, Clone)]
pub struct KafkaConfig {
    pub version: KafkaVersion,
    pub brokers: u16,
    /// The Java heap of each broker may grow to this.
    pub heap_mb: u32,
    /// Each has its whole heap from the start, as Kafka's own start script asks for: a heap that stays as
    /// small as it can is collected every second. It costs the memory.
    pub whole_heap: bool,
    /// Lines for `server.properties`, after ours and stronger than them.
    pub properties: Vec<(String, String)>,
    /// A second way to each broker, in their order; for clients that come through a proxy.
    pub proxied: Vec<Proxied>,
    /// The feature `transaction.version`; Kafka's newest where it is `None`.
    pub transaction_version: Option<u8>,
}

/// A listener that a broker advertises under another port.
#[derive(Debug, Clone, Copy)]
pub struct Proxied {
    pub port: u16,
    /// Where the proxy listens.
    pub advertised: u16,
}

impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            version: KafkaVersion::default(),
            brokers: 1,
            heap_mb: 1024,
            whole_heap: false,
            properties: Vec::new(),
            proxied: Vec::new(),
            transaction_version: None,
        }
    }
}

/// A cluster on 127.0.0.1, without authentication. Whatever is done to it is done to all its brokers;
/// [`Kafka::brokers`] gives them one by one.
#[derive(Debug)]
pub struct Kafka {
    brokers: Vec<Server>,
}

impl Kafka {
    /// Installs Kafka if need be, starts a new cluster and waits until every broker knows all the others.
    pub async fn start_new(config: &KafkaConfig, home: &Home) -> Result<Self> {
        let download = config.version.download();
        let libs = blocking(move || download.fetch()).await?;
        let cluster = Cluster { libs, config, id: cluster_id()?, nodes: Vec::new() };
        cluster.start(home).await
    }

    pub(super) fn from_servers(brokers: Vec<Server>) -> Option<Self> {
        (!brokers.is_empty()).then_some(Self { brokers })
    }

    /// `host:port,host:port`, as in `bootstrap.servers`.
    pub fn bootstrap(&self) -> String {
        let addresses = self.brokers.iter().map(|broker| format!("127.0.0.1:{}", broker.port()));
        addresses.collect::<Vec<_>>().join(",")
    }

    pub fn brokers(&self) -> &[Server] {
        &self.brokers
    }

    /// Starts the brokers that do not run, and waits until all answer.
    pub async fn start(&self) -> Result<()> {
        for broker in &self.brokers {
            broker.launch()?;
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        for broker in &self.brokers {
            broker.wait_ready().await?;
            while brokers_seen_by(broker.port()).await.map_or(0, |seen| seen.len()) < self.brokers.len() {
                if Instant::now() >= deadline {
                    return Err(Error::new(format!("{} does not see all the brokers", broker.name())));
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    /// Stops all brokers in good order.
    pub async fn stop(&self) -> Result<()> {
        // The last first: the others still form a quorum that lets it go.
        for broker in self.brokers.iter().rev() {
            broker.stop().await?;
        }
        Ok(())
    }

    /// Runs one of Kafka's own tools to its end, and gives what it printed.
    pub async fn tool(&self, class: &str, args: &[&str]) -> Result<String> {
        let (class, bootstrap) = (class.to_owned(), self.bootstrap());
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        blocking(move || {
            let libs = KafkaVersion::default().download().fetch()?;
            let mut java = std::process::Command::new("java");
            java.args([
                "-Xmx128m",
                "-XX:TieredStopAtLevel=1",
                "-cp",
                &format!("{}/*", libs.display()),
                &class,
            ]);
            let ended = java.args(["--bootstrap-server", &bootstrap]).args(args).output();
            let ended = ended.context(|| class.clone())?;
            let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            match ended.status.success() {
                true => Ok(said(&ended.stdout)),
                false => Err(Error::new(format!("{class}: {}{}", said(&ended.stdout), said(&ended.stderr)))),
            }
        })
        .await
    }

    /// SIGKILL, to all brokers.
    pub fn kill(&self) {
        self.brokers.iter().for_each(Server::kill);
    }

    /// SIGSTOP, to all brokers.
    pub fn pause(&self) {
        self.brokers.iter().for_each(Server::pause);
    }

    /// SIGCONT, to all brokers.
    pub fn resume(&self) {
        self.brokers.iter().for_each(Server::resume);
    }

    /// Stops all brokers in good order and starts them again.
    pub async fn restart(&self) -> Result<()> {
        self.stop().await?;
        self.start().await
    }
}

/// A cluster in the making.
struct Cluster<'a> {
    libs: PathBuf,
    config: &'a KafkaConfig,
    id: String,
    nodes: Vec<Node>,
}

struct Node {
    id: u16,
    dir: PathBuf,
    port: u16,
    controller_port: u16,
}

impl Cluster<'_> {
    async fn start(mut self, home: &Home) -> Result<Kafka> {
        for id in 1..=self.config.brokers.max(1) {
            let dir = home.place(&format!("kafka-{id}"))?;
            self.nodes.push(Node { id, dir, port: free_port()?, controller_port: free_port()? });
        }
        for node in &self.nodes {
            self.write_properties(node)?;
            self.format(node).await?;
        }
        let brokers = self.nodes.iter().map(|node| {
            let record = Record {
                name: format!("kafka-{}", node.id),
                kind: Kind::Kafka,
                port: node.port,
                launch: self.launch(node),
                dirs: vec![node.dir.clone()],
                process: None,
            };
            Server::new(node.dir.clone(), home.lifetime, record)
        });
        let kafka = Kafka { brokers: brokers.collect() };
        for attempt in 1.. {
            match kafka.start().await {
                Ok(()) => break,
                Err(_) if attempt < 3 && kafka.brokers.iter().any(lost_its_port) => {
                    kafka.kill();
                    self.change_ports(&kafka)?;
                }
                Err(e) => {
                    kafka.kill();
                    return Err(e);
                }
            }
        }
        Ok(kafka)
    }

    fn change_ports(&mut self, kafka: &Kafka) -> Result<()> {
        for node in &mut self.nodes {
            (node.port, node.controller_port) = (free_port()?, free_port()?);
        }
        for (node, broker) in self.nodes.iter().zip(&kafka.brokers) {
            self.write_properties(node)?;
            // The log shall show this start's fate, not the last one's.
            fs::write(broker.log(), "").context(|| format!("{}", broker.log().display()))?;
            broker.move_to(node.port, self.launch(node));
        }
        Ok(())
    }

    /// Gives the node's empty data directory its identity, once.
    async fn format(&self, node: &Node) -> Result<()> {
        let mut launch = self.launch(node);
        launch.log = node.dir.join("format.log");
        let properties = node.dir.join("server.properties").display().to_string();
        launch.args = self.java(&["-Xmx128m", "-XX:TieredStopAtLevel=1"], node);
        launch.args.extend(["kafka.tools.StorageTool", "format", "-t", &self.id, "-c"].map(String::from));
        launch.args.push(properties);
        if let Some(version) = self.config.transaction_version {
            launch.args.extend(["--feature".to_owned(), format!("transaction.version={version}")]);
        }
        blocking(move || run_to_end(&launch)).await
    }

    fn launch(&self, node: &Node) -> Launch {
        let heap_mb = self.config.heap_mb;
        // As in Kafka's own kafka-run-class.sh.
        let collector = [
            "-server",
            "-XX:+UseG1GC",
            "-XX:MaxGCPauseMillis=20",
            "-XX:InitiatingHeapOccupancyPercent=35",
            "-XX:+ExplicitGCInvokesConcurrent",
        ];
        let mut args = self.java(&collector, node);
        if self.config.whole_heap {
            args.push(format!("-Xms{heap_mb}m"));
        }
        args.extend([
            format!("-Xmx{heap_mb}m"),
            "kafka.Kafka".into(),
            node.dir.join("server.properties").display().to_string(),
        ]);
        Launch { program: "java".into(), args, cwd: node.dir.clone(), log: node.dir.join("log"), user: None }
    }

    fn java(&self, options: &[&str], node: &Node) -> Vec<String> {
        let mut args: Vec<String> = options.iter().map(|&option| option.into()).collect();
        args.push(format!("-Dlog4j2.configurationFile={}", node.dir.join("log4j2.properties").display()));
        args.extend(["-cp".into(), format!("{}/*", self.libs.display())]);
        args
    }

    fn write_properties(&self, node: &Node) -> Result<()> {
        write(&node.dir.join("server.properties"), &self.properties(node))?;
        write(&node.dir.join("log4j2.properties"), LOGGING)
    }

    fn properties(&self, node: &Node) -> String {
        let voters = self.nodes.iter().map(|node| format!("{}@127.0.0.1:{}", node.id, node.controller_port));
        let voters = voters.collect::<Vec<_>>().join(",");
        let replicas = self.config.brokers.clamp(1, 3);
        let insync = replicas.div_ceil(2);
        let Node { id, dir, port, controller_port } = node;
        let (mut listens, mut advertises, mut maps) = (String::new(), String::new(), "");
        if let Some(second) = self.config.proxied.get(usize::from(*id).saturating_sub(1)) {
            listens = format!("PROXIED://127.0.0.1:{},", second.port);
            advertises = format!(",PROXIED://127.0.0.1:{}", second.advertised);
            maps = ",PROXIED:PLAINTEXT";
        }
        // A killed broker may not join again before its old session has run out: 9 s by default. Much less
        // would fence a live one on a machine that is busy building.
        let mut text = format!(
            "process.roles=broker,controller\n\
             node.id={id}\n\
             controller.quorum.voters={voters}\n\
             listeners=CLIENT://127.0.0.1:{port},{listens}CONTROLLER://127.0.0.1:{controller_port}\n\
             advertised.listeners=CLIENT://127.0.0.1:{port}{advertises}\n\
             listener.security.protocol.map=CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT{maps}\n\
             controller.listener.names=CONTROLLER\n\
             inter.broker.listener.name=CLIENT\n\
             log.dirs={}\n\
             auto.create.topics.enable=false\n\
             group.initial.rebalance.delay.ms=0\n\
             default.replication.factor={replicas}\n\
             min.insync.replicas={insync}\n\
             offsets.topic.num.partitions=4\n\
             offsets.topic.replication.factor={replicas}\n\
             transaction.state.log.num.partitions=4\n\
             transaction.state.log.replication.factor={replicas}\n\
             transaction.state.log.min.isr={insync}\n\
             share.coordinator.state.topic.num.partitions=4\n\
             share.coordinator.state.topic.replication.factor={replicas}\n\
             share.coordinator.state.topic.min.isr={insync}\n\
             broker.session.timeout.ms=4000\n\
             broker.heartbeat.interval.ms=500\n\
             log.cleaner.dedupe.buffer.size=16777216\n",
            dir.join("data").display(),
        );
        for (key, value) in &self.config.properties {
            // Java's Properties keep the last of two equal keys.
            let _ = writeln!(text, "{key}={value}");
        }
        text
    }
}

const LOGGING: &str = "\
rootLogger.level=info
rootLogger.appenderRef.out.ref=out
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d{ISO8601} %p %c{1}: %m%n
";

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).context(|| format!("{}", file.display()))
}

/// Kafka wants 16 bytes as 22 characters of unpadded base64, of which the last carries two bits only.
fn cluster_id() -> Result<String> {
    let hex = random_hex()?;
    Ok(format!("{}A", hex.get(..21).unwrap_or_default()))
}

/// Asks the broker on `port` which brokers it knows, and answers their ports. A broker takes requests from
/// clients only when it has joined the cluster, so an answer is readiness.
pub(super) async fn brokers_seen_by(port: u16) -> io::Result<Vec<u16>> {
    // Metadata v4, correlation id 1, no client id; no topics, no creation. KIP-896 keeps v4 in Kafka 4.
    let ask = [0, 3, 0, 4, 0, 0, 0, 1, 0xff, 0xff, 0, 0, 0, 0, 0];
    let mut broker = TcpStream::connect(("127.0.0.1", port)).await?;
    let size = u32::try_from(ask.len()).map_err(io::Error::other)?;
    broker.write_all(&size.to_be_bytes()).await?;
    broker.write_all(&ask).await?;
    let size = usize::try_from(broker.read_u32().await?).map_err(io::Error::other)?;
    if size > 1 << 20 {
        return Err(io::Error::other("not a Kafka broker"));
    }
    let mut answer = vec![0; size];
    broker.read_exact(&mut answer).await?;
    ports_in(&answer).ok_or_else(|| io::Error::other("not a metadata answer"))
}

/// Correlation id, throttle time, then the brokers: id, host, port, rack.
fn ports_in(answer: &[u8]) -> Option<Vec<u16>> {
    let mut rest = answer.get(8..)?;
    let count = i32::from_be_bytes(take(&mut rest)?);
    let mut ports = Vec::new();
    for _ in 0..count {
        let _id: [u8; 4] = take(&mut rest)?;
        skip_text(&mut rest)?;
        ports.push(u16::try_from(i32::from_be_bytes(take(&mut rest)?)).ok()?);
        skip_text(&mut rest)?;
    }
    Some(ports)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*head)
}

/// A length of -1 is null.
fn skip_text(rest: &mut &[u8]) -> Option<()> {
    let length = usize::try_from(i16::from_be_bytes(take(rest)?)).unwrap_or(0);
    *rest = rest.get(length..)?;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ports_of_two_brokers_are_read_from_a_metadata_answer() {
        let mut answer = vec![0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2];
        answer.extend([0, 0, 0, 1, 0, 2, b'h', b'1', 0, 0, 0x23, 0x84, 0xff, 0xff]);
        answer.extend([0, 0, 0, 2, 0, 2, b'h', b'2', 0, 0, 0x23, 0x85, 0, 1, b'r']);
        assert_eq!(ports_in(&answer), Some(vec![9092, 9093]));
    }

    #[test]
    fn a_cut_metadata_answer_is_no_answer() {
        let answer = [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 9, b'h'];
        assert_eq!(ports_in(&answer), None);
    }

    #[test]
    fn a_cluster_id_is_twenty_two_characters_and_never_twice_the_same() {
        let (a, b) = (cluster_id().unwrap(), cluster_id().unwrap());
        assert_eq!(a.len(), 22);
        assert_ne!(a, b);
    }
}
