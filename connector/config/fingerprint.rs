//! What a configuration comes to, as a number: whether a file that is read again says something else.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use config::{Value, ValueKind};

/// Of the tree with its references put in. A number, because secrets are among what it is made of.
pub fn of(value: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    lay(value, &mut hasher);
    hasher.finish()
}

/// Of one section of it; 0 where it has none.
pub fn of_section(value: &Value, name: &str) -> u64 {
    match &value.kind {
        ValueKind::Table(table) => table.get(name).map_or(0, of),
        _ => 0,
    }
}

fn lay(value: &Value, hasher: &mut DefaultHasher) {
    match &value.kind {
        ValueKind::Table(table) => {
            let mut members: Vec<_> = table.iter().collect();
            members.sort_by_key(|(name, _)| *name);
            members.len().hash(hasher);
            for (name, inner) in members {
                name.hash(hasher);
                lay(inner, hasher);
            }
        }
        ValueKind::Array(items) => {
            items.len().hash(hasher);
            items.iter().for_each(|item| lay(item, hasher));
        }
        other => other.to_string().hash(hasher),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn every_value_counts_and_the_order_of_keys_does_not() {
        let tree = |tables: &[&str], password: &str| {
            let tables: Vec<Value> = tables.iter().map(|table| Value::from(*table)).collect();
            let pairs = [("tables", Value::from(tables)), ("password", Value::from(password))];
            let table: HashMap<String, Value> = pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
            of(&Value::from(table))
        };
        let first = tree(&["a", "b"], "x");
        assert!((0..20).all(|_| tree(&["a", "b"], "x") == first));
        for other in
            [tree(&["a", "c"], "x"), tree(&["ab"], "x"), tree(&["a", "b"], "y"), tree(&["b", "a"], "x")]
        {
            assert_ne!(other, first);
        }
    }
}
