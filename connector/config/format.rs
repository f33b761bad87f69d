//! `[format]`: choices as text become the encoder's settings.

use std::time::Duration;

use millrace_core::encode::disguise::{
    Algorithm, Cipher, Disguise, Disguised, HMAC_KEY_BYTES_MIN, Hashed, HmacKey, Salt,
};
use millrace_core::encode::flat::{Added, Arrays, Deletes, Flat};
use millrace_core::encode::{
    Binary, Decimals, Dialect, Encoding, Envelope, Format, Heartbeat, Hstore, Intervals, Spelling, Times,
};
use millrace_core::pattern::Pattern;
use secrecy::ExposeSecret;

use super::Problems;
use super::raw;
use super::rename;
use super::strict::nearest;

/// Above this a Kafka record cannot be, whatever the broker allows.
const RECORD_BYTES_MAX: u32 = 1_000_000_000;

/// The defaults where a key is not set; problems where one does not fit.
pub fn resolve(raw: &raw::Format, name: &str, problems: &mut Problems) -> Format {
    let prefix = raw.topic_prefix.as_deref().unwrap_or(name);
    if !is_topic_name(prefix) {
        problems.add("format.topic_prefix", "may hold letters, digits, `.`, `_` and `-`, at most 200");
    }
    let mut format = Format::new(prefix);
    let envelopes = [("debezium", Envelope::Debezium), ("flat", Envelope::Flat)];
    if let Some(envelope) = choice(problems, "format.envelope", &raw.envelope, &envelopes) {
        format.envelope = envelope;
    }
    let json = Encoding::Json { schemas: raw.json_schemas.unwrap_or(false) };
    if let Some(encoding) =
        choice(problems, "format.encoding", &raw.encoding, &[("avro", Encoding::Avro), ("json", json)])
    {
        format.encoding = encoding;
    }
    let dialects = [("millrace", Dialect::Millrace), ("debezium", Dialect::Debezium)];
    if let Some(dialect) = choice(problems, "format.dialect", &raw.dialect, &dialects) {
        format.dialect = dialect;
    }
    let decimals = [("precise", Decimals::Precise), ("string", Decimals::Text), ("double", Decimals::Double)];
    if let Some(decimals) = choice(problems, "format.decimals", &raw.decimals, &decimals) {
        format.decimals = decimals;
    }
    values(raw, &mut format, problems);
    let spellings =
        [("as_they_are", Spelling::AsTheyAre), ("legal", Spelling::Legal), ("escaped", Spelling::Escaped)];
    for (key, chosen, spelling) in [
        ("format.schema_names", &raw.schema_names, &mut format.schema_names),
        ("format.field_names", &raw.field_names, &mut format.field_names),
    ] {
        *spelling = choice(problems, key, chosen, &spellings).unwrap_or(*spelling);
    }
    for operation in raw.skip_operations.iter().flatten() {
        match operation.as_str() {
            "insert" => format.skipped.inserts = true,
            "update" => format.skipped.updates = true,
            "delete" => format.skipped.deletes = true,
            _ => problems
                .add("format.skip_operations", format!("{operation:?} is not one of insert, update, delete")),
        }
    }
    format.skip_unchanged = raw.skip_unchanged.unwrap_or(format.skip_unchanged);
    format.columns_excluded = columns("format.exclude_columns", raw.exclude_columns.as_ref(), problems);
    format.columns_included = columns("format.include_columns", raw.include_columns.as_ref(), problems);
    format.disguised = disguised(raw, problems);
    format.source_types = columns("format.source_types", raw.source_types.as_ref(), problems);
    format.source_types_of = columns("format.source_types_of", raw.source_types_of.as_ref(), problems);
    format.comments = raw.comments.unwrap_or(format.comments);
    format.context_headers = raw.context_headers.unwrap_or(format.context_headers);
    format.tombstones = raw.tombstones.unwrap_or(format.tombstones);
    format.truncates = raw.truncates.unwrap_or(format.truncates);
    beside_rows(raw, &mut format, problems);
    format.flat = flat(&raw.flat, problems);
    if let Some(placeholder) = &raw.placeholder {
        format.placeholder.clone_from(placeholder);
    }
    match raw.record_bytes_max {
        Some(0) => problems.add("format.record_bytes_max", "must be at least 1"),
        Some(max) if max > RECORD_BYTES_MAX => {
            problems.add("format.record_bytes_max", format!("must be at most {RECORD_BYTES_MAX}"));
        }
        Some(max) => format.record_bytes_max = max,
        None => {}
    }
    if raw.json_schemas.is_some() && format.encoding == Encoding::Avro {
        problems.add("format.json_schemas", "has no effect beside encoding = \"avro\"; remove it");
    }
    format
}

