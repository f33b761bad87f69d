//! Names with `*` for anything, as files write them: `public.orders.note`, `shop.*.password`; or expressions
//! between slashes: `/shop\.orders_\d+/`.

use std::fmt;

use regex_lite::{Regex, RegexBuilder};

/// Which names are meant.
#[derive(Clone, Debug)]
pub enum Pattern {
    /// Compared letter by letter, but for `*`.
    Name(String),
    /// Of the whole name, in any case of letters.
    Expression(Regex),
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Name(one), Self::Name(other)) => one == other,
            (Self::Expression(one), Self::Expression(other)) => one.as_str() == other.as_str(),
            (Self::Name(_), Self::Expression(_)) | (Self::Expression(_), Self::Name(_)) => false,
        }
    }
}

impl Eq for Pattern {}

/// As files write them.
impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Expression(expression) => {
                let inner = expression.as_str();
                let inner =
                    inner.strip_prefix("^(?:").and_then(|rest| rest.strip_suffix(")$")).unwrap_or(inner);
                write!(f, "/{inner}/")
            }
        }
    }
}

impl Pattern {
    pub fn new(text: impl Into<String>) -> Self {
        Self::Name(text.into())
    }

    /// An expression between slashes, or a name with `*`; says what is wrong with the expression.
    pub fn parse(text: &str) -> Result<Self, String> {
        let inner = text.strip_prefix('/').and_then(|rest| rest.strip_suffix('/'));
        let Some(expression) = inner else { return Ok(Self::new(text)) };
        RegexBuilder::new(&format!("^(?:{expression})$"))
            .case_insensitive(true)
            .build()
            .map(Self::Expression)
            .map_err(|error| format!("is not an expression that is understood: {error}"))
    }

    pub fn is_expression(&self) -> bool {
        matches!(self, Self::Expression(_))
    }

    /// A name as it is written in the file, or what an expression is made into.
    pub fn text(&self) -> &str {
        match self {
            Self::Name(name) => name,
            Self::Expression(expression) => expression.as_str(),
        }
    }

    pub fn matches(&self, name: &str) -> bool {
        let text = match self {
            Self::Expression(expression) => return expression.is_match(name),
            Self::Name(text) => text,
        };
        let mut parts = text.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = name.strip_prefix(first) else { return false };
        let mut parts = parts.peekable();
        if parts.peek().is_none() {
            return rest.is_empty();
        }
        // Each part as early as it can be; the last one at the end.
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                return rest.ends_with(part);
            }
            let Some((_, tail)) = rest.split_once(part) else { return false };
            rest = tail;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_is_of_the_whole_name_and_takes_no_notice_of_case() {
        let pattern = Pattern::parse(r"/public\.(orders|items_\d+)/").unwrap();
        for (name, expected) in [
            ("public.orders", true),
            ("PUBLIC.Items_7", true),
            ("public.orders2", false),
            ("x.public.orders", false),
        ] {
            assert_eq!(pattern.matches(name), expected, "{name}");
        }
        assert!(Pattern::parse("/a(?!b)/").is_err() && Pattern::parse("/(/").is_err());
        assert_eq!(Pattern::parse("a.*"), Ok(Pattern::new("a.*")));
    }

    #[test]
    fn a_star_is_anything_and_everything_else_is_itself() {
        for (pattern, name, expected) in [
            ("public.orders.note", "public.orders.note", true),
            ("public.orders.note", "public.orders.notes", false),
            ("public.orders.*", "public.orders.note", true),
            ("*.password", "shop.users.password", true),
            ("*.password", "shop.users.password_hint", false),
            ("shop.*.pass*d", "shop.users.password", true),
            ("shop.*.pass*d", "shop.users.passe", false),
            ("*", "", true),
            ("a*a", "a", false),
            ("", "a", false),
        ] {
            assert_eq!(Pattern::new(pattern).matches(name), expected, "{pattern} on {name}");
        }
    }
}
