//! A column's default expression, as `pg_get_expr` prints it, as the text of a value. Start at `value`.
//!
//! Readers of the events see literals only: a call becomes the zero of its type, as Debezium has it, and
//! any other expression is no default at all.

use millrace_core::relation::Kind;

/// The default in the form that values of this kind have; `None` where the schema is to show none.
pub fn value(expression: &str, kind: &Kind) -> Option<String> {
    match literal(expression.trim())? {
        Literal::Null => None,
        Literal::Call => zero(kind),
        Literal::Text(text) => spelled(text, kind),
    }
}

enum Literal {
    Null,
    /// A function, whatever it is given and whatever is done with its result.
    Call,
    Text(String),
}

/// A literal under any number of casts and parentheses.
fn literal(expression: &str) -> Option<Literal> {
    if is_call(expression) {
        return Some(Literal::Call);
    }
    if expression.starts_with('(') {
        let (inner, rest) = parenthesised(expression)?;
        return if casts_only(rest) { literal(inner.trim()) } else { None };
    }
    let (text, rest) = quoted(expression).or_else(|| bare(expression))?;
    if !casts_only(rest) {
        return None;
    }
    Some(match text {
        text if !is_quoted(expression) && text.eq_ignore_ascii_case("null") => Literal::Null,
        text => Literal::Text(text),
    })
}

/// `now()`, `nextval('s'::regclass)`, `shop.fresh_id()`, and `(now() + '1 day'::interval)` too.
fn is_call(expression: &str) -> bool {
    let expression = expression.strip_prefix('(').unwrap_or(expression);
    let name =
        expression.trim_start_matches(|c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '"' | '$'));
    name.len() < expression.len() && name.starts_with('(')
}

/// What stands between the first parenthesis and the one that closes it, and what follows.
fn parenthesised(expression: &str) -> Option<(&str, &str)> {
    let (mut depth, mut in_quotes) = (0_u32, false);
    for (at, c) in expression.char_indices() {
        match c {
            '\'' => in_quotes = !in_quotes,
            '(' if !in_quotes => depth += 1,
            ')' if !in_quotes && depth > 1 => depth -= 1,
            ')' if !in_quotes => return Some((expression.get(1..at)?, expression.get(at + 1..)?)),
            _ => {}
        }
    }
    None
}

fn is_quoted(expression: &str) -> bool {
    expression.starts_with(['\'', 'E'])
}

/// `'it''s'` or `E'a\\b'`, and what follows.
fn quoted(expression: &str) -> Option<(String, &str)> {
    let (escapes, inner) = match expression.strip_prefix("E'") {
        Some(inner) => (true, inner),
        None => (false, expression.strip_prefix('\'')?),
    };
    let mut text = String::new();
    let mut chars = inner.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match (c, chars.peek()) {
            ('\'', Some((_, '\''))) => {
                text.push('\'');
                chars.next();
            }
            ('\'', _) => return Some((text, inner.get(at + 1..)?)),
            // The server prints nothing but doubled backslashes there.
            ('\\', Some((_, '\\'))) if escapes => {
                text.push('\\');
                chars.next();
            }
            ('\\', _) if escapes => return None,
            _ => text.push(c),
        }
    }
    None
}

/// A number, `true`, `false` or `NULL`, and what follows.
fn bare(expression: &str) -> Option<(String, &str)> {
    let end = expression.find(':').unwrap_or(expression.len());
    let (word, rest) = expression.split_at(end);
    let word = word.trim_end();
    let number = word.strip_prefix('-').unwrap_or(word);
    let is_number =
        number.starts_with(|c: char| c.is_ascii_digit() || c == '.') && number.parse::<f64>().is_ok();
    let is_word = ["true", "false", "null"].iter().any(|known| word.eq_ignore_ascii_case(known));
    (is_number || is_word).then(|| (word.to_owned(), rest))
}

/// Nothing, or `::type` once or more: names, modifiers and brackets, but no operator and no literal.
fn casts_only(rest: &str) -> bool {
    let rest = rest.trim();
    if rest.is_empty() {
        return true;
    }
    let is_type = |c: char| {
        c.is_alphanumeric() || matches!(c, ' ' | '_' | '.' | '"' | '(' | ')' | '[' | ']' | ',' | '$')
    };
    rest.starts_with("::")
        && rest.split("::").skip(1).all(|name| !name.trim().is_empty() && name.chars().all(is_type))
}

