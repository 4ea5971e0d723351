//! The end of a TLS connection that a test plays, by rustls' buffered connection, which heartwire does not use.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, MutexGuard};

use rustls::Connection;

/// One connection's TLS. Clones are the same.
#[derive(Clone)]
pub(crate) struct TlsEnd {
    state: Arc<Mutex<State>>,
    /// Held by whoever writes to the socket, so that records leave in the order in which they were sealed.
    unsent: Arc<Mutex<Vec<u8>>>,
}

struct State {
    connection: Connection,
    /// What was opened and is not read yet.
    opened: Vec<u8>,
    /// The peer's FIN, or its announcement, or an error; what was opened before is read first.
    end: Option<End>,
}

#[derive(Clone)]
enum End {
    Announced,
    Torn,
    Failed(rustls::Error),
}

impl TlsEnd {
    pub(crate) fn new(mut connection: Connection) -> Self {
        connection.set_buffer_limit(None);
        let state = State { connection, opened: Vec::new(), end: None };
        Self { state: Arc::new(Mutex::new(state)), unsent: Arc::default() }
    }

    /// Does something with rustls' connection. What it has to send leaves with the next write.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut Connection) -> T) -> T {
        act(&mut self.lock().connection)
    }

    pub(super) fn read(&self, mut socket: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        self.shake_hands(socket)?;
        // No more at a time than was asked for: a slow reader of plaintext is one of records, too.
        let mut raw = vec![0; buffer.len().clamp(1, 64 * 1024)];
        loop {
            {
                let mut state = self.lock();
                if !state.opened.is_empty() {
                    let count = buffer.len().min(state.opened.len());
                    buffer[..count].copy_from_slice(&state.opened[..count]);
                    state.opened.drain(..count);
                    return Ok(count);
                }
                match &state.end {
                    // Only the FIN is the end, so that whoever waits for it sees how the socket ends.
                    Some(End::Announced) | None => {}
                    Some(End::Torn) => return Err(torn()),
                    Some(End::Failed(error)) => return Err(failed(error.clone())),
                }
            }
            let count = socket.read(&mut raw)?;
            self.take(&raw[..count], socket)?;
            let state = self.lock();
            if count == 0 && state.opened.is_empty() {
                return if matches!(state.end, Some(End::Announced)) { Ok(0) } else { Err(torn()) };
            }
        }
    }

    pub(super) fn write(&self, socket: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
        self.shake_hands(socket)?;
        // No more than one record at a time, for a test wants to know how much was taken.
        let piece = &bytes[..bytes.len().min(16 * 1024)];
        let mut unsent = self.unsent.lock().unwrap();
        {
            let mut state = self.lock();
            state.connection.writer().write_all(piece)?;
            state.take_sealed(&mut unsent);
        }
        send(socket, &mut unsent)?;
        Ok(piece.len())
    }

    /// Sends what rustls wants to send.
    pub(crate) fn flush(&self, socket: &TcpStream) -> io::Result<()> {
        let mut unsent = self.unsent.lock().unwrap();
        self.lock().take_sealed(&mut unsent);
        send(socket, &mut unsent)
    }

    pub(super) fn end_writing(&self, socket: &TcpStream) -> io::Result<()> {
        self.shake_hands(socket)?;
        self.with(|connection| connection.send_close_notify());
        self.flush(socket)
    }

    /// Completes the handshake, unless that was done.
    pub(crate) fn shake_hands(&self, mut socket: &TcpStream) -> io::Result<()> {
        while self.with(|connection| connection.is_handshaking()) {
            self.flush(socket)?;
            let mut raw = [0; 4096];
            let count = socket.read(&mut raw)?;
            self.take(&raw[..count], socket)?;
            if count == 0 {
                return Err(torn());
            }
            // The last of it is ours, whichever end we are.
            self.flush(socket)?;
        }
        Ok(())
    }

    fn take(&self, mut raw: &[u8], socket: &TcpStream) -> io::Result<()> {
        let mut state = self.lock();
        let State { connection, opened, end } = &mut *state;
        loop {
            // At the end there is nothing to take, but the end itself.
            let is_end = raw.is_empty();
            connection.read_tls(&mut raw)?;
            let outcome = connection.process_new_packets();
            match connection.reader().read_to_end(opened) {
                Ok(_) => *end = Some(End::Announced),
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => *end = Some(End::Torn),
                Err(_) => {}
            }
            if let Err(error) = outcome {
                *end = Some(End::Failed(error.clone()));
                let is_shaking_hands = connection.is_handshaking();
                drop(state);
                // The alert, if nobody is writing just now.
                if let Ok(mut unsent) = self.unsent.try_lock() {
                    self.lock().take_sealed(&mut unsent);
                    let _ = send(socket, &mut unsent);
                }
                return if is_shaking_hands { Err(failed(error)) } else { Ok(()) };
            }
            if is_end || raw.is_empty() {
                return Ok(());
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl State {
    fn take_sealed(&mut self, unsent: &mut Vec<u8>) {
        while self.connection.wants_write() {
            self.connection.write_tls(unsent).expect("into memory");
        }
    }
}

/// What a timeout leaves behind goes first the next time.
fn send(mut socket: &TcpStream, unsent: &mut Vec<u8>) -> io::Result<()> {
    while !unsent.is_empty() {
        match socket.write(unsent) {
            Ok(count) => drop(unsent.drain(..count)),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn failed(error: rustls::Error) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}

fn torn() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "the connection ended without close_notify")
}
