//! A running daemon, as an operator sees it: signals, REST, metrics, log.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::{Value as Json, json};

use crate::binary::command;
use crate::wait::{PATIENCE, until, within};

/// Lines of the log that a failed test shows.
const LINES_SHOWN: usize = 40;
/// The daemon takes 10 s at most and says by its exit code where it did not; on a busy machine that comes late.
const ENDS_WITHIN: Duration = Duration::from_secs(20);

/// The order for a daemon that takes slow commits for good ones.
///
/// A commit that took long may hide a retry, so that the daemon begins anew and sends again what was behind it.
/// Nothing is lost or doubled by that, but it is one more attempt: it is not RUNNING for a moment, reads a table
/// without a key once more, and tells again what it begins. Beside other tests any commit may be slow. So this is
/// for tests of another rule that count attempts, readings or notifications, or that look at the state once; and
/// never for one in which a daemon or Kafka is stopped for a while, where slow commits do hide retries.
pub const TRUST_COMMITS: &str = "recycle-off";

pub struct Daemon {
    child: Child,
    log: PathBuf,
    out: PathBuf,
    rest: Option<String>,
    http: reqwest::Client,
}

impl Daemon {
    /// Starts `millrace run` on files or folders, with an order for faults or none; its log and output lie in `dir`,
    /// under `name`.
    pub fn launch_ordered(files: &[&Path], dir: &Path, name: &str, order: Option<&str>) -> Self {
        let log = File::create(dir.join(format!("{name}.log"))).expect("a file in a temporary directory");
        Self::launch_to(files, dir, name, order, log)
    }

    fn launch_to(files: &[&Path], dir: &Path, name: &str, order: Option<&str>, stderr: File) -> Self {
        let (log, out) = (dir.join(format!("{name}.log")), dir.join(format!("{name}.out")));
        let create = |path: &Path| File::create(path).expect("a file in a temporary directory");
        let mut run = command(&["run"]);
        run.args(files).args(["--rest", "127.0.0.1:0", "--log-format", "text"]).current_dir(dir);
        run.stdin(Stdio::null()).stdout(create(&out)).stderr(stderr);
        run.envs(order.map(|order| ("MILLRACE_CHAOS", order)));
        let child = run.spawn().expect("the daemon starts");
        Self { child, log, out, rest: None, http: http() }
    }