/// What stands in a schema for a value that a function makes.
fn zero(kind: &Kind) -> Option<String> {
    let text = match kind {
        Kind::Bool => "f",
        Kind::Int16 | Kind::Int32 | Kind::Int64 | Kind::Float32 | Kind::Float64 => "0",
        Kind::Decimal { scale, .. } => return scaled("0", *scale),
        Kind::Text => "",
        Kind::Json => "{}",
        Kind::Uuid => "00000000-0000-0000-0000-000000000000",
        Kind::Date => "1970-01-01",
        Kind::Time { .. } => "00:00:00",
        Kind::Timestamp { .. } => "1970-01-01 00:00:00",
        Kind::TimestampTz { .. } => "1970-01-01 00:00:00+00",
        Kind::Interval => "00:00:00",
        Kind::Xml | Kind::Ltree | Kind::Tsvector => "",
        Kind::VariableDecimal
        | Kind::Bits { .. }
        | Kind::Money
        | Kind::Hstore
        | Kind::Point
        | Kind::Geometry
        | Kind::Geography
        | Kind::Vector { .. }
        | Kind::SparseVector
        | Kind::LongSparseVector
        | Kind::Verbatim
        | Kind::Bytes
        | Kind::Enum { .. }
        | Kind::TimeTz { .. }
        | Kind::Array(_)
        | Kind::Delimited { .. }
        | Kind::Other { .. } => return None,
    };
    Some(text.to_owned())
}

/// A literal as a value of this kind is printed.
fn spelled(text: String, kind: &Kind) -> Option<String> {
    match kind {
        Kind::Bool => match text.as_str() {
            "true" | "t" => Some("t".to_owned()),
            "false" | "f" => Some("f".to_owned()),
            _ => None,
        },
        Kind::Int16 => text.parse::<i16>().ok().map(|number| number.to_string()),
        Kind::Int32 => text.parse::<i32>().ok().map(|number| number.to_string()),
        Kind::Int64 => text.parse::<i64>().ok().map(|number| number.to_string()),
        // A schema is JSON, where these have no infinities.
        Kind::Float32 | Kind::Float64 => text.parse::<f64>().ok().filter(|n| n.is_finite()).map(|_| text),
        Kind::Decimal { scale, .. } => scaled(&text, *scale),
        Kind::Text
        | Kind::Json
        | Kind::Uuid
        | Kind::Date
        | Kind::Time { .. }
        | Kind::Timestamp { .. }
        | Kind::TimestampTz { .. }
        | Kind::Xml
        | Kind::Ltree
        | Kind::Tsvector
        | Kind::Interval => Some(text),
        Kind::VariableDecimal
        | Kind::Bits { .. }
        | Kind::Money
        | Kind::Hstore
        | Kind::Point
        | Kind::Geometry
        | Kind::Geography
        | Kind::Vector { .. }
        | Kind::SparseVector
        | Kind::LongSparseVector
        | Kind::Verbatim
        | Kind::Bytes
        | Kind::Enum { .. }
        | Kind::TimeTz { .. }
        | Kind::Array(_)
        | Kind::Delimited { .. }
        | Kind::Other { .. } => None,
    }
}

