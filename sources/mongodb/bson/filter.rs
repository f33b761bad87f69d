//! Which fields of a collection's documents are left out or get another name: `address.zip`, at any depth.
//!
//! A path goes through documents and through arrays of documents; arrays inside arrays it does not enter.
//! An update names what it set by path (`a.0.b`): the number of an array's place is no part of ours. Fields with
//! another name stand behind the others, in the order of the rules: as Debezium.

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
    /// The place of the rule among all of them.
    order: usize,
    below: FieldRules,
}

/// What becomes of a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Renamed<'n, 'r> {
    Left,
    /// Its name, the rules below it, and by which rule it has that name if it has another one.
    As(&'n [u8], Option<&'r FieldRules>, Option<usize>),
}

/// A path of an update by the rules.
#[derive(Clone, Debug, PartialEq)]
pub struct Along<'r> {
    pub path: Vec<u8>,
    /// For what lies below it.
    pub below: Option<&'r FieldRules>,
    pub renamed_by: Option<usize>,
}

impl FieldRules {
    /// Adds the rule for a path of names; `order` is its place among all rules.
    pub fn add(&mut self, path: &[&str], rule: &Rule, order: usize) {
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
            (node.rule, node.order) = (Some(rule.clone()), order);
        } else {
            node.below.add(rest, rule, order);
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
        let Some(node) = self.node(name) else { return Renamed::As(name, None, None) };
        let below = Some(&node.below).filter(|below| !below.is_empty());
        match &node.rule {
            Some(Rule::Exclude) => Renamed::Left,
            Some(Rule::Rename(new)) => Renamed::As(new.as_bytes(), below, Some(node.order)),
            None => Renamed::As(name, below, None),
        }
    }

    /// Fails where a field that gets another name would find that name taken: by a field that keeps its own, or by
    /// one that gets the same.
    pub fn check_names(&self, doc: Doc<'_>) -> Result<(), Fault> {
        let mut given: Vec<&str> = Vec::new();
        for (field, node) in &self.fields {
            let Some(Rule::Rename(new)) = &node.rule else { continue };
            if !doc.has(field)? {
                continue;
            }
            let is_free = self.node(new.as_bytes()).is_some_and(|other| match &other.rule {
                Some(Rule::Exclude) => true,
                Some(Rule::Rename(_)) => other.order < node.order,
                None => false,
            });
            if given.contains(&new.as_str()) || (!is_free && doc.has(new.as_bytes())?) {
                return Err(Fault::NameTaken(new.clone()));
            }
            given.push(new);
        }
        Ok(())
    }

    /// The path of an update with its new names; `None` where it is left out.
    pub fn along(&self, path: &[u8]) -> Option<Along<'_>> {
        let mut out = Vec::with_capacity(path.len());
        let (mut rules, mut renamed_by) = (Some(self), None);
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
                    Some(Renamed::As(name, below, by)) => {
                        out.extend_from_slice(name);
                        rules = below;
                        renamed_by = by.or(renamed_by);
                    }
                }
            }
            was_number = is_number;
        }
        Some(Along { path: out, below: rules, renamed_by })
    }
}

impl Doc<'_> {
    fn has(self, name: &[u8]) -> Result<bool, Fault> {
        for element in self.elements() {
            if element?.0 == name {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
