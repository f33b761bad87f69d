//! Opens a replication connection: TLS, authentication, the commands before the stream.
//!
//! Async, over pgwire-replication's modules; `Handshake::start_replication` ends it and gives the socket to
//! `wire`, which reads it from a plain thread.

use std::time::Duration;

use millrace_core::error::{Error, Result};
use pgwire_replication::auth::ScramClient;
use pgwire_replication::protocol::framing::{
    BackendMessage, read_backend_message, write_password_message, write_query, write_startup_message,
};
use pgwire_replication::protocol::messages::{ErrorFields, auth, parse_auth_request};
use pgwire_replication::tls::rustls::{MaybeTlsStream, maybe_upgrade_to_tls};
use pgwire_replication::{PgWireError, TlsConfig};
use secrecy::ExposeSecret;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio_postgres::error::SqlState;

use crate::config::{Host, Settings, SslMode};
use crate::errors;
use crate::lsn::Lsn;
use crate::wire::Wire;

/// Protocol 3.0.
const PROTOCOL_VERSION: i32 = 196_608;

/// A peer that vanished without a word is noticed after 10 + 3 x 5 s.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_EACH: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;

/// Above the server's own `authentication_timeout` of 60 s there is nothing to wait for.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// A replication connection before the stream begins.
pub struct Handshake {
    stream: MaybeTlsStream,
    /// The server process behind it: the walsender to be.
    pub backend_pid: i32,
    /// `user@host:port/database`, for messages.
    peer: String,
}

/// One row of a simple query's answer.
pub type TextRow = Vec<Option<String>>;

impl Handshake {
    pub async fn connect(settings: &Settings, application: &str) -> Result<Self> {
        within(&settings.place(), Self::connect_now(settings, application)).await
    }

    async fn connect_now(settings: &Settings, application: &str) -> Result<Self> {
        let peer = settings.place();
        let Host::Tcp(host) = &settings.host else {
            return Err(Error::config("a replication connection over a unix socket is not supported")
                .hint("name a host in source.postgres.url, 127.0.0.1 for this machine"));
        };
        let tcp = TcpStream::connect((host.as_str(), settings.port)).await.map_err(|error| {
            Error::transient(format!("cannot reach postgres at {peer}"))
                .hint("is the server running, and are host and port in source.postgres.url right?")
                .source(error)
        })?;
        let io = |error: std::io::Error| {
            Error::transient(format!("cannot prepare the connection to {peer}")).source(error)
        };
        tcp.set_nodelay(true).map_err(io)?;
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_EACH)
            .with_retries(KEEPALIVE_PROBES);
        SockRef::from(&tcp).set_tcp_keepalive(&keepalive).map_err(io)?;
        let stream = maybe_upgrade_to_tls(tcp, &tls(settings), host)
            .await
            .map_err(|error| from_pgwire(&peer, error))?;

