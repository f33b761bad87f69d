//! A TCP proxy between the daemon and one server: it cuts, resets, half-opens, delays and slows, and never
//! reorders. Start at [`Proxy::start`]; one connection's bytes go through `pump`, and what it knows of
//! Kafka's requests, to hold the end of a transaction back, lies in `kafka`.

mod kafka;
mod pump;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::Result;
pub use kafka::{Ends, Lateness};
use pump::Ended;

/// What the link does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Pass,
    /// Every connection is closed, and every new one at once.
    Cut,
    /// As `Cut`, with a reset instead of an orderly close.
    Reset,
    /// Connections stand, and nothing goes through them. When this ends they are reset: whoever lay in
    /// between has forgotten them.
    HalfOpen,
    /// Every byte arrives so much later.
    Delay(Duration),
    /// So many bytes a second in each direction of each connection.
    Slow(u32),
    /// Every request is answered by this text and the connection closed; for HTTP.
    Answer(&'static str),
}

pub struct Proxy {
    port: u16,
    link: Arc<Link>,
    /// Accepts; its connections go with it.
    _task: JoinSet<()>,
}

/// What all connections of a proxy share.
struct Link {
    mode: watch::Sender<Mode>,
    upstream: AtomicU16,
    ends: Option<Ends>,
    connections: AtomicU64,
}

impl Proxy {
    /// Before the server on `upstream`, on a port that is free.
    pub async fn start(upstream: u16) -> Result<Proxy> {
        Proxy::listen(0, upstream, None).await
    }

    /// Before a broker that advertises `port` to its clients: they come back by it.
    pub async fn before_broker(port: u16, upstream: u16) -> Result<Proxy> {
        Proxy::listen(port, upstream, Some(Ends::default())).await
    }

    async fn listen(port: u16, upstream: u16, ends: Option<Ends>) -> Result<Proxy> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::from(([127, 0, 0, 1], port)))?;
        let listener = socket.listen(256)?;
        let port = listener.local_addr()?.port();
        let link = Arc::new(Link {
            mode: watch::Sender::new(Mode::Pass),
            upstream: AtomicU16::new(upstream),
            ends,
            connections: AtomicU64::new(0),
        });
        let mut task = JoinSet::new();
        task.spawn(accept(listener, link.clone()));
        Ok(Proxy { port, link, _task: task })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn set(&self, mode: Mode) {
        self.link.mode.send_replace(mode);
    }

    /// Closes the connections that there are; new ones pass.
    pub fn drop_connections(&self, how: Mode) {
        self.set(how);
        self.set(Mode::Pass);
    }

    /// Another server from now on, for new connections.
    pub fn lead_to(&self, upstream: u16) {
        self.link.upstream.store(upstream, Ordering::Relaxed);
    }

    /// How many connections there have been.
    pub fn connections(&self) -> u64 {
        self.link.connections.load(Ordering::Relaxed)
    }

    /// What is to happen to the ends of Kafka transactions; `None` before another server.
    pub fn ends(&self) -> Option<&Ends> {
        self.link.ends.as_ref()
    }
}

async fn accept(listener: TcpListener, link: Arc<Link>) {
    let mut connections = JoinSet::new();
    loop {
        // A connection that was gone before it was accepted is none.
        let Ok((client, _)) = listener.accept().await else { continue };
        link.connections.fetch_add(1, Ordering::Relaxed);
        connections.spawn(serve(client, link.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(mut client: TcpStream, link: Arc<Link>) {
    // Subscribed first, so that no change is missed.
    let mut mode = link.mode.subscribe();
    let now = *mode.borrow_and_update();
    match now {
        Mode::Cut => return,
        Mode::Reset => return reset(&client),
        Mode::Answer(text) => return pump::answer(client, text).await,
        Mode::HalfOpen => {
            let _ = mode.wait_for(|mode| *mode != Mode::HalfOpen).await;
            return reset(&client);
        }
        Mode::Pass | Mode::Delay(_) | Mode::Slow(_) => {}
    }
    let upstream = link.upstream.load(Ordering::Relaxed);
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", upstream)).await else { return };
    // Either side may go at any time, and with it the other.
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let ended = pump::both(&mut client, &mut server, &mut mode, link.ends.as_ref()).await;
    match (ended, &link.ends) {
        (Ended::Now(End::Reset), _) => {
            reset(&client);
            reset(&server);
        }
        (Ended::Held(request), Some(ends)) => {
            drop(client);
            ends.deliver(&request, server).await;
        }
        (Ended::Now(End::Closed) | Ended::Held(_), _) => {}
    }
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Closed,
    Reset,
}

/// The close that follows is a reset.
fn reset(stream: &TcpStream) {
    // Only a socket that is gone already refuses.
    let _: io::Result<()> =
        rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO)).map_err(Into::into);
}
