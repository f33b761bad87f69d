//! Which rows of a relation become events: an expression over its columns, `status = 'paid' and total > 100`.
//! `Filter::parse` reads it, `Filter::bind` finds the columns, `Bound::takes` asks it of a row.
//!
//! `= != < <= > >=`, `in (...)`, `is null`, `is not null`, `and`, `or`, `not`, parentheses. Texts stand in single
//! quotes, a quote in them twice. `op` is the operation: 'c', 'u', 'd', 'r' or 't'. As in SQL, a comparison with
//! NULL is not true.

use std::cmp::Ordering;

use crate::relation::{Kind, Relation};

/// Deeper than anybody writes by hand.
const DEPTH_MAX: u32 = 64;

#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    text: String,
    root: Expression<String>,
}

// Numbers of an expression are never NaN.
impl Eq for Filter {}

#[derive(Clone, Debug, PartialEq)]
enum Expression<C> {
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
    Not(Box<Self>),
    Compare(C, Comparison, Literal),
    In(C, Vec<Literal>),
    IsNull(C),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    Unequal,
    Less,
    AtMost,
    Greater,
    AtLeast,
}

#[derive(Clone, Debug, PartialEq)]
enum Literal {
    Text(String),
    Number(f64),
    Bool(bool),
}

/// With the columns of one relation.
#[derive(Debug)]
pub struct Bound(Expression<Column>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    Op,
    Of { index: usize, is_number: bool },
}

impl Filter {
    /// The error says what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut reader = Reader { tokens: tokens(text)?.into_iter().peekable(), depth: 0 };
        let root = reader.or()?;
        match reader.tokens.next() {
            None => Ok(Self { text: text.to_owned(), root }),
            Some(token) => Err(format!("{} does not belong at its end", token.shown())),
        }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// The columns that it names.
    pub fn columns(&self) -> Vec<&str> {
        let mut found = Vec::new();
        self.root.visit(&mut |column| found.push(column.as_str()));
        found.retain(|column| *column != "op");
        found
    }

    /// The error is the name of a column that the relation does not have.
    pub fn bind(&self, relation: &Relation) -> Result<Bound, String> {
        let bind = |name: &String| {
            if let Some(index) = relation.columns.iter().position(|column| column.name == *name) {
                let kind = relation.columns.get(index).map(|column| &column.kind);
                return Ok(Column::Of { index, is_number: kind.is_some_and(is_number) });
            }
            if name == "op" { Ok(Column::Op) } else { Err(name.clone()) }
        };
        self.root.bind(&bind).map(Bound)
    }
}

impl Bound {
    /// `text` gives a column's text, `None` for NULL.
    pub fn takes<'a>(&self, op: &str, text: impl Fn(usize) -> Option<&'a [u8]>) -> bool {
        let value = |column: &Column| match column {
            Column::Op => Some(Value { text: op.as_bytes(), is_number: false }),
            Column::Of { index, is_number } => text(*index).map(|text| Value { text, is_number: *is_number }),
        };
        self.0.is_true(&value)
    }
}

struct Value<'a> {
    text: &'a [u8],
    is_number: bool,
}

impl Value<'_> {
    /// `None` where the two cannot be compared.
    fn compare(&self, literal: &Literal) -> Option<Ordering> {
        match literal {
            Literal::Text(other) if self.is_number => self.number()?.partial_cmp(&other.parse().ok()?),
            Literal::Text(other) => Some(self.text.cmp(other.as_bytes())),
            Literal::Number(other) => self.number()?.partial_cmp(other),
            Literal::Bool(other) => {
                let own = matches!(self.text, b"t" | b"true");
                Some(own.cmp(other))
            }
        }
    }

    fn number(&self) -> Option<f64> {
        std::str::from_utf8(self.text).ok()?.parse().ok()
    }
}

fn is_number(kind: &Kind) -> bool {
    matches!(
        kind,
        Kind::Int16
            | Kind::Int32
            | Kind::Int64
            | Kind::Float32
            | Kind::Float64
            | Kind::Decimal { .. }
            | Kind::VariableDecimal
    )
}

impl<C> Expression<C> {
    fn visit<'a>(&'a self, with: &mut impl FnMut(&'a C)) {
        match self {
            Self::And(a, b) | Self::Or(a, b) => {
                a.visit(with);
                b.visit(with);
            }
            Self::Not(a) => a.visit(with),
            Self::Compare(column, ..) | Self::In(column, _) | Self::IsNull(column) => with(column),
        }
    }

    fn bind<D>(&self, with: &impl Fn(&C) -> Result<D, String>) -> Result<Expression<D>, String> {
        let both = |a: &Self, b: &Self| Ok::<_, String>((Box::new(a.bind(with)?), Box::new(b.bind(with)?)));
        Ok(match self {
            Self::And(a, b) => both(a, b).map(|(a, b)| Expression::And(a, b))?,
            Self::Or(a, b) => both(a, b).map(|(a, b)| Expression::Or(a, b))?,
            Self::Not(a) => Expression::Not(Box::new(a.bind(with)?)),
            Self::Compare(column, how, literal) => Expression::Compare(with(column)?, *how, literal.clone()),
            Self::In(column, literals) => Expression::In(with(column)?, literals.clone()),
            Self::IsNull(column) => Expression::IsNull(with(column)?),
        })
    }

