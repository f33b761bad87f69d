//! The frames of a replication stream, in place out of one buffer. Pure: whoever has bytes puts them into `space` and
//! says how many with `add`. Start at `Frames::next`.

use millrace_core::error::{Error, Result};

/// What one read can take: about ten times what a walsender writes in one pause.
pub(crate) const BUFFER_BYTES: usize = 256 * 1024;

/// A frame grows the buffer; above this the memory is given back once the frame is done.
const BUFFER_KEPT_BYTES: usize = 1024 * 1024;

/// One CopyData payload or the end of the stream.
#[derive(Debug)]
pub enum Frame<'a> {
    /// The payload of a CopyData message.
    Data(&'a [u8]),
    /// The server ended the stream in good order.
    Done,
}

#[derive(Debug)]
pub struct Frames {
    buffer: Vec<u8>,
    /// Unread bytes are `buffer[start..end]`.
    start: usize,
    end: usize,
}

impl Default for Frames {
    fn default() -> Self {
        Self::new()
    }
}

impl Frames {
    pub fn new() -> Self {
        Self { buffer: vec![0; BUFFER_BYTES], start: 0, end: 0 }
    }

    /// The next whole frame; `frame_bytes_max` bounds what one may make us allocate.
    pub fn next(&mut self, peer: &str, frame_bytes_max: usize) -> Result<Option<Frame<'_>>> {
        loop {
            let unread = self.unread();
            let Some((header, _)) = unread.split_first_chunk::<5>() else { return Ok(None) };
            let [tag, a, b, c, d] = *header;
            let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
            if length < 4 {
                return Err(Error::fatal(format!("postgres at {peer} sent a frame of length {length}")));
            }
            // Capped before anything is allocated for it.
            if length > frame_bytes_max {
                return Err(oversized(peer, length, frame_bytes_max));
            }
            let whole = length + 1;
            if unread.len() < whole {
                self.make_room(whole);
                return Ok(None);
            }
            let payload = self.start + 5..self.start + whole;
            self.start += whole;
            match tag {
                b'd' => return Ok(Some(Frame::Data(self.buffer.get(payload).unwrap_or_default()))),
                // A walsender that shuts down in good order sends CommandComplete without CopyDone.
                b'c' | b'C' => return Ok(Some(Frame::Done)),
                b'E' => {
                    let payload = self.buffer.get(payload).unwrap_or_default();
                    return Err(crate::handshake::server_error(peer, payload));
                }
                b'N' => crate::handshake::notice(peer, self.buffer.get(payload).unwrap_or_default())?,
                // ParameterStatus: nothing that a stream depends on.
                b'S' => {}
                other => {
                    return Err(Error::fatal(format!(
                        "postgres at {peer} sent an unknown message '{}' in the stream",
                        char::from(other)
                    )));
                }
            }
        }
    }

    /// Where bytes go that come next; never empty unless the buffer is full of a frame that is not taken.
    pub fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            if self.buffer.len() > BUFFER_KEPT_BYTES {
                self.buffer = vec![0; BUFFER_BYTES];
            }
        } else if self.is_full() {
            self.make_room(0);
        }
        self.buffer.get_mut(self.end..).unwrap_or_default()
    }

    /// So many bytes of the space are filled now.
    pub fn add(&mut self, bytes: usize) {
        self.end = (self.end + bytes).min(self.buffer.len());
    }

    pub fn is_full(&self) -> bool {
        self.end == self.buffer.len()
    }

    /// Looks for a refusal of the server among the frames that have come, without taking any.
    pub fn refused(&self, peer: &str) -> Result<()> {
        let mut unread = self.unread();
        while let Some((tag, payload, rest)) = whole_frame(unread) {
            match tag {
                b'E' => return Err(crate::handshake::server_error(peer, payload)),
                b'N' => crate::handshake::notice(peer, payload)?,
                _ => {}
            }
            unread = rest;
        }
        Ok(())
    }

    fn unread(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// Moves the unread bytes to the front and makes sure that `whole` bytes fit.
    fn make_room(&mut self, whole: usize) {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.buffer.len() < whole {
            self.buffer.resize(whole, 0);
        }
    }
}

fn oversized(peer: &str, length: usize, limit: usize) -> Error {
    Error::record(format!(
        "postgres at {peer} sends a row of {length} bytes, above the limit of {limit} bytes"
    ))
    .hint("no row of Postgres is that large: look for something between the server and us, or exclude the table")
}

/// Tag, payload and what follows, if the frame is here to its end.
fn whole_frame(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let ([tag, length @ ..], rest) = bytes.split_first_chunk::<5>()?;
    let payload = usize::try_from(u32::from_be_bytes(*length)).ok()?.checked_sub(4)?;
    let (payload, rest) = rest.split_at_checked(payload)?;
    Some((*tag, payload, rest))
}
