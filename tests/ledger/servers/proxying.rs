//! The proxy between two ends of our own: what each of its modes does to a connection.

use std::time::{Duration, Instant};

use millrace_ledger::proxy::{Mode, Proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A server that sends back what it gets, and a proxy before it.
async fn echo() -> Proxy {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.into_split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    Proxy::start(port).await.unwrap()
}

async fn connect(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap()
}

/// How long a word takes there and back.
async fn word(stream: &mut TcpStream, word: &[u8]) -> std::io::Result<Duration> {
    let began = Instant::now();
    stream.write_all(word).await?;
    let mut back = vec![0; word.len()];
    stream.read_exact(&mut back).await?;
    assert_eq!(back, word);
    Ok(began.elapsed())
}

#[tokio::test]
async fn what_is_written_comes_back_in_its_order_also_when_it_is_late() {
    let proxy = echo().await;
    let mut stream = connect(&proxy).await;
    word(&mut stream, b"now").await.unwrap();
    proxy.set(Mode::Delay(Duration::from_millis(100)));
    let took = word(&mut stream, &[7; 300_000]).await.unwrap();
    assert!(took >= Duration::from_millis(200), "there and back: {took:?}");
    let text: Vec<u8> = (0..50_000u32).flat_map(u32::to_be_bytes).collect();
    word(&mut stream, &text).await.unwrap();
}

#[tokio::test]
async fn a_slow_link_takes_the_time_that_its_bytes_need() {
    let proxy = echo().await;
    let mut stream = connect(&proxy).await;
    proxy.set(Mode::Slow(50_000));
    let took = word(&mut stream, &[1; 20_000]).await.unwrap();
    assert!(took >= Duration::from_millis(350), "{took:?}");
}

#[tokio::test]
async fn a_cut_ends_connections_and_refuses_new_ones_until_it_is_over() {
    let proxy = echo().await;
    let mut stream = connect(&proxy).await;
    word(&mut stream, b"before").await.unwrap();
    proxy.set(Mode::Cut);
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
    assert!(word(&mut connect(&proxy).await, b"during").await.is_err());
    proxy.set(Mode::Pass);
    word(&mut connect(&proxy).await, b"after").await.unwrap();
}

#[tokio::test]
async fn a_reset_is_an_error_and_not_an_end() {
    let proxy = echo().await;
    let mut stream = connect(&proxy).await;
    word(&mut stream, b"before").await.unwrap();
    proxy.set(Mode::Reset);
    let error = stream.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_half_open_connection_is_silent_and_gone_afterwards() {
    let proxy = echo().await;
    let mut stream = connect(&proxy).await;
    word(&mut stream, b"before").await.unwrap();
    proxy.set(Mode::HalfOpen);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let silent = tokio::time::timeout(Duration::from_millis(300), word(&mut stream, b"during")).await;
    assert!(silent.is_err(), "nothing comes back");
    proxy.set(Mode::Pass);
    assert!(word(&mut stream, b"after").await.is_err(), "whoever lay between has forgotten it");
    word(&mut connect(&proxy).await, b"anew").await.unwrap();
}

#[tokio::test]
async fn a_canned_answer_ends_the_request() {
    let proxy = echo().await;
    proxy.set(Mode::Answer("HTTP/1.1 500 no\r\n\r\n"));
    let mut stream = connect(&proxy).await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
}
