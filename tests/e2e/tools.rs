//! What is asked of other programs, because they share nothing with the daemon.

use std::path::Path;
use std::process::Command;

/// Runs openssl in a folder; fails the test where it fails.
pub fn openssl(dir: &Path, words: &[&str]) -> Vec<u8> {
    let ended = Command::new("openssl").args(words).current_dir(dir).output().expect("openssl is installed");
    assert!(ended.status.success(), "openssl {words:?}: {}", String::from_utf8_lossy(&ended.stderr));
    ended.stdout
}

/// A new key of Ed25519 as PEM, in `<name>.pem`, and its public half in `<name>.pub`.
pub fn signing_key(dir: &Path, name: &str) -> String {
    let (private, public) = (format!("{name}.pem"), format!("{name}.pub"));
    openssl(dir, &["genpkey", "-algorithm", "ed25519", "-out", &private]);
    openssl(dir, &["pkey", "-in", &private, "-pubout", "-out", &public]);
    std::fs::read_to_string(dir.join(private)).expect("the key that was just made")
}
