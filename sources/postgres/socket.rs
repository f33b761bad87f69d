//! The socket of a replication connection: TCP, TLS over TCP, or a local one. Start at `Socket::open`.
//!
//! It is opened and authenticated asynchronously, and `apart` then gives it to the thread that reads it.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use millrace_core::error::{Error, Result};
use pgwire_replication::protocol::framing::write_ssl_request;
use rustls::ClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use sha2::{Digest, Sha256, Sha384, Sha512};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::{Host, Settings, SslMode};
use crate::{errors, tls};

/// A peer that vanished without a word is noticed after 10 + 3 x 5 s.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_EACH: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;

pub enum Socket {
    Local(UnixStream),
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket {
    /// Connects to the server that `settings` names, with TLS as its `sslmode` asks for.
    pub async fn open(settings: &Settings) -> Result<Self> {
        let unreachable = |error: io::Error| {
            Error::transient(format!("cannot reach postgres at {}", settings.place()))
                .hint("is the server running, and are host and port in source.postgres.url right?")
                .source(error)
        };
        match &settings.server.host {
            Host::Unix(directory) => {
                let path = directory.join(format!(".s.PGSQL.{}", settings.server.port));
                UnixStream::connect(path).await.map(Self::Local).map_err(unreachable)
            }
            Host::Tcp(host) => {
                let address = (host.as_str(), settings.server.port);
                let tcp = TcpStream::connect(address).await.map_err(unreachable)?;
                prepare(&tcp).map_err(unreachable)?;
                upgraded(tcp, host, settings).await
            }
        }
    }

    /// What can tie a password to this TLS session, so that nobody in the middle can pass it on.
    pub fn server_end_point(&self) -> Option<Vec<u8>> {
        let Self::Tls(stream) = self else { return None };
        server_end_point(stream.get_ref().1.peer_certificates()?.first()?)
    }

    /// The bare socket, non-blocking, and the TLS session over it.
    pub fn apart(self) -> io::Result<(socket2::Socket, Option<ClientConnection>)> {
        let (socket, session) = match self {
            Self::Local(stream) => (OwnedFd::from(stream.into_std()?), None),
            Self::Plain(stream) => (OwnedFd::from(stream.into_std()?), None),
            Self::Tls(stream) => {
                let (stream, session) = stream.into_inner();
                (OwnedFd::from(stream.into_std()?), Some(session))
            }
        };
        Ok((socket.into(), session))
    }
}

fn prepare(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_EACH)
        .with_retries(KEEPALIVE_PROBES);
    SockRef::from(tcp).set_tcp_keepalive(&keepalive)
}

async fn upgraded(mut tcp: TcpStream, host: &str, settings: &Settings) -> Result<Socket> {
    let Some(config) = tls::client_config(&settings.tls)? else { return Ok(Socket::Plain(tcp)) };
    let broke = |error: io::Error| {
        Error::transient(format!("the connection to postgres {} broke", settings.place())).source(error)
    };
    write_ssl_request(&mut tcp).await.map_err(|error| broke(io::Error::other(error)))?;
    let answer = tcp.read_u8().await.map_err(broke)?;
    if answer != b'S' {
        return match settings.tls.mode {
            SslMode::Prefer => Ok(Socket::Plain(tcp)),
            SslMode::Disable | SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => {
                Err(Error::config(format!("postgres at {} offers no TLS", settings.place()))
                    .hint(errors::NO_TLS_HINT))
            }
        };
    }
    let name = ServerName::try_from(host.to_owned()).map_err(|error| {
        Error::config(format!("{host} is no name that a certificate can be made out to")).source(error)
    })?;
    match TlsConnector::from(Arc::new(config)).connect(name, tcp).await {
        Ok(stream) => Ok(Socket::Tls(Box::new(stream))),
        Err(error) => {
            Err(errors::tls(&settings.tls, format!("TLS with postgres {} failed", settings.place()), error))
        }
    }
}

/// `tls-server-end-point` of RFC 5929: the certificate, hashed as its signature is; SHA-256 for older ones.
/// `None` where the signature has no hash of its own (Ed25519): the server has no binding to offer then.
fn server_end_point(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let der: &[u8] = certificate;
    let (_, body, _) = der_value(der)?;
    let (_, _, after_signed_part) = der_value(body)?;
    let (_, algorithm, _) = der_value(after_signed_part)?;
    let (_, oid, _) = der_value(algorithm)?;
    match oid {
        // PKCS #1: 1.2.840.113549.1.1.x; ECDSA with SHA-2: 1.2.840.10045.4.3.x
        [42, 134, 72, 134, 247, 13, 1, 1, 5 | 4 | 11] | [42, 134, 72, 206, 61, 4, 3, 2] => {
            Some(Sha256::digest(der).to_vec())
        }
        [42, 134, 72, 134, 247, 13, 1, 1, 12] | [42, 134, 72, 206, 61, 4, 3, 3] => {
            Some(Sha384::digest(der).to_vec())
        }
        [42, 134, 72, 134, 247, 13, 1, 1, 13] | [42, 134, 72, 206, 61, 4, 3, 4] => {
            Some(Sha512::digest(der).to_vec())
        }
        _ => None,
    }
}

/// Tag, value and what follows of the first DER element.
fn der_value(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let ([tag, first], rest) = bytes.split_first_chunk::<2>()?;
    let (length, rest) = match first {
        0..=127 => (usize::from(*first), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    let (value, rest) = rest.split_at_checked(length)?;
    Some((*tag, value, rest))
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Local(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Local(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Local(stream) => Pin::new(stream).poll_flush(cx),
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Local(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_hashed_as_its_signature_says() {
        let signed_with = |oid: &[u8]| {
            let algorithm = [&[0x30, oid.len() as u8 + 2, 0x06, oid.len() as u8], oid].concat();
            let body = [&[0x30, 1, 7][..], &algorithm].concat();
            CertificateDer::from([&[0x30, body.len() as u8][..], &body].concat())
        };
        let length = |oid: &[u8]| server_end_point(&signed_with(oid)).map(|hash| hash.len());
        assert_eq!(length(&[42, 134, 72, 134, 247, 13, 1, 1, 11]), Some(32));
        assert_eq!(length(&[42, 134, 72, 206, 61, 4, 3, 3]), Some(48));
        assert_eq!(length(&[42, 134, 72, 134, 247, 13, 1, 1, 13]), Some(64));
        assert_eq!(length(&[43, 101, 112]), None, "Ed25519");
        assert_eq!(server_end_point(&CertificateDer::from(vec![0x30, 0x82, 1])), None);
    }
}
