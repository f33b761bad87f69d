//! Passwords and certificates that change under a daemon that runs: it says which file it waits for, and goes
//! on with what is put there, without a restart and without a gap.

use std::path::Path;
use std::sync::Arc;

use millrace_e2e::{Archive, Own, Papers, Servers, Shop, Sql, until};
use mongodb::bson::doc;

use super::secure_source::{give, secure};

fn put(path: &Path, text: impl AsRef<[u8]>) {
    std::fs::write(path, text).expect("a file in a temporary directory");
}

/// Ends every session of a role, the walsender's too.
async fn end_sessions(sql: &Sql, role: &str) {
    sql.run(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'"))
        .await;
}

#[tokio::test]
async fn a_password_of_postgres_that_changes_in_its_file_is_taken_up_without_a_restart() {
    let mut shop = Shop::open("rotated-password").await;
    let role = format!("{}_role", shop.database());
    shop.sql.run(&format!("CREATE ROLE {role} SUPERUSER LOGIN PASSWORD 'the-first'")).await;
    let password = shop.dir().join("password");
    put(&password, "the-first\n");
    let url = format!("postgres://{role}@127.0.0.1:{}/{}", shop.servers.postgres.port(), shop.database());
    shop.file.set("source/postgres/url", url);
    shop.file.set("source/postgres/password", format!("${{file:{}}}", password.display()));
    shop.start().await.rows(1..=10).await.expect_rows(1..=10).await;
    let pid = shop.daemon().pid();

    // The server changes first.
    shop.sql.run(&format!("ALTER ROLE {role} PASSWORD 'the-second'")).await;
    end_sessions(&shop.sql, &role).await;
    shop.rows(11..=20).await;
    let refusal = shop.daemon().hinted(&shop.name, "no restart").await;
    refusal.expect_reason(&["28P01"]).expect_hint(&[&password.display().to_string()]);
    put(&password, "the-second");
    shop.expect_rows(1..=20).await;

    // The file changes first.
    put(&password, "the-third");
    shop.sql.run(&format!("ALTER ROLE {role} PASSWORD 'the-third'")).await;
    end_sessions(&shop.sql, &role).await;
    shop.rows(21..=30).await.expect_rows(1..=30).await.wait_for_state("RUNNING").await;
    assert_eq!(shop.daemon().pid(), pid);
    assert!(!shop.daemon().log().contains("the-"), "the log shows a password");
}

#[tokio::test]
async fn a_password_of_postgres_that_only_a_restart_changes_ends_the_connector() {
    let mut shop = Shop::open("fixed-password").await;
    let role = format!("{}_role", shop.database());
    shop.sql.run(&format!("CREATE ROLE {role} SUPERUSER LOGIN PASSWORD 'the-first'")).await;
    let url = format!("postgres://{role}@127.0.0.1:{}/{}", shop.servers.postgres.port(), shop.database());
    shop.file.set("source/postgres/url", url).set("source/postgres/password", "the-first");
    shop.start().await.rows(1..=10).await.expect_rows(1..=10).await;
    shop.sql.run(&format!("ALTER ROLE {role} PASSWORD 'the-second'")).await;
    end_sessions(&shop.sql, &role).await;
    shop.not_ready("FAILED").await.expect_reason(&["28P01"]).expect_hint(&["${file:/path}"]);
}

#[tokio::test]
async fn certificates_of_postgres_that_change_in_their_files_are_taken_up_without_a_restart() {
    let authorities = [Papers::new(), Papers::new()];
    for papers in &authorities {
        papers.signed("app", "/O=Clients/CN=app", "extendedKeyUsage=clientAuth");
    }
    let servers = Arc::new(Servers::with(Own::postgres()).await);
    let mut shop = Shop::on(&servers, "rotated-papers").await;
    shop.sql.run("CREATE ROLE app SUPERUSER LOGIN").await;
    let access = "hostssl all app 127.0.0.1/32 cert\nhost all all 127.0.0.1/32 scram-sha-256";
    give(&shop.sql, "pg_hba.conf", access).await;
    secure(&shop.sql, &authorities[0], "server").await;

    let file = |name: &str| shop.dir().join(name);
    let [root, cert, key] = [file("root.pem"), file("app.crt"), file("app.key")];
    let present = |papers: &Papers| {
        put(&root, papers.text("ca.pem"));
        put(&cert, papers.text("app.crt"));
        put(&key, papers.text("app.key"));
    };
    present(&authorities[0]);
    let url = format!("postgres://app@127.0.0.1:{}/{}", servers.postgres.port(), shop.database());
    shop.file.set("source/postgres/url", url).set("source/postgres/sslmode", "verify-full");
    for (name, path) in [("sslrootcert", &root), ("sslcert", &cert), ("sslkey", &key)] {
        shop.file.set(&format!("source/postgres/{name}"), path.display().to_string());
    }
    shop.start().await.rows(1..=10).await.expect_rows(1..=10).await;

    secure(&shop.sql, &authorities[1], "server").await;
    // The server takes its time to read its own files.
    let own = until("the old certificates are refused", async || {
        end_sessions(&shop.sql, "app").await;
        let status = shop.daemon().own_status(&shop.name).await?;
        status["reason"].as_str().is_some_and(|reason| reason.contains("certificate")).then_some(status)
    })
    .await;
    let hint = own["hint"].as_str().unwrap_or_default();
    assert!(hint.contains(&root.display().to_string()) && hint.contains("no restart"), "{own}");
    shop.rows(11..=20).await;
    present(&authorities[1]);
    shop.expect_rows(1..=20).await.wait_for_state("RUNNING").await;
}

#[tokio::test]
async fn a_password_and_certificates_of_mongodb_that_change_are_taken_up_without_a_restart() {
    let authorities = [Papers::new(), Papers::new()];
    let live = tempfile::tempdir().expect("a temporary directory");
    let file = |name: &str| live.path().join(name);
    let [server, of_server, ca, password] = ["server.pem", "of-server.pem", "ca.pem", "password"].map(file);
    let at_the_server = |papers: &Papers| {
        put(&server, papers.text("server.pem"));
        put(&of_server, papers.text("ca.pem"));
    };
    let with_us = |papers: &Papers, word: &str| {
        put(&ca, papers.text("ca.pem"));
        put(&password, word);
    };
    at_the_server(&authorities[0]);
    with_us(&authorities[0], "the-first");
    let [server_path, ca_of_server] = [&server, &of_server].map(|path| path.display().to_string());
    let args = [
        "--tlsMode",
        "preferTLS",
        "--tlsCertificateKeyFile",
        &server_path,
        "--tlsCAFile",
        &ca_of_server,
        "--tlsAllowConnectionsWithoutCertificates",
    ];
    let servers = Arc::new(Servers::with(Own::mongodb_with(true, &args)).await);
    let mut archive = Archive::on(&servers, "rotated").await;
    let host = format!("127.0.0.1:{}", servers.mongodb.members()[0].port());
    let roles = doc! { "role": "readAnyDatabase", "db": "admin" };
    let admin = archive.client.database("admin");
    admin.run_command(doc! { "createUser": "reader", "pwd": "the-first", "roles": [roles] }).await.unwrap();
    let url = format!("mongodb://reader@{host}/?replicaSet=rs0&tls=true");
    archive.file.set("source/mongodb/url", url).set("source/mongodb/tls_ca_file", ca.display().to_string());
    archive.file.set("source/mongodb/password", format!("${{file:{}}}", password.display()));
    archive.file.set("source/mongodb/server_selection_timeout_s", 2);
    archive.start().await.docs(1..=10).await.expect_docs(1..=10).await;

    admin.run_command(doc! { "updateUser": "reader", "pwd": "the-second" }).await.unwrap();
    servers.mongodb.stop().await.expect("MongoDB stops");
    servers.mongodb.start().await.expect("MongoDB starts");
    archive
        .daemon()
        .hinted(&archive.name, "no restart")
        .await
        .expect_hint(&[&password.display().to_string()]);
    with_us(&authorities[0], "the-second");
    archive.docs(11..=20).await.expect_docs(1..=20).await;

    at_the_server(&authorities[1]);
    servers.mongodb.stop().await.expect("MongoDB stops");
    servers.mongodb.start().await.expect("MongoDB starts");
    archive.daemon().hinted(&archive.name, "no restart").await.expect_hint(&[&ca.display().to_string()]);
    with_us(&authorities[1], "the-second");
    archive.docs(21..=30).await.expect_docs(1..=30).await;
    assert!(!archive.daemon().log().contains("the-first"), "the log shows a password");
}
