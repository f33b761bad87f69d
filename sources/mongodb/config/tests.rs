//! What the table of the file becomes, and what is refused.

use super::*;

fn raw(toml: &str) -> Raw {
    toml::from_str(toml).unwrap()
}

fn resolved(toml: &str) -> Settings {
    Settings::resolve(raw(toml), "orders").unwrap()
}

fn problems(toml: &str) -> Vec<String> {
    let problems = Settings::resolve(raw(toml), "orders").unwrap_err();
    problems.iter().map(|error| format!("{error} / {}", error.hint_text().unwrap_or_default())).collect()
}

const SHORTEST: &str = "url = 'mongodb://bob@db1,db2:27018/?replicaSet=rs0'\ncollections = ['shop.orders']\n";

#[test]
fn the_shortest_file_gets_every_default() {
    let settings = resolved(SHORTEST);
    assert_eq!(settings.place(), "db1:27017,db2:27018");
    assert_eq!(settings.scope, Scope::Deployment);
    assert_eq!((settings.update_document, settings.pre_images), (UpdateDocument::Lookup, false));
    assert_eq!((settings.json, settings.heartbeat_interval), (Dialect::Strict, HEARTBEAT));
    assert!(settings.wants("shop", "orders") && !settings.wants("shop", "items"));
}

#[test]
fn a_narrower_scope_takes_its_names_from_the_collections() {
    let scope = |toml: &str| resolved(&format!("url = 'mongodb://db'\n{toml}")).scope;
    assert_eq!(
        scope("scope = 'database'\ncollections = ['shop.a', 'shop.b']"),
        Scope::Database("shop".to_owned())
    );
    assert_eq!(
        scope("scope = 'collection'\ncollections = ['shop.a.b']"),
        Scope::Collection("shop".to_owned(), "a.b".to_owned())
    );
}

#[test]
fn an_excluded_collection_is_not_wanted() {
    let settings =
        resolved("url = 'mongodb://db'\ncollections = ['shop.*']\nexclude_collections = ['shop.tmp']");
    assert!(settings.wants("shop", "a") && !settings.wants("shop", "tmp"));
}

#[test]
fn rules_for_fields_hold_for_the_collections_they_name() {
    let settings = resolved(&format!(
        "{SHORTEST}exclude_fields = ['shop.*.secret']\nrename_fields = {{ 'shop.orders.a.b' = 'c' }}"
    ));
    assert!(settings.rules("shop", "orders").is_some() && settings.rules("shop", "items").is_some());
    assert!(settings.rules("other", "orders").is_none());
}

#[test]
fn all_problems_are_listed_at_once() {
    let found = problems(
        "url = 'postgres://db'\ncollections = ['orders', 'a.b', 'a.b', 'c.d']\nscope = 'database'\n\
         exclude_fields = ['a.b']\nheartbeat_interval_s = 0\nbatch_bytes_max = 1\nrename_fields = { 'a.b.c' = 'd.e' }",
    );
    for part in [
        "does not begin with mongodb://",
        "names no collection",
        "listed twice",
        "names more than one",
        "exclude_fields: \"a.b\"",
        "rename_fields: \"a.b.c\"",
        "heartbeat_interval_s = 0",
        "batch_bytes_max = 1",
    ] {
        assert!(found.iter().any(|problem| problem.contains(part)), "{part} is missing in {found:#?}");
    }
    assert_eq!(found.len(), 8);
}

#[test]
fn no_password_is_ever_printed() {
    let raw = raw("url = 'mongodb://bob:hunter2@db:x/'\npassword = 'hunter3'\ncollections = []");
    assert!(!format!("{raw:?}").contains("hunter"));
    let problems = Settings::resolve(raw, "orders").unwrap_err();
    assert!(!format!("{problems:?}").contains("hunter"), "{problems:?}");
    let settings = resolved(&format!("password = 'hunter4'\n{SHORTEST}"));
    assert!(!format!("{settings:?}").contains("hunter"));
}

#[test]
fn an_unknown_key_is_refused() {
    let error = toml::from_str::<Raw>(&format!("{SHORTEST}colections = []")).unwrap_err();
    assert!(error.to_string().contains("colections"), "{error}");
}

#[test]
fn what_a_first_start_reads_and_where_it_begins_is_checked_before_any_server_is_asked() {
    let settings = resolved(&format!(
        "{SHORTEST}snapshot_workers = 4\nsnapshot_collections = ['shop.*']\nstart_at = '1700000000.2'\n\
         signal_collection = 'ops.signals'\nsnapshot_filters = {{ 'shop.orders' = '{{\"a\": 1}}' }}"
    ));
    assert_eq!((settings.snapshot_workers, settings.reads("other", "x")), (4, false));
    assert!(settings.snapshot_filter("shop", "orders").is_some() && settings.reads("shop", "x"));
    assert_eq!(settings.start_at, Some(ClusterTime(1_700_000_000 << 32 | 2)));
    assert!(resolved(SHORTEST).reads("shop", "x") && resolved(SHORTEST).snapshot_workers == SNAPSHOT_WORKERS);
    for (toml, expected) in [
        ("snapshot_workers = 0", "snapshot_workers = 0 is out of range"),
        ("snapshot_filters = { 'shop.orders' = 'a > 1' }", "is no query in JSON"),
        ("snapshot_filters = { 'shop' = '{}' }", "snapshot_filters: \"shop\" names no collection"),
        ("start_at = 'noon'", "start_at: \"noon\" is not a cluster time"),
        ("signal_collection = 'shop.*'", "is not one collection"),
        ("databases = ['/(/']", "databases: \"/(/\" is not an expression"),
        ("scope = 'collection'\nsignal_collection = 'shop.signals'", "is not seen by a stream on collection"),
        ("scope = 'database'\nsignal_collection = 'ops.signals'", "is not seen by a stream on database shop"),
    ] {
        let found = problems(&format!("{SHORTEST}{toml}"));
        assert!(found.len() == 1 && found[0].contains(expected), "{toml}: {found:?}");
    }
}
