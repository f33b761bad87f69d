//! The JSON Schema of an outbox's values, made of what its route says of them and of nothing else: no event has a part
//! in it. Start at `OutboxPlan::derived`.

use serde_json::{Map, Value as Json, json};

use super::{Form, From, OutboxPlan};
use crate::route::rule::PayloadForm;

impl OutboxPlan {
    /// `None` where the value is the payload alone, of which a route says nothing. Whatever the plan writes fits it.
    ///
    /// Every column may be null, whatever the catalog says of it, and no member is required: a column that becomes
    /// nullable changes nothing, and a member that is added later is one that older events do without. No other
    /// members are let in, because where they are, a new one is a conflict to a registry.
    pub(crate) fn derived(&self) -> Option<String> {
        if self.fields.is_empty() {
            return None;
        }
        let properties: Map<String, Json> = self
            .fields
            .iter()
            .map(|field| {
                let of = match (&field.from, self.payload_form) {
                    (From::Text(_), _) | (From::Payload, PayloadForm::Text | PayloadForm::Bytes) => {
                        json!({"type": "string"})
                    }
                    (From::Payload, PayloadForm::Json) => json!({}),
                    (From::Column(_, form), _) => column(*form),
                };
                (field.name.clone(), of)
            })
            .collect();
        let schema = json!({
            "$schema": "http://json-schema.org/draft-07/schema#",
            "type": "object",
            "properties": properties,
            "additionalProperties": false,
        });
        Some(schema.to_string())
    }
}

fn column(form: Form) -> Json {
    match form {
        Form::Text => json!({"type": ["string", "null"]}),
        Form::Bare { whole: true } => json!({"type": ["integer", "null"]}),
        // NaN and the infinities are written as strings.
        Form::Bare { whole: false } => json!({"type": ["number", "string", "null"]}),
        Form::Bool => json!({"type": ["boolean", "null"]}),
        Form::Raw | Form::Json => json!({}),
        Form::Time { .. } => json!({"type": ["string", "null"], "format": "date-time"}),
    }
}
