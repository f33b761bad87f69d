//! Texts with places for columns, `outbox.event.{aggregatetype}`.

/// A part of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    Text(String),
    Column(String),
}

/// A text with places for the values of columns; `{{` and `}}` stand for the braces themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template(pub Vec<Part>);

impl Template {
    /// Reads a template; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text.chars().peekable();
        while let Some(c) = rest.next() {
            match (c, rest.peek()) {
                ('{', Some('{')) | ('}', Some('}')) => {
                    plain.push(c);
                    rest.next();
                }
                ('{', _) => {
                    let mut column = String::new();
                    loop {
                        match rest.next() {
                            Some('}') => break,
                            Some(c) => column.push(c),
                            None => return Err("has a { without its }; write {{ for the brace itself"),
                        }
                    }
                    if column.is_empty() {
                        return Err("has no column between { and }");
                    }
                    if !plain.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut plain)));
                    }
                    parts.push(Part::Column(column));
                }
                ('}', _) => return Err("has a } without its {; write }} for the brace itself"),
                _ => plain.push(c),
            }
        }
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self(parts))
    }

    /// The columns that it names, in order.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Text(_) => None,
            Part::Column(name) => Some(name.as_str()),
        })
    }

    /// The text with a value in each column's place, in the order of `columns`.
    pub fn fill<'a>(&self, values: impl IntoIterator<Item = &'a str>) -> String {
        let mut values = values.into_iter();
        let part = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Column(_) => values.next().unwrap_or_default().to_owned(),
        };
        self.0.iter().map(part).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_takes_values_in_the_order_of_its_columns() {
        let template = Template::parse("{{x}}.{schema}-{type}").unwrap();
        assert_eq!(template.columns().collect::<Vec<_>>(), ["schema", "type"]);
        assert_eq!(template.fill(["a", "b"]), "{x}.a-b");
    }

    #[test]
    fn a_template_with_a_lone_brace_is_refused() {
        for text in ["a{b", "a}b", "{}"] {
            assert!(Template::parse(text).is_err(), "{text}");
        }
    }
}
