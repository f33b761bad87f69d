//! Whole files, as they are given to the daemon.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::load::parse_text;
use super::*;

/// A connector of this name as other modules' tests need it.
pub fn connector(name: &str) -> Connector {
    let text = STDOUT.replace("\"orders\"", &format!("\"{name}\""));
    parse_text(&text, &Environment::default()).unwrap()
}

const STDOUT: &str = r#"
name = "orders"
[source.postgres]
url = "postgres://replicator@127.0.0.1/shop"
password = "hunter2"
tables = ["public.orders"]
[format]
encoding = "json"
[sink.stdout]
"#;

fn messages(text: &str) -> Vec<String> {
    let problems = parse_text(text, &Environment::default()).map(|c| c.name).unwrap_err();
    problems.iter().map(ToString::to_string).collect()
}

fn at(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn the_shortest_file_has_a_name_a_url_with_tables_and_a_sink() {
    let connector = connector("orders");
    assert_eq!(connector.format.topic_prefix, "orders");
    assert!(matches!(connector.sink, crate::registry::Sink::Stdout(_)));
}

#[test]
fn every_problem_of_a_file_is_listed_at_once() {
    let text = r#"
name = "Orders!"
[source.postgres]
url = "postgres://replicator@127.0.0.1/shop"
tables = []
[format]
encoding = "jsn"
dialect = "debezum"
topic_prefix = "a b"
[rest]
listen = "somewhere"
"#;
    let messages = messages(text).join("\n");
    for part in [
        "name: \"Orders!\" must be",
        "format.encoding: \"jsn\" is not one of avro, json; did you mean \"json\"?",
        "format.dialect: \"debezum\" is not one of millrace, debezium; did you mean \"debezium\"?",
        "format.topic_prefix: may hold",
        "tables is empty",
        "sink: is missing; add [sink.kafka] or [sink.stdout]",
        "rest.listen: \"somewhere\" is not an address",
        "orders.toml:7:1: ",
    ] {
        assert!(messages.contains(part), "{part:?} in\n{messages}");
    }
}

#[test]
fn what_is_missing_is_named() {
    let messages = messages("").join("\n");
    for part in ["name: is missing", "source: is missing", "sink: is missing"] {
        assert!(messages.contains(part), "{part:?} in\n{messages}");
    }
}

#[test]
fn a_missing_secret_file_is_named_with_key_and_path() {
    let text = STDOUT.replace("hunter2", "${file:/nowhere/password}");
    let messages = messages(&text);
    assert!(
        messages[0]
            .starts_with("orders.toml:5:1: source.postgres.password: cannot read file /nowhere/password"),
        "{messages:?}"
    );
}

#[test]
fn a_secret_shows_neither_in_rest_nor_in_debug_output() {
    let connector = connector("orders");
    assert_eq!(connector.shown["source.postgres.password"], "[hidden]");
    let debug = format!("{connector:?}");
    assert!(!debug.contains("hunter2"), "{debug}");
}

#[test]
fn a_reference_shows_unresolved_and_its_secret_nowhere() {
    let environment = Environment::of(&[("PW", "hunter3")]);
    let connector = parse_text(&STDOUT.replace("hunter2", "${env:PW}"), &environment).unwrap();
    assert_eq!(connector.shown["source.postgres.password"], "${env:PW}");
    assert!(!format!("{connector:?}").contains("hunter3"));
}

#[test]
fn a_variable_overrides_the_file_and_keeps_its_zeros() {
    let environment = Environment::of(&[
        ("MILLRACE__SINK__STDOUT__STATE_DIR", "000123"),
        ("MILLRACE__SOURCE__POSTGRES__TABLES", "public.a,public.b"),
        ("MILLRACE__FORMAT__TOMBSTONES", "false"),
    ]);
    let connector = parse_text(STDOUT, &environment).unwrap();
    assert_eq!(connector.shown["sink.stdout.state_dir"], "000123");
    assert_eq!(connector.shown["source.postgres.tables"], "public.a,public.b");
    assert!(!connector.format.tombstones);
    let crate::registry::Sink::Stdout(settings) = connector.sink else { panic!("stdout") };
    assert_eq!(settings.position_file, PathBuf::from("000123/orders.position"));
}

#[test]
fn an_unknown_variable_is_refused_with_the_nearest_key() {
    let environment = Environment::of(&[("MILLRACE__FORMAT__TOMBSTONE", "true")]);
    let problems = parse_text(STDOUT, &environment).map(|c| c.name).unwrap_err();
    assert_eq!(
        problems[0].to_string(),
        "orders.toml with the MILLRACE__ variables: unknown key `tombstone`\n  hint: did you mean `tombstones`?"
    );
}

#[test]
fn a_variable_of_a_wrong_type_is_named_without_its_value() {
    let environment = Environment::of(&[("MILLRACE__FORMAT__TOMBSTONES", "hunter2")]);
    let problems = parse_text(STDOUT, &environment).map(|c| c.name).unwrap_err();
    let text = problems[0].to_string();
    assert!(text.contains("format.tombstones") && !text.contains("hunter2"), "{text}");
}

#[test]
fn a_url_may_come_from_the_environment_alone() {
    let text = STDOUT.replace("url = \"postgres://replicator@127.0.0.1/shop\"\n", "");
    let environment =
        Environment::of(&[("MILLRACE__SOURCE__POSTGRES__URL", "postgres://replicator@127.0.0.1/shop")]);
    parse_text(&text, &environment).unwrap();
    let messages = messages(&text);
    assert!(messages[0].contains("url"), "{messages:?}");
}

#[test]
fn avro_into_standard_output_is_refused() {
    let messages = messages(&STDOUT.replace("encoding = \"json\"", ""));
    assert!(messages[0].contains("schemas need [sink.kafka]; set encoding = \"json\""), "{messages:?}");
}

#[test]
fn a_route_that_shows_a_masked_column_is_refused_and_one_that_shows_others_is_not() {
    let file = |column: &str| {
        let format = "encoding = \"json\"\nmask_columns = { \"public.orders.card\" = 4 }";
        let route = format!("[[route]]\nrelations = \"public.*\"\nheaders = {{ shown = \"{column}\" }}");
        let letters = "[dead_letters]\non_reject = \"dead_letter\"";
        STDOUT.replace("encoding = \"json\"", &format!("{format}\n{route}\n{letters}"))
    };
    let found = messages(&file("card")).join("\n");
    assert!(found.contains("route: shows column public.orders.card"), "{found}");
    assert!(parse_text(&file("status"), &Environment::default()).is_ok());
}

#[test]
fn what_an_outbox_holds_is_left_alone_or_read_in_an_order_that_the_file_declares() {
    let file = |options: &str| {
        STDOUT.to_owned()
            + "[[route]]\nrelations = \"public.orders\"\nenvelope = \"outbox\"\n[route.outbox]\n"
            + options
    };
    let drains = "first_start = \"drain_existing\"\n";
    for good in [
        "",
        "first_start = \"from_now\"",
        &format!("{drains}order_by = \"id\""),
        &format!("{drains}any_order = true"),
    ] {
        assert!(parse_text(&file(good), &Environment::default()).is_ok(), "{good}");
    }
    for (options, expected) in [
        (drains.to_owned(), "route.outbox.order_by: is missing"),
        (format!("{drains}order_by = \"id\"\nany_order = true"), "says the opposite of order_by"),
        (format!("{drains}order_by = [\"a\", \"b\", \"a\"]"), "names a twice"),
        (format!("{drains}order_by = \"id\"\non_update = \"skip\""), "does not go with drain_existing"),
        ("order_by = \"id\"".to_owned(), "route.outbox.order_by: has no effect"),
        ("first_start = \"drain\"".to_owned(), "is not one of from_now, drain_existing"),
    ] {
        let found = messages(&file(&options)).join("\n");
        assert!(found.contains(expected), "{options}: {found}");
    }
}

#[test]
fn an_outbox_whose_rows_would_come_out_of_order_or_twice_is_refused() {
    let route = "[[route]]\nrelations = \"public.orders\"\nenvelope = \"outbox\"\n";
    let debezium = STDOUT.replace("[format]", "[format]\ndialect = \"debezium\"") + route;
    let found = messages(&debezium);
    assert!(found[0].contains("set snapshot = \"no_data\""), "{found:?}");
    let said = debezium.clone() + "[route.outbox]\nfirst_start = \"from_now\"\n";
    assert!(parse_text(&said, &Environment::default()).is_ok());
    for mode in ["when_needed", "initial_only"] {
        let file = STDOUT.replace("[format]", &format!("snapshot = \"{mode}\"\n[format]")) + route;
        let found = messages(&file).join("\n");
        assert!(found.contains("source.postgres.snapshot: "), "{mode}: {found}");
    }
    let of_documents = "name = \"a\"\n[source.mongodb]\nurl = \"mongodb://h/\"\ncollections = [\"a.b\"]\njson = \"plain\"\n\
                        [sink.stdout]\n[format]\nencoding = \"json\"\n[[route]]\nrelations = \"a.b\"\nenvelope = \"outbox\"\n\
                        [route.outbox]\nfirst_start = \"drain_existing\"\norder_by = \"at\"\n";
    let found = messages(of_documents).join("\n");
    assert!(
        found.contains("\"drain_existing\" is for tables") && found.contains("source.mongodb.snapshot"),
        "{found}"
    );
}

#[test]
fn an_outbox_of_documents_whose_values_are_wrapped_is_refused() {
    let file = "name = \"a\"\n[source.mongodb]\nurl = \"mongodb://h/\"\nsnapshot = \"no_data\"\ncollections = [\"a.b\"]\n[sink.stdout]\n\
                [format]\nencoding = \"json\"\n[[route]]\nrelations = \"a.b\"\nenvelope = \"outbox\"\n";
    let found = messages(file);
    assert!(found[0].contains("set json = \"plain\""), "{found:?}");
    let file = file.replace("collections", "json = \"plain\"\ncollections");
    assert!(parse_text(&file, &Environment::default()).is_ok());
}

#[test]
fn what_an_outbox_says_of_its_schemas_has_to_go_together() {
    let file = |encoding: &str, more: &str| {
        format!(
            "name = \"a\"\n[source.postgres]\nurl = \"postgres://u@h/d\"\nsnapshot = \"no_data\"\ntables = [\"public.o\"]\n\
             [sink.kafka]\nbootstrap = [\"h:9092\"]\n[format]\nregistry = \"http://h\"\n[[route]]\nrelations = \"public.o\"\n\
             envelope = \"outbox\"\n{encoding}\n[route.outbox]\n{more}\n"
        )
    };
    let json = "subject = \"s\"\nschema_type = \"json\"\n";
    for (encoding, more, expected) in [
        ("", "schema_id = \"header\"", "route.outbox.schema_id: needs `subject`"),
        ("", "subject = \"s\"\nschema_type = \"xml\"", "is not one of avro, json"),
        ("encoding = \"json\"", "subject = \"s\"", "needs schema_type = \"json\""),
        ("encoding = \"avro\"", json, "schema_type: is json, and the route's encoding avro"),
        ("", "subject = \"s\"\nderive_schemas = true", "derive_schemas: needs schema_type = \"json\""),
        ("", &format!("{json}derive_schemas = true"), "derive_schemas: needs [[route.outbox.fields]]"),
        ("", &format!("{json}schema_id_header = \"x\""), "has no effect without schema_id = \"header\""),
        ("", &format!("{json}schemas = {{ s = '{{\"type\": 5}}' }}"), "subject s is unusable"),
        ("", "subject = \"s\"\nschemas = { s = '[5]' }", "subject s is unusable"),
    ] {
        let found = messages(&file(encoding, more)).join("\n");
        assert!(found.contains(expected), "{more}: {found}");
    }
    let fields = "derive_schemas = true\nschema_id = \"header\"\n[[route.outbox.fields]]\nname = \"d\"\ncolumn = \"payload\"";
    let good = file("encoding = \"json\"", &format!("{json}{fields}"));
    assert!(parse_text(&good, &Environment::default()).is_ok(), "{:?}", messages(&good));
}

#[test]
fn a_filter_that_is_no_expression_and_a_cloud_event_without_a_source_are_refused() {
    let file = |more: &str| {
        let route = "[[route]]\nrelations = \"public.outbox\"\nenvelope = \"outbox\"\n";
        STDOUT.replace("[format]", "snapshot = \"no_data\"\n[format]") + route + more
    };
    for (more, expected) in [
        ("filter = \"a = b\"", "route.filter: is no expression: b is no value"),
        ("[route.outbox.cloudevents]\nmode = \"binary\"", "cloudevents.source: is missing"),
        ("[route.outbox.cloudevents]\nsource = \"/a\"", "has no `mode`"),
    ] {
        let found = messages(&file(more)).join("\n");
        assert!(found.contains(expected), "{found}");
    }
    let good =
        file("filter = \"a = 'b'\"\n[route.outbox.cloudevents]\nmode = \"structured\"\nsource = \"/a\"");
    assert!(parse_text(&good, &Environment::default()).is_ok());
}

#[test]
fn a_step_does_one_thing_and_what_says_nothing_is_refused() {
    for (step, part) in [
        ("", "does nothing; give it one of drop, keep"),
        ("drop = 'a'\nkeep = 'b'", "does several things"),
        ("drop = 'a'\nwith = 'x'", "step.with: has no effect without replace"),
        ("drop = 'a'\nof = 'value'", "step.of: \"value\" is not one of row, key"),
        ("drop = 'a'\nonly = '('", "is no expression"),
        ("drop = 'a'\nonly = 'x'\nnot = 'y'", "takes one of only and not"),
        ("drop_headers = 'position'", "step.drop_headers: \"position\" stays"),
        ("partition_by = 'a'\npartitions = 0", "step.partitions: must be at least 1"),
    ] {
        let said = messages(&format!("{STDOUT}\n[[step]]\n{step}\n")).join("\n");
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn steps_on_fields_are_for_tables() {
    let text = "name = \"docs\"\n[source.mongodb]\nurl = \"mongodb://h/?replicaSet=rs\"\ncollections = [\"shop.orders\"]\n\
                [format]\nencoding = \"json\"\n[sink.stdout]\n[[step]]\n";
    let said = messages(&format!("{text}drop = 'a'\n")).join("\n");
    assert!(said.contains("step: names fields, and documents have no columns"), "{said}");
    assert!(
        parse_text(&format!("{text}header_texts = {{ team = 'docs' }}\n"), &Environment::default()).is_ok()
    );
}

#[test]
fn a_keyed_hash_needs_a_secret_of_some_length() {
    for (secret, part) in
        [("", "format.hmac_secret: is missing"), ("hmac_secret = 'short'", "is shorter than 32 bytes")]
    {
        let format = format!("[format]\nhmac_columns = ['public.a.b']\n{secret}\n");
        let said = messages(&STDOUT.replace("[format]", &format)).join("\n");
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn encrypted_columns_need_a_key_of_32_bytes() {
    let key = "ab".repeat(32);
    for (secret, part) in [
        (String::new(), "format.encrypt_secret: is missing"),
        ("encrypt_secret = 'abc'".to_owned(), "is not 32 bytes in hexadecimal"),
        (format!("encrypt_secret = '{key}'\nencrypt_key_id = ''"), "its id must have 1 to 255 bytes"),
    ] {
        let format = format!("[format]\nencrypt_columns = ['public.a.b']\n{secret}\n");
        let said = messages(&STDOUT.replace("[format]", &format)).join("\n");
        assert!(said.contains(part) && !said.contains(&key), "{part}: {said}");
    }
}

#[test]
fn a_key_that_cannot_sign_is_refused_and_never_shown() {
    let file = |key: &str| STDOUT.to_owned() + "[signature]\n" + key;
    for (key, expected) in [
        ("ed25519_secret = \"hunter2\"", "openssl genpkey -algorithm ed25519"),
        ("hmac_sha256_secret = \"hunter2\"", "is shorter than 32 bytes"),
        ("key_id = \"k\"", "no key"),
        ("hmac_sha256_secret = \"hunter2\"\ned25519_secret = \"hunter2\"", "two keys"),
    ] {
        let found = messages(&file(key)).join("\n");
        assert!(found.contains(expected) && !found.contains("hunter2"), "{found}");
    }
    let good = file("hmac_sha256_secret = \"0123456789abcdef0123456789abcdef\"");
    let loaded = parse_text(&good, &Environment::default()).unwrap();
    assert!(!format!("{loaded:?}").contains("0123456789"));
}

#[test]
fn an_unknown_kind_of_snapshot_is_refused_with_the_known_ones() {
    let messages = messages(&STDOUT.replace("[format]", "snapshot = \"full\"\n[format]"));
    assert!(messages[0].contains("initial") && messages[0].contains("no_data"), "{messages:?}");
}

#[test]
fn two_names_that_would_share_a_slot_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    at(folder.path(), "a.toml", &STDOUT.replace("\"orders\"", "\"orders-eu\""));
    at(folder.path(), "b.toml", &STDOUT.replace("\"orders\"", "\"orders_eu\""));
    let problems = load(&[folder.path().to_owned()], &Environment::default()).unwrap_err();
    assert!(problems[0].message.contains("differ only in - and _"), "{problems:?}");
}

#[test]
fn two_files_of_one_name_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    at(folder.path(), "a.toml", STDOUT);
    at(folder.path(), "b.toml", STDOUT);
    at(folder.path(), "notes.txt", "not for us");
    let problems = load(&[folder.path().to_owned()], &Environment::default()).unwrap_err();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].place.ends_with("b.toml"), "{problems:?}");
    assert!(problems[0].message.contains("\"orders\" is taken by"), "{problems:?}");
}

#[test]
fn a_folder_is_read_in_order_and_every_bad_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    at(folder.path(), "b.toml", "nam = 1\n");
    at(folder.path(), "a.toml", "naem = 1\n");
    let problems = load(&[folder.path().to_owned()], &Environment::default()).unwrap_err();
    let places: Vec<_> = problems.iter().map(|p| p.place.rsplit('/').next().unwrap()).collect();
    assert_eq!(places, ["a.toml:1:1", "b.toml:1:1"]);
}

