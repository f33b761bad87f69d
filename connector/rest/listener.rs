//! As many connections as there is any use for, and none that is held for nothing: neither by one that asks
//! nothing nor by one that asks and asks and does not take the answers.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

use super::peer::Work;

/// Probes, Prometheus, a dashboard or two and some people; more wait until one of these is through.
const CONNECTIONS_MAX: usize = 64;
/// A connection that asks nothing for so long gives its place to one that does. Prometheus opens another one.
const IDLE_MAX: Duration = Duration::from_secs(30);

pub struct Capped {
    listener: TcpListener,
    places: Arc<Semaphore>,
}

impl Capped {
    pub fn new(listener: TcpListener) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(CONNECTIONS_MAX)) }
    }
}

impl Listener for Capped {
    type Io = Held;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Held, SocketAddr) {
        // `Err` would mean that the semaphore was closed, which nobody does.
        let place = self.places.clone().acquire_owned().await.ok();
        let (stream, address) = Listener::accept(&mut self.listener).await;
        let idle = Box::pin(sleep(IDLE_MAX));
        (Held { stream, idle, work: Work::default(), _place: place }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection in its place.
pub struct Held {
    stream: TcpStream,
    idle: Pin<Box<Sleep>>,
    work: Work,
    _place: Option<OwnedSemaphorePermit>,
}

impl Held {
    /// What is done for it.
    pub fn work(&self) -> &Work {
        &self.work
    }

    /// Bytes went, or it waits for some: `Err` once it has waited for too long. It is us for whom it waits where
    /// something is done for it; then the time begins anew.
    fn moved(&mut self, is_ready: bool, cx: &mut Context<'_>) -> io::Result<()> {
        if is_ready {
            self.idle.as_mut().reset(Instant::now() + IDLE_MAX);
        } else if self.idle.as_mut().poll(cx).is_ready() {
            if !self.work.is_under_way() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.idle.as_mut().reset(Instant::now() + IDLE_MAX);
            // So that it wakes us again.
            let _ = self.idle.as_mut().poll(cx);
        }
        Ok(())
    }
}

impl AsyncRead for Held {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        match self.moved(read.is_ready(), cx) {
            Ok(()) => read,
            Err(gone) => Poll::Ready(Err(gone)),
        }
    }
}

impl AsyncWrite for Held {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, data);
        match self.moved(written.is_ready(), cx) {
            Ok(()) => written,
            Err(gone) => Poll::Ready(Err(gone)),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_asks_nothing_gives_its_place_to_one_that_waits() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut capped = Capped::new(listener);
        let (mut clients, mut held) = (Vec::new(), Vec::new());
        for _ in 0..CONNECTIONS_MAX {
            clients.push(TcpStream::connect(address).await.unwrap());
            held.push(capped.accept().await.0);
        }
        let mut one_more = TcpStream::connect(address).await.unwrap();
        assert!(timeout(IDLE_MAX / 2, capped.accept()).await.is_err(), "one too many was let in");

        let mut idle = held.pop().unwrap();
        let gone = idle.read_u8().await.unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::TimedOut);
        drop(idle);
        let (mut served, _) = capped.accept().await;
        one_more.write_all(b"x").await.unwrap();
        assert_eq!(served.read_u8().await.unwrap(), b'x');
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_for_which_something_is_done_is_kept_however_long_that_takes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut capped = Capped::new(listener);
        let _client = TcpStream::connect(address).await.unwrap();
        let (mut held, _) = capped.accept().await;
        let begun = held.work().begin();
        assert!(timeout(IDLE_MAX * 4, held.read_u8()).await.is_err(), "it was cut");
        drop(begun);
        let gone = timeout(IDLE_MAX * 2, held.read_u8()).await.expect("it is held for ever");
        assert_eq!(gone.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_does_not_take_its_answers_gives_its_place_back() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut capped = Capped::new(listener);
        let _client = TcpStream::connect(address).await.unwrap();
        let (mut held, _) = capped.accept().await;
        let answers = async {
            loop {
                if let Err(gone) = held.write_all(&[0; 65_536]).await {
                    return gone;
                }
            }
        };
        let gone = timeout(IDLE_MAX * 2, answers).await.expect("it is held for ever");
        assert_eq!(gone.kind(), io::ErrorKind::TimedOut);
    }
}
