//! Against a registry that answers what it is told to.

use std::sync::atomic::AtomicUsize;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// Answers each request with the next of `answers`, the last one for ever; counts them.
async fn serve(answers: Vec<(u16, &'static str)>) -> (String, Arc<AtomicUsize>) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let served = Arc::new(AtomicUsize::new(0));
    let counter = served.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 65536];
            let _ = stream.read(&mut request).await;
            let nth = counter.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1);
            let (status, body) = answers[nth];
            let head = format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}", body.len());
            let _ = stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).await;
        }
    });
    (url, served)
}

fn registry(urls: &[String]) -> Registry {
    Registry::new(Settings::new(urls).unwrap(), Arc::default()).unwrap()
}

#[tokio::test]
async fn a_schema_is_asked_for_once() {
    let (url, served) = serve(vec![(200, "{\"id\":7}")]).await;
    let registry = registry(&[url]);
    assert_eq!(registry.register(SchemaType::Avro, "t-value", "\"string\"", None).await.unwrap(), 7);
    assert_eq!(registry.register(SchemaType::Avro, "t-value", "\"string\"", None).await.unwrap(), 7);
    assert_eq!(served.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_subject_s_newest_schema_is_asked_for_every_time_and_may_be_none() {
    let answers = vec![
        (404, "{\"error_code\":40401,\"message\":\"no such subject\"}"),
        (503, "starting"),
        (200, "{\"subject\":\"a\",\"version\":2,\"id\":9,\"schema\":\"\\\"string\\\"\"}"),
        (404, "<html>no such path</html>"),
    ];
    let (url, served) = serve(answers).await;
    let registry = registry(&[url]);
    assert_eq!(registry.latest("a", None).await.unwrap(), None);
    assert_eq!(
        registry.latest("a", None).await.unwrap(),
        Some(Registered { id: 9, of: SchemaType::Avro, text: "\"string\"".to_owned() })
    );
    assert!(registry.latest("a", None).await.unwrap_err().hint_text().unwrap().contains("ccompat"));
    assert_eq!(served.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn a_level_is_set_before_the_schema_is_registered() {
    let (url, served) = serve(vec![(200, "{\"compatibility\":\"FULL\"}"), (200, "{\"id\":7}")]).await;
    let settings = Settings::new(&[url]).unwrap().levels(vec![(Pattern::new("t-*"), "FULL".to_owned())]);
    let registry = Registry::new(settings, Arc::default()).unwrap();
    assert_eq!(registry.register(SchemaType::Avro, "t-value", "\"string\"", None).await.unwrap(), 7);
    assert_eq!(served.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_server_error_is_waited_out() {
    let (url, served) = serve(vec![(503, "starting"), (429, "slow"), (200, "{\"id\":1}")]).await;
    assert_eq!(registry(&[url]).register(SchemaType::Avro, "t-value", "\"string\"", None).await.unwrap(), 1);
    assert_eq!(served.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn an_incompatible_schema_stops_with_the_registrys_words() {
    let (url, _) = serve(vec![(409, "{\"error_code\":409,\"message\":\"field a was removed\"}")]).await;
    let error = registry(&[url]).register(SchemaType::Avro, "t-value", "\"string\"", None).await.unwrap_err();
    assert_eq!(error.kind(), millrace_core::error::Kind::Config);
    assert!(error.message().contains("t-value") && error.message().contains("field a was removed"));
    assert!(error.hint_text().unwrap().contains("/config/t-value"));
}

#[tokio::test]
async fn an_invalid_schema_stops_at_once_where_it_cannot_be_spelled_otherwise() {
    let (url, served) = serve(vec![(422, "{\"message\":\"no type\"}")]).await;
    let error = registry(&[url]).register(SchemaType::Avro, "t-value", "\"string\"", None).await.unwrap_err();
    assert!(error.message().contains("no type"), "{error}");
    assert_eq!(served.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_registry_that_trips_over_an_empty_object_as_text_is_given_another_spelling_of_it() {
    let schema = r#"{"name":"f","type":"string","default":"{}"}"#;
    let (url, served) = serve(vec![(422, "no type"), (200, "{\"id\":4}")]).await;
    assert_eq!(registry(&[url]).register(SchemaType::Avro, "t-value", schema, None).await.unwrap(), 4);
    assert_eq!(served.load(Ordering::SeqCst), 2);
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    assert_eq!(json(&respelled(schema).unwrap()), json(schema), "the schema is the same");
}

#[tokio::test]
async fn another_url_is_asked_when_the_first_is_away_and_kept() {
    let (good, served) = serve(vec![(200, "{\"id\":3}")]).await;
    let registry = registry(&["http://127.0.0.1:1".to_owned(), good]);
    assert_eq!(registry.register(SchemaType::Avro, "a", "\"int\"", None).await.unwrap(), 3);
    assert_eq!(registry.current.load(Ordering::Relaxed), 1);
    assert_eq!(served.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_refused_password_stops_without_printing_it() {
    let (url, _) = serve(vec![(401, "no")]).await;
    let url = url.replace("http://", "http://me:hush@");
    let registry = registry(&[url]);
    let error = registry.register(SchemaType::Avro, "a", "\"int\"", None).await.unwrap_err();
    assert_eq!(error.kind(), millrace_core::error::Kind::Config);
    assert!(!format!("{error:?}{registry:?}{:?}", registry.settings).contains("hush"));
}
