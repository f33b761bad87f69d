//! What the two sides are told of a MongoDB database.

use serde_json::{Value as Json, json};

use super::modes::{Document, Flat, Names};
use super::{COLLECTIONS, Config, END, UNSEEN, WARM};
use crate::Result;
use crate::sides::{Sides, Told, escaped, quoted};

/// Starts both; whether they stream shows in what they write.
pub async fn start(config: &Config, name: &str) -> Result<Sides> {
    let modes = config.modes;
    let (document, full) = match modes.document {
        Document::None => ("none", ""),
        Document::Lookup => ("lookup", "_update_full"),
        Document::PostImage => ("post_image", "_update_full"),
    };
    let pre = if modes.pre_images { "_with_pre_image" } else { "" };
    let snapshot = if modes.snapshot { "initial" } else { "no_data" };
    let mut source = format!(
        "[source.mongodb]\nsnapshot = \"{snapshot}\"\nurl = \"{}\"\nupdate_document = \"{document}\"\n\
         pre_images = {}\n",
        config.url, modes.pre_images
    );
    let mut debezium = json!({
        "connector.class": "io.debezium.connector.mongodb.MongoDbConnector",
        "mongodb.connection.string": config.url,
        "capture.mode": format!("change_streams{full}{pre}"),
        "capture.mode.full.update.type": if document == "post_image" { document } else { "lookup" },
        "snapshot.mode": snapshot,
    });
    names(modes.names, name, &mut source, &mut debezium);
    let mut format = String::new();
    if modes.fields {
        fields(name, &mut source, &mut debezium);
    }
    if modes.transactions {
        format += "transactions = true\n";
        debezium["provide.transaction.metadata"] = "true".into();
    }
    if modes.heartbeats {
        format += &format!("heartbeat_topic_interval_s = 3\nheartbeat_topic = \"{name}.heartbeat\"\n");
        debezium["heartbeat.interval.ms"] = "3000".into();
        debezium["topic.heartbeat.name"] = format!("{name}.heartbeat").into();
    }
    if let Some(flat) = modes.flat {
        flatten(flat, modes.transactions, &mut format, &mut debezium);
    }
    Sides::start(&config.place, modes.encoding, name, Told { source, format, debezium }).await
}

fn names(names: Names, name: &str, source: &mut String, debezium: &mut Json) {
    match names {
        Names::Whole => {
            let all = COLLECTIONS.iter().chain(&[WARM, END]);
            let all: Vec<String> = all.map(|collection| format!("{name}.{collection}")).collect();
            source.push_str(&format!("collections = [{}]\n", quoted(&all)));
            debezium["collection.include.list"] = escaped(&all).into();
        }
        Names::Included => {
            let expression = format!("{name}\\.(plain|dotted\\.\\w+|third|{WARM}|{END})");
            source.push_str(&format!("collections = ['/{expression}/']\n"));
            debezium["collection.include.list"] = expression.into();
        }
        Names::Excluded => {
            let expression = format!(".*\\.{UNSEEN}");
            source.push_str(&format!(
                "collections = [\"{name}.*\"]\nexclude_collections = ['/{expression}/']\n"
            ));
            debezium["database.include.list"] = name.into();
            debezium["collection.exclude.list"] = expression.into();
        }
    }
}

fn fields(name: &str, source: &mut String, debezium: &mut Json) {
    let excluded = [".*.b", ".plain.deep2.a", ".third.lines.a"].map(|path| format!("{name}{path}"));
    source.push_str(&format!("exclude_fields = [{}]\n", quoted(&excluded)));
    debezium["field.exclude.list"] = excluded.join(",").into();
    let renamed = [(".*.n1", "other_n1"), (".plain.deep2.UPPER", "lower"), (".third.lines.list", "words")];
    let of = |(path, new): &(&str, &str)| format!("\"{name}{path}\" = \"{new}\"");
    let table: Vec<String> = renamed.iter().map(of).collect();
    source.push_str(&format!("rename_fields = {{ {} }}\n", table.join(", ")));
    let list: Vec<String> = renamed.iter().map(|(path, new)| format!("{name}{path}:{new}")).collect();
    debezium["field.renames"] = list.join(",").into();
}

fn flatten(flat: Flat, transactions: bool, format: &mut String, debezium: &mut Json) {
    let (theirs, ours) = flat.deletes;
    let arrays = if flat.lists_are_documents { "document" } else { "array" };
    let mut options = vec![
        ("type", "io.debezium.connector.mongodb.transforms.ExtractNewDocumentState".to_owned()),
        ("array.encoding", arrays.to_owned()),
        ("flatten.struct", flat.flatten.to_string()),
        ("delete.tombstone.handling.mode", theirs.to_owned()),
    ];
    format.push_str("envelope = \"flat\"\n");
    let mut table =
        format!("[format.flat]\narrays = \"{arrays}\"\nflatten = {}\ndeletes = \"{ours}\"\n", flat.flatten);
    if flat.adds {
        let mut fields = vec!["op", "source.ts_ms", "collection", "source.lsid", "ord:nr"];
        if transactions {
            fields.extend(["transaction.id", "total_order", "transaction.data_collection_order:place"]);
        }
        options.push(("add.fields", fields.join(",")));
        options.push(("add.fields.prefix", "x_".to_owned()));
        options.push(("add.headers", "op,source.db".to_owned()));
        let fields: Vec<String> = fields.iter().map(|field| (*field).to_owned()).collect();
        table += &format!("add_fields = [{}]\nadd_fields_prefix = \"x_\"\n", quoted(&fields));
        table += "add_headers = [\"op\", \"source.db\"]\n";
    }
    format.push_str(&table);
    debezium["transforms"] = "unwrap,aside".into();
    for (option, value) in options {
        debezium[format!("transforms.unwrap.{option}").as_str()] = value.into();
    }
}
