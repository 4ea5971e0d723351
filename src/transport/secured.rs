//! The layer of TLS between a connection's two halves and its socket: it seals what leaves, and opens what has arrived.
//!
//! What a record looks like is the affair of [`Records`], which has no I/O. Here is how records and frames go together:
//!
//! - The read half reads the socket without any lock, and opens the records afterwards, in memory. Everything that is
//!   opened reaches the decoder at once, so that no plaintext is ever hidden from whoever looks at the socket.
//! - Sealed bytes can be neither repeated nor reordered. They stay here until the socket has taken them, and until then
//!   the frames that they were made of stay first in the queue. So a frame counts as taken when its last record is.
//! - Only what is about to be written is sealed, for nothing overtakes it any more: one record, or [`MAX_SEALED`] bytes
//!   once the socket has taken a whole one.
//! - The lock is held while bytes are sealed or opened in memory. Whoever sends writes without it. Only an alert, which
//!   is the last that a connection sends, is written under it, if nobody else writes and without blocking.

use std::fmt;
use std::io::{self, ErrorKind, IoSlice};
use std::mem;
use std::net::Shutdown;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::transport::socket;
use crate::transport::stream::Stream;
use crate::transport::write_half::Taken;

/// The records of one connection. One direction does not wait for the other here: all of this is computing.
pub(crate) trait Records: Send {
    /// Takes the whole records off the front of `arrived`, and appends what is in them to `opened`. What has to be sent
    /// because of them is appended to `sealed`, also if there is an error: the alert that explains it to the peer. Not
    /// called again after an error. After the end whatever comes is dropped, for TCP may go on.
    fn open(&mut self, arrived: &mut Vec<u8>, opened: &mut Vec<u8>, sealed: &mut Vec<u8>) -> io::Result<Opened>;

    /// Appends records with these bytes to `sealed`.
    fn seal(&mut self, bytes: &[u8], sealed: &mut Vec<u8>) -> io::Result<()>;

    /// Appends the record that says that nothing follows.
    fn seal_end(&mut self, sealed: &mut Vec<u8>);
}

/// Whether more may follow what was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opened {
    MayFollow,
    /// The peer has said that nothing follows (`close_notify`).
    Ended,
}

/// The payload of the largest record (RFC 8446 section 5.1).
pub(crate) const MAX_PAYLOAD: usize = 16 * 1024;

/// At most so many bytes are sealed at a time: half of the system calls for a long message, and no more than a Ping may
/// have to wait for. Twice as many at a time make it no faster.
pub(crate) const MAX_SEALED: usize = 2 * MAX_PAYLOAD;

/// How many bytes precede what is in a record (RFC 8446 section 5.1).
pub(crate) const RECORD_HEADER: usize = 5;

/// The layer of TLS of one connection.
pub(crate) struct Secured {
    /// Protects the records, and the order of what they have sealed.
    state: Mutex<State>,
}

struct State {
    records: Box<dyn Records>,
    /// During the opening handshake: the bytes of a record that is not whole yet.
    arrived: Vec<u8>,
    /// What was opened during the opening handshake, and is not taken yet.
    early: Vec<u8>,
    /// Sealed bytes that the socket has not taken yet.
    sealed: Vec<u8>,
    /// How many bytes of frames are in `sealed`, or in what is being written.
    promised: usize,
    /// Whether a thread that sends has taken `sealed` out to write it.
    is_writing: bool,
    /// How much the last sealing has added.
    overhead: usize,
    end: End,
}

/// How far our direction is from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    NotYet,
    /// It follows the next frame.
    Follows,
    /// The record that says so is sealed. Nothing may be sealed after it.
    Sealed,
}

impl Secured {
    /// `arrived`: bytes that have arrived after the handshake of TLS. `early`: what was opened of them already.
    /// `sealed`: the last of the handshake, which leaves before anything else is written, and before a wait.
    pub(crate) fn new(records: Box<dyn Records>, arrived: Vec<u8>, early: Vec<u8>, sealed: Vec<u8>) -> Self {
        let end = End::NotYet;
        let state = State { records, arrived, early, sealed, promised: 0, is_writing: false, overhead: 0, end };
        Self { state: Mutex::new(state) }
    }

