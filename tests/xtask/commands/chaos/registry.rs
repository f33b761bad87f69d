//! F13: the registry is away, fails, is slow, or answers nonsense. It is asked after a start, so each trial
//! starts the daemon anew.

use std::time::Duration;

use millrace_ledger::Result;
use millrace_ledger::proxy::Mode;
use millrace_ledger::run::{Stage, Struck};

use super::scene::Scene;

const AWAY: Mode = Mode::Cut;
const FAILS: Mode = Mode::Answer(
    "HTTP/1.1 500 Internal Server Error\r\ncontent-type: application/json\r\ncontent-length: 29\r\n\
     connection: close\r\n\r\n{\"error_code\":50001,\"m\":\"no\"}",
);
const SLOW: Mode = Mode::Delay(Duration::from_millis(1_500));
const NO_ID: Mode = Mode::Answer(
    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}",
);
const NO_JSON: Mode = Mode::Answer(
    "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 4\r\nconnection: close\r\n\r\n<hi>",
);

pub const EACH: [(&str, Mode); 5] = [
    ("is away", AWAY),
    ("answers 500", FAILS),
    ("is slow", SLOW),
    ("answers without an id", NO_ID),
    ("answers something else than JSON", NO_JSON),
];

/// Until the daemon has met it.
const MET_WITHIN: Duration = Duration::from_secs(30);

pub async fn strike(scene: &Scene, stage: &mut Stage, turn: usize) -> Result<Struck> {
    let (what, mode) = EACH[turn % EACH.len()];
    let link = &scene.registry_link;
    let connections = link.connections();
    link.set(mode);
    stage.kill_and_settle().await?;
    let met = async {
        while link.connections() == connections {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(MET_WITHIN, met).await.map_err(|_| "the daemon did not ask the registry")?;
    tokio::time::sleep(stage.millis(4_000)).await;
    let state = stage.daemon.state().await.unwrap_or_default();
    link.set(Mode::Pass);
    // Nonsense stops a connector for good, and it says so; everything else is waited out.
    let nonsense = mode == NO_ID || mode == NO_JSON;
    if state.name == "FAILED" {
        if !nonsense || state.hint.is_empty() {
            return Err(format!("the registry {what}, and the daemon says {state:?}").into());
        }
        stage.kill_and_settle().await?;
    }
    Ok(Struck::now(format!("the registry {what}: {}", if state.ready { "ready" } else { &state.name })))
}
