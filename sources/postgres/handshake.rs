//! Opens a replication connection: TLS, authentication, the commands before the stream.
//!
//! Async, over pgwire-replication's modules; `Handshake::start_replication` ends it and gives the socket to
//! `wire`, which reads it from a plain thread.

use std::time::Duration;

use millrace_core::error::{Error, Result};
use millrace_core::progress::State;
use pgwire_replication::PgWireError;
use pgwire_replication::protocol::framing::{
    BackendMessage, read_backend_message, write_password_message, write_query, write_startup_message,
};
use pgwire_replication::protocol::messages::{ErrorFields, auth, parse_auth_request};
use postgres_protocol::authentication::sasl::{
    ChannelBinding as Binding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use secrecy::ExposeSecret;
use tokio_postgres::error::SqlState;

use crate::config::{ChannelBinding, Settings};
use crate::errors;
use crate::lsn::Lsn;
use crate::socket::Socket;
use crate::wire::Wire;

/// Protocol 3.0.
const PROTOCOL_VERSION: i32 = 196_608;

/// Above the server's own `authentication_timeout` of 60 s there is nothing to wait for.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// A replication connection before the stream begins.
pub struct Handshake {
    stream: Socket,
    /// The server process behind it: the walsender to be.
    pub backend_pid: i32,
    /// `user@host:port/database`, for messages.
    peer: String,
    /// The password was tied to the TLS session.
    is_bound: bool,
    /// The SQLSTATE with which the server answered last, if it refused.
    refusal: Option<String>,
}

/// One row of a simple query's answer.
pub type TextRow = Vec<Option<String>>;

impl Handshake {
    pub async fn connect(settings: &Settings, application: &str) -> Result<Self> {
        within(&settings.place(), Self::connect_now(settings, application)).await
    }

    async fn connect_now(settings: &Settings, application: &str) -> Result<Self> {
        let stream = Socket::open(settings).await?;
        let (peer, backend_pid) = (settings.place(), 0);
        let mut handshake = Self { stream, backend_pid, peer, is_bound: false, refusal: None };
        match handshake.authenticate(settings, application).await {
            Ok(()) => Ok(handshake),
            Err(error) => Err(match &handshake.refusal {
                Some(sqlstate) => errors::at_the_door(settings, error, sqlstate),
                None => error,
            }),
        }
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
            // See `notice`.
            ("client_min_messages", "warning"),
            ("DateStyle", "ISO"),
            ("IntervalStyle", "postgres"),
            ("TimeZone", "UTC"),
            ("bytea_output", "hex"),
            ("extra_float_digits", "3"),
            ("lc_monetary", "C"),
        ];
        let written = write_startup_message(&mut self.stream, PROTOCOL_VERSION, &parameters).await;
        written.map_err(|error| from_pgwire(&self.peer, error))?;
        let password = settings.present_password()?;
        let password = password.as_ref().map(ExposeSecret::expose_secret).unwrap_or_default();
        loop {
            let message = self.read().await?;
            match message.tag {
                b'R' => self.answer(settings, password, &message).await?,
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

    async fn answer(&mut self, settings: &Settings, password: &str, message: &BackendMessage) -> Result<()> {
        let (code, data) =
            parse_auth_request(&message.payload).map_err(|error| from_pgwire(&self.peer, error))?;
        let must_bind = settings.channel_binding == ChannelBinding::Require && !self.is_bound;
        match code {
            auth::SASL => self.scram(settings.channel_binding, password, data).await,
            _ if must_bind => Err(unbound(&self.peer)),
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
            other => Err(Error::config(format!(
                "postgres at {} asks for authentication method {other}, which is not supported",
                self.peer
            ))
            .hint("use scram-sha-256, md5, password, trust or cert in pg_hba.conf for this role")),
        }
    }

    async fn scram(&mut self, wanted: ChannelBinding, password: &str, mechanisms: &[u8]) -> Result<()> {
        let offers = |wanted: &str| mechanisms.split(|byte| *byte == 0).any(|name| name == wanted.as_bytes());
        let end_point = self.stream.server_end_point().filter(|_| wanted != ChannelBinding::Disable);
        let (mechanism, binding) = match end_point {
            Some(end_point) if offers(SCRAM_SHA_256_PLUS) => {
                self.is_bound = true;
                (SCRAM_SHA_256_PLUS, Binding::tls_server_end_point(end_point))
            }
            _ if wanted == ChannelBinding::Require => return Err(unbound(&self.peer)),
            // Tells the server that we would have: it breaks off if somebody took its offer out.
            Some(_) => (SCRAM_SHA_256, Binding::unrequested()),
            None => (SCRAM_SHA_256, Binding::unsupported()),
        };
        if !offers(mechanism) {
            return Err(Error::config(format!("postgres at {} does not offer SCRAM-SHA-256", self.peer))
                .hint("set password_encryption = 'scram-sha-256' and the role's password anew"));
        }
        let failed = |peer: &str, error: std::io::Error| {
            Error::config(format!("authentication at postgres {peer} failed"))
                .hint("check user and password in source.postgres, and pg_hba.conf")
                .source(error)
        };
        let mut scram = ScramSha256::new(password.as_bytes(), binding);
        let first = scram.message();
        let length = u32::try_from(first.len()).unwrap_or(u32::MAX).to_be_bytes();
        self.password(&[mechanism.as_bytes(), b"\0", &length[..], first].concat()).await?;
        let challenge = self.read_auth(auth::SASL_CONTINUE).await?;
        scram.update(&challenge).map_err(|error| failed(&self.peer, error))?;
        self.password(scram.message()).await?;
        let proof = self.read_auth(auth::SASL_FINAL).await?;
        scram.finish(&proof).map_err(|error| failed(&self.peer, error))
    }

    async fn read_auth(&mut self, expected: i32) -> Result<Vec<u8>> {
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
        Ok(data.to_vec())
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
        let (socket, session) = self.stream.apart().map_err(broken)?;
        Ok(Wire::new(socket, session, self.peer))
    }

    /// The next message that is not an error.
    async fn read(&mut self) -> Result<BackendMessage> {
        let message =
            read_backend_message(&mut self.stream).await.map_err(|error| from_pgwire(&self.peer, error))?;
        if message.tag == b'E' {
            self.refusal = ErrorFields::parse(&message.payload).code;
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

fn unbound(peer: &str) -> Error {
    Error::config(format!("postgres at {peer} does not tie the login to its TLS session, and channel_binding is require"))
        .hint(
            "use hostssl and scram-sha-256 for this role in pg_hba.conf, and a certificate that is signed with RSA or \
             ECDSA; a pooler in between cannot have it: then channel_binding = \"prefer\"",
        )
}

/// A server, or a pooler before it, that accepts and then says nothing must not hold up an attempt for ever.
async fn within<T>(peer: &str, step: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(HANDSHAKE_TIMEOUT, step).await.unwrap_or_else(|_| {
        let seconds = HANDSHAKE_TIMEOUT.as_secs();
        Err(Error::transient(format!("postgres at {peer} did not answer within {seconds} s")))
    })
}

/// An ErrorResponse, classified by its SQLSTATE.
pub fn server_error(peer: &str, payload: &[u8]) -> Error {
    let fields = ErrorFields::parse(payload);
    let code = fields.code.unwrap_or_default();
    let message = fields.message.unwrap_or_default();
    let error = Error::new(errors::kind_of(&code), format!("postgres at {peer} refused"))
        .source(format!("{message} (SQLSTATE {code})"));
    if code == SqlState::UNDEFINED_OBJECT.code() { unpublished(error) } else { error }
}

/// A NoticeResponse in the stream. A publication that is not there makes Postgres 18 leave out its changes with a
/// warning, where older ones refuse to go on.
pub fn notice(peer: &str, payload: &[u8]) -> Result<()> {
    let fields = ErrorFields::parse(payload);
    let code = fields.code.unwrap_or_default();
    if code != SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE.code() {
        return Ok(());
    }
    let message = fields.message.unwrap_or_default();
    let detail = fields.detail.map(|detail| format!("; {detail}")).unwrap_or_default();
    let what = format!("postgres at {peer} leaves out what was written while the publication did not exist");
    Err(unpublished(Error::config(what).source(format!("{message}{detail} (SQLSTATE {code})"))))
}

fn unpublished(error: Error) -> Error {
    error
        .hint(
            "old log is read with the catalog of its time: what was written while the publication did not exist \
             (it was made after the slot, or dropped and made anew) cannot be sent; go on from now with \
             `millrace position <file> set --to <SELECT pg_current_wal_lsn()> --yes`, or start anew with \
             `millrace position <file> reset --yes`, and compare the tables with their topics",
        )
        .state(State::PositionLost)
}

fn from_pgwire(peer: &str, error: PgWireError) -> Error {
    match error {
        PgWireError::Auth(_) => Error::config(format!("authentication at postgres {peer} failed"))
            .hint("check user and password in source.postgres, and pg_hba.conf")
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
