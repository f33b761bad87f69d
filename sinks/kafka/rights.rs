//! What a user of the cluster must be allowed to do for a connector, as the commands that allow it. Brokers with an
//! authorizer that denies by default need all of them, and nothing else. Start at `commands`.

use crate::config::Settings;
use crate::signals::Heard;

/// What is done to a topic of events.
const TO_DATA: &[&str] = &["Create", "Describe", "DescribeConfigs", "Write"];
/// The same, and read back.
const TO_POSITION: &[&str] = &["Create", "Describe", "DescribeConfigs", "Read", "Write"];

/// A topic that records go to, or the beginning of the names of several.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Destination {
    pub name: String,
    pub is_prefix: bool,
}

/// What each right is for, and the command that gives it; nothing where no user logs in.
pub fn commands(
    settings: &Settings,
    destinations: &[Destination],
    high_availability: bool,
) -> Vec<(String, String)> {
    let Some(user) = settings.client_value("sasl.username") else { return Vec::new() };
    let command = |operations: &[&str], on: &str| {
        let operations: Vec<String> =
            operations.iter().map(|operation| format!("--operation {operation}")).collect();
        format!(
            "kafka-acls.sh --bootstrap-server {} --add --allow-principal User:{user} {} {on}",
            settings.brokers(),
            operations.join(" ")
        )
    };
    let prefixed = "--resource-pattern-type prefixed";
    let id = &settings.transactional_id;
    let position = &settings.position_topic;
    let mut found = vec![
        (
            format!("transactional ids {id}-*"),
            command(&["Describe", "Write"], &format!("--transactional-id {id} {prefixed}")),
        ),
        (format!("topic {position}"), command(TO_POSITION, &format!("--topic {position}"))),
    ];
    if high_availability {
        let turn = settings.turn_topic();
        found.push((
            format!("topic {turn}"),
            command(&["Create", "Describe", "Read"], &format!("--topic {turn}")),
        ));
        found.push((format!("group {id}"), command(&["Read"], &format!("--group {id}"))));
    }
    if let Some(Heard { topic, group }) = &settings.signals {
        found.push((format!("topic {topic}"), command(&["Describe", "Read"], &format!("--topic {topic}"))));
        found.push((format!("group {group}"), command(&["Read"], &format!("--group {group}"))));
    }
    for Destination { name, is_prefix } in destinations {
        found.push(match is_prefix {
            true => (format!("topics {name}*"), command(TO_DATA, &format!("--topic {name} {prefixed}"))),
            false => (format!("topic {name}"), command(TO_DATA, &format!("--topic {name}"))),
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::Raw;

    fn settings(more: serde_json::Value) -> Settings {
        let mut json = json!({"bootstrap": ["b:1"]});
        json.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let raw: Raw = serde_json::from_value(json).unwrap();
        Settings::resolve(raw, "orders").unwrap()
    }

    #[test]
    fn a_user_s_rights_are_commands_and_without_a_user_there_are_none() {
        let destinations = [Destination { name: "orders.".into(), is_prefix: true }];
        assert_eq!(commands(&settings(json!({})), &destinations, false), []);
        let sasl = json!({"mechanism": "PLAIN", "username": "o", "password": "p"});
        let settings = settings(json!({"security": "sasl_plaintext", "sasl": sasl}));
        let found = commands(&settings, &destinations, true);
        assert_eq!(found.len(), 5);
        assert_eq!(
            found[4].1,
            "kafka-acls.sh --bootstrap-server b:1 --add --allow-principal User:o --operation Create --operation \
             Describe --operation DescribeConfigs --operation Write --topic orders. --resource-pattern-type prefixed"
        );
    }
}
