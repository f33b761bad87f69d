//! What a test does to the schema registry by itself.

use serde_json::{Value as Json, json};

pub struct Subjects {
    base: String,
    http: reqwest::Client,
}

impl Subjects {
    /// `base` is the Confluent-compatible root.
    pub fn at(base: &str) -> Self {
        Self { base: base.to_owned(), http: crate::daemon::http() }
    }

    /// Registers an Avro schema.
    pub async fn register(&self, subject: &str, schema: &Json) {
        self.post(subject, json!({"schema": schema.to_string()})).await;
    }

    /// Registers a JSON Schema.
    pub async fn register_json(&self, subject: &str, schema: &Json) {
        self.post(subject, json!({"schema": schema.to_string(), "schemaType": "JSON"})).await;
    }

    async fn post(&self, subject: &str, body: Json) {
        let url = format!("{}/subjects/{subject}/versions", self.base);
        let answer = self.http.post(url).json(&body).send().await.expect("the registry answers");
        assert!(answer.status().is_success(), "{subject}: {}", answer.text().await.unwrap_or_default());
    }

    /// Sets how later schemas of a subject have to relate to earlier ones.
    pub async fn set_compatibility(&self, subject: &str, level: &str) {
        let url = format!("{}/config/{subject}", self.base);
        let body = json!({"compatibility": level});
        let answer = self.http.put(url).json(&body).send().await.expect("the registry answers");
        assert!(answer.status().is_success(), "{subject}: {}", answer.text().await.unwrap_or_default());
    }

    /// The level that a subject has of its own.
    pub async fn compatibility(&self, subject: &str) -> String {
        let url = format!("{}/config/{subject}", self.base);
        let answer = self.http.get(url).send().await.expect("the registry answers");
        let body: Json = answer.json().await.expect("the registry answers in JSON");
        body["compatibilityLevel"].as_str().unwrap_or_default().to_owned()
    }

    /// The type and the text of the schema that has this id, as a consumer asks for it.
    pub async fn by_id(&self, id: u32) -> (String, Json) {
        let url = format!("{}/schemas/ids/{id}", self.base);
        let answer = self.http.get(url).send().await.expect("the registry answers");
        let body: Json = answer.json().await.expect("the registry answers in JSON");
        let text = body["schema"].as_str().unwrap_or_else(|| panic!("{id}: {body}"));
        let of = body["schemaType"].as_str().unwrap_or("AVRO").to_owned();
        (of, serde_json::from_str(text).expect("a schema is JSON"))
    }

    /// How many versions a subject has.
    pub async fn versions(&self, subject: &str) -> usize {
        let url = format!("{}/subjects/{subject}/versions", self.base);
        let answer = self.http.get(url).send().await.expect("the registry answers");
        let versions: Vec<Json> = answer.json().await.expect("the registry answers in JSON");
        versions.len()
    }

    /// The newest schema of a subject.
    pub async fn latest(&self, subject: &str) -> Json {
        let url = format!("{}/subjects/{subject}/versions/latest", self.base);
        let answer = self.http.get(url).send().await.expect("the registry answers");
        let body: Json = answer.json().await.expect("the registry answers in JSON");
        let text = body["schema"].as_str().unwrap_or_else(|| panic!("{subject}: {body}"));
        serde_json::from_str(text).expect("a schema is JSON")
    }
}