#[test]
fn one_file_may_set_rest_and_two_must_agree() {
    let folder = tempfile::tempdir().unwrap();
    let rest = "[rest]\nlisten = \"127.0.0.1:9000\"\n";
    let other = STDOUT.replace("\"orders\"", "\"items\"");
    let a = at(folder.path(), "a.toml", &format!("{STDOUT}{rest}"));
    let b = at(folder.path(), "b.toml", &other);
    let loaded = load(&[b.clone(), a.clone()], &Environment::default()).unwrap();
    assert_eq!(loaded.rest.listen.port(), 9000);
    at(folder.path(), "b.toml", &format!("{other}{}", rest.replace("9000", "9001")));
    let problems = load(&[a, b], &Environment::default()).unwrap_err();
    assert!(problems[0].message.starts_with("rest: differs"), "{problems:?}");
}

#[test]
fn a_file_of_connect_without_a_connector_of_ours_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let path = at(folder.path(), "a.json", "{}");
    let problems = load(&[path], &Environment::default()).unwrap_err();
    assert!(problems[0].message.starts_with("connector.class: "), "{problems:?}");
}

#[test]
fn a_missing_path_and_an_empty_folder_are_both_named() {
    let folder = tempfile::tempdir().unwrap();
    let problems =
        load(&["/nowhere/a.toml".into(), folder.path().to_owned()], &Environment::default()).unwrap_err();
    assert_eq!(problems.len(), 2, "{problems:?}");
}

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("configs")
}

