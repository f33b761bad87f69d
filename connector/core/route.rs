//! Which topic and which partition a record goes to. Pure; topics are asked for once per relation version
//! and selector. What a file says of it is a `rule`, with its texts in `template` and its
//! conditions in `filter`, other names of topics in `rename`, with replacements as in `java`; what becomes of
//! fields and headers in `step`. Both may be for some `topics` only.

pub mod filter;
pub mod java;
pub mod rename;
pub mod rule;
pub mod step;
pub mod template;
pub mod topics;
pub mod zone;

use crate::relation::{Relation, Shape};

/// Kafka's limit on the length of a topic's name.
const TOPIC_BYTES_MAX: usize = 249;

/// `<prefix>.<schema>.<table>`, every character that Kafka does not allow replaced by `_`.
pub fn topic_name(prefix: &str, relation: &Relation) -> String {
    let full = match relation.shape {
        Shape::Rows | Shape::Documents => format!("{prefix}.{}.{}", relation.namespace, relation.name),
        Shape::Messages => format!("{prefix}.message"),
    };
    let legal = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    full.chars().map(legal).take(TOPIC_BYTES_MAX).collect()
}

/// Whether Kafka takes a topic of this name.
pub fn is_topic_name(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (1..=TOPIC_BYTES_MAX).contains(&name.len()) && !matches!(name, "." | "..") && name.chars().all(legal)
}

/// The partition that the Java client's default partitioner picks for a key.
///
/// Records without a key go to partition 0: a table without a key keeps its commit order.
pub fn partition(key: Option<&[u8]>, partitions: u32) -> u32 {
    match key {
        Some(key) if partitions > 1 => (murmur2(key) & 0x7fff_ffff) % partitions,
        _ => 0,
    }
}

/// Kafka's murmur2, seed included.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    const SEED: u32 = 0x9747_b28c;
    // Kafka hashes with the low 32 bits of the length; a key is far shorter.
    let mut h = SEED ^ (data.len() as u32);
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut k = word.iter().rev().fold(0, |k: u32, byte| k << 8 | u32::from(*byte));
        k = k.wrapping_mul(M);
        k ^= k >> 24;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        h ^= rest.iter().rev().fold(0, |k: u32, byte| k << 8 | u32::from(*byte));
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ (h >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relation::{Shape, SourceBlock};

    fn relation(namespace: &str, name: &str) -> Relation {
        let source = SourceBlock { schema_name: "x.Source", fields: Vec::new() };
        Relation {
            version: 1,
            namespace: namespace.into(),
            name: name.into(),
            columns: Vec::new(),
            key: Vec::new(),
            identity: Vec::new(),
            source,
            shape: Shape::Rows,
        }
    }

    #[test]
    fn murmur2_gives_what_the_java_client_gives() {
        let known: [(&str, i32); 6] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ];
        for (text, hash) in known {
            assert_eq!(murmur2(text.as_bytes()).cast_signed(), hash, "{text}");
        }
    }

    #[test]
    fn a_partition_is_the_positive_hash_modulo_the_count() {
        let positive = (-973_932_308_i32 & i32::MAX).cast_unsigned();
        assert_eq!(partition(Some(b"21"), 7), positive % 7);
        assert_eq!(partition(Some(b"21"), 1), 0);
    }

    #[test]
    fn records_without_a_key_share_partition_zero() {
        assert_eq!(partition(None, 12), 0);
    }

    #[test]
    fn a_topic_name_has_only_characters_that_kafka_allows() {
        let name = topic_name("shop", &relation("pub lic", "zażółć$t-1_a"));
        assert_eq!(name, "shop.pub_lic.za_____t-1_a");
    }

    #[test]
    fn a_topic_name_ends_at_the_limit_of_kafka() {
        assert_eq!(topic_name("p", &relation("s", &"t".repeat(300))).len(), 249);
    }
}