    fn is_true<'a>(&self, value: &impl Fn(&C) -> Option<Value<'a>>) -> bool {
        self.truth(value) == Some(true)
    }

    /// `None`: unknown, because of a NULL.
    fn truth<'a>(&self, value: &impl Fn(&C) -> Option<Value<'a>>) -> Option<bool> {
        match self {
            Self::And(a, b) => match (a.truth(value), b.truth(value)) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                _ => None,
            },
            Self::Or(a, b) => match (a.truth(value), b.truth(value)) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (Some(false), Some(false)) => Some(false),
                _ => None,
            },
            Self::Not(a) => a.truth(value).map(|truth| !truth),
            Self::IsNull(column) => Some(value(column).is_none()),
            Self::In(column, literals) => {
                let value = value(column)?;
                Some(literals.iter().any(|literal| value.compare(literal) == Some(Ordering::Equal)))
            }
            Self::Compare(column, how, literal) => {
                let order = value(column)?.compare(literal);
                Some(match how {
                    Comparison::Equal => order == Some(Ordering::Equal),
                    Comparison::Unequal => order != Some(Ordering::Equal),
                    Comparison::Less => order == Some(Ordering::Less),
                    Comparison::AtMost => matches!(order, Some(Ordering::Less | Ordering::Equal)),
                    Comparison::Greater => order == Some(Ordering::Greater),
                    Comparison::AtLeast => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
                })
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Number(f64),
    Sign(&'static str),
}

impl Token {
    fn shown(&self) -> String {
        match self {
            Self::Word(word) => word.clone(),
            Self::Text(text) => format!("'{text}'"),
            Self::Number(number) => number.to_string(),
            Self::Sign(sign) => (*sign).to_owned(),
        }
    }
}

/// The longer ones first.
const SIGNS: [&str; 10] = ["<=", ">=", "!=", "<>", "=", "<", ">", "(", ")", ","];

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            found.push(Token::Sign(sign));
            rest = rest.get(sign.len()..).unwrap_or_default();
        } else if first == '\'' {
            let (inner, tail) = quoted(rest).ok_or("a text has no ' at its end")?;
            found.push(Token::Text(inner));
            rest = tail;
        } else {
            let end = rest.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '+' | '$')));
            let (word, tail) = rest.split_at(end.unwrap_or(rest.len()));
            if word.is_empty() {
                return Err(format!("{first:?} means nothing here"));
            }
            found.push(match word.parse::<f64>() {
                Ok(number) if number.is_finite() => Token::Number(number),
                _ => Token::Word(word.to_owned()),
            });
            rest = tail;
        }
        rest = rest.trim_start();
    }
    Ok(found)
}

/// A text with its quotes off, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut inner = String::new();
    let mut rest = text.strip_prefix('\'')?;
    loop {
        let (part, tail) = rest.split_once('\'')?;
        inner.push_str(part);
        match tail.strip_prefix('\'') {
            Some(tail) => {
                inner.push('\'');
                rest = tail;
            }
            None => return Some((inner, tail)),
        }
    }
}

struct Reader {
    tokens: std::iter::Peekable<std::vec::IntoIter<Token>>,
    depth: u32,
}

type Parsed = Result<Expression<String>, String>;

impl Reader {
    fn or(&mut self) -> Parsed {
        let mut left = self.and()?;
        while self.takes_word("or") {
            left = Expression::Or(Box::new(left), Box::new(self.and()?));
        }
        Ok(left)
    }

    fn and(&mut self) -> Parsed {
        let mut left = self.not()?;
        while self.takes_word("and") {
            left = Expression::And(Box::new(left), Box::new(self.not()?));
        }
        Ok(left)
    }

