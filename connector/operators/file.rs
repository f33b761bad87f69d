//! The file of an operator log: whole lines at its end, durable when `append` returns. Several processes may write to it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use millrace_core::error::{Error, Result};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Nobody but its owner reads what operators did.
const MODE: u32 = 0o600;

/// A line takes milliseconds; whoever asks for something to be done waits for it.
const LOCKED_WITHIN: Duration = Duration::from_secs(5);
const LOCK_POLL: Duration = Duration::from_millis(5);

pub fn append(path: &Path, line: &str) -> Result<()> {
    append_within(path, line, LOCKED_WITHIN)
}

fn append_within(path: &Path, line: &str, patience: Duration) -> Result<()> {
    let failed = |what: &str| {
        let what = format!("cannot {what} {}", path.display());
        move |error: std::io::Error| Error::transient(what).source(error)
    };
    let is_new = !path.exists();
    let opened = OpenOptions::new().read(true).append(true).create(true).mode(MODE).open(path);
    let mut file = opened.map_err(failed("open"))?;
    let mode = file.metadata().map_err(failed("look at"))?.mode();
    if mode & 0o077 != 0 {
        return Err(Error::config(format!(
            "{} may be read or written by others than its owner",
            path.display()
        ))
        .hint(format!("chmod 600 {}", path.display())));
    }
    // Until the file is closed.
    let deadline = Instant::now() + patience;
    while let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if error != Errno::WOULDBLOCK {
            return Err(failed("lock")(error.into()));
        }
        if Instant::now() > deadline {
            let seconds = patience.as_secs();
            return Err(Error::transient(format!(
                "{} was locked by another process for {seconds} s",
                path.display()
            ))
            .hint(format!("see whose lock it is with `lsof {}`", path.display())));
        }
        sleep(LOCK_POLL);
    }
    // A line that was cut short by a crash stays what it is.
    let begin = if ends_a_line(&mut file).map_err(failed("read"))? { "" } else { "\n" };
    file.write_all(format!("{begin}{line}\n").as_bytes()).map_err(failed("write to"))?;
    file.sync_data().map_err(failed("sync"))?;
    if is_new && let Some(folder) = path.parent() {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("sync the folder of"))?;
    }
    Ok(())
}

fn ends_a_line(file: &mut File) -> std::io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_go_to_the_end_of_a_file_that_only_its_owner_reads() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("operators.jsonl");
        append(&path, "{\"n\":1}").unwrap();
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"cut").unwrap();
        append(&path, "{\"n\":2}").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"n\":1}\n{\"cut\n{\"n\":2}\n");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, MODE);
    }

    #[test]
    fn a_file_that_others_read_and_a_folder_that_is_not_there_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("operators.jsonl");
        std::fs::write(&path, "").unwrap();
        let mut open = std::fs::metadata(&path).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut open, 0o644);
        std::fs::set_permissions(&path, open).unwrap();
        let refused = append(&path, "{}").unwrap_err();
        assert!(refused.hint_text().is_some_and(|hint| hint.starts_with("chmod 600")), "{refused}");
        assert!(append(&folder.path().join("nowhere").join("o.jsonl"), "{}").is_err());
    }

    #[test]
    fn a_lock_that_is_never_given_back_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("operators.jsonl");
        append(&path, "{}").unwrap();
        let held = File::open(&path).unwrap();
        flock(&held, FlockOperation::LockShared).unwrap();
        let refused = append_within(&path, "{}", Duration::from_millis(20)).unwrap_err();
        assert!(refused.hint_text().is_some_and(|hint| hint.contains("lsof")), "{refused}");
        drop(held);
        append(&path, "{}").unwrap();
    }

    #[test]
    fn several_who_write_at_once_leave_whole_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("operators.jsonl");
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let path = &path;
                let write =
                    move |n| append_within(path, &format!("{writer} {n}"), Duration::from_secs(60)).unwrap();
                scope.spawn(move || (0..20).for_each(write));
            }
        });
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 80);
        assert!(text.lines().all(|line| line.split(' ').count() == 2), "{text}");
    }
}
