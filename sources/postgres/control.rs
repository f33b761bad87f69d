//! The query connection, beside the replication connection: catalog, slot, publication, heartbeat.
//! Start at `connect`.

use std::time::Duration;

use millrace_core::error::{Error, Kind, Result};
use secrecy::ExposeSecret;
use tokio::task::JoinHandle;
use tokio_postgres::config::{ChannelBinding as Binding, SslMode as Demand};
use tokio_postgres::{Client, Connection, NoTls, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::{ChannelBinding, Host, Server, Settings, SslMode, Target};
use crate::{errors, tls};

/// A dead peer is noticed after 30 + 3 * 10 seconds of silence, and after 30 with data under way.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(30);

/// Fixes what text looks like, so that a default reads as a value does, and bounds every wait for a lock.
const OPTIONS: &str = "-c datestyle=ISO -c intervalstyle=postgres -c timezone=UTC -c extra_float_digits=3 \
     -c statement_timeout=90s -c lock_timeout=60s \
     -c idle_in_transaction_session_timeout=90s";

/// Our own queries find nothing by the role's search path, and names come with their schema.
pub const OWN_PATH: &str = "SET search_path = pg_catalog";

/// For what users write, and for values: the stream prints names as the role's search path has them. Until the
/// transaction ends.
pub const PATH_OF_ROLE: &str = "SET LOCAL search_path TO DEFAULT";

/// An open session. It ends when the client is dropped.
#[derive(Debug)]
pub struct Control {
    pub client: Client,
    /// Which of the servers it is with.
    pub server: Server,
    /// Resolves when the connection ends, with the reason, if it was not us.
    pub ended: JoinHandle<Result<()>>,
}

/// Opens a query connection to the first server that answers and is of the kind that `url` asks for, within
/// `connect_timeout` each.
pub async fn connect(settings: &Settings) -> Result<Control> {
    let mut failure = None;
    for server in &settings.servers {
        let settings = Settings { server: server.clone(), ..settings.clone() };
        let opened = match connect_to(&settings).await {
            Ok(control) => suits(control, &settings).await,
            Err(error) => Err(error),
        };
        match opened {
            // As in libpq: a server that answers and refuses has the last word.
            Err(error) if error.kind() == Kind::Transient => failure = Some(error),
            settled => return settled,
        }
    }
    Err(failure.unwrap_or_else(|| Error::config("url names no host")))
}

/// Refuses a server that is not of the kind that `target_session_attrs` asks for.
async fn suits(control: Control, settings: &Settings) -> Result<Control> {
    if settings.target == Target::Any {
        return Ok(control);
    }
    let what = "cannot tell a primary from a standby";
    let sql = "SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'";
    let row = control.client.query_one(sql, &[]).await.map_err(|error| errors::query(what, error))?;
    let column = |index| row.try_get(index).map_err(|error| errors::query(what, error));
    if settings.target.accepts(column(0)?, column(1)?) {
        return Ok(control);
    }
    Err(Error::transient(format!("postgres at {} is not {}", settings.place(), settings.target))
        .hint("a failover may be under way: it is tried again; else correct target_session_attrs in url"))
}

async fn connect_to(settings: &Settings) -> Result<Control> {
    let config = client_config(settings)?;
    let server = settings.server.clone();
    let opening = async {
        let control = match tls::client_config(&settings.tls)? {
            None => {
                let opened = config.connect(NoTls).await;
                let (client, connection) = opened.map_err(|error| errors::connection(settings, error))?;
                Control { client, server, ended: drive(settings, connection) }
            }
            Some(tls) => {
                let opened = config.connect(MakeRustlsConnect::new(tls)).await;
                let (client, connection) = opened.map_err(|error| errors::connection(settings, error))?;
                Control { client, server, ended: drive(settings, connection) }
            }
        };
        let prepared = control.client.batch_execute(OWN_PATH).await;
        prepared.map_err(|error| errors::query("cannot prepare the connection", error))?;
        Ok(control)
    };
    tokio::time::timeout(settings.connect_timeout, opening).await.unwrap_or_else(|_| {
        let seconds = settings.connect_timeout.as_secs();
        Err(Error::transient(format!("no answer from postgres at {} in {seconds} s", settings.place())))
    })
}

fn drive<T>(settings: &Settings, connection: Connection<Socket, T>) -> JoinHandle<Result<()>>
where
    Connection<Socket, T>: Future<Output = Result<(), tokio_postgres::Error>> + Send + 'static,
{
    let what = format!("the connection to postgres at {} ended", settings.place());
    tokio::spawn(async move { connection.await.map_err(|error| errors::query(what, error)) })
}

fn client_config(settings: &Settings) -> Result<tokio_postgres::Config> {
    let mut config = tokio_postgres::Config::new();
    match &settings.server.host {
        Host::Tcp(host) => config.host(host),
        Host::Unix(directory) => config.host_path(directory),
    };
    config
        .port(settings.server.port)
        .user(&settings.user)
        .dbname(&settings.database)
        .application_name(settings.application_name())
        .options(OPTIONS)
        .connect_timeout(settings.connect_timeout)
        .tcp_user_timeout(UNACKNOWLEDGED_MAX)
        .keepalives_idle(KEEPALIVE_IDLE)
        .keepalives_interval(KEEPALIVE_INTERVAL)
        .keepalives_retries(KEEPALIVE_RETRIES)
        .ssl_mode(match (settings.tls.mode, &settings.server.host) {
            // No TLS over a local socket, as in libpq.
            (SslMode::Disable, _) | (_, Host::Unix(_)) => Demand::Disable,
            (SslMode::Prefer, _) => Demand::Prefer,
            (SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull, _) => Demand::Require,
        })
        .channel_binding(match settings.channel_binding {
            ChannelBinding::Disable => Binding::Disable,
            ChannelBinding::Prefer => Binding::Prefer,
            ChannelBinding::Require => Binding::Require,
        });
    if let Some(password) = settings.present_password()? {
        config.password(password.expose_secret());
    }
    Ok(config)
}
