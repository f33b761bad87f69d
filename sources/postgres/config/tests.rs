//! What the table of the file becomes, and what is refused.

use super::*;
use secrecy::ExposeSecret;

fn raw(toml: &str) -> Raw {
    toml::from_str(toml).unwrap()
}

fn resolved(toml: &str) -> Settings {
    Settings::resolve(raw(toml), "orders-eu").unwrap()
}

fn problems(toml: &str) -> Vec<String> {
    let problems = Settings::resolve(raw(toml), "orders-eu").unwrap_err();
    problems.iter().map(|error| format!("{error} / {}", error.hint_text().unwrap_or_default())).collect()
}

const SHORTEST: &str = "url = 'postgres://bob@db/shop'\ntables = ['public.orders']\n";

#[test]
fn the_shortest_file_gets_every_default() {
    let settings = resolved(SHORTEST);
    assert_eq!(settings.place(), "bob@db:5432/shop");
    assert_eq!(
        (settings.slot.as_str(), settings.publication.as_str()),
        ("millrace_orders_eu", "millrace_orders_eu")
    );
    assert_eq!(settings.heartbeat_interval, Some(HEARTBEAT));
    assert_eq!(settings.tls.mode, SslMode::VerifyFull, "the server is not on this machine");
    assert!(settings.create_slot && settings.create_publication && !settings.slot_made_beforehand);
    assert!(settings.alter_publication && !settings.only_published);
    assert!(settings.wants("public", "orders") && !settings.wants("public", "items"));
}

#[test]
fn every_part_of_the_url_is_read() {
    let url = "postgresql://b%40b:s%3Acret@[::1]:6543/my%2Fdb?sslmode=verify-full&sslrootcert=/ca.pem&connect_timeout=3";
    let settings = resolved(&format!("url = '{url}'\ntables = ['a.b']"));
    assert_eq!(settings.place(), "b@b@::1:6543/my/db");
    assert_eq!(settings.password.unwrap().read().unwrap().expose_secret(), "s:cret");
    assert_eq!(settings.tls.mode, SslMode::VerifyFull);
    assert_eq!(settings.tls.root_cert, Some("/ca.pem".into()));
    assert_eq!(settings.connect_timeout, Duration::from_secs(3));
}

#[test]
fn rows_are_read_at_the_primary_that_is_named_beside_a_standby() {
    let standby = "url = 'postgres://bob@localhost/shop?target_session_attrs=standby&channel_binding=require'\n\
                   tables = ['a.b']\n";
    let settings = resolved(&format!("{standby}primary_hosts = ['db1:5433', 'db2']"));
    assert_eq!(settings.tls.mode, SslMode::VerifyFull, "the primary is not on this machine");
    assert_eq!(settings.channel_binding, ChannelBinding::Require);
    let primary = settings.on_primary();
    let servers: Vec<_> = primary.servers.iter().map(ToString::to_string).collect();
    assert_eq!((servers, primary.target), (vec!["db1:5433".into(), "db2:5432".into()], Target::ReadWrite));
    assert_eq!(resolved(standby).on_primary().servers, settings.servers);
    assert!(problems(&format!("{standby}primary_hosts = ['db1:x']"))[0].contains("db1:x"));
}

#[test]
fn a_host_that_is_a_path_is_a_socket_directory() {
    let settings = resolved("url = 'postgres://bob@%2Frun%2Fpg:5433/shop'\ntables = ['a.b']");
    assert_eq!(settings.server, Server { host: Host::Unix("/run/pg".into()), port: 5433 });
}

#[test]
fn several_hosts_are_kept_in_their_order() {
    let settings = resolved(
        "url = 'postgres://bob@a,b:5433,[::1]:5434/shop?target_session_attrs=read-write'\ntables = ['a.b']",
    );
    let servers: Vec<_> = settings.servers.iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["a:5432", "b:5433", "::1:5434"]);
    assert_eq!((settings.server.to_string().as_str(), settings.target), ("a:5432", Target::ReadWrite));
}

#[test]
fn only_a_server_on_this_machine_need_not_prove_who_it_is() {
    for (place, expected) in [
        ("localhost", SslMode::Prefer),
        ("127.0.0.1:6000", SslMode::Prefer),
        ("[::1]", SslMode::Prefer),
        ("%2Frun%2Fpg", SslMode::Prefer),
        ("db.internal", SslMode::VerifyFull),
        ("10.0.0.7", SslMode::VerifyFull),
        ("localhost,db.internal", SslMode::VerifyFull),
    ] {
        let settings = resolved(&format!("url = 'postgres://bob@{place}/shop'\ntables = ['a.b']"));
        assert_eq!(settings.tls.mode, expected, "{place}");
    }
}