/// A plain decimal number with exactly `scale` digits after its point, as the column's values have.
fn scaled(text: &str, scale: u32) -> Option<String> {
    let (whole, digits) = text.split_once('.').unwrap_or((text, ""));
    let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let sign_and_whole = whole.strip_prefix('-').unwrap_or(whole);
    if !all_digits(sign_and_whole) || !all_digits(digits) || sign_and_whole.len() + digits.len() == 0 {
        return None;
    }
    let scale = usize::try_from(scale).ok()?;
    // Digits beyond the scale are rounded by the server when a row takes the default: not guessed here.
    let digits = if digits.len() > scale { digits.trim_end_matches('0') } else { digits };
    if digits.len() > scale {
        return None;
    }
    let whole = if sign_and_whole.is_empty() { format!("{whole}0") } else { whole.to_owned() };
    Some(if scale == 0 { whole } else { format!("{whole}.{digits:0<scale$}") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MONEY: Kind = Kind::Decimal { precision: 10, scale: 2 };

    #[test]
    fn literals_lose_their_casts() {
        for (expression, kind, expected) in [
            ("'x'::text", Kind::Text, "x"),
            ("'it''s'::character varying", Kind::Text, "it's"),
            (r"E'a\\b''c'::text", Kind::Text, r"a\b'c"),
            ("'null'::text", Kind::Text, "null"),
            ("'E'::text", Kind::Text, "E"),
            ("'a::b'::text", Kind::Text, "a::b"),
            ("''::text", Kind::Text, ""),
            ("'x'::shop.\"My Type\"", Kind::Text, "x"),
            ("('x'::text)::character varying(20)", Kind::Text, "x"),
            ("5", Kind::Int32, "5"),
            ("'-5'::integer", Kind::Int32, "-5"),
            ("(-5)", Kind::Int32, "-5"),
            ("'9223372036854775807'::bigint", Kind::Int64, "9223372036854775807"),
            ("(5)::smallint", Kind::Int16, "5"),
            ("1.5", Kind::Float64, "1.5"),
            ("'1e+20'::double precision", Kind::Float64, "1e+20"),
            ("0", MONEY, "0.00"),
            ("9.9", MONEY, "9.90"),
            ("'-1.500'::numeric", MONEY, "-1.50"),
            (".5", MONEY, "0.50"),
            ("true", Kind::Bool, "t"),
            ("false", Kind::Bool, "f"),
            ("'{\"a\": 1}'::jsonb", Kind::Json, "{\"a\": 1}"),
            ("'2020-02-03'::date", Kind::Date, "2020-02-03"),
            (
                "'2020-02-03 04:05:06.7+00'::timestamp with time zone",
                Kind::TimestampTz { precision: 6 },
                "2020-02-03 04:05:06.7+00",
            ),
            ("'1 day 02:00:00'::interval", Kind::Interval, "1 day 02:00:00"),
        ] {
            assert_eq!(value(expression, &kind).as_deref(), Some(expected), "{expression}");
        }
    }

    #[test]
    fn calls_become_the_zero_of_their_type() {
        for (expression, kind, expected) in [
            ("nextval('shop.orders_id_seq'::regclass)", Kind::Int64, "0"),
            ("now()", Kind::Timestamp { precision: 6 }, "1970-01-01 00:00:00"),
            ("(now() + '1 day'::interval)", Kind::TimestampTz { precision: 3 }, "1970-01-01 00:00:00+00"),
            ("gen_random_uuid()", Kind::Uuid, "00000000-0000-0000-0000-000000000000"),
            ("public.gen_random_uuid()", Kind::Uuid, "00000000-0000-0000-0000-000000000000"),
            ("random()", MONEY, "0.00"),
            ("md5('x'::text)", Kind::Text, ""),
            ("(random())::integer", Kind::Int32, "0"),
        ] {
            assert_eq!(value(expression, &kind).as_deref(), Some(expected), "{expression}");
        }
    }

    #[test]
    fn what_is_no_literal_and_no_call_is_no_default() {
        for (expression, kind) in [
            ("NULL::character varying", Kind::Text),
            ("NULL", Kind::Int32),
            ("CURRENT_TIMESTAMP", Kind::TimestampTz { precision: 6 }),
            ("('a'::text || 'b'::text)", Kind::Text),
            ("'a'::text || 'b'::text", Kind::Text),
            ("(1 + 2)", Kind::Int32),
            ("ARRAY[1, 2]", Kind::Array(Box::new(Kind::Int32))),
            ("'{}'::integer[]", Kind::Array(Box::new(Kind::Int32))),
            ("'\\x00'::bytea", Kind::Bytes),
            ("'NaN'::double precision", Kind::Float64),
            ("'Infinity'::numeric", MONEY),
            ("1.239", MONEY),
            ("1.5", Kind::VariableDecimal),
            ("'sad'::mood", Kind::Enum { labels: vec!["sad".into()] }),
            ("99999", Kind::Int16),
            ("'open", Kind::Text),
            ("", Kind::Text),
        ] {
            assert_eq!(value(expression, &kind), None, "{expression}");
        }
    }

    proptest! {
        #[test]
        fn any_expression_is_read_without_a_panic(expression in "[-'E\\\\().:a-z0-9é \"]{0,40}") {
            for kind in [Kind::Text, Kind::Int32, MONEY, Kind::Bool] {
                let _ = value(&expression, &kind);
            }
        }

        #[test]
        fn any_text_comes_back_out_of_its_literal(text in "[^\0\\\\]{0,30}") {
            let expression = format!("'{}'::text", text.replace('\'', "''"));
            prop_assert_eq!(value(&expression, &Kind::Text), Some(text));
        }
    }
}
