//! Where a run begins: `corpus/`, a text a line, or bytes in hexadecimal.

const VALUES: &str = include_str!("corpus/values.txt");
const POSITIONS: &str = include_str!("corpus/positions.txt");
const PGOUTPUT: &str = include_str!("corpus/pgoutput.hex");
const FRAMES: &str = include_str!("corpus/frames.hex");
const COPY: &str = include_str!("corpus/copy.hex");
const BSON: &str = include_str!("corpus/bson.hex");

/// Texts of columns, as Postgres prints them.
pub fn values() -> Vec<Vec<u8>> {
    lines(VALUES)
}

/// Those of columns that are arrays, and of what stands in arrays.
pub fn arrays() -> Vec<Vec<u8>> {
    let mut arrays = lines(VALUES);
    arrays.retain(|text| matches!(text.first(), Some(b'{' | b'[')));
    arrays
}

/// Stored positions and offsets.
pub fn positions() -> Vec<Vec<u8>> {
    lines(POSITIONS)
}

/// Messages of pgoutput.
pub fn pgoutput() -> Vec<Vec<u8>> {
    bytes(PGOUTPUT)
}

/// What a walsender writes to its socket.
pub fn frames() -> Vec<Vec<u8>> {
    bytes(FRAMES)
}

/// Rows of COPY in text form, three columns each.
pub fn copied() -> Vec<Vec<u8>> {
    bytes(COPY)
}

/// Documents with every type, and a change event.
pub fn bson() -> Vec<Vec<u8>> {
    bytes(BSON)
}

fn bytes(hexadecimal: &str) -> Vec<Vec<u8>> {
    let byte =
        |pair: &[u8]| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
    lines(hexadecimal).into_iter().map(|line| line.chunks(2).filter_map(byte).collect()).collect()
}

fn lines(text: &str) -> Vec<Vec<u8>> {
    text.lines().filter(|line| !line.is_empty()).map(|line| line.as_bytes().to_vec()).collect()
}
