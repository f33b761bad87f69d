//! Replacements as Java's expressions have them, which is how files of Kafka Connect are written.

use regex_lite::Regex;

/// As the library of expressions takes it. `$1` is what the first group of `regex` found, `${name}` a group with a name,
/// and `\` takes the meaning of what follows. Says what is wrong with it.
pub fn replacement(text: &str, regex: &Regex) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\\' => match rest.next() {
                Some('$') => out.push_str("$$"),
                Some(other) => out.push(other),
                None => return Err("ends in a \\ with nothing behind it".to_owned()),
            },
            '$' if rest.peek() == Some(&'{') => {
                rest.next();
                let name: String = rest.by_ref().take_while(|c| *c != '}').collect();
                if !regex.capture_names().flatten().any(|known| known == name) {
                    return Err(format!("names the group {name:?}, which the expression does not have"));
                }
                out.push_str(&format!("${{{name}}}"));
            }
            '$' => {
                let mut number = None;
                // As many digits as there are groups for.
                while let Some(digit) = rest.peek().and_then(|c| c.to_digit(10)) {
                    let next = number.unwrap_or(0) * 10 + digit as usize;
                    if number.is_some() && next >= regex.captures_len() {
                        break;
                    }
                    number = Some(next);
                    rest.next();
                }
                match number.filter(|number| *number < regex.captures_len()) {
                    Some(number) => out.push_str(&format!("${{{number}}}")),
                    None => return Err("has a $ without a group of the expression behind it".to_owned()),
                }
            }
            other => out.push(other),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn java_s_replacements_become_ours() {
        for (text, regex, expected) in [
            ("outbox.event.${routedByValue}", "(?<routedByValue>.*)", "outbox.event.${routedByValue}"),
            ("$1x", "(.)(.*)", "${1}x"),
            ("$12", "(.)(.*)", "${1}2"),
            ("$0.a", ".*", "${0}.a"),
            ("a\\$b\\\\c", ".*", "a$$b\\c"),
        ] {
            let regex = Regex::new(regex).unwrap();
            assert_eq!(replacement(text, &regex).as_deref(), Ok(expected), "{text}");
        }
        for text in ["$x", "$2", "${nobody}", "a\\"] {
            assert!(replacement(text, &Regex::new("(.*)").unwrap()).is_err(), "{text}");
        }
    }
}
