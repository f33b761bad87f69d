//! What is done to an input to make the next one.

use millrace_testing::random::Random;

/// Numbers at which parsers go wrong.
const EDGES: [u32; 10] = [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];

/// Texts that stand for something in one of the formats.
const WORDS: [&str; 22] = [
    "NULL",
    "\"",
    "\\",
    "{",
    "}",
    ",",
    "NaN",
    "Infinity",
    "-",
    "+",
    ".",
    "e99",
    " BC",
    "24:00:00",
    "infinity",
    "=>",
    ":",
    "/",
    "\\x",
    "(",
    ")",
    "\u{1f980}",
];

/// No input grows beyond this.
const BYTES_MAX: usize = 4096;

/// One to four changes.
pub fn changed(seed: &[u8], others: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(4) {
        one(&mut bytes, others, random);
    }
    bytes.truncate(BYTES_MAX);
    bytes
}

fn one(bytes: &mut Vec<u8>, others: &[Vec<u8>], random: &mut Random) {
    let at = random.below(bytes.len() as u64 + 1) as usize;
    match random.below(8) {
        0 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        1 => bytes.truncate(at),
        2 => drop(bytes.drain(at..(at + 1 + random.below(4) as usize).min(bytes.len()).max(at))),
        3 => insert(bytes, at, &[random.below(256) as u8]),
        4 => {
            let word = WORDS.get(random.below(WORDS.len() as u64) as usize).copied().unwrap_or_default();
            insert(bytes, at, word.as_bytes());
        }
        5 => {
            let edge = EDGES.get(random.below(EDGES.len() as u64) as usize).copied().unwrap_or_default();
            let edge = edge.to_be_bytes();
            let width = [1, 2, 4].get(random.below(3) as usize).copied().unwrap_or(4);
            for (to, from) in bytes.iter_mut().skip(at).zip(edge.iter().skip(4 - width)) {
                *to = *from;
            }
        }
        6 => {
            let part: Vec<u8> = bytes.iter().skip(at).take(1 + random.below(32) as usize).copied().collect();
            insert(bytes, at, &part);
        }
        _ => {
            let other = others.get(random.below(others.len() as u64) as usize);
            let tail = other.map(|other| other.get(at.min(other.len())..).unwrap_or_default());
            bytes.truncate(at);
            bytes.extend_from_slice(tail.unwrap_or_default());
        }
    }
}

fn insert(bytes: &mut Vec<u8>, at: usize, part: &[u8]) {
    bytes.splice(at..at, part.iter().copied());
}
