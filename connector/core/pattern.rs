//! Names with `*` for anything, as files write them: `public.orders.note`, `shop.*.password`.

/// Compared letter by letter, but for `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// As it is written in the file.
    pub fn text(&self) -> &str {
        &self.0
    }

    pub fn matches(&self, name: &str) -> bool {
        let mut parts = self.0.split('*');
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