        let mut handshake = Self { stream, backend_pid: 0, peer };
        handshake.authenticate(settings, application).await?;
        Ok(handshake)
    }

    async fn authenticate(&mut self, settings: &Settings, application: &str) -> Result<()> {
        // The text forms that `relation::Kind` documents are asked for here, whatever the database's
        // or the role's own settings are.
        let parameters = [
            ("user", settings.user.as_str()),
            ("database", settings.database.as_str()),
            ("replication", "database"),
            ("application_name", application),
            ("client_encoding", "UTF8"),
            ("DateStyle", "ISO"),
            ("IntervalStyle", "postgres"),
            ("TimeZone", "UTC"),
            ("bytea_output", "hex"),
            ("extra_float_digits", "3"),
        ];
        let written = write_startup_message(&mut self.stream, PROTOCOL_VERSION, &parameters).await;
        written.map_err(|error| from_pgwire(&self.peer, error))?;
        loop {
            let message = self.read().await?;
            match message.tag {
                b'R' => self.answer(settings, &message).await?,
                b'K' => {
                    let pid = message.payload.first_chunk::<4>().copied().unwrap_or_default();
                    self.backend_pid = i32::from_be_bytes(pid);
                }
                b'Z' => return Ok(()),
                b'S' | b'N' => {}
                other => return Err(self.unexpected("authentication", other)),
            }
        }
    }

    async fn answer(&mut self, settings: &Settings, message: &BackendMessage) -> Result<()> {
        let (code, data) =
            parse_auth_request(&message.payload).map_err(|error| from_pgwire(&self.peer, error))?;
        let password = settings.password.as_ref().map(|p| p.expose_secret()).unwrap_or_default();
        match code {
            auth::OK => Ok(()),
            auth::CLEARTEXT_PASSWORD => self.password(&[password.as_bytes(), b"\0"].concat()).await,
            auth::MD5_PASSWORD => {
                let salt = data.first_chunk::<4>().copied().unwrap_or_default();
                let hash = postgres_protocol::authentication::md5_hash(
                    settings.user.as_bytes(),
                    password.as_bytes(),
                    salt,
                );
                self.password(&[hash.as_bytes(), b"\0"].concat()).await
            }
            auth::SASL => self.scram(&settings.user, password, data).await,
            other => Err(Error::config(format!(
                "postgres at {} asks for authentication method {other}, which is not supported",
                self.peer
            ))
            .hint("use scram-sha-256, md5, password, trust or cert in pg_hba.conf for this role")),
        }
    }

    async fn scram(&mut self, user: &str, password: &str, mechanisms: &[u8]) -> Result<()> {
        if !mechanisms.split(|byte| *byte == 0).any(|name| name == b"SCRAM-SHA-256") {
            return Err(Error::config(format!("postgres at {} does not offer SCRAM-SHA-256", self.peer))
                .hint("set password_encryption = 'scram-sha-256' and the role's password anew"));
        }
        let scram = ScramClient::new(user);
        let first = scram.client_first.as_bytes();
        let length = u32::try_from(first.len()).unwrap_or(u32::MAX).to_be_bytes();
        self.password(&[b"SCRAM-SHA-256\0", &length[..], first].concat()).await?;

        let server_first = self.read_auth(auth::SASL_CONTINUE).await?;
        let (client_final, message, salted) =
            scram.client_final(password, &server_first).map_err(|error| from_pgwire(&self.peer, error))?;
        self.password(client_final.as_bytes()).await?;

        let server_final = self.read_auth(auth::SASL_FINAL).await?;
        ScramClient::verify_server_final(&server_final, &salted, &message)
            .map_err(|error| from_pgwire(&self.peer, error))
    }

    async fn read_auth(&mut self, expected: i32) -> Result<String> {
        let message = self.read().await?;
        if message.tag != b'R' {
            return Err(self.unexpected("authentication", message.tag));
        }
        let (code, data) =
            parse_auth_request(&message.payload).map_err(|error| from_pgwire(&self.peer, error))?;
        if code != expected {
            return Err(Error::fatal(format!(
                "postgres at {} answered authentication step {expected} with {code}",
                self.peer
            )));
        }
        Ok(String::from_utf8_lossy(data).into_owned())
    }

    async fn password(&mut self, payload: &[u8]) -> Result<()> {
        write_password_message(&mut self.stream, payload)
            .await
            .map_err(|error| from_pgwire(&self.peer, error))
    }

    /// Runs one replication command or query and gives its rows.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<TextRow>> {
        let peer = self.peer.clone();
        within(&peer, self.query_now(sql)).await
    }

    async fn query_now(&mut self, sql: &str) -> Result<Vec<TextRow>> {
        write_query(&mut self.stream, sql).await.map_err(|error| from_pgwire(&self.peer, error))?;
        let mut rows = Vec::new();
        loop {
            let message = self.read().await?;
            match message.tag {
                b'D' => rows.push(text_row(&message.payload)?),
                b'Z' => return Ok(rows),
                b'T' | b'C' | b'S' | b'N' | b'I' => {}
                other => return Err(self.unexpected(sql, other)),
            }
        }
    }

    /// Sends START_REPLICATION and, once the server streams, gives the socket away.
    pub async fn start_replication(self, slot: &str, from: Lsn, publication: &str) -> Result<Wire> {
        let peer = self.peer.clone();
        within(&peer, self.start_now(slot, from, publication)).await
    }

    async fn start_now(mut self, slot: &str, from: Lsn, publication: &str) -> Result<Wire> {
        let publication = publication.replace('"', "\"\"").replace('\'', "''");
        let sql = format!(
            "START_REPLICATION SLOT \"{slot}\" LOGICAL {from} \
             (proto_version '1', publication_names '\"{publication}\"', messages 'true')"
        );
        write_query(&mut self.stream, &sql).await.map_err(|error| from_pgwire(&self.peer, error))?;
        loop {
            let message = self.read().await?;
            match message.tag {
                b'W' => break,
                b'S' | b'N' => {}
                other => return Err(self.unexpected("START_REPLICATION", other)),
            }
        }
        let broken = |error: std::io::Error| {
            Error::transient("cannot hand the replication connection to its thread").source(error)
        };
        match self.stream {
            MaybeTlsStream::Plain(tcp) => Ok(Wire::new(tcp.into_std().map_err(broken)?, None, self.peer)),
            MaybeTlsStream::Tls(tls) => {
                let (tcp, session) = (*tls).into_inner();
                Ok(Wire::new(tcp.into_std().map_err(broken)?, Some(session), self.peer))
            }
        }
    }

    /// The next message that is not an error.
    async fn read(&mut self) -> Result<BackendMessage> {
        let message =
            read_backend_message(&mut self.stream).await.map_err(|error| from_pgwire(&self.peer, error))?;
        if message.tag == b'E' {
            return Err(server_error(&self.peer, &message.payload));
        }
        Ok(message)
    }

    fn unexpected(&self, during: &str, tag: u8) -> Error {
        Error::fatal(format!(
            "postgres at {} answered {during} with an unknown message '{}'",
            self.peer,
            char::from(tag)
        ))
    }
}

