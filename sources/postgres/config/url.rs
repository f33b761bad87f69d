//! The connection url: `postgres://user:password@host:port/database?sslmode=...`. Nothing of it is ever
//! repeated in a message, because it may hold the password.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use millrace_core::error::{Error, Result as Outcome};
use millrace_core::secret::Secret;
use secrecy::{ExposeSecret, SecretString};

use super::{ChannelBinding, SslMode};

const DEFAULT_PORT: u16 = 5432;

/// One place where a server may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub host: Host,
    pub port: u16,
}

impl Server {
    /// Whether nobody outside this machine can be in between.
    pub fn is_local(&self) -> bool {
        match &self.host {
            Host::Unix(_) => true,
            Host::Tcp(host) => {
                host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
            }
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Which of several servers will do, in libpq's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Target {
    #[default]
    Any,
    /// One that takes writes.
    ReadWrite,
    Primary,
    Standby,
}

impl Target {
    pub fn accepts(self, is_standby: bool, is_read_only: bool) -> bool {
        match self {
            Target::Any => true,
            Target::ReadWrite => !is_read_only,
            Target::Primary => !is_standby,
            Target::Standby => is_standby,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Target::Any => "any",
            Target::ReadWrite => "read-write",
            Target::Primary => "primary",
            Target::Standby => "standby",
        })
    }
}

/// Where the server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    Tcp(String),
    /// The directory of the socket.
    Unix(PathBuf),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Tcp(host) => f.write_str(host),
            Host::Unix(directory) => directory.display().fmt(f),
        }
    }
}

/// Where the password stands. It is read anew for each connection, as far as it lies in a file.
#[derive(Clone, Debug)]
pub enum Password {
    Own(Secret),
    OfUrl(Secret),
}

impl Password {
    pub fn read(&self) -> Outcome<SecretString> {
        match self {
            Self::Own(secret) => secret.read(),
            Self::OfUrl(url) => {
                let parsed = parse(&url.read()?).ok().and_then(|parsed| parsed.password);
                parsed.ok_or_else(|| {
                    Error::transient("url in [source.postgres] has no password any more")
                        .hint("correct the file that it comes from; it is read again for every attempt")
                })
            }
        }
    }

    /// The files that it comes from; `None` where only a restart changes it.
    pub fn files(&self) -> Option<String> {
        match self {
            Self::Own(secret) | Self::OfUrl(secret) => secret.files(),
        }
    }
}

#[derive(Debug)]
pub(super) struct Url {
    /// In the order in which they are tried; never empty.
    pub servers: Vec<Server>,
    pub target: Target,
    pub user: String,
    pub database: String,
    pub password: Option<SecretString>,
    pub sslmode: Option<SslMode>,
    pub channel_binding: Option<ChannelBinding>,
    pub sslrootcert: Option<PathBuf>,
    pub sslcert: Option<PathBuf>,
    pub sslkey: Option<PathBuf>,
    pub connect_timeout_s: Option<u64>,
}

impl Default for Url {
    fn default() -> Self {
        Self {
            servers: vec![Server { host: Host::Tcp(String::new()), port: DEFAULT_PORT }],
            target: Target::Any,
            user: String::new(),
            database: String::new(),
            password: None,
            sslmode: None,
            channel_binding: None,
            sslrootcert: None,
            sslcert: None,
            sslkey: None,
            connect_timeout_s: None,
        }
    }
}

impl Url {
    /// The server that is tried first.
    pub fn first(&self) -> Server {
        let none = || Server { host: Host::Tcp(String::new()), port: DEFAULT_PORT };
        self.servers.first().cloned().unwrap_or_else(none)
    }
}

pub(super) fn parse(url: &SecretString) -> Result<Url, Vec<Error>> {
    let mut problems = Vec::new();
    let mut parsed = Url::default();
    let text = url.expose_secret();
    let Some(rest) = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://")) else {
        return Err(vec![problem("url does not begin with postgres://")]);
    };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    // Else the rest of a password that holds a slash would be taken for a database, and shown.
    if database.contains(['@', '/']) {
        return Err(vec![problem("url: a '/', '@' or ':' in user, password or database is not escaped")]);
    }
    let (login, place) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = login.split_once(':').map_or((login, None), |(user, word)| (user, Some(word)));

    let mut decode = |part: &str, what: &str| {
        percent_decoded(part).unwrap_or_else(|| {
            problems.push(problem(&format!("url: the {what} is not percent-encoded UTF-8")));
            String::from("?")
        })
    };
    parsed.user = decode(user, "user");
    parsed.database = decode(database, "database");
    parsed.password = password.map(|word| decode(word, "password").into());
    let places: Vec<_> = place.split(',').map(split_port).collect();
    let hosts: Vec<_> = places.iter().map(|(host, port)| (decode(host, "host"), *port)).collect();
    parsed.servers = hosts.into_iter().map(|(host, port)| server(host, port, &mut problems)).collect();

    if parsed.user.is_empty() {
        problems.push(problem("url names no user"));
    }
    if parsed.database.is_empty() {
        problems.push(problem("url names no database"));
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        if let Err(what) = parameter(&mut parsed, pair) {
            problems.push(problem(what));
        }
    }
    if problems.is_empty() { Ok(parsed) } else { Err(problems) }
}

