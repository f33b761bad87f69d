//! Where a run begins: `corpus/`, a text a line, or bytes in hexadecimal.

const VALUES: &str = include_str!("corpus/values.txt");
const POSITIONS: &str = include_str!("corpus/positions.txt");
const PGOUTPUT: &str = include_str!("corpus/pgoutput.hex");

/// Texts of columns, as Postgres prints them.
pub fn values() -> Vec<Vec<u8>> {
    lines(VALUES)
}

/// Stored positions and offsets.
pub fn positions() -> Vec<Vec<u8>> {
    lines(POSITIONS)
}

/// Messages of pgoutput.
pub fn pgoutput() -> Vec<Vec<u8>> {
    let byte =
        |pair: &[u8]| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let bytes = |line: Vec<u8>| line.chunks(2).filter_map(byte).collect();
    lines(PGOUTPUT).into_iter().map(bytes).collect()
}

fn lines(text: &str) -> Vec<Vec<u8>> {
    text.lines().filter(|line| !line.is_empty()).map(|line| line.as_bytes().to_vec()).collect()
}
