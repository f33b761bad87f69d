//! The configuration as REST shows it: a flat map of strings, secrets as the reference that names them, or
//! hidden.

use std::collections::BTreeMap;

use config::{Value, ValueKind};

pub const HIDDEN: &str = "[hidden]";

/// Parts of the names of keys whose values are secret, whoever defines the key.
const SECRET_NAMES: [&str; 11] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "credential",
    "jaas",
    "key.pem",
    "api_key",
    "hash_salt",
    // Whatever their names are.
    "traces.headers.",
];

/// In the name of a property, behind which its salt stands.
const SALT_IN_NAME: &str = ".with.salt.";

/// `source.postgres.url` -> value. `value` must be the tree before references were put in.
pub fn flatten(value: &Value) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    walk(value, String::new(), &mut out);
    out
}

/// Properties that are flat already, in the same way.
pub fn hidden(properties: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let one = |(key, value): (&String, &String)| match key.split_once(SALT_IN_NAME) {
        Some((before, _)) => (format!("{before}{SALT_IN_NAME}{HIDDEN}"), value.clone()),
        None => (key.clone(), shown(key, value)),
    };
    properties.iter().map(one).collect()
}

fn walk(value: &Value, key: String, out: &mut BTreeMap<String, String>) {
    match &value.kind {
        ValueKind::Nil => {}
        ValueKind::Table(table) => {
            for (name, inner) in table {
                let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                walk(inner, key, out);
            }
        }
        ValueKind::Array(items) => {
            let items: Vec<_> = items.iter().map(|item| shown(&key, &item.to_string())).collect();
            out.insert(key, items.join(","));
        }
        ValueKind::Boolean(_)
        | ValueKind::I64(_)
        | ValueKind::I128(_)
        | ValueKind::U64(_)
        | ValueKind::U128(_)
        | ValueKind::Float(_)
        | ValueKind::String(_) => {
            let text = shown(&key, &value.to_string());
            out.insert(key, text);
        }
    }
}

fn shown(key: &str, value: &str) -> String {
    if is_secret_name(key) && !is_reference(value) {
        return HIDDEN.to_owned();
    }
    hide_in_url(value)
}

/// One whole reference and nothing beside it.
fn is_reference(value: &str) -> bool {
    value
        .strip_prefix("${")
        .and_then(|value| value.strip_suffix('}'))
        .is_some_and(|inner| !inner.contains(['$', '{', '}']))
}

/// Hides the password before the host of a URL, and any in its query.
pub fn hide_in_url(value: &str) -> String {
    let Some((scheme, rest)) = value.split_once("://") else { return value.to_owned() };
    // The last `@` of the authority: a password may hold one of its own, and a `/` too when unescaped.
    let authority_end = rest.find('?').unwrap_or(rest.len());
    let (authority, query) = rest.split_at(authority_end);
    let mut out = format!("{scheme}://");
    match authority.rsplit_once('@') {
        Some((user, host)) => {
            match user.split_once(':') {
                Some((user, password)) if !is_reference(password) => {
                    out.push_str(&format!("{user}:{HIDDEN}"));
                }
                _ => out.push_str(user),
            }
            out.push('@');
            out.push_str(host);
        }
        None => out.push_str(authority),
    }
    for (nth, pair) in query.split('&').enumerate() {
        if nth > 0 {
            out.push('&');
        }
        match pair.split_once('=') {
            Some((name, secret)) if is_secret_name(name) && !is_reference(secret) => {
                out.push_str(&format!("{name}={HIDDEN}"));
            }
            _ => out.push_str(pair),
        }
    }
    out
}

/// Whether a key of this name holds a secret, whoever defines it.
pub fn is_secret_name(name: &str) -> bool {
    let name = name.to_lowercase();
    SECRET_NAMES.iter().any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_hidden_and_its_reference_shown() {
        assert_eq!(shown("sink.kafka.client.sasl.password", "hunter2"), HIDDEN);
        assert_eq!(shown("traces.headers.authorization", "Bearer hunter2"), HIDDEN);
        assert_eq!(shown("source.postgres.password", "${file:/run/pw}"), "${file:/run/pw}");
        assert_eq!(shown("source.postgres.password", "x${env:A}${env:B}"), HIDDEN);
    }

    #[test]
    fn a_salt_is_hidden_as_a_value_and_in_the_name_of_a_property() {
        assert_eq!(shown("format.hash_salt", "CzQ"), HIDDEN);
        assert_eq!(shown("format.hash_salt", "${env:SALT}"), "${env:SALT}");
        let name = "column.mask.hash.SHA-256.with.salt.CzQ".to_owned();
        let all = hidden(&BTreeMap::from([(name, "public.users.email".to_owned())]));
        let shown =
            ("column.mask.hash.SHA-256.with.salt.[hidden]".to_owned(), "public.users.email".to_owned());
        assert_eq!(all, BTreeMap::from([shown]));
    }

    #[test]
    fn a_password_in_a_url_is_hidden() {
        assert_eq!(hide_in_url("postgres://u:p@ss/w@db:5432/shop"), "postgres://u:[hidden]@db:5432/shop");
        assert_eq!(hide_in_url("postgres://u:${env:P}@db/shop"), "postgres://u:${env:P}@db/shop");
        assert_eq!(
            hide_in_url("postgres://db/shop?sslmode=require&password=x"),
            "postgres://db/shop?sslmode=require&password=[hidden]"
        );
        assert_eq!(hide_in_url("public.orders"), "public.orders");
    }

    #[test]
    fn nested_tables_become_dotted_keys_and_lists_are_joined() {
        let text = "[a.b]\nc = [\"x\", \"y\"]\nd = 5\n";
        let tree = config::Config::builder()
            .add_source(config::File::from_str(text, config::FileFormat::Toml))
            .build()
            .unwrap();
        let flat = flatten(&tree.cache);
        assert_eq!(flat["a.b.c"], "x,y");
        assert_eq!(flat["a.b.d"], "5");
    }
}
