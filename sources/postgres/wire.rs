//! The replication socket as a plain thread reads it: whole frames (`frames`), and when to look for more.
//!
//! Start at `Wire::frame`. How the socket is read decides how fast the *server* is: a walsender does one
//! `send` per row, and a reader that sleeps in `poll` is woken by each of them, which costs the server a
//! wake-up per row and halves its rate. So under load the reader is lazy: it takes what is there, pauses,
//! and takes again; only a socket that stayed empty over a whole pause is waited for.

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use millrace_core::error::{Error, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::ClientConnection;
use socket2::Socket;

use crate::frames::{Frame, Frames};

/// Pause between two reads while data keeps coming. Long enough for the walsender to fill the socket
/// without waking anybody, short enough that nobody sees it in a latency.
const PAUSE: Duration = Duration::from_micros(150);

/// What a wait for bytes came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    Some,
    /// Nothing is there now.
    Nothing,
}

pub struct Wire {
    stream: Socket,
    tls: Option<ClientConnection>,
    frames: Frames,
    /// When bytes last came.
    heard: Instant,
    /// Bytes came at the last read, so more are probably on the way.
    busy: bool,
    peer: String,
}

impl Wire {
    /// `stream` must be non-blocking.
    pub fn new(stream: Socket, tls: Option<ClientConnection>, peer: String) -> Self {
        Self { stream, tls, frames: Frames::new(), heard: Instant::now(), busy: false, peer }
    }

    /// How long the server has said nothing.
    pub fn silence(&self) -> Duration {
        self.heard.elapsed()
    }

    /// The next whole frame that is already here, without touching the socket.
    /// `frame_bytes_max` bounds what a frame may make us allocate.
    pub fn frame(&mut self, frame_bytes_max: usize) -> Result<Option<Frame<'_>>> {
        self.frames.next(&self.peer, frame_bytes_max)
    }

    /// Takes what is in the socket now, without waiting.
    pub fn fill(&mut self) -> Result<Filled> {
        let space = self.frames.space();
        let read = match &mut self.tls {
            None => self.stream.read(space),
            Some(session) => read_tls(session, &mut self.stream, space),
        };
        match read {
            Ok(0) => Err(Error::transient(format!("postgres at {} closed the connection", self.peer))),
            Ok(bytes) => {
                self.frames.add(bytes);
                self.heard = Instant::now();
                self.busy = true;
                Ok(Filled::Some)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                Ok(Filled::Nothing)
            }
            Err(error) => Err(self.broken(error)),
        }
    }

    /// Looks into what has come without taking it: a server that refuses the first change it decodes has
    /// said so, and closed, before anybody reads.
    pub fn refused(&mut self) -> Result<()> {
        // A full buffer holds changes, so nothing was refused; and reading into no space looks like an end.
        let filled = if self.frames.is_full() { Ok(()) } else { self.fill().map(drop) };
        self.frames.refused(&self.peer)?;
        filled
    }

    /// Waits for bytes until `deadline`. While they keep coming it only pauses: see the top of the file.
    pub fn wait(&mut self, deadline: Instant) -> Result<()> {
        if self.busy {
            self.busy = false;
            std::thread::sleep(PAUSE);
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left)
            .map_err(|error| Error::fatal("a wait is longer than the clock can say").source(error))?;
        let mut fds = [PollFd::new(&self.stream, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(self.broken(error.into())),
        }
    }

    /// Sends a CopyData message. The few bytes of a status always fit a healthy socket; one that takes
    /// none for `patience` is given up.
    pub fn send(&mut self, payload: &[u8], patience: Duration) -> Result<()> {
        let length = u32::try_from(payload.len() + 4).unwrap_or(u32::MAX).to_be_bytes();
        let message = [&b"d"[..], &length, payload].concat();
        self.write(&message, patience)
    }

    /// Ends the stream from our side.
    pub fn finish(&mut self, patience: Duration) -> Result<()> {
        self.write(&[b'c', 0, 0, 0, 4], patience)
    }

    fn write(&mut self, mut message: &[u8], patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let wrote = match &mut self.tls {
                None => self.stream.write(message),
                Some(session) => write_tls(session, &mut self.stream, message),
            };
            match wrote {
                Ok(bytes) => message = message.get(bytes..).unwrap_or_default(),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    if Instant::now() >= deadline {
                        return Err(Error::transient(format!(
                            "postgres at {} has taken nothing for {} s",
                            self.peer,
                            patience.as_secs()
                        )));
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => return Err(self.broken(error)),
            }
            let pending = self.tls.as_ref().is_some_and(|session| session.wants_write());
            if message.is_empty() && !pending {
                return Ok(());
            }
        }
    }

    fn broken(&self, error: std::io::Error) -> Error {
        Error::transient(format!("the replication connection to postgres {} broke", self.peer)).source(error)
    }
}