/// Transactions, heartbeats and notifications, on topics of their own, and other names for all topics.
fn beside_rows(raw: &raw::Format, format: &mut Format, problems: &mut Problems) {
    let mut topic = |key: &str, chosen: &Option<String>, usual: String| {
        let name = chosen.clone().unwrap_or(usual);
        if !is_topic_name(&name) {
            problems.add(key, format!("{name:?} cannot be the name of a Kafka topic"));
        }
        name
    };
    let prefix = &format.topic_prefix;
    if raw.transactions == Some(true) {
        let usual = format!("{prefix}.transaction");
        format.transactions = Some(topic("format.transaction_topic", &raw.transaction_topic, usual));
    }
    if let Some(seconds) = raw.heartbeat_topic_interval_s.filter(|seconds| *seconds > 0) {
        let usual = format!("__debezium-heartbeat.{prefix}");
        let topic = topic("format.heartbeat_topic", &raw.heartbeat_topic, usual);
        format.heartbeat = Some(Heartbeat { every: Duration::from_secs(seconds), topic });
    }
    let own = raw.notification_topic.clone();
    format.notifications = own.map(|own| topic("format.notification_topic", &None, own));
    for (key, is_set, switch, is_on) in [
        (
            "transaction_topic",
            raw.transaction_topic.is_some(),
            "transactions = true",
            format.transactions.is_some(),
        ),
        (
            "heartbeat_topic",
            raw.heartbeat_topic.is_some(),
            "heartbeat_topic_interval_s",
            format.heartbeat.is_some(),
        ),
    ] {
        if is_set && !is_on {
            problems.add(&format!("format.{key}"), format!("has no effect without {switch}"));
        }
    }
    rename::topics(&raw.rename_topics, format, problems);
}

/// Rows and documents as flat records. The names of parts begin as Debezium's do, unless the file says otherwise.
fn flat(raw: &raw::Flat, problems: &mut Problems) -> Flat {
    let arrays = [("array", Arrays::Lists), ("document", Arrays::Members)];
    let deletes = [
        ("tombstone", Deletes::Tombstone),
        ("drop", Deletes::Drop),
        ("rewrite", Deletes::Rewrite),
        ("rewrite_with_tombstone", Deletes::RewriteWithTombstone),
    ];
    let mut flat = Flat::default();
    flat.arrays = choice(problems, "format.flat.arrays", &raw.arrays, &arrays).unwrap_or(flat.arrays);
    flat.deletes = choice(problems, "format.flat.deletes", &raw.deletes, &deletes).unwrap_or(flat.deletes);
    match (raw.flatten, &raw.delimiter) {
        (Some(true), delimiter) => flat.delimiter = Some(delimiter.clone().unwrap_or_else(|| "_".into())),
        (_, Some(_)) => problems.add("format.flat.delimiter", "has no effect without flatten = true"),
        (_, None) => {}
    }
    let mut parts = |key: &str, names: &Option<Vec<String>>, prefix: &Option<String>| {
        let prefix = prefix.as_deref().unwrap_or("__");
        let mut found = Vec::new();
        for name in names.iter().flatten() {
            match Added::parse(name, prefix) {
                Ok(added) => found.push(added),
                Err(why) => problems.add(key, why),
            }
        }
        found
    };
    flat.fields = parts("format.flat.add_fields", &raw.add_fields, &raw.add_fields_prefix);
    flat.headers = parts("format.flat.add_headers", &raw.add_headers, &raw.add_headers_prefix);
    flat
}

fn columns(key: &str, names: Option<&Vec<String>>, problems: &mut Problems) -> Vec<Pattern> {
    names.into_iter().flatten().map(|name| column(key, name, problems)).collect()
}

fn column(key: &str, name: &str, problems: &mut Problems) -> Pattern {
    let pattern = Pattern::parse(name).unwrap_or_else(|why| {
        problems.add(key, format!("{name:?} {why}"));
        Pattern::new(name)
    });
    if !pattern.is_expression() && name.matches('.').count() < 2 && !name.contains('*') {
        let what = format!("{name:?} names no column: write schema.table.column, with * for anything");
        problems.add(key, what);
    }
    pattern
}

