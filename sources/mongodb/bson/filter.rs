//! Which fields of a collection's documents are left out or get another name: `address.zip`, at any depth.
//!
//! A path goes through documents and through arrays of documents; arrays inside arrays it does not enter.
//! An update names what it set by path (`a.0.b`): the number of an array's place is no part of ours.

use super::{Doc, Fault};

/// What happens to the field at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    Exclude,
    Rename(String),
}

/// The rules below one field, or at the top of a document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldRules {
    fields: Vec<(Vec<u8>, Node)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Node {
    rule: Option<Rule>,
    below: FieldRules,
}

/// What becomes of a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Renamed<'n, 'r> {
    Left,
    As(&'n [u8], Option<&'r FieldRules>),
}

impl FieldRules {
    /// Adds the rule for a path of names.
    pub fn add(&mut self, path: &[&str], rule: &Rule) {
        let [name, rest @ ..] = path else { return };
        let at = match self.fields.iter().position(|(field, _)| field == name.as_bytes()) {
            Some(at) => at,
            None => {
                self.fields.push((name.as_bytes().to_vec(), Node::default()));
                self.fields.len() - 1
            }
        };
        let Some((_, node)) = self.fields.get_mut(at) else { return };
        if rest.is_empty() {
            node.rule = Some(rule.clone());
        } else {
            node.below.add(rest, rule);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    fn node(&self, name: &[u8]) -> Option<&Node> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, node)| node)
    }

    /// What becomes of a field of this document.
    pub fn at<'n, 'r: 'n>(&'r self, name: &'n [u8]) -> Renamed<'n, 'r> {
        let Some(node) = self.node(name) else { return Renamed::As(name, None) };
        let below = Some(&node.below).filter(|below| !below.is_empty());
        match &node.rule {
            Some(Rule::Exclude) => Renamed::Left,
            Some(Rule::Rename(new)) => Renamed::As(new.as_bytes(), below),
            None => Renamed::As(name, below),
        }
    }

    /// Fails where a field that gets another name would find that name taken.
    pub fn check_names(&self, doc: Doc<'_>) -> Result<(), Fault> {
        for (field, node) in &self.fields {
            let Some(Rule::Rename(new)) = &node.rule else { continue };
            if doc.get_bytes(field)? && doc.get_bytes(new.as_bytes())? {
                return Err(Fault::NameTaken(new.clone()));
            }
        }
        Ok(())
    }

    /// The path of an update with its new names, and the rules for what lies below it; `None` where it is
    /// left out.
    pub fn along<'r>(&'r self, path: &[u8]) -> Option<(Vec<u8>, Option<&'r FieldRules>)> {
        let mut out = Vec::with_capacity(path.len());
        let mut rules = Some(self);
        let mut was_number = false;
        for (index, part) in path.split(|byte| *byte == b'.').enumerate() {
            if index > 0 {
                out.push(b'.');
            }
            let is_number = index > 0 && !part.is_empty() && part.iter().all(u8::is_ascii_digit);
            if is_number {
                // A place in an array inside an array: from here on nothing of ours applies.
                rules = rules.filter(|_| !was_number);
                out.extend_from_slice(part);
            } else {
                match rules.map(|rules| rules.at(part)) {
                    None => out.extend_from_slice(part),
                    Some(Renamed::Left) => return None,
                    Some(Renamed::As(name, below)) => {
                        out.extend_from_slice(name);
                        rules = below;
                    }
                }
            }
            was_number = is_number;
        }
        Some((out, rules))
    }
}

impl Doc<'_> {
    fn get_bytes(self, name: &[u8]) -> Result<bool, Fault> {
        for element in self.elements() {
            if element?.0 == name {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