/// One step of a non-blocking TLS read: ciphertext in, plaintext out.
fn read_tls(session: &mut ClientConnection, stream: &mut Socket, space: &mut [u8]) -> std::io::Result<usize> {
    loop {
        match session.reader().read(space) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            plaintext => return plaintext,
        }
        if session.read_tls(stream)? == 0 {
            return Ok(0);
        }
        session.process_new_packets().map_err(std::io::Error::other)?;
    }
}

/// Takes the plaintext whole at the first call; later calls with an empty message push what is pending.
fn write_tls(session: &mut ClientConnection, stream: &mut Socket, message: &[u8]) -> std::io::Result<usize> {
    let taken = session.writer().write(message)?;
    while session.wants_write() {
        match session.write_tls(stream) {
            Ok(_) => {}
            // The plaintext is in the session already, so it counts as taken.
            Err(error) if error.kind() == ErrorKind::WouldBlock && taken > 0 => return Ok(taken),
            Err(error) => return Err(error),
        }
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::BUFFER_BYTES;
    use std::net::{TcpListener, TcpStream};

    fn pair() -> (Wire, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let client = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        client.set_nonblocking(true).expect("non-blocking");
        let (server, _) = listener.accept().expect("accept");
        (Wire::new(client.into(), None, "test".to_owned()), server)
    }

    fn next(wire: &mut Wire) -> Vec<u8> {
        loop {
            if let Some(Frame::Data(data)) = wire.frame(1 << 30).expect("frame") {
                return data.to_vec();
            }
            if wire.fill().expect("fill") == Filled::Nothing {
                wire.wait(Instant::now() + Duration::from_secs(5)).expect("wait");
            }
        }
    }

    #[test]
    fn a_frame_cut_at_any_byte_arrives_whole() {
        let message = [b'd', 0, 0, 0, 7, 1, 2, 3, b'd', 0, 0, 0, 5, 9];
        for cut in 0..message.len() {
            let (mut wire, mut server) = pair();
            server.write_all(&message[..cut]).expect("write");
            let rest = message[cut..].to_vec();
            let writer = std::thread::spawn(move || server.write_all(&rest).expect("write"));
            assert_eq!(next(&mut wire), [1, 2, 3]);
            assert_eq!(next(&mut wire), [9]);
            writer.join().expect("writer");
        }
    }

    #[test]
    fn a_frame_larger_than_the_buffer_arrives_whole() {
        let (mut wire, mut server) = pair();
        let payload = vec![7_u8; 3 * BUFFER_BYTES];
        let length = u32::try_from(payload.len() + 4).expect("length").to_be_bytes();
        let message = [&b"d"[..], &length, &payload].concat();
        let writer = std::thread::spawn(move || server.write_all(&message).expect("write"));
        assert_eq!(next(&mut wire), payload);
        writer.join().expect("writer");
    }

    #[test]
    fn a_frame_above_the_limit_is_refused_before_it_is_read() {
        let (mut wire, mut server) = pair();
        server.write_all(&[b'd', 0x40, 0, 0, 0, 1]).expect("write");
        wire.wait(Instant::now() + Duration::from_secs(5)).expect("wait");
        while wire.fill().expect("fill") == Filled::Nothing {}
        let error = wire.frame(1 << 20).expect_err("too large");
        assert!(error.to_string().contains("above the limit"), "{error}");
    }

    #[test]
    fn a_refusal_behind_changes_is_seen_and_the_changes_are_still_there() {
        let (mut wire, mut server) = pair();
        server.write_all(&[b'd', 0, 0, 0, 5, 9]).expect("write");
        while wire.fill().expect("fill") == Filled::Nothing {}
        wire.refused().expect("no refusal yet");
        server.write_all(b"E\0\0\0\x12C42704\0Mgone\0\0").expect("write");
        drop(server);
        let error = loop {
            if let Err(error) = wire.refused() {
                break error;
            }
        };
        assert!(error.to_string().contains("gone (SQLSTATE 42704)"), "{error}");
        assert_eq!(next(&mut wire), [9]);
    }

    #[test]
    fn a_warning_that_changes_are_left_out_ends_the_stream_and_another_one_does_not() {
        let (mut wire, mut server) = pair();
        server.write_all(b"N\0\0\0\x12C01000\0Mnews\0\0").expect("write");
        server.write_all(&[b'd', 0, 0, 0, 5, 9]).expect("write");
        assert_eq!(next(&mut wire), [9]);
        server.write_all(b"N\0\0\0\x12C55000\0Mgone\0\0").expect("write");
        while wire.fill().expect("fill") == Filled::Nothing {}
        for error in [wire.refused().expect_err("seen"), wire.frame(1 << 20).expect_err("taken")] {
            assert!(error.to_string().contains("gone (SQLSTATE 55000)"), "{error}");
        }
    }

    #[test]
    fn a_frame_shorter_than_its_own_length_field_is_malformed() {
        let (mut wire, mut server) = pair();
        server.write_all(&[b'd', 0, 0, 0, 3, 1]).expect("write");
        while wire.fill().expect("fill") == Filled::Nothing {}
        assert!(wire.frame(1 << 20).is_err());
    }
}