    /// Seals these frames and writes them, as far as the socket takes them: one record first, and then up to `most`
    /// bytes at a time. `write` may take a part, or fail with `WouldBlock` if it takes nothing. It is called without
    /// the lock, and by one thread at a time: see [`write_half`](crate::transport::write_half).
    pub(crate) fn send(
        &self,
        frames: &[IoSlice<'_>],
        most: usize,
        mut write: impl FnMut(&[u8]) -> io::Result<usize>,
    ) -> io::Result<Taken> {
        let mut taken = Taken::default();
        let all: usize = frames.iter().map(|frame| frame.len()).sum();
        let mut at_once = MAX_PAYLOAD;
        loop {
            // What is sealed comes first. If nothing is, seal the next frames.
            let (sealed, promised) = {
                let mut state = self.lock();
                if state.sealed.is_empty() {
                    state.seal_next(frames, taken.frames, at_once)?;
                    if state.end == End::Follows && taken.frames + state.promised == all {
                        state.seal_end();
                    }
                }
                taken.overhead = state.overhead;
                state.is_writing = !state.sealed.is_empty();
                (mem::take(&mut state.sealed), state.promised)
            };
            if sealed.is_empty() {
                return Ok(taken);
            }
            let (count, refused) = write_some(&sealed, &mut write);
            taken.wire += count;
            // What is left goes back, before what the reading thread may have sealed meanwhile.
            let mut state = self.lock();
            state.is_writing = false;
            if count < sealed.len() {
                state.put_back(sealed, count);
                taken.is_pinned = promised > 0;
                drop(state);
                return match refused {
                    Some(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
                    _ => Ok(taken),
                };
            }
            taken.frames += mem::take(&mut state.promised);
            at_once = most;
            if taken.frames == all && state.sealed.is_empty() {
                return Ok(taken);
            }
        }
    }

    /// Opens what has arrived, and appends it to `opened`. What is no whole record yet stays in `arrived`.
    pub(crate) fn open(&self, arrived: &mut Vec<u8>, opened: &mut Vec<u8>) -> io::Result<Opened> {
        let State { records, sealed, .. } = &mut *self.lock();
        records.open(arrived, opened, sealed)
    }

    /// Says that nothing follows, if the socket takes that at once. Without it the peer sees the end all the same, and
    /// only cannot tell it from one that somebody else has made.
    pub(crate) fn end(&self, stream: &Stream) {
        let mut state = self.lock();
        state.seal_end();
        state.write_alert(stream);
    }

    /// The next frame is the last, and what says so leaves together with it.
    pub(crate) fn end_follows(&self) {
        let mut state = self.lock();
        if state.end == End::NotYet {
            state.end = End::Follows;
        }
    }

    /// Sends the alert that tells the peer what it did wrong, if the socket takes it at once.
    fn send_alert(&self, stream: &Stream) {
        self.lock().write_alert(stream);
    }

    // During the opening handshake, when nobody else uses the connection.

    /// Reads once before the deadline. `None` if the deadline passes first.
    pub(crate) fn read_before(
        &self,
        stream: &Stream,
        space: &mut [u8],
        deadline: Instant,
    ) -> io::Result<Option<usize>> {
        /// As much as the head of a request has room for at first.
        const READ: usize = 2048;
        let mut has_ended = false;
        loop {
            let count = self.take_early(space);
            if count > 0 || has_ended {
                return Ok(Some(count));
            }
            // Nobody else opens or seals anything now, so the bytes may be away from the lock.
            let (due, mut read) = {
                let State { sealed, arrived, .. } = &mut *self.lock();
                (mem::take(sealed), mem::take(arrived))
            };
            // The peer may wait for it.
            socket::write_raw_before(stream, &due, deadline)?;
            let before = read.len();
            read.resize(before + READ, 0);
            match socket::read_raw_before(stream, &mut read[before..], deadline)? {
                None => return Ok(None),
                Some(0) => return Ok(Some(0)),
                Some(count) => read.truncate(before + count),
            }
            let mut state = self.lock();
            let State { records, arrived, early, sealed, .. } = &mut *state;
            *arrived = read;
            let outcome = records.open(arrived, early, sealed);
            if outcome.is_err() {
                state.write_alert(stream);
            }
            drop(state);
            has_ended = outcome? == Opened::Ended;
            if has_ended {
                end_reading(stream);
            }
        }
    }

    /// `write_all` under one deadline for the whole.
    pub(crate) fn write_before(&self, stream: &Stream, bytes: &[u8], deadline: Instant) -> io::Result<()> {
        for piece in bytes.chunks(MAX_PAYLOAD) {
            let mut state = self.lock();
            let State { records, sealed, .. } = &mut *state;
            records.seal(piece, sealed)?;
            let sealed = mem::take(sealed);
            drop(state);
            socket::write_raw_before(stream, &sealed, deadline)?;
        }
        Ok(())
    }

    /// How many bytes of a record that began to arrive during the opening handshake there are.
    pub(super) fn begun(&self) -> usize {
        self.lock().arrived.len()
    }

    /// The bytes of a record that began to arrive during the opening handshake.
    pub(super) fn take_arrived(&self) -> Vec<u8> {
        mem::take(&mut self.lock().arrived)
    }

    /// What was opened during the opening handshake, and has not been read.
    pub(super) fn take_early_rest(&self) -> Vec<u8> {
        mem::take(&mut self.lock().early)
    }

    fn take_early(&self, space: &mut [u8]) -> usize {
        let mut state = self.lock();
        let count = space.len().min(state.early.len());
        space[..count].copy_from_slice(&state.early[..count]);
        state.early.drain(..count);
        count
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Seals the next bytes of the frames, from this one on: a record, or up to `most` bytes of a long payload.
    fn seal_next(&mut self, frames: &[IoSlice<'_>], from: usize, most: usize) -> io::Result<()> {
        let mut skipped = from;
        let mut gathered = Vec::new();
        for slice in frames {
            let rest = &slice[skipped.min(slice.len())..];
            skipped -= slice.len() - rest.len();
            if rest.is_empty() {
                continue;
            }
            // A long payload needs no copy.
            if gathered.is_empty() && rest.len() >= MAX_PAYLOAD {
                return self.seal_bytes(&rest[..rest.len().min(most)]);
            }
            if gathered.capacity() == 0 {
                let left = frames.iter().map(|frame| frame.len()).sum::<usize>().saturating_sub(from);
                gathered.reserve_exact(left.min(MAX_PAYLOAD));
            }
            let room = MAX_PAYLOAD - gathered.len();
            gathered.extend_from_slice(&rest[..rest.len().min(room)]);
            if gathered.len() == MAX_PAYLOAD {
                break;
            }
        }
        if gathered.is_empty() { Ok(()) } else { self.seal_bytes(&gathered) }
    }

    fn seal_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        let before = self.sealed.len();
        self.records.seal(bytes, &mut self.sealed)?;
        self.promised = bytes.len();
        self.overhead = (self.sealed.len() - before).saturating_sub(bytes.len());
        Ok(())
    }

    fn seal_end(&mut self) {
        if std::mem::replace(&mut self.end, End::Sealed) != End::Sealed {
            self.records.seal_end(&mut self.sealed);
        }
    }

    /// Writes what was sealed last, unless frames are to be written before it.
    fn write_alert(&mut self, stream: &Stream) {
        if !self.is_writing && self.promised == 0 {
            // Nothing of it is worth waiting for.
            let _ = socket::write_now(stream, &mem::take(&mut self.sealed));
        }
    }

    fn put_back(&mut self, mut sealed: Vec<u8>, written: usize) {
        sealed.drain(..written);
        // The rest may wait for long.
        sealed.shrink_to_fit();
        sealed.append(&mut self.sealed);
        self.sealed = sealed;
    }
}

/// Writes until everything is written or refused. Returns how much was written, and the refusal.
fn write_some(mut bytes: &[u8], write: &mut impl FnMut(&[u8]) -> io::Result<usize>) -> (usize, Option<io::Error>) {
    let mut written = 0;
    while !bytes.is_empty() {
        match write(bytes) {
            Ok(0) => return (written, None),
            Ok(count) => {
                written += count;
                bytes = &bytes[count..];
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return (written, Some(error)),
        }
    }
    (written, None)
}

/// The peer has ended its direction, whether or not it ends TCP's: nobody waits for more, and the socket is readable
/// from now on.
pub(crate) fn end_reading(stream: &Stream) {
    // It fails only if the connection has ended already.
    let _ = stream.shutdown(Shutdown::Read);
}

/// The length of the first record, if its header is here.
pub(crate) fn record_len(bytes: &[u8]) -> Option<usize> {
    let [_, _, _, high, low, ..] = *bytes else { return None };
    Some(RECORD_HEADER + usize::from(u16::from_be_bytes([high, low])))
}

impl fmt::Debug for Secured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secured").finish_non_exhaustive()
    }
}

/// The bytes of records that are not whole yet, on their way from the socket to the decoder. The read half has them.
#[derive(Debug)]
pub(crate) struct Arrived {
    bytes: Vec<u8>,
    /// How much to read at a time: more while reads fill what they are given.
    target: usize,
    /// How the stream has ended, if it has; the next read says so.
    end: Option<io::Result<()>>,
}

impl Arrived {
    const MIN_READ: usize = 4 * 1024;
    const MAX_READ: usize = 68 * 1024;

    /// `bytes`: what began to arrive before.
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, target: 0, end: None }
    }

