//! A file of `configs/` with the addresses of the demo's servers, and without what they do not ask for: users,
//! passwords, certificates.

use xtask::services::Services;

/// What signs in a demo; whoever signs in earnest keeps theirs to themselves.
const SECRET: &str = "hmac_sha256_secret = \"of a demo, which has nothing to protect\"";

/// Keys of servers that want to know who asks.
const UNASKED: [&str; 8] = [
    "password",
    "sslmode",
    "sslrootcert",
    "security",
    "registry_username",
    "registry_password",
    "registry_ca_file",
    "listen",
];
const UNASKED_SECTIONS: [&str; 3] = ["[sink.kafka.sasl]", "[sink.kafka.tls]", "[rest]"];

pub fn for_demo(text: &str, services: &Services) -> String {
    let mut out = String::new();
    let mut is_skipped = false;
    for line in text.lines() {
        if line.starts_with('[') {
            is_skipped = UNASKED_SECTIONS.contains(&line);
        }
        let key = line.split_once(" = ").map_or("", |(key, _)| key);
        if is_skipped || UNASKED.contains(&key) {
            continue;
        }
        let line = match (key, line) {
            ("url", line) if line.contains("postgres://") => {
                let database = line.trim_end_matches('"').rsplit('/').next().unwrap_or_default();
                format!("url = \"{}\"", services.postgres.url_of(database))
            }
            ("url", _) => format!("url = \"{}\"", services.mongodb.url()),
            ("bootstrap", _) => {
                let brokers: Vec<String> =
                    services.kafka.bootstrap().split(',').map(|broker| format!("{broker:?}")).collect();
                format!("bootstrap = [{}]", brokers.join(", "))
            }
            ("registry", _) => format!("registry = {:?}", services.registry.url()),
            ("ed25519_secret", _) => SECRET.to_owned(),
            (_, line) => line.to_owned(),
        };
        out.push_str(&line);
        out.push('\n');
    }
    out
}