/// One `host:port` by itself.
pub(super) fn place(text: &str) -> Option<Server> {
    let (host, port) = split_port(text);
    let mut problems = Vec::new();
    let server = server(host.to_owned(), port, &mut problems);
    problems.is_empty().then_some(server)
}

fn server(host: String, port: Option<&str>, problems: &mut Vec<Error>) -> Server {
    if host.is_empty() {
        problems.push(problem("url names no host"));
    }
    let port = match port.map(str::parse::<u16>) {
        None => DEFAULT_PORT,
        Some(Ok(port)) if port != 0 => port,
        Some(_) => {
            problems.push(problem("url: the port is not a number from 1 to 65535"));
            DEFAULT_PORT
        }
    };
    let host = if host.starts_with('/') { Host::Unix(host.into()) } else { Host::Tcp(host) };
    Server { host, port }
}

fn problem(what: &str) -> Error {
    Error::config(format!("[source.postgres] {what}"))
        .hint("write url = \"postgres://user@host:5432/database\" and the password in its own key")
}

/// Host and port; an IPv6 address stands in brackets.
fn split_port(place: &str) -> (&str, Option<&str>) {
    if let Some((host, rest)) = place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        // What follows the bracket without a colon is no port, and is answered as such.
        return (host, (!rest.is_empty()).then(|| rest.strip_prefix(':').unwrap_or("")));
    }
    place.rsplit_once(':').map_or((place, None), |(host, port)| (host, Some(port)))
}

fn parameter(url: &mut Url, pair: &str) -> Result<(), &'static str> {
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    let value = percent_decoded(value).ok_or("url: a parameter is not percent-encoded UTF-8")?;
    match key {
        "sslmode" => {
            url.sslmode = Some(match value.as_str() {
                "disable" => SslMode::Disable,
                "prefer" => SslMode::Prefer,
                "require" => SslMode::Require,
                "verify-ca" => SslMode::VerifyCa,
                "verify-full" => SslMode::VerifyFull,
                _ => return Err("url: sslmode is none of disable, prefer, require, verify-ca, verify-full"),
            });
        }
        "target_session_attrs" => {
            url.target = match value.as_str() {
                "any" => Target::Any,
                "read-write" => Target::ReadWrite,
                "primary" => Target::Primary,
                "standby" => Target::Standby,
                _ => return Err("url: target_session_attrs is none of any, read-write, primary, standby"),
            };
        }
        "channel_binding" => {
            url.channel_binding = Some(match value.as_str() {
                "disable" => ChannelBinding::Disable,
                "prefer" => ChannelBinding::Prefer,
                "require" => ChannelBinding::Require,
                _ => return Err("url: channel_binding is none of disable, prefer, require"),
            });
        }
        "sslrootcert" => url.sslrootcert = Some(value.into()),
        "sslcert" => url.sslcert = Some(value.into()),
        "sslkey" => url.sslkey = Some(value.into()),
        "connect_timeout" => {
            let seconds = value.parse().map_err(|_| "url: connect_timeout is not a number of seconds")?;
            url.connect_timeout_s = Some(seconds);
        }
        // Not named: behind an unencoded `?` of a password it is a part of that.
        _ => {
            return Err(
                "url: a parameter is none of sslmode, channel_binding, sslrootcert, sslcert, sslkey, \
                 connect_timeout, target_session_attrs",
            );
        }
    }
    Ok(())
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = match (first, tail) {
            (b'%', [high, low, tail @ ..]) => {
                let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
                bytes.push(digit(*high)? << 4 | digit(*low)?);
                tail
            }
            (b'%', _) => return None,
            (byte, tail) => {
                bytes.push(*byte);
                tail
            }
        };
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}