/// Masks before hashes before keyed hashes before cuts: where two name a column, the one that tells less decides.
fn disguised(raw: &raw::Format, problems: &mut Problems) -> Vec<Disguised> {
    let mut found = Vec::new();
    for (name, asterisks) in raw.mask_columns.iter().flatten() {
        let columns = column("format.mask_columns", name, problems);
        found.push(Disguised { columns, by: Disguise::Mask { asterisks: *asterisks } });
    }
    let algorithms = [
        ("md5", Algorithm::Md5),
        ("sha1", Algorithm::Sha1),
        ("sha224", Algorithm::Sha224),
        ("sha256", Algorithm::Sha256),
        ("sha384", Algorithm::Sha384),
        ("sha512", Algorithm::Sha512),
    ];
    let algorithm = choice(problems, "format.hash_algorithm", &raw.hash_algorithm, &algorithms);
    let algorithm = algorithm.unwrap_or(Algorithm::Sha256);
    let hashed = columns("format.hash_columns", raw.hash_columns.as_ref(), problems);
    let salt = raw.hash_salt.as_ref().map(|salt| salt.expose_secret()).unwrap_or_default();
    if !hashed.is_empty() && salt.is_empty() {
        problems.add("format.hash_salt", "is missing: without it a short text is found by trying");
    }
    let of = match raw.hash_version {
        None | Some(2) => Hashed::Text,
        Some(1) => Hashed::Serialized,
        Some(_) => {
            problems.add("format.hash_version", "must be 1 or 2");
            Hashed::Text
        }
    };
    for columns in hashed {
        let salt = Salt(salt.to_owned());
        found.push(Disguised { columns, by: Disguise::Hash { algorithm, salt, of, length: None } });
    }
    found.extend(keyed(raw, problems));
    found.extend(encrypted(raw, problems));
    for (name, characters) in raw.truncate_columns.iter().flatten() {
        let columns = column("format.truncate_columns", name, problems);
        if *characters == 0 {
            problems.add("format.truncate_columns", format!("{name:?} must keep at least one character"));
        }
        found.push(Disguised { columns, by: Disguise::Truncate { characters: *characters } });
    }
    found
}

/// Hashes under a secret key.
fn keyed(raw: &raw::Format, problems: &mut Problems) -> Vec<Disguised> {
    let named = columns("format.hmac_columns", raw.hmac_columns.as_ref(), problems);
    let Some(secret) = &raw.hmac_secret else {
        if !named.is_empty() {
            problems.add("format.hmac_secret", "is missing, as in \"${file:/run/secrets/hmac.key}\"");
        }
        return Vec::new();
    };
    let Some(key) = HmacKey::new(secret.expose_secret().trim_end().as_bytes()) else {
        let least = HMAC_KEY_BYTES_MIN;
        problems.add(
            "format.hmac_secret",
            format!("is shorter than {least} bytes; make one: openssl rand -hex {least}"),
        );
        return Vec::new();
    };
    let by = |columns| Disguised { columns, by: Disguise::Hmac { key: key.clone() } };
    named.into_iter().map(by).collect()
}

/// Texts for those who have a key.
fn encrypted(raw: &raw::Format, problems: &mut Problems) -> Vec<Disguised> {
    let named = columns("format.encrypt_columns", raw.encrypt_columns.as_ref(), problems);
    let Some(key) = &raw.encrypt_secret else {
        if !named.is_empty() {
            problems.add("format.encrypt_secret", "is missing, as in \"${file:/run/secrets/columns.key}\"");
        }
        return Vec::new();
    };
    let id = raw.encrypt_key_id.as_deref().unwrap_or("millrace");
    match Cipher::new(id, key.expose_secret().trim()) {
        Ok(cipher) => {
            let by = |columns| Disguised { columns, by: Disguise::Encrypt(cipher.clone()) };
            named.into_iter().map(by).collect()
        }
        Err(why) => {
            problems.add("format.encrypt_secret", why);
            Vec::new()
        }
    }
}

/// What values become that can be said in more than one way.
fn values(raw: &raw::Format, format: &mut Format, problems: &mut Problems) {
    let times = [
        ("adaptive", Times::Adaptive),
        ("adaptive_time_microseconds", Times::AdaptiveTimeMicroseconds),
        ("connect", Times::Connect),
        ("iso_string", Times::IsoText),
        ("microseconds", Times::Microseconds),
        ("nanoseconds", Times::Nanoseconds),
    ];
    let intervals = [("numeric", Intervals::Numeric), ("string", Intervals::Text)];
    let binary = [
        ("bytes", Binary::Bytes),
        ("base64", Binary::Base64),
        ("base64_url_safe", Binary::Base64UrlSafe),
        ("hex", Binary::Hex),
    ];
    let hstore = [("json", Hstore::Json), ("map", Hstore::Map)];
    format.times = choice(problems, "format.times", &raw.times, &times).unwrap_or(format.times);
    format.intervals =
        choice(problems, "format.intervals", &raw.intervals, &intervals).unwrap_or(format.intervals);
    format.binary = choice(problems, "format.binary", &raw.binary, &binary).unwrap_or(format.binary);
    format.hstore = choice(problems, "format.hstore", &raw.hstore, &hstore).unwrap_or(format.hstore);
}

/// The meaning of a chosen word; `None` where none is set or it is not one of ours.
pub fn choice<T: Copy>(
    problems: &mut Problems,
    key: &str,
    chosen: &Option<String>,
    known: &[(&str, T)],
) -> Option<T> {
    let chosen = chosen.as_deref()?;
    if let Some((_, meaning)) = known.iter().find(|(word, _)| *word == chosen) {
        return Some(*meaning);
    }
    let words: Vec<&str> = known.iter().map(|(word, _)| *word).collect();
    let meant = nearest(chosen, &words).map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
    problems.add(key, format!("{chosen:?} is not one of {}{meant}", words.join(", ")));
    None
}

/// Kafka's characters; 249 is its limit for the whole topic, of which the table needs a part.
fn is_topic_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 200
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}
