//! Certificates of an authority that is made for one test.

use std::path::PathBuf;

use tempfile::TempDir;

use crate::tools::openssl;

/// An authority, a server's certificate and a client's, made by the openssl of the machine.
pub struct Papers {
    dir: TempDir,
}

impl Papers {
    pub fn new() -> Self {
        let papers = Self { dir: tempfile::tempdir().expect("a temporary directory") };
        papers.run(&[
            "req",
            "-x509",
            "-days",
            "2",
            "-subj",
            "/O=Test/CN=authority",
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
        ]);
        papers.signed("server", "/O=Servers/CN=server", "subjectAltName=IP:127.0.0.1,DNS:localhost");
        papers.signed("client", "/O=Clients/CN=millrace", "extendedKeyUsage=clientAuth");
        papers
    }

    /// `<name>.pem`: key and certificate in one file, as the server and the driver want them.
    pub fn signed(&self, name: &str, subject: &str, extension: &str) {
        self.signed_for(name, subject, extension, "2");
    }

    /// The same, of one whose last day was yesterday.
    pub fn expired(&self, name: &str, subject: &str, extension: &str) {
        self.signed_for(name, subject, extension, "-1");
    }

    fn signed_for(&self, name: &str, subject: &str, extension: &str, days: &str) {
        let file = |end: &str| format!("{name}.{end}");
        self.run(&["req", "-subj", subject, "-keyout", &file("key"), "-out", &file("csr")]);
        std::fs::write(self.path(&file("ext")), extension).expect("a file");
        let (csr, crt, ext) = (file("csr"), file("crt"), file("ext"));
        self.openssl(&[
            "x509",
            "-req",
            "-days",
            days,
            "-in",
            &csr,
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-extfile",
            &ext,
            "-out",
            &crt,
        ]);
        let parts = [file("key"), crt].map(|part| std::fs::read(self.path(&part)).expect("a file"));
        std::fs::write(self.path(&file("pem")), parts.concat()).expect("a file");
    }

    fn run(&self, arguments: &[&str]) {
        let new = ["-newkey", "rsa:2048", "-nodes"];
        self.openssl(&[&arguments[..1], &new[..], &arguments[1..]].concat());
    }

    fn openssl(&self, arguments: &[&str]) {
        openssl(self.dir.path(), arguments);
    }

    /// What a file holds.
    pub fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).expect("a file that was made")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl Default for Papers {
    fn default() -> Self {
        Self::new()
    }
}