    /// Starts it with a terminal for its standard error; what it writes there is in its log, every sign of it.
    pub async fn start_on_a_terminal(files: &[&Path], dir: &Path, name: &str, order: Option<&str>) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&ours).and_then(|()| unlockpt(&ours)).expect("the terminal's other end");
        let other = ptsname(&ours, Vec::new()).expect("its name");
        let other = Path::new(OsStr::from_bytes(other.as_bytes()));
        let terminal = File::options().read(true).write(true).open(other).expect("the terminal opens");
        let mut daemon = Self::launch_to(files, dir, name, order, terminal);
        let (mut from, mut log) = (File::from(ours), File::create(&daemon.log).expect("a log"));
        // Until the last process that has the other end is gone: then reading fails.
        std::thread::spawn(move || drop(std::io::copy(&mut from, &mut log)));
        daemon.wait_listening().await;
        daemon
    }

    /// Starts it and waits until it answers on REST.
    pub async fn start(files: &[&Path], dir: &Path, name: &str) -> Self {
        Self::start_ordered(files, dir, name, None).await
    }

    /// The same, of one that takes an order for faults.
    pub async fn start_ordered(files: &[&Path], dir: &Path, name: &str, order: Option<&str>) -> Self {
        let mut daemon = Self::launch_ordered(files, dir, name, order);
        daemon.wait_listening().await;
        daemon
    }

    async fn wait_listening(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while self.rest.is_none() {
            let log = self.log();
            self.rest = log.lines().find_map(|line| {
                let (_, address) = line.split_once("listening on ")?;
                address.split_whitespace().next().map(str::to_owned)
            });
            let ended = self.child.try_wait().expect("a child can be asked");
            assert!(ended.is_none() || self.rest.is_some(), "the daemon ended before it listened:\n{log}");
            assert!(Instant::now() < deadline, "the daemon does not say where it listens:\n{log}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Where its REST listens, as another verb is told.
    pub fn rest(&self) -> &str {
        let url = self.rest.as_deref().expect("the daemon listens");
        url.strip_prefix("http://").unwrap_or(url)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL; returns when it is gone.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM; answers how it ended.
    pub async fn term(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        within(ENDS_WITHIN, "the daemon ends after SIGTERM", async || self.ended()).await
    }

    /// SIGSTOP: it keeps its connections and does nothing.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGHUP: it reads its files again.
    pub fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("our own child takes a signal");
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be asked")
    }

    /// Waits until it ends by itself.
    pub async fn wait_ended(&mut self) -> ExitStatus {
        until("the daemon ends", async || self.ended()).await
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What it wrote to standard output.
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.out).unwrap_or_default()
    }

    /// Status code and body of a REST path; `None` when it does not answer.
    pub async fn try_get(&self, path: &str) -> Option<(u16, String)> {
        let url = format!("{}{path}", self.rest.as_ref()?);
        let answer = self.http.get(url).send().await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    }

    /// Sends JSON to a REST path; its status code.
    pub async fn post(&self, path: &str, body: &Json) -> u16 {
        let url = format!("{}{path}", self.rest.as_ref().expect("the daemon listens"));
        let answer = self.http.post(url).json(body).send().await;
        answer.unwrap_or_else(|error| panic!("{path} does not answer: {error}")).status().as_u16()
    }

    /// Asks for something on a REST path, without a body; its status code.
    pub async fn request(&self, method: reqwest::Method, path: &str) -> u16 {
        let url = format!("{}{path}", self.rest.as_ref().expect("the daemon listens"));
        let answer = self.http.request(method, url).send().await;
        answer.unwrap_or_else(|error| panic!("{path} does not answer: {error}")).status().as_u16()
    }

    /// Status code and body of a REST path, once it answers.
    pub async fn get(&self, path: &str) -> (u16, String) {
        until(&format!("{path} answers"), async || self.try_get(path).await).await
    }

    /// Asks something of a connector while it runs.
    pub async fn ask(&self, connector: &str, id: &str, kind: &str, data: Json) {
        let body = json!({"id": id, "type": kind, "data": data});
        let status = self.post(&format!("/connectors/{connector}/signals"), &body).await;
        assert_eq!(status, 202, "{body}");
    }

    /// The kinds of notification that there are for what was asked under an id.
    pub async fn told(&self, connector: &str, id: &str) -> Vec<String> {
        let (_, all) = self.json(&format!("/connectors/{connector}/notifications")).await;
        let of_signal = all.as_array().expect("a list").iter().filter(|one| one["id"] == id);
        of_signal.map(|one| one["type"].as_str().expect("a type").to_owned()).collect()
    }

    pub async fn wait_until_told(&self, connector: &str, id: &str, kind: &str) {
        let told = async || self.told(connector, id).await.iter().any(|k| k == kind).then_some(());
        until(&format!("{id} is {kind}"), told).await;
    }

    /// The JSON of a REST path, with its status code.
    pub async fn json(&self, path: &str) -> (u16, Json) {
        let (status, body) = self.get(path).await;
        let json = serde_json::from_str(&body);
        (status, json.unwrap_or_else(|error| panic!("{path} is no JSON: {error}: {body}")))
    }

    /// The value of a metric without labels but the connector's.
    pub async fn metric(&self, name: &str, connector: &str) -> Option<f64> {
        self.metrics([name], connector).await.map(|[value]| value)
    }

    /// The values of several, all of one moment.
    pub async fn metrics<const N: usize>(&self, names: [&str; N], connector: &str) -> Option<[f64; N]> {
        let (_, page) = self.try_get("/metrics").await?;
        let value = |name: &str| {
            let start = format!("{name}{{connector=\"{connector}\"}} ");
            page.lines().find_map(|line| line.strip_prefix(&start)?.parse().ok())
        };
        let found: Option<Vec<f64>> = names.into_iter().map(value).collect();
        found?.try_into().ok()
    }

    /// The daemon's own words about a connector, beside those that Connect's tools read.
    pub async fn own_status(&self, connector: &str) -> Option<Json> {
        let (_, body) = self.try_get(&format!("/connectors/{connector}/status")).await?;
        let mut status: Json = serde_json::from_str(&body).ok()?;
        Some(status["millrace"].take())
    }

    /// The state that a connector is in.
    pub async fn state(&self, connector: &str) -> Option<String> {
        self.own_status(connector).await?["state"].as_str().map(str::to_owned)
    }

    pub async fn wait_for_state(&self, connector: &str, state: &str) {
        self.wait_for_state_within(PATIENCE, connector, state).await;
    }

    pub async fn wait_for_state_within(&self, limit: Duration, connector: &str, state: &str) {
        let mut seen = None;
        let reached = tokio::time::timeout(limit, async {
            while seen.as_deref() != Some(state) {
                seen = self.state(connector).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let reached = reached.await.is_ok();
        assert!(reached, "{connector} is {} and not {state}", seen.unwrap_or_else(|| "silent".to_owned()));
    }

    /// Whether every connector does its work.
    pub async fn ready(&self) -> bool {
        let (status, _) = self.get("/ready").await;
        assert!(status == 200 || status == 503, "/ready answers {status}");
        status == 200
    }

    /// Waits until the connector is not at work for a reason that holds each of these words; what came before on
    /// the way there may be anything.
    pub async fn degraded(&self, connector: &str, words: &[&str]) -> Refusal {
        let fits = |refusal: &Refusal| words.iter().all(|word| refusal.reason.contains(word));
        self.waiting(connector, &format!("{words:?}"), fits).await
    }

    /// The same, where what it says to type holds this.
    pub async fn hinted(&self, connector: &str, word: &str) -> Refusal {
        self.waiting(connector, &format!("{word:?}"), |refusal| refusal.hint.contains(word)).await
    }

    async fn waiting(&self, connector: &str, words: &str, fits: impl Fn(&Refusal) -> bool) -> Refusal {
        until(&format!("{connector} is DEGRADED and says {words}"), async || {
            let status = self.own_status(connector).await?;
            let text = |key: &str| status[key].as_str().unwrap_or_default().to_owned();
            let refusal = Refusal { reason: text("reason"), hint: text("hint") };
            (text("state") == "DEGRADED" && fits(&refusal)).then_some(refusal)
        })
        .await
    }

    /// Waits for a state in which the connector stays and is not ready, and answers why and what to type. DEGRADED
    /// does not stay, and has many reasons: [`Daemon::degraded`].
    pub async fn not_ready(&self, connector: &str, state: &str) -> Refusal {
        self.wait_for_state(connector, state).await;
        let (status, body) = self.json(&format!("/ready?connector={connector}")).await;
        let shown = &body["connectors"][0];
        assert_eq!((status, shown["state"].as_str()), (503, Some(state)), "{body}");
        let text = |key: &str| shown[key].as_str().unwrap_or_default().to_owned();
        Refusal { reason: text("reason"), hint: text("hint") }
    }
}

/// Why a connector is not ready, and what to type.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub reason: String,
    pub hint: String,
}

impl Refusal {
    /// The reason holds each of these words.
    pub fn expect_reason(&self, words: &[&str]) -> &Self {
        for word in words {
            assert!(self.reason.contains(word), "the reason does not say {word:?}: {self:?}");
        }
        self
    }

    /// The hint holds each of these words.
    pub fn expect_hint(&self, words: &[&str]) -> &Self {
        for word in words {
            assert!(self.hint.contains(word), "the hint does not say {word:?}: {self:?}");
        }
        self
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let shown = &lines[lines.len().saturating_sub(LINES_SHOWN)..];
            eprintln!("--- the end of {}\n{}\n---", self.log.display(), shown.join("\n"));
        }
    }
}

/// What it asks is on this machine, which may be busy.
pub fn http() -> reqwest::Client {
    // Built with TLS in it, the client does not start without a provider. The second call of a process fails.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().timeout(Duration::from_secs(60)).build().expect("an HTTP client")
}
