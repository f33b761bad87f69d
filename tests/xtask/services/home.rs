//! Where servers keep their data, how long they live, and the ports they listen on.

use std::fs;
use std::net::TcpListener;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FlockOperation, flock};

use super::process::Identity;
use crate::{Context, Error, Result};

/// How long the servers of a home live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// As long as their handle: dropping it stops the server and deletes its data.
    Handle,
    /// Somebody else's: dropping the handle changes nothing, but a restarted one dies with this process.
    Borrowed,
    /// Until `services down`, across processes.
    Lasting,
}

/// A directory that holds servers, one sub-directory each.
#[derive(Debug, Clone)]
pub struct Home {
    pub dir: PathBuf,
    pub lifetime: Lifetime,
}

impl Home {
    /// In the caller's directory; the servers live as long as their handles.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), lifetime: Lifetime::Handle }
    }

    /// In a new directory under the system's temporary one. What earlier processes left there because
    /// they were killed is deleted on the way.
    pub fn temporary() -> Result<Self> {
        Ok(Self::at(temporary_dir()?))
    }

    /// The servers of `cargo xtask services`: `$CARGO_TARGET_DIR/services`, else `target/services`.
    pub fn lasting() -> Self {
        Self { dir: target_dir().join("services"), lifetime: Lifetime::Lasting }
    }

    /// Makes the server's own directory, absolute and empty.
    pub(super) fn place(&self, name: &str) -> Result<PathBuf> {
        let dir = std::path::absolute(self.dir.join(name)).context(|| format!("no path for {name}"))?;
        if dir.join(super::server::RECORD).exists() {
            return Err(Error::new(format!("{} already holds a server", dir.display())));
        }
        // Left by a start that was cut off before it was written down.
        remove(&dir)?;
        create(&dir)?;
        Ok(dir)
    }
}

/// The repository's root, where `cargo` commands are to be run.
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from)
}

/// `$XDG_CACHE_HOME/millrace`, else `~/.cache/millrace`: what is downloaded once and kept.
pub fn cache() -> Result<PathBuf> {
    let dir = match (std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME")) {
        (Some(cache), _) if !cache.is_empty() => PathBuf::from(cache),
        (_, Some(home)) => PathBuf::from(home).join(".cache"),
        _ => return Err(Error::new("no place for downloads: set XDG_CACHE_HOME or HOME")),
    };
    let dir = dir.join("millrace");
    create(&dir)?;
    Ok(dir)
}

/// Holds a file's lock until dropped; one process at a time installs or changes the lasting servers.
pub struct Lock {
    _file: fs::File,
}

impl Lock {
    pub fn take(path: &Path) -> Result<Self> {
        let file = fs::File::create(path).context(|| format!("{} cannot be made", path.display()))?;
        flock(&file, FlockOperation::LockExclusive)
            .context(|| format!("{} cannot be locked", path.display()))?;
        Ok(Self { _file: file })
    }
}

pub(super) fn create(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).context(|| format!("{} cannot be made", dir.display()))
}

/// Deletes a directory; one that is not there is as good as deleted.
pub(super) fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::new(format!("{} cannot be deleted: {e}", dir.display())))
        }
        _ => Ok(()),
    }
}

const TEMPORARY: &str = "millrace-run-";

/// A new directory that carries its owner in its name, so that a later process can tell that it is stale.
pub(super) fn temporary_dir() -> Result<PathBuf> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let root = std::env::temp_dir();
    sweep(&root);
    let Identity { pid, started } = Identity::of_this_process();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let dir = root.join(format!("{TEMPORARY}{pid}-{started}-{count}"));
    fs::create_dir(&dir).context(|| format!("{} cannot be made", dir.display()))?;
    Ok(dir)
}

/// Deletes a temporary home when nothing is left in it.
pub(super) fn remove_if_temporary_and_empty(dir: &Path) {
    let named = dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with(TEMPORARY));
    if named {
        // Fails while another server lives in it, which is what it is for.
        let _ = fs::remove_dir(dir);
    }
}

