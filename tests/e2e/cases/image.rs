//! The image: the root file system that docker/Dockerfile makes, and the daemon run out of it as the Dockerfile
//! says, by its user, in a chroot. Less than a container gives: no /dev, no /proc, and nothing that this user may
//! write.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use millrace_e2e::{Shop, http, program, until};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::Value as Json;
use xtask::services::{finish, repository};

/// Longer than this test takes. `timeout` hands a signal on to what it runs, and the kernel sends it one when this test
/// dies: a chroot to another user would lose such an order.
const RUNS_AT_MOST: &str = "300";
/// A daemon that is told to end takes 10 s at most, and says by its exit code where it did not end in good order.
const ENDS_WITHIN: &str = "20";

/// The words of each instruction, as they stand.
pub struct Dockerfile(Vec<(String, String)>);

impl Dockerfile {
    pub fn read() -> Self {
        let text = fs::read_to_string(repository().join("docker/Dockerfile")).expect("the Dockerfile");
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Self(lines.filter_map(|line| line.split_once(' ')).map(owned).collect())
    }

    /// The arguments of the last such instruction, which is the image's.
    pub fn last(&self, instruction: &str) -> &str {
        let found = self.0.iter().rfind(|(name, _)| name == instruction);
        found.map(|(_, arguments)| &**arguments).unwrap_or_else(|| panic!("no {instruction}"))
    }

    /// The words of its list, without a shell to part them.
    pub fn list(&self, instruction: &str) -> Vec<String> {
        let arguments = self.last(instruction);
        let list = arguments.find('[').map_or("", |start| &arguments[start..]);
        serde_json::from_str(list).unwrap_or_else(|error| panic!("{instruction} {arguments}: {error}"))
    }

    /// What makes the root file system out of a program, and the folder that it is made in and copied from.
    fn script(&self) -> (&str, &str) {
        let words: Vec<&str> = self.last("RUN").split_whitespace().collect();
        match words[..] {
            [.., script, "target/release/millrace", root] if script.ends_with(".sh") => (script, root),
            _ => panic!("RUN does not end with a script, the program and a folder: {words:?}"),
        }
    }
}

fn owned((name, arguments): (&str, &str)) -> (String, String) {
    (name.to_owned(), arguments.to_owned())
}

/// The root file system of the image, and what is run in it.
pub struct Image {
    root: PathBuf,
    pub dockerfile: Dockerfile,
}

impl Image {
    /// Made by the Dockerfile's own script, out of the daemon that is tested.
    pub fn build(dir: &Path) -> Self {
        assert!(
            geteuid().is_root(),
            "the image is tried in a chroot, which root may make only: run this test as root"
        );
        let (root, dockerfile) = (dir.join("image"), Dockerfile::read());
        let (script, made_in) = dockerfile.script();
        finish(Command::new(repository().join(script)).arg(program()).arg(&root)).expect("the image");
        assert_eq!(dockerfile.last("FROM"), "scratch");
        assert_eq!(
            dockerfile.last("COPY"),
            format!("--from=build {made_in} /"),
            "all of it, and nothing beside it"
        );
        Self { root, dockerfile }
    }

    /// Where the connectors' files are mounted: the last word of CMD.
    pub fn mount(&self) -> String {
        self.dockerfile.list("CMD").pop().expect("a folder")
    }