#[test]
fn every_example_is_accepted() {
    let environment = Environment::of(&[("PGPASSWORD", "secret")]);
    let plain =
        ["reference.toml", "postgres-avro-kafka.toml", "postgres-stdout.toml", "mongodb-avro-kafka.toml"];
    for name in plain {
        let text = std::fs::read_to_string(configs().join(name)).unwrap();
        if let Err(problems) = parse_text(&text, &environment) {
            panic!("{name}: {}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
        }
    }
}

#[test]
fn every_file_of_a_served_system_is_accepted() {
    let passwords = ["PGPASSWORD", "MONGOPASSWORD", "REGISTRY_PASSWORD", "KAFKA_PASSWORD"];
    let environment = Environment::of(&passwords.map(|name| (name, "secret")));
    // What signs lies outside of the repository, and schemas are named from its root on.
    let secret = "ed25519_secret = \"${file:/run/secrets/signing.pem}\"";
    let place = format!("${{file:{}", configs().display());
    let mut count = 0;
    for system in ["payments", "orders", "lab", "booking", "exb"] {
        for entry in std::fs::read_dir(configs().join(system)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "toml") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap().replace("${file:configs", &place);
            let text = text.replace(secret, "hmac_sha256_secret = \"0123456789abcdef0123456789abcdef\"");
            // A certificate is asked for by its file, and read with the first connection.
            let text =
                text.replace("/etc/millrace/ca.pem", &configs().join("reference.toml").display().to_string());
            if let Err(problems) = parse_text(&text, &environment) {
                let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
                panic!("{}: {}", path.display(), problems.join("\n"));
            }
            count += 1;
        }
    }
    assert_eq!(count, 3 + 1 + 5 + 4 + 3);
}