    /// Reads once, and appends what is in the records that are whole now to `opened`, whatever room it has. Returns how
    /// many bytes were read, and whether there was room for more. `Ok(0)` is the end of the stream.
    pub(crate) fn read(
        &mut self,
        stream: &Stream,
        secured: &Secured,
        read: impl FnOnce(&mut Vec<u8>) -> io::Result<usize>,
        fill: impl FnOnce(&mut dyn FnMut(&mut Vec<u8>) -> io::Result<usize>) -> io::Result<(usize, bool)>,
    ) -> io::Result<(usize, bool)> {
        match self.end.take() {
            Some(Ok(())) => {
                self.end = Some(Ok(()));
                return Ok((0, true));
            }
            Some(Err(error)) => return Err(error),
            None => {}
        }
        // Room for the rest of the record that has begun, and for a usual read at least.
        let rest = record_len(&self.bytes).unwrap_or(0).saturating_sub(self.bytes.len());
        self.bytes.reserve_exact(rest.max(self.target.max(Self::MIN_READ).saturating_sub(self.bytes.len())));
        let count = read(&mut self.bytes)?;
        let had_room = self.bytes.len() < self.bytes.capacity();
        if count == 0 {
            return Ok((0, had_room));
        }
        if !had_room {
            self.target = (4 * self.bytes.capacity()).min(Self::MAX_READ);
        }
        // What was opened before an error, or before the end, reaches the decoder first.
        fill(&mut |opened| {
            let before = opened.len();
            match secured.open(&mut self.bytes, opened) {
                Ok(Opened::MayFollow) => {}
                Ok(Opened::Ended) => self.end = Some(Ok(())),
                Err(error) => self.end = Some(Err(error)),
            }
            Ok(opened.len() - before)
        })?;
        if let Some(end) = &self.end {
            if end.is_err() {
                secured.send_alert(stream);
            }
            end_reading(stream);
            self.bytes = Vec::new();
        }
        Ok((count, had_room))
    }

    /// Frees the memory, but for what a record needs that has begun. A small buffer stays, for its bytes may come one
    /// at a time.
    pub(crate) fn release(&mut self) {
        self.target = 0;
        if self.bytes.is_empty() {
            self.bytes = Vec::new();
        } else {
            self.bytes.shrink_to(record_len(&self.bytes).unwrap_or(0).max(Self::MIN_READ));
        }
    }
}

#[cfg(test)]
mod tests;