    /// Where a path of the image lies outside of it.
    pub fn inside(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// A command of the image, as its user and with nothing of this process's environment.
    fn command(&self, words: &[String]) -> Command {
        let mut command = Command::new("setpriv");
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.args(["--pdeathsig", "TERM", "--", "timeout", "--kill-after", ENDS_WITHIN, RUNS_AT_MOST]);
        command.args(["chroot", "--groups=", "--userspec", self.dockerfile.last("USER")]).arg(&self.root);
        command.args(words).stdin(Stdio::null());
        command
    }

    /// Runs the entry point with these words, to its end.
    fn run(&self, words: &[&str]) -> Output {
        let mut all = self.dockerfile.list("ENTRYPOINT");
        all.extend(words.iter().map(|&word| word.to_owned()));
        self.command(&all).output().expect("a program runs")
    }

    /// The health check, of a daemon that listens here.
    pub fn is_healthy(&self, address: &str) -> bool {
        let mut words = self.dockerfile.list("HEALTHCHECK");
        words.extend(["--rest", address].map(str::to_owned));
        self.command(&words).output().expect("a program runs").status.success()
    }

    /// Starts what a container starts, the entry point with the words of CMD or of who runs it, and waits until it
    /// listens. Only the port is any free one.
    pub async fn start(&self, words: &[String], environment: &[(&str, &str)], log: &Path) -> Running {
        let mut all = self.dockerfile.list("ENTRYPOINT");
        all.extend(words.iter().cloned().chain(["--rest", "127.0.0.1:0"].map(str::to_owned)));
        let to = fs::File::create(log).expect("a file in a temporary directory");
        let mut command = self.command(&all);
        let child = command.envs(environment.iter().copied()).stderr(to).spawn().expect("a program starts");
        let mut running = Running { child, address: String::new() };
        running.address = until("the daemon in the image listens", async || {
            let log = fs::read_to_string(log).ok()?;
            assert!(
                running.child.try_wait().expect("a child").is_none(),
                "it ended before it listened:\n{log}"
            );
            let (_, address) = log.split_once("rest listening on http://")?;
            address.split(['"', ' ', '\n']).next().map(str::to_owned)
        })
        .await;
        running
    }

    /// Everything in it, by its path from the root on.
    fn paths(&self) -> BTreeSet<PathBuf> {
        let (mut found, mut folders) = (BTreeSet::new(), vec![self.root.clone()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry").path())
            {
                if entry.is_dir() && !entry.is_symlink() {
                    folders.push(entry.clone());
                }
                found.insert(entry.strip_prefix(&self.root).expect("below the root").to_owned());
            }
        }
        found
    }
}

/// A daemon in the image, which is ended with the test.
pub struct Running {
    child: Child,
    pub address: String,
}

impl Running {
    /// What its REST answers.
    pub async fn json(&self, path: &str) -> Json {
        let answer = http().get(format!("http://{}{path}", self.address)).send().await;
        let answer = answer.unwrap_or_else(|error| panic!("{path} does not answer: {error}"));
        answer.json().await.unwrap_or_else(|error| panic!("{path} is no JSON: {error}"))
    }

    /// The image's STOPSIGNAL is what a daemon ends in good order by; whether it has.
    pub async fn stop(&mut self) -> bool {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, Signal::TERM).expect("our own child takes a signal");
        until("the daemon ends", async || self.child.try_wait().expect("a child")).await.success()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended by itself where all went well, and `timeout` ends what it runs.
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let _ = pid.map(|pid| kill_process(pid, Signal::TERM));
        let _ = self.child.wait();
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Has the connector's file name its servers as a container's network does, and puts it where it is mounted.
fn mount(shop: &mut Shop, image: &Image) -> String {
    let (postgres, kafka) = (shop.servers.postgres.port(), shop.servers.kafka.bootstrap());
    let url = shop.servers.postgres.url_of(shop.database());
    let local = format!("127.0.0.1:{postgres}");
    assert!(url.contains(&local), "{url}");
    shop.file
        .set("source/postgres/url", url.replace(&local, &format!("database:{postgres}")))
        // As in the lab, whose server has no certificate either.
        .set("source/postgres/sslmode", "disable")
        .set("sink/kafka/bootstrap", vec![kafka.replace("127.0.0.1", "broker")]);
    // As a container engine does.
    fs::write(image.inside("/etc/hosts"), "127.0.0.1 localhost database broker\n").expect("the names");
    let file = format!("{}/{}.toml", image.mount(), shop.file.name());
    shop.file.write(&image.inside(&file));
    file
}

#[tokio::test]
async fn the_image_s_file_system_is_all_that_its_user_needs_to_check_run_and_ask_a_daemon() {
    let mut shop = Shop::open("image").await;
    let image = Image::build(shop.dir());
    let file = mount(&mut shop, &image);
    let before = image.paths();

    let version = image.run(&["--version"]);
    assert_eq!(text(&version), format!("millrace {}\n", env!("CARGO_PKG_VERSION")));
    let checked = image.run(&["check", &file]);
    assert!(checked.status.success(), "{}", text(&checked));
    // Though the brokers give themselves another name than the file does.
    let verified = "transaction.partition.verification.enable of the brokers";
    let is_read = |line: &str| line.trim_start().starts_with("pass") && line.contains(verified);
    assert!(text(&checked).lines().any(is_read), "{}", text(&checked));

    let log = shop.dir().join("image.log");
    let mut daemon = image.start(&image.dockerfile.list("CMD"), &[], &log).await;
    assert!(image.is_healthy(&daemon.address), "the health check of a daemon that lives");
    let user = fs::metadata(format!("/proc/{}", process_below(daemon.child.id()))).expect("a process").uid();
    assert_eq!(format!("{user}:{user}"), image.dockerfile.last("USER"));
    let status = format!("/connectors/{}/status", shop.name);
    until("the connector runs", async || {
        (daemon.json(&status).await["millrace"]["state"] == "RUNNING").then_some(())
    })
    .await;
    shop.rows(1..=10).await.expect_rows(1..=10).await;
    assert_eq!(image.dockerfile.last("STOPSIGNAL"), "SIGTERM");
    assert!(daemon.stop().await, "{}", fs::read_to_string(&log).unwrap_or_default());
    assert!(!image.is_healthy(&daemon.address), "the health check of one that is gone");
    assert_eq!(image.paths(), before, "it wrote something");
}

/// The process that `timeout` runs.
fn process_below(pid: u32) -> String {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("its children");
    children.trim().to_owned()
}

#[test]
fn the_image_holds_the_daemon_its_libraries_the_roots_of_trust_and_a_user_and_no_shell() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let image = Image::build(dir.path());
    let mut programs = Vec::new();
    for path in image.paths() {
        let found = fs::symlink_metadata(image.root.join(&path)).expect("what was just found");
        assert!(!found.is_symlink(), "{} points out of the image", path.display());
        let mode = found.permissions().mode();
        assert_eq!((found.uid(), mode & 0o022), (0, 0), "its user may change {}", path.display());
        assert_eq!(mode & 0o004, 0o004, "its user may not read {}", path.display());
        let is_library = path.file_name().is_some_and(|name| name.to_string_lossy().contains(".so"));
        if found.is_file() && mode & 0o111 != 0 && !is_library {
            programs.push(path);
        }
    }
    assert_eq!(programs, [Path::new("usr/bin/millrace")]);
    let linked = Command::new("ldd").arg(program()).output().expect("ldd runs");
    assert!(linked.status.success() && !text(&linked).contains("not found"), "{}", text(&linked));
    for library in text(&linked).split_whitespace().filter(|word| word.starts_with('/')) {
        assert!(image.inside(library).is_file(), "{library} is linked and not there");
    }
    let read =
        |path: &str| fs::read_to_string(image.root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    let user = image.dockerfile.last("USER");
    let (passwd, group) = (read("etc/passwd"), read("etc/group"));
    assert!(passwd.starts_with(&format!("millrace:x:{user}:")) && !user.starts_with('0'), "{passwd}");
    assert!(user.ends_with(group.trim_end_matches(":\n").rsplit(':').next().expect("a number")), "{group}");
    let roots = "etc/ssl/certs/ca-certificates.crt";
    let ours = fs::read_to_string(Path::new("/").join(roots)).expect("the Debian package ca-certificates");
    assert_eq!(read(roots), ours);
}
