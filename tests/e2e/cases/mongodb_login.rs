//! MongoDB behind TLS: who logs in by password, who by certificate, and who is not believed.

use std::path::Path;
use std::sync::Arc;

use millrace_e2e::{Archive, Own, Papers, Servers};
use mongodb::bson::doc;

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[tokio::test]
async fn a_password_or_a_certificate_opens_a_server_behind_tls_and_nothing_else_does() {
    let papers = Papers::new();
    let (server, ca) = (shown(&papers.path("server.pem")), shown(&papers.path("ca.pem")));
    let args = [
        "--tlsMode",
        "preferTLS",
        "--tlsCertificateKeyFile",
        server.as_str(),
        "--tlsCAFile",
        ca.as_str(),
        "--tlsAllowConnectionsWithoutCertificates",
    ];
    let servers = Arc::new(Servers::with(Own::mongodb_with(true, &args)).await);
    let mut archive = Archive::on(&servers, "login").await;
    let host = format!("127.0.0.1:{}", servers.mongodb.members()[0].port());
    let roles = doc! { "role": "readAnyDatabase", "db": "admin" };
    // The name as the certificate has it, last part first.
    let user = doc! { "createUser": "CN=millrace,O=Clients", "roles": [roles.clone()] };
    archive.client.database("$external").run_command(user).await.unwrap();
    let scram = doc! {
        "createUser": "reader", "pwd": "pa:ss@word", "roles": [roles], "mechanisms": ["SCRAM-SHA-256"],
    };
    archive.client.database("admin").run_command(scram).await.unwrap();

    // SCRAM, over TLS.
    let url = format!("mongodb://reader@{host}/?replicaSet=rs0&tls=true");
    archive.file.set("source/mongodb/url", url.clone()).set("source/mongodb/password", "pa:ss@word");
    archive.file.set("source/mongodb/tls_ca_file", ca.clone());
    archive.start().await.docs(1..=10).await.expect_docs(1..=10).await;
    assert!(!archive.daemon().log().contains("pa:ss@word"));
    archive.term().await;

    // A certificate.
    let by_certificate = format!("mongodb://{host}/?replicaSet=rs0&tls=true&authMechanism=MONGODB-X509");
    archive.file.set("source/mongodb/url", by_certificate).remove("source/mongodb/password");
    archive.file.set("source/mongodb/tls_certificate_key_file", shown(&papers.path("client.pem")));
    archive.start().await.docs(11..=20).await.expect_docs(1..=20).await;
    archive.term().await;

    // A server whose authority nobody knows is not believed.
    archive.file.set("source/mongodb/url", url).set("source/mongodb/password", "pa:ss@word");
    archive.file.remove("source/mongodb/tls_certificate_key_file").remove("source/mongodb/tls_ca_file");
    archive.file.set("source/mongodb/server_selection_timeout_s", 2);
    archive.start_in_any_state().await;
    archive.daemon().hinted(&archive.name, "reachable").await;
}
