//! TLS and logins of Postgres: each `sslmode`, client certificates, channel binding, and the roles of managed services.

use std::path::Path;
use std::sync::Arc;

use millrace_e2e::{Ended, Own, Papers, Servers, Shop, Sql, run_to_end, until};

/// Has the server keep a file beside its data, as its own user.
pub(super) async fn give(sql: &Sql, name: &str, text: &str) {
    let lines = format!("SELECT unnest(string_to_array($text${text}$text$, E'\\n'))");
    sql.run(&format!("COPY ({lines}) TO PROGRAM 'umask 077; cat > {name}'")).await;
}

/// The server shows a certificate of this authority and believes those of it.
pub(super) async fn secure(sql: &Sql, papers: &Papers, certificate: &str) {
    give(sql, "server.crt", &papers.text(&format!("{certificate}.crt"))).await;
    give(sql, "server.key", &papers.text(&format!("{certificate}.key"))).await;
    give(sql, "clients.pem", &papers.text("ca.pem")).await;
    for setting in
        ["ssl_cert_file = 'server.crt'", "ssl_key_file = 'server.key'", "ssl_ca_file = 'clients.pem'"]
    {
        sql.run(&format!("ALTER SYSTEM SET {setting}")).await;
    }
    sql.run("ALTER SYSTEM SET ssl = on").await;
    sql.run("SELECT pg_reload_conf()").await;
    until("TLS is offered", async || {
        (sql.another().await.one::<String>("SHOW ssl").await == "on").then_some(())
    })
    .await;
}

/// `check` with these keys of the source.
fn check(shop: &mut Shop, keys: &[(&str, String)]) -> Ended {
    let before = shop.file.clone();
    for (key, value) in keys {
        shop.file.set(&format!("source/postgres/{key}"), value.clone());
    }
    let file = shop.write_file();
    shop.file = before;
    run_to_end(&["check", file.to_str().expect("a path")], shop.dir())
}

/// Fails unless `check` passes, or fails with these words.
fn expect(shop: &mut Shop, keys: &[(&str, String)], refusal: Option<&str>) {
    let ended = check(shop, keys);
    let passed = ended.code == Some(0);
    assert_eq!(passed, refusal.is_none(), "{keys:?}: {}", ended.text());
    assert!(ended.text().contains(refusal.unwrap_or_default()), "{keys:?}: {}", ended.text());
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[tokio::test]
async fn each_sslmode_takes_the_servers_that_it_says_and_no_other() {
    let (papers, strangers) = (Papers::new(), Papers::new());
    papers.signed("elsewhere", "/O=Servers/CN=db.internal", "subjectAltName=DNS:db.internal");
    let servers = Arc::new(Servers::with(Own::postgres()).await);
    let mut shop = Shop::on(&servers, "sslmodes").await;
    let (ca, other) = (text(&papers.path("ca.pem")), text(&strangers.path("ca.pem")));
    let verify =
        |mode: &str, ca: &str| [("sslmode", mode.to_owned()), ("sslrootcert", ca.to_owned())].to_vec();
    let only = |key: &'static str, value: &str| vec![(key, value.to_owned())];

    // Without TLS at the server.
    expect(&mut shop, &only("sslmode", "disable"), None);
    expect(&mut shop, &only("sslmode", "prefer"), None);
    expect(&mut shop, &only("sslmode", "require"), Some("TLS"));
    expect(&mut shop, &verify("verify-full", &ca), Some("TLS"));
    expect(&mut shop, &only("channel_binding", "require"), Some("channel binding"));

    // With a certificate for another name.
    secure(&shop.sql, &papers, "elsewhere").await;
    expect(&mut shop, &only("sslmode", "disable"), None);
    expect(&mut shop, &only("sslmode", "require"), None);
    expect(&mut shop, &verify("verify-ca", &ca), None);
    expect(&mut shop, &verify("verify-ca", &other), Some("certificate"));
    expect(&mut shop, &verify("verify-full", &ca), Some("certificate"));

    // With one for its own.
    secure(&shop.sql, &papers, "server").await;
    let bound = [verify("verify-full", &ca), only("channel_binding", "require")].concat();
    expect(&mut shop, &bound, None);
    expect(&mut shop, &verify("verify-full", &other), Some("certificate"));
    // A password that is not proved by SCRAM is bound to nothing.
    give(&shop.sql, "pg_hba.conf", "local all all trust\nhostssl all all 127.0.0.1/32 password").await;
    shop.sql.run("SELECT pg_reload_conf()").await;
    expect(&mut shop, &bound, Some("channel binding"));
    give(&shop.sql, "pg_hba.conf", "host all all 127.0.0.1/32 scram-sha-256").await;
    shop.sql.run("SELECT pg_reload_conf()").await;

    for (key, value) in bound {
        shop.file.set(&format!("source/postgres/{key}"), value);
    }
    shop.start().await.rows(1..=10).await.expect_rows(1..=10).await;
    let encrypted: i64 =
        shop.sql.one("SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_replication USING (pid) WHERE ssl").await;
    assert_eq!(encrypted, 1);
}

#[tokio::test]
async fn a_role_of_a_managed_service_passes_by_its_membership_and_others_are_told_what_to_grant() {
    let mut shop = Shop::open("rds").await;
    let role = format!("{}_role", shop.database());
    shop.sql.run(&format!("CREATE ROLE {role} LOGIN PASSWORD 'x'")).await;
    let url = format!("postgres://{role}:x@127.0.0.1:{}/{}", shop.servers.postgres.port(), shop.database());
    let told = check(&mut shop, &[("url", url.clone())]);
    for words in ["may not replicate", "ALTER ROLE", "GRANT rds_replication TO"] {
        assert!(told.text().contains(words), "{words}: {}", told.text());
    }
    // There a member replicates without the attribute.
    shop.sql
        .run("DO $$ BEGIN CREATE ROLE rds_replication; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
        .await;
    shop.sql.run(&format!("GRANT rds_replication TO {role}")).await;
    let told = check(&mut shop, &[("url", url.clone())]);
    assert!(told.text().contains(&format!("{role} may replicate")), "{}", told.text());
    shop.sql.run(&format!("DROP ROLE {role}")).await;
}