/// A server, or a pooler before it, that accepts and then says nothing must not hold up an attempt for ever.
async fn within<T>(peer: &str, step: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(HANDSHAKE_TIMEOUT, step).await.unwrap_or_else(|_| {
        let seconds = HANDSHAKE_TIMEOUT.as_secs();
        Err(Error::transient(format!("postgres at {peer} did not answer within {seconds} s")))
    })
}

/// The settings in the words of the module that upgrades the socket.
fn tls(settings: &Settings) -> TlsConfig {
    let (cert, key) = settings.tls.client.clone().unzip();
    TlsConfig {
        mode: match settings.tls.mode {
            SslMode::Disable => pgwire_replication::SslMode::Disable,
            SslMode::Prefer => pgwire_replication::SslMode::Prefer,
            SslMode::Require => pgwire_replication::SslMode::Require,
            SslMode::VerifyCa => pgwire_replication::SslMode::VerifyCa,
            SslMode::VerifyFull => pgwire_replication::SslMode::VerifyFull,
        },
        ca_pem_path: settings.tls.root_cert.clone(),
        sni_hostname: None,
        client_cert_pem_path: cert,
        client_key_pem_path: key,
    }
}

/// An ErrorResponse, classified by its SQLSTATE.
pub fn server_error(peer: &str, payload: &[u8]) -> Error {
    let fields = ErrorFields::parse(payload);
    let code = fields.code.unwrap_or_default();
    let message = fields.message.unwrap_or_default();
    let error = Error::new(errors::kind_of(&code), format!("postgres at {peer} refused"))
        .source(format!("{message} (SQLSTATE {code})"));
    if code != SqlState::UNDEFINED_OBJECT.code() {
        return error;
    }
    error.hint(
        "old log is read with the catalog of its time: if the publication was dropped and made anew, what was \
         written between cannot be sent; compare the tables with their topics, then start anew with \
         `millrace position <file> reset --yes`",
    )
}

fn from_pgwire(peer: &str, error: PgWireError) -> Error {
    match error {
        PgWireError::Auth(_) => Error::config(format!("authentication at postgres {peer} failed"))
            .hint("check user and password in source.postgres, and pg_hba.conf")
            .source(error),
        PgWireError::Tls(_) => Error::config(format!("TLS with postgres {peer} failed"))
            .hint("check sslmode, sslrootcert, sslcert and sslkey in source.postgres")
            .source(error),
        PgWireError::Io(_) => {
            Error::transient(format!("the connection to postgres {peer} broke")).source(error)
        }
        other => Error::fatal(format!("postgres at {peer} did not keep to the protocol")).source(other),
    }
}

/// A DataRow of text values.
fn text_row(mut payload: &[u8]) -> Result<TextRow> {
    let malformed = || Error::fatal("malformed DataRow in a replication command's answer");
    let (count, rest) = payload.split_first_chunk::<2>().ok_or_else(malformed)?;
    payload = rest;
    let mut row = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, rest) = payload.split_first_chunk::<4>().ok_or_else(malformed)?;
        payload = rest;
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            row.push(None);
            continue;
        };
        let (value, rest) = payload.split_at_checked(length).ok_or_else(malformed)?;
        payload = rest;
        row.push(Some(String::from_utf8_lossy(value).into_owned()));
    }
    Ok(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_row_gives_text_and_nulls() {
        let payload = [0, 2, 0, 0, 0, 2, b'h', b'i', 255, 255, 255, 255];
        assert_eq!(text_row(&payload).ok(), Some(vec![Some("hi".to_owned()), None]));
    }

    #[test]
    fn a_truncated_data_row_is_an_error() {
        assert!(text_row(&[0, 1, 0, 0, 0, 9, b'h']).is_err());
    }
}