/// Keys in `reference.toml` are written as `key = value` or, where there is no default to show or two keys
/// exclude each other, as `# key = value`.
fn reference_keys() -> BTreeSet<String> {
    let text = std::fs::read_to_string(configs().join("reference.toml")).unwrap();
    let mut section = String::new();
    let mut keys = BTreeSet::new();
    for line in text.lines() {
        let line = line.strip_prefix("# ").unwrap_or(line);
        if let Some(name) = section_of(line) {
            section = name.to_owned();
        } else if let Some((key, _)) = line.split_once(" = ")
            && !FREE.iter().any(|free| section.starts_with(free))
            && key.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        {
            keys.insert(if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") });
        }
    }
    keys
}

/// `a.b` of `[a.b]` and of `[[a.b]]`.
fn section_of(line: &str) -> Option<&str> {
    let line = line.strip_prefix('[')?.strip_suffix(']')?;
    Some(line.strip_prefix('[').and_then(|line| line.strip_suffix(']')).unwrap_or(line))
}

/// The keys that the file may have, as serde names them when it is given one that it does not know.
fn known_keys(section: &str, into: &mut BTreeSet<String>) {
    let header = match section {
        "" => String::new(),
        section if LISTED.contains(&section) => format!("[[{section}]]\n"),
        section => format!("[{section}]\n"),
    };
    // A table inside a list of tables belongs to the newest of the list.
    let header = if section.starts_with("route.") { format!("[[route]]\n{header}") } else { header };
    let document = document::Document { name: "x".into(), text: format!("{header}zzzzzzzzzzzzzzzzzz = 1\n") };
    let problems = strict::read(&document).unwrap_err();
    let hint = problems[0].hint.clone().unwrap_or_else(|| panic!("[{section}] has no keys: {problems:?}"));
    for key in hint.strip_prefix("known here: ").unwrap().split(", ") {
        let path = if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") };
        if TABLES.contains(&path.as_str()) {
            known_keys(&path, into);
        } else if !FREE.contains(&path.as_str()) {
            into.insert(path);
        }
    }
}

/// Keys that are tables of known keys.
const TABLES: [&str; 25] = [
    "source",
    "source.postgres",
    "source.mongodb",
    "format",
    "format.flat",
    "format.rename_topics",
    "dead_letters",
    "signature",
    "route",
    "route.outbox",
    "route.outbox.fields",
    "route.outbox.cloudevents",
    "route.outbox.routed",
    "step",
    "sink",
    "sink.kafka",
    "sink.kafka.topic_defaults",
    "sink.kafka.transaction",
    "sink.kafka.sasl",
    "sink.kafka.gauges",
    "sink.kafka.tls",
    "sink.stdout",
    "rest",
    "operator_log",
    "traces",
];

/// Of those, lists of tables.
const LISTED: [&str; 4] = ["route", "step", "route.outbox.fields", "format.rename_topics"];

/// Keys that are tables of keys which others define.
const FREE: [&str; 3] = ["sink.kafka.client", "sink.kafka.topic_defaults.config", "sink.kafka.topics"];

#[test]
fn the_reference_has_every_key_and_no_other() {
    let mut known = BTreeSet::new();
    known_keys("", &mut known);
    let written = reference_keys();
    let missing: Vec<_> = known.difference(&written).collect();
    let unknown: Vec<_> = written.difference(&known).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "missing {missing:?}, unknown {unknown:?}");
}

#[test]
fn every_list_of_the_reference_can_come_from_the_environment() {
    let text = std::fs::read_to_string(configs().join("reference.toml")).unwrap();
    let mut section = String::new();
    for line in text.lines() {
        let line = line.strip_prefix("# ").unwrap_or(line);
        if let Some(name) = section_of(line) {
            section = name.to_owned();
        } else if let Some((key, value)) = line.split_once(" = ")
            && value.starts_with('[')
            // A list of tables has no name for a variable to reach one of them by.
            && !section.starts_with("route")
            && section != "step"
        {
            let path = format!("{section}.{key}");
            assert!(environment::LISTS.contains(&path.as_str()), "{path}");
        }
    }
}