#[test]
fn all_problems_are_listed_at_once() {
    let found = problems(
        "url = 'postgres://db:0?sslmode=allow&foo=1'\ntables = ['orders', 'a.b', 'a.b']\nslot = 'Bad-Slot'\n\
         status_interval_s = 0\nbatch_bytes_max = 1\nsslcert = '/c.pem'",
    );
    for part in [
        "names no user",
        "names no database",
        "the port is not",
        "sslmode is none of",
        "a parameter is none of",
        "has no schema",
        "listed twice",
        "Bad-Slot",
        "status_interval_s = 0",
        "batch_bytes_max = 1",
        "sslcert and sslkey",
    ] {
        assert!(found.iter().any(|problem| problem.contains(part)), "{part} is missing in {found:#?}");
    }
    assert_eq!(found.len(), 11);
}

#[test]
fn no_password_is_ever_printed() {
    let raw = raw("url = 'postgres://bob:hunter2@db:x/shop'\npassword = 'hunter3'\ntables = []");
    assert!(!format!("{raw:?}").contains("hunter"));
    let problems = Settings::resolve(raw, "orders").unwrap_err();
    assert!(!format!("{problems:?}").contains("hunter"), "{problems:?}");
    let settings = resolved(&format!("password = 'hunter4'\n{SHORTEST}"));
    assert!(!format!("{settings:?}").contains("hunter"));
}

#[test]
fn a_password_that_is_not_escaped_is_answered_and_never_taken_for_a_host() {
    for url in ["postgres://bob:p@s/x@db/shop", "postgres://bob:hunter2/x@db/shop"] {
        let problems = Settings::resolve(raw(&format!("url = '{url}'\ntables = []")), "orders").unwrap_err();
        let text = format!("{problems:?}");
        assert!(text.contains("not escaped") && !text.contains("hunter"), "{text}");
    }
}

#[test]
fn a_port_behind_a_bracket_without_a_colon_is_not_passed_over() {
    let raw = raw("url = 'postgres://bob@[::1]5433/shop'\ntables = []");
    let text = format!("{:?}", Settings::resolve(raw, "orders").unwrap_err());
    assert!(text.contains("the port is not a number"), "{text}");
}

#[test]
fn heartbeat_zero_is_off() {
    assert_eq!(resolved(&format!("{SHORTEST}heartbeat_interval_s = 0")).heartbeat_interval, None);
}

#[test]
fn require_with_a_root_is_verify_ca() {
    let settings = resolved(&format!("{SHORTEST}sslmode = 'require'\nsslrootcert = '/ca.pem'"));
    assert_eq!(settings.tls.mode, SslMode::VerifyCa);
}

#[test]
fn an_unknown_key_is_refused() {
    let error = toml::from_str::<Raw>(&format!("{SHORTEST}tabels = []")).unwrap_err();
    assert!(error.to_string().contains("tabels"), "{error}");
}

#[test]
fn a_name_too_long_for_postgres_is_refused_and_not_cut() {
    let error = Settings::resolve(raw(SHORTEST), &"x".repeat(60)).unwrap_err();
    assert!(error.iter().all(|e| e.message().contains("xxx")) && error.len() == 2, "{error:?}");
}

#[test]
fn a_limit_that_drops_the_slot_is_refused_where_the_slot_may_not_be_dropped() {
    let limit = "wal_limit_gb = 0.5\nwal_policy = 'protect_source'\n";
    let settings = resolved(&format!("{SHORTEST}{limit}"));
    assert_eq!((settings.wal_limit, settings.wal_policy), (Some(1 << 29), WalPolicy::ProtectSource));
    assert_eq!(resolved(&format!("{SHORTEST}wal_limit_gb = 2")).wal_limit, Some(2 << 30));
    for forbidden in ["create_slot = false", "slot_made_beforehand = true"] {
        let found = problems(&format!("{SHORTEST}{limit}{forbidden}"));
        assert!(found.len() == 1 && found[0].contains("never dropped"), "{found:?}");
    }
}