fn sweep(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(owner_of);
        if owner.is_some_and(|owner| !owner.alive()) {
            // Another user's, or already being swept by another process: not ours to insist on.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn owner_of(name: &str) -> Option<Identity> {
    let mut parts = name.strip_prefix(TEMPORARY)?.split('-');
    Some(Identity { pid: parts.next()?.parse().ok()?, started: parts.next()?.parse().ok()? })
}

/// Whether another user can reach what lies in `dir`; `/root`, for one, is closed to all.
pub(super) fn open_to_others(dir: &Path) -> bool {
    dir.ancestors()
        .filter(|part| !part.as_os_str().is_empty())
        .all(|part| fs::metadata(part).is_ok_and(|found| found.permissions().mode() & 0o001 != 0))
}

/// A port that nobody listens on and that no other process of ours takes, for as long as this one lives. A server
/// that is down for a while finds its port again, and no run meets another one's servers on a port of its own.
pub fn free_port() -> Result<u16> {
    static TAKEN: Mutex<Vec<Block>> = Mutex::new(Vec::new());
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if let Some(port) = taken.last_mut().and_then(Block::next_free) {
            return Ok(port);
        }
        // The one before stays: its ports are in use.
        taken.push(Block::take()?);
    }
}

/// Ports side by side, held by the lock on a file until the process ends.
struct Block {
    rest: Range<u16>,
    _lock: fs::File,
}

impl Block {
    /// Below the range that the kernel gives to outgoing connections (32768 and up): a client that keeps dialling
    /// a dead port inside that range can end up connected to itself.
    const PORTS: Range<u16> = 15_000..32_000;
    const SIZE: u16 = 50;

    fn take() -> Result<Self> {
        // A user's own: another one could take no lock in it.
        let dir = std::env::temp_dir().join(format!("millrace-ports-{}", rustix::process::getuid().as_raw()));
        create(&dir)?;
        for first in Self::PORTS.step_by(usize::from(Self::SIZE)) {
            let Ok(file) = fs::File::create(dir.join(first.to_string())) else { continue };
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                return Ok(Self { rest: first..first + Self::SIZE, _lock: file });
            }
        }
        Err(Error::new(format!(
            "all ports of 127.0.0.1 in {:?} are taken, see {}",
            Self::PORTS,
            dir.display()
        )))
    }

    fn next_free(&mut self) -> Option<u16> {
        self.rest.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_a_dead_process_is_swept_and_one_of_a_living_process_stays() {
        let root = std::env::temp_dir().join(format!("millrace-sweep-{}", std::process::id()));
        let me = Identity::of_this_process();
        let mine = root.join(format!("{TEMPORARY}{}-{}-0", me.pid, me.started));
        let reused = root.join(format!("{TEMPORARY}{}-{}-0", me.pid, me.started + 1));
        let foreign = root.join("somebody-else");
        for dir in [&mine, &reused, &foreign] {
            fs::create_dir_all(dir).unwrap();
        }
        sweep(&root);
        assert!(mine.exists() && foreign.exists());
        assert!(!reused.exists(), "a reused process id is another process");
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn two_free_ports_are_two_ports_outside_the_range_of_outgoing_connections() {
        let (a, b) = (free_port().unwrap(), free_port().unwrap());
        assert_ne!(a, b);
        assert!([a, b].iter().all(|port| Block::PORTS.contains(port)));
    }

    #[test]
    fn a_port_that_is_not_listened_on_yet_is_no_other_taker_s() {
        // As another process would: the lock is on the open file, not on the process.
        let (mut own, mut other) = (Block::take().unwrap(), Block::take().unwrap());
        let ports: Vec<u16> = std::iter::from_fn(|| own.next_free()).collect();
        assert!(!ports.is_empty());
        assert!(std::iter::from_fn(|| other.next_free()).all(|port| !ports.contains(&port)));
    }

    #[test]
    fn a_private_directory_closes_everything_below_it() {
        let root = std::env::temp_dir().join(format!("millrace-private-{}", std::process::id()));
        let below = root.join("below");
        fs::create_dir_all(&below).unwrap();
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(open_to_others(&below));
        fs::set_permissions(&root, fs::Permissions::from_mode(0o700)).unwrap();
        assert!(!open_to_others(&below));
        fs::remove_dir_all(root).unwrap();
    }
}