    fn not(&mut self) -> Parsed {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(format!("it is deeper than {DEPTH_MAX} levels"));
        }
        let found = match self.takes_word("not") {
            true => Expression::Not(Box::new(self.not()?)),
            false => self.single()?,
        };
        self.depth -= 1;
        Ok(found)
    }

    fn single(&mut self) -> Parsed {
        if self.takes_sign("(") {
            let inner = self.or()?;
            return if self.takes_sign(")") { Ok(inner) } else { Err("a ( has no )".to_owned()) };
        }
        let column = match self.tokens.next() {
            Some(Token::Word(column)) => column,
            Some(token) => return Err(format!("{} stands where a column should", token.shown())),
            None => return Err("it ends where a column should stand".to_owned()),
        };
        if self.takes_word("is") {
            let is_not = self.takes_word("not");
            if !self.takes_word("null") {
                return Err(format!("after {column} is there is no null"));
            }
            let is_null = Expression::IsNull(column);
            return Ok(if is_not { Expression::Not(Box::new(is_null)) } else { is_null });
        }
        if self.takes_word("in") {
            return self.list(column);
        }
        let how = match self.tokens.next() {
            Some(Token::Sign("=")) => Comparison::Equal,
            Some(Token::Sign("!=" | "<>")) => Comparison::Unequal,
            Some(Token::Sign("<")) => Comparison::Less,
            Some(Token::Sign("<=")) => Comparison::AtMost,
            Some(Token::Sign(">")) => Comparison::Greater,
            Some(Token::Sign(">=")) => Comparison::AtLeast,
            _ => return Err(format!("after {column} there is no comparison")),
        };
        Ok(Expression::Compare(column, how, self.literal()?))
    }

    fn list(&mut self, column: String) -> Parsed {
        if !self.takes_sign("(") {
            return Err(format!("after {column} in there is no ("));
        }
        let mut literals = vec![self.literal()?];
        while self.takes_sign(",") {
            literals.push(self.literal()?);
        }
        if self.takes_sign(")") {
            Ok(Expression::In(column, literals))
        } else {
            Err("a ( has no )".to_owned())
        }
    }

    fn literal(&mut self) -> Result<Literal, String> {
        match self.tokens.next() {
            Some(Token::Text(text)) => Ok(Literal::Text(text)),
            Some(Token::Number(number)) => Ok(Literal::Number(number)),
            Some(Token::Word(word)) if word == "true" => Ok(Literal::Bool(true)),
            Some(Token::Word(word)) if word == "false" => Ok(Literal::Bool(false)),
            Some(token) => Err(format!("{} is no value; texts stand in single quotes", token.shown())),
            None => Err("it ends where a value should stand".to_owned()),
        }
    }

    fn takes_word(&mut self, word: &str) -> bool {
        self.tokens
            .next_if(|token| matches!(token, Token::Word(own) if own.eq_ignore_ascii_case(word)))
            .is_some()
    }

    fn takes_sign(&mut self, sign: &str) -> bool {
        self.tokens.next_if(|token| matches!(token, Token::Sign(own) if *own == sign)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relation::{Column as Of, Shape, SourceBlock};

    fn relation() -> Relation {
        let column = |name: &str, kind| Of::new(name, kind, true);
        Relation {
            version: 1,
            namespace: "public".into(),
            name: "t".into(),
            columns: vec![
                column("status", Kind::Text),
                column("total", Kind::Decimal { precision: 12, scale: 2 }),
                column("active", Kind::Bool),
                column("note", Kind::Text),
            ],
            key: Vec::new(),
            identity: Vec::new(),
            source: SourceBlock { schema_name: "x", fields: Vec::new() },
            shape: Shape::Rows,
        }
    }

    /// Of a paid row with a total of 9.50, active, without a note.
    fn takes(text: &str) -> bool {
        let bound =
            Filter::parse(text).unwrap_or_else(|why| panic!("{text}: {why}")).bind(&relation()).unwrap();
        let row = [Some("paid"), Some("9.50"), Some("t"), None];
        bound.takes("u", |index| row.get(index).copied().flatten().map(str::as_bytes))
    }

    #[test]
    fn a_row_is_asked_as_sql_would_ask_it() {
        for (text, expected) in [
            ("status = 'paid'", true),
            ("status != 'paid'", false),
            ("total > 10", false),
            ("total = 9.5", true),
            ("total <= '9.5'", true),
            ("total >= -1e3 AND total < 10", true),
            ("status in ('new', 'paid') and active = true", true),
            ("not (status = 'paid' or total > 10)", false),
            ("status = 'x' or status = 'paid' and total < 1", false),
            ("note is null", true),
            ("note is not null", false),
            ("note = 'a' or not note = 'a'", false),
            ("op in ('c', 'u')", true),
            ("op = 'd'", false),
        ] {
            assert_eq!(takes(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_expression_is_told_with_the_place() {
        for (text, word) in [
            ("", "column"),
            ("status", "comparison"),
            ("status = paid", "single quotes"),
            ("status = 'paid", "at its end"),
            ("(status = 'a'", "no )"),
            ("status in 'a'", "no ("),
            ("status is 5", "null"),
            ("status = 'a' total", "at its end"),
            ("status ~ 'a'", "means nothing"),
        ] {
            let why = Filter::parse(text).unwrap_err();
            assert!(why.contains(word), "{text}: {why}");
        }
        assert!(Filter::parse(&"not ".repeat(100)).is_err());
    }

    #[test]
    fn a_quote_in_a_text_stands_twice_and_an_unknown_column_is_named() {
        let filter = Filter::parse("status = 'it''s'").unwrap();
        assert_eq!((filter.columns(), filter.text()), (vec!["status"], "status = 'it''s'"));
        assert_eq!(Filter::parse("nowhere = 1").unwrap().bind(&relation()).unwrap_err(), "nowhere");
    }
}
