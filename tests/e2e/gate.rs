//! A gate in front of an HTTP server: open it lets connections through, failing it answers 500 by itself,
//! shut it refuses connections as a dead server does.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

pub struct Gate {
    address: SocketAddr,
    upstream: SocketAddr,
    /// Connections refused with a 500 so far.
    failed: Arc<AtomicU64>,
    /// Aborted, it takes its listener and its connections with it.
    serving: Option<JoinHandle<()>>,
}

impl Gate {
    /// A gate that is shut, on a port of its own, before the server on `port`.
    pub fn before(port: u16) -> Self {
        // Bound once to choose a port; nobody listens until the gate is opened.
        let chosen = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = chosen.local_addr().expect("the port that was chosen");
        let upstream = SocketAddr::from(([127, 0, 0, 1], port));
        Self { address, upstream, failed: Arc::default(), serving: None }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// How many requests were answered with 500.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    pub fn open(&mut self) {
        let upstream = self.upstream;
        self.serve(move |from| pass(from, upstream));
    }

    pub fn fail(&mut self) {
        let failed = self.failed.clone();
        self.serve(move |from| refuse(from, failed.clone()));
    }

    pub fn shut(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
        }
    }

    fn serve<F>(&mut self, mut answer: impl FnMut(TcpStream) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.shut();
        let address = self.address;
        self.serving = Some(tokio::spawn(async move {
            let listener = listen(address).await;
            let mut connections = JoinSet::new();
            loop {
                let (from, _) = listener.accept().await.expect("a listener accepts");
                connections.spawn(answer(from));
                while connections.try_join_next().is_some() {}
            }
        }));
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.shut();
    }
}

/// The listener before this one goes when its task is dropped, which is a moment after it is aborted.
async fn listen(address: SocketAddr) -> TcpListener {
    loop {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("a socket takes an option");
        if let Some(listener) = socket.bind(address).ok().and_then(|()| socket.listen(64).ok()) {
            return listener;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn pass(mut from: TcpStream, upstream: SocketAddr) {
    if let Ok(mut to) = TcpStream::connect(upstream).await {
        // Either side may go at any time, which closes both.
        let _ = copy_bidirectional(&mut from, &mut to).await;
    }
}

async fn refuse(mut from: TcpStream, failed: Arc<AtomicU64>) {
    let mut head = Vec::new();
    let mut buffer = [0; 4096];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(read) => head.extend_from_slice(&buffer[..read]),
        }
    }
    failed.fetch_add(1, Ordering::Relaxed);
    let body = r#"{"error_code":50001,"message":"the store is on fire"}"#;
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 500 Internal Server Error\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    // A client that has gone wants no answer.
    let _ = from.write_all(answer.as_bytes()).await;
}
