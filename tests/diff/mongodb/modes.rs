//! What a run of documents is made of beside its seed: the seed draws it, so that some runs go through all of it.

use std::fmt;

use millrace_ledger::random::Random;

use super::values::Kinds;
use crate::Encoding;

/// How both sides are set up.
#[derive(Clone, Copy, Debug)]
pub struct Modes {
    pub encoding: Encoding,
    pub document: Document,
    pub pre_images: bool,
    /// Documents that are there before the start are read.
    pub snapshot: bool,
    /// Events tell their transactions.
    pub transactions: bool,
    pub heartbeats: bool,
    /// Fields are left out and renamed.
    pub fields: bool,
    pub names: Names,
    /// Some documents have nearly 16 MB.
    pub large: bool,
    pub flat: Option<Flat>,
}

/// Debezium's ExtractNewDocumentState on its side, our flat envelope on ours.
#[derive(Clone, Copy, Debug)]
pub struct Flat {
    pub lists_are_documents: bool,
    pub flatten: bool,
    /// In Debezium's words and in ours.
    pub deletes: (&'static str, &'static str),
    pub adds: bool,
}

const DELETES: [(&str, &str); 5] = [
    ("tombstone", "tombstone"),
    ("delete-to-tombstone", "tombstone"),
    ("drop", "drop"),
    ("rewrite", "rewrite"),
    ("rewrite-with-tombstone", "rewrite_with_tombstone"),
];

/// What stands in `after` of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Document {
    None,
    /// Looked up by each side in its own time: no document is changed after its update.
    Lookup,
    PostImage,
}

/// How the collections are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// One by one.
    Whole,
    /// By an expression.
    Included,
    /// All of the database but those of an expression.
    Excluded,
}

impl Modes {
    pub fn of(seed: u64, encoding: Option<Encoding>) -> Self {
        // Its own stream of numbers: the documents of a seed stay what they are.
        let mut random = Random::fork(seed, 1);
        let document = *random.pick(&[Document::None, Document::Lookup, Document::PostImage]);
        let drawn = *random.pick(&[Encoding::Json, Encoding::Avro]);
        let encoding = encoding.unwrap_or(drawn);
        let mut modes = Self {
            encoding,
            document,
            pre_images: random.percent(50),
            snapshot: random.percent(50),
            transactions: random.percent(50),
            heartbeats: random.percent(30),
            fields: random.percent(50),
            names: *random.pick(&[Names::Whole, Names::Included, Names::Excluded]),
            large: random.percent(20),
            flat: None,
        };
        if random.percent(35) {
            modes.large = false;
            modes.flat = Some(Flat {
                lists_are_documents: random.percent(30),
                // What an update set is named by its path, and Avro allows no dots.
                flatten: random.percent(30) || (encoding, document) == (Encoding::Avro, Document::None),
                deletes: *random.pick(&DELETES),
                adds: random.percent(60),
            });
        }
        modes
    }

    pub fn kinds(&self) -> Kinds {
        Kinds {
            is_tame: self.flat.is_some(),
            lists_are_documents: self.flat.is_some_and(|flat| flat.lists_are_documents),
            is_legal: self.flat.is_some() && self.encoding == Encoding::Avro,
        }
    }
}

impl fmt::Display for Modes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, after {:?}, names {:?}", self.encoding, self.document, self.names)?;
        for (is_on, word) in [
            (self.pre_images, "before"),
            (self.snapshot, "snapshot"),
            (self.transactions, "transactions"),
            (self.heartbeats, "heartbeats"),
            (self.fields, "fields"),
            (self.large, "large"),
        ] {
            if is_on {
                write!(f, ", {word}")?;
            }
        }
        let Some(flat) = self.flat else { return Ok(()) };
        write!(f, ", flat ({}", flat.deletes.0)?;
        for (is_on, word) in
            [(flat.lists_are_documents, "lists"), (flat.flatten, "flatten"), (flat.adds, "adds")]
        {
            if is_on {
                write!(f, ", {word}")?;
            }
        }
        f.write_str(")")
    }
}
