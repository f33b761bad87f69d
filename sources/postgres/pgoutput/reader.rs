//! A cursor over one message: every read is checked, and every failure says what and where.

use super::Malformed;

#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    /// Length of the whole message, so that a failure can name its place in it.
    total: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(input: &'a [u8]) -> Self {
        Self { rest: input, total: input.len() }
    }

    /// Goes on in the tail of a message that is `total` bytes long.
    pub(super) fn tail(rest: &'a [u8], total: usize) -> Self {
        Self { rest, total }
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }
    pub(super) fn total(&self) -> usize {
        self.total
    }

    /// How far into the message the cursor stands.
    pub(super) fn at(&self) -> usize {
        self.total.saturating_sub(self.rest.len())
    }

    #[cold]
    pub(super) fn fail<T>(&self, what: &'static str) -> Result<T, Malformed> {
        Err(Malformed { what, at: self.at() })
    }

    #[inline]
    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Malformed> {
        match self.rest.split_first_chunk::<N>() {
            Some((array, rest)) => {
                self.rest = rest;
                Ok(*array)
            }
            None => self.fail(what),
        }
    }

    #[inline]
    pub(super) fn u8(&mut self, what: &'static str) -> Result<u8, Malformed> {
        self.array::<1>(what).map(|[byte]| byte)
    }
    #[inline]
    pub(super) fn u16(&mut self, what: &'static str) -> Result<u16, Malformed> {
        self.array(what).map(u16::from_be_bytes)
    }
    #[inline]
    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, Malformed> {
        self.array(what).map(u32::from_be_bytes)
    }
    #[inline]
    pub(super) fn i32(&mut self, what: &'static str) -> Result<i32, Malformed> {
        self.array(what).map(i32::from_be_bytes)
    }
    #[inline]
    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, Malformed> {
        self.array(what).map(u64::from_be_bytes)
    }
    #[inline]
    pub(super) fn i64(&mut self, what: &'static str) -> Result<i64, Malformed> {
        self.array(what).map(i64::from_be_bytes)
    }

    #[inline]
    pub(super) fn bytes(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
        match self.rest.split_at_checked(len) {
            Some((bytes, rest)) => {
                self.rest = rest;
                Ok(bytes)
            }
            None => self.fail(what),
        }
    }

    /// A string that ends with a zero byte.
    pub(super) fn string(&mut self, what: &'static str) -> Result<&'a str, Malformed> {
        let Some(len) = self.rest.iter().position(|byte| *byte == 0) else { return self.fail(what) };
        let text = self.bytes(len, what)?;
        self.u8(what)?;
        std::str::from_utf8(text).or_else(|_| self.fail(what))
    }

    /// The message must end here: bytes left over mean that it was misread.
    pub(super) fn end(&self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { self.fail("bytes after the end of the message") }
    }
}
