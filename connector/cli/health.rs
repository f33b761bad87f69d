//! `millrace health`: asks the daemon's own /health, for images that hold no other program to ask with. And the one
//! order that another verb gives a daemon.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::EXIT_FAILED;

/// As long as orchestrators wait for such an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// More than the first line of any answer.
const ANSWER_BYTES_MAX: u64 = 1024;

pub async fn health(address: SocketAddr) -> u8 {
    let answer = tokio::time::timeout(PATIENCE, ask(address, "GET /health")).await;
    let problem = match answer {
        Ok(Ok(line)) if is_well(&line) => return 0,
        Ok(Ok(line)) => format!("answered {line:?}"),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("did not answer within {} s", PATIENCE.as_secs()),
    };
    eprintln!("millrace: {address}: {problem}");
    EXIT_FAILED
}

/// Has a daemon stop a connector; whether there is one that does.
pub async fn stop(address: SocketAddr, connector: &str) -> bool {
    let order = format!("PUT /connectors/{connector}/stop");
    let answer = tokio::time::timeout(PATIENCE, ask(address, &order)).await;
    matches!(answer, Ok(Ok(line)) if line.starts_with("HTTP/1.1 2"))
}

/// The first line of the answer.
async fn ask(address: SocketAddr, what: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request =
        format!("{what} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}

fn is_well(line: &str) -> bool {
    line.starts_with("HTTP/1.1 200")
}
