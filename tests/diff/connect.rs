//! A connector on a Kafka Connect worker: made, waited for, removed.

use std::time::{Duration, Instant};

use serde_json::{Map, Value as Json};

use crate::Result;

/// A connector starts within some seconds; its first one on a cold worker takes longest.
const RUNNING_WITHIN: Duration = Duration::from_secs(90);

/// A worker, by its REST.
#[derive(Clone, Debug)]
pub struct Worker {
    url: String,
    http: reqwest::Client,
}

impl Worker {
    pub fn at(url: &str) -> Result<Self> {
        // The client is built with TLS in it, and without a provider it does not start.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().timeout(Duration::from_secs(60)).build()?;
        Ok(Self { url: url.to_owned(), http })
    }

    /// Creates a connector and waits until it and its task run.
    pub async fn start(&self, name: &str, config: Map<String, Json>) -> Result<()> {
        let url = format!("{}/connectors/{name}/config", self.url);
        let answer = self.http.put(&url).json(&config).send().await?;
        if !answer.status().is_success() {
            return Err(format!("Connect refuses {name}: {}", answer.text().await?).into());
        }
        let deadline = Instant::now() + RUNNING_WITHIN;
        while !self.runs(name).await? {
            if Instant::now() >= deadline {
                return Err(format!("{name} does not run within {RUNNING_WITHIN:?}").into());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Whether the connector and its task run; an error with its trace if one has failed.
    pub async fn runs(&self, name: &str) -> Result<bool> {
        let url = format!("{}/connectors/{name}/status", self.url);
        let answer = self.http.get(&url).send().await?;
        if !answer.status().is_success() {
            return Ok(false);
        }
        let status: Json = answer.json().await?;
        let tasks = status["tasks"].as_array().cloned().unwrap_or_default();
        for part in tasks.iter().chain([&status["connector"]]) {
            if part["state"] == "FAILED" {
                return Err(format!("{name} failed: {}", part["trace"].as_str().unwrap_or("no trace")).into());
            }
        }
        Ok(!tasks.is_empty() && tasks.iter().all(|task| task["state"] == "RUNNING"))
    }

    /// `stop`, `resume`: waits until the worker has done it.
    pub async fn ask(&self, name: &str, verb: &str) -> Result<()> {
        let url = format!("{}/connectors/{name}/{verb}", self.url);
        let status = self.http.put(&url).send().await?.status();
        if !status.is_success() {
            return Err(format!("Connect does not {verb} {name}: {status}").into());
        }
        let deadline = Instant::now() + RUNNING_WITHIN;
        while self.runs(name).await? != (verb == "resume")
            || self.has_tasks(name).await? != (verb == "resume")
        {
            if Instant::now() >= deadline {
                return Err(format!("{name} does not {verb} within {RUNNING_WITHIN:?}").into());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// The offset of a connector that has one source partition.
    pub async fn offset(&self, name: &str) -> Result<Json> {
        let url = format!("{}/connectors/{name}/offsets", self.url);
        let answer: Json = self.http.get(&url).send().await?.error_for_status()?.json().await?;
        Ok(answer["offsets"][0]["offset"].clone())
    }

    async fn has_tasks(&self, name: &str) -> Result<bool> {
        let url = format!("{}/connectors/{name}/tasks", self.url);
        let tasks: Json = self.http.get(&url).send().await?.json().await?;
        Ok(tasks.as_array().is_some_and(|tasks| !tasks.is_empty()))
    }

    pub async fn remove(&self, name: &str) -> Result<()> {
        let url = format!("{}/connectors/{name}", self.url);
        let status = self.http.delete(&url).send().await?.status();
        if status.is_success() { Ok(()) } else { Err(format!("Connect keeps {name}: {status}").into()) }
    }
}
