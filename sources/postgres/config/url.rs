//! The connection url: `postgres://user:password@host:port/database?sslmode=...`. Nothing of it is ever
//! repeated in a message, because it may hold the password.

use std::fmt;
use std::path::PathBuf;

use millrace_core::error::Error;
use secrecy::{ExposeSecret, SecretString};

use super::SslMode;

const DEFAULT_PORT: u16 = 5432;

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

#[derive(Debug)]
pub(super) struct Url {
    pub host: Host,
    pub port: u16,
    pub user: String,
    pub database: String,
    pub password: Option<SecretString>,
    pub sslmode: Option<SslMode>,
    pub sslrootcert: Option<PathBuf>,
    pub sslcert: Option<PathBuf>,
    pub sslkey: Option<PathBuf>,
    pub connect_timeout_s: Option<u64>,
}

impl Default for Url {
    fn default() -> Self {
        Self {
            host: Host::Tcp(String::new()),
            port: DEFAULT_PORT,
            user: String::new(),
            database: String::new(),
            password: None,
            sslmode: None,
            sslrootcert: None,
            sslcert: None,
            sslkey: None,
            connect_timeout_s: None,
        }
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
    let (host, port) = split_port(place);
    let host = decode(host, "host");

    if host.is_empty() {
        problems.push(problem("url names no host"));
    }
    if place.contains(',') {
        problems.push(problem("url names more than one host"));
    }
    if parsed.user.is_empty() {
        problems.push(problem("url names no user"));
    }
    if parsed.database.is_empty() {
        problems.push(problem("url names no database"));
    }
    match port.map(str::parse::<u16>) {
        None => {}
        Some(Ok(port)) if port != 0 => parsed.port = port,
        Some(_) => problems.push(problem("url: the port is not a number from 1 to 65535")),
    }
    parsed.host = if host.starts_with('/') { Host::Unix(host.into()) } else { Host::Tcp(host) };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        if let Err(what) = parameter(&mut parsed, pair) {
            problems.push(problem(what));
        }
    }
    if problems.is_empty() { Ok(parsed) } else { Err(problems) }
}

fn problem(what: &str) -> Error {
    Error::config(format!("[source.postgres] {what}"))
        .hint("write url = \"postgres://user@host:5432/database\" and the password in its own key")
}

/// Host and port; an IPv6 address stands in brackets.
fn split_port(place: &str) -> (&str, Option<&str>) {
    if let Some((host, rest)) = place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (host, rest.strip_prefix(':'));
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
        "sslrootcert" => url.sslrootcert = Some(value.into()),
        "sslcert" => url.sslcert = Some(value.into()),
        "sslkey" => url.sslkey = Some(value.into()),
        "connect_timeout" => {
            let seconds = value.parse().map_err(|_| "url: connect_timeout is not a number of seconds")?;
            url.connect_timeout_s = Some(seconds);
        }
        // Not named: behind an unencoded `?` of a password it is a part of that.
        _ => {
            return Err("url: a parameter is none of sslmode, sslrootcert, sslcert, sslkey, connect_timeout");
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
