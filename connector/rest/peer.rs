//! Who is on the other end of a connection, and whether it waits for an answer: then it is not idle. Start at `waiting`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;
use axum::serve::IncomingStream;

use super::listener::Capped;
use super::refusal;

/// More than any signal; of what is larger nothing is done.
const BODY_BYTES_MAX: usize = 1 << 20;

/// Who asks, over which connection.
#[derive(Clone, Debug)]
pub struct Peer {
    pub address: SocketAddr,
    work: Work,
}

impl Connected<IncomingStream<'_, Capped>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Capped>) -> Self {
        Self { address: *stream.remote_addr(), work: stream.io().work().clone() }
    }
}

impl Peer {
    /// `None`: nobody knows, which is so in tests only.
    pub fn of(request: &Request) -> Option<&Self> {
        request.extensions().get::<ConnectInfo<Self>>().map(|ConnectInfo(peer)| peer)
    }
}

/// Requests of a connection that are at work.
#[derive(Clone, Debug, Default)]
pub struct Work(Arc<AtomicUsize>);

impl Work {
    pub fn begin(&self) -> Begun {
        self.0.fetch_add(1, Ordering::Relaxed);
        Begun(self.clone())
    }

    pub fn is_under_way(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

/// Ends when it is dropped.
#[must_use]
#[derive(Debug)]
pub struct Begun(Work);

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Takes the whole request before it is work: whoever sends slowly is as idle as one who sends nothing.
pub async fn waiting(request: Request, next: Next) -> Response {
    let work = Peer::of(&request).map(|peer| peer.work.clone());
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, BODY_BYTES_MAX).await else {
        return refusal(StatusCode::PAYLOAD_TOO_LARGE, "more is sent than a connector can be asked for");
    };
    let _begun = work.as_ref().map(Work::begin);
    next.run(Request::from_parts(parts, Body::from(body))).await
}
