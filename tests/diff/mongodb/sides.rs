//! What the two sides are told of a MongoDB database.

use serde_json::json;

use super::{COLLECTIONS, Config, END, Images, WARM};
use crate::Result;
use crate::sides::{Sides, Told, escaped, quoted};

/// Starts both; whether they stream shows in what they write.
pub async fn start(config: &Config, name: &str) -> Result<Sides> {
    let names: Vec<String> =
        COLLECTIONS.iter().chain(&[WARM, END]).map(|collection| format!("{name}.{collection}")).collect();
    let (images, mode) = match config.images {
        Images::None => ("update_document = \"none\"", "change_streams"),
        Images::Both => (
            "update_document = \"post_image\"\npre_images = true",
            "change_streams_update_full_with_pre_image",
        ),
    };
    let told = Told {
        source: format!(
            "[source.mongodb]\nsnapshot = \"no_data\"\nurl = \"{}\"\ncollections = [{}]\n{images}",
            config.url,
            quoted(&names)
        ),
        format: String::new(),
        debezium: json!({
            "connector.class": "io.debezium.connector.mongodb.MongoDbConnector",
            "mongodb.connection.string": config.url,
            "collection.include.list": escaped(&names),
            "capture.mode": mode,
            "capture.mode.full.update.type": "post_image",
        }),
    };
    Sides::start(&config.place, config.encoding, name, told).await
}
