//! Peers that speak WebSocket, for steps 4 to 6.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use tungstenite::{Error, Message, WebSocket};

pub(crate) type Peer = WebSocket<TcpStream>;

/// Opens a connection. A peer that does nothing more is like one whose process was stopped.
pub(crate) fn connect(address: SocketAddr) -> io::Result<Peer> {
    let stream = TcpStream::connect(address)?;
    let opened = tungstenite::client(format!("ws://{address}/"), stream);
    opened.map(|(peer, _)| peer).map_err(|error| io::Error::other(error.to_string()))
}

/// Reads for a while, and so answers Pings. Gives the messages that came, or why it could not go on.
pub(crate) fn live(peer: &mut Peer, time: Duration) -> Result<Vec<Message>, Error> {
    let until = Instant::now() + time;
    let mut messages = Vec::new();
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        peer.get_ref().set_read_timeout(Some(left))?;
        match peer.read() {
            Ok(message @ (Message::Text(_) | Message::Binary(_))) => messages.push(message),
            // The Pong leaves now, and not with the next call.
            Ok(_) => peer.flush()?,
            Err(Error::Io(error)) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(messages)
}

/// Closes in order.
pub(crate) fn close(peer: &mut Peer) -> Result<(), Error> {
    peer.close(None)?;
    // Up to the server's answer.
    while peer.read().is_ok() {}
    Ok(())
}

/// Sends the head of a frame: a text of this length follows (RFC 6455 section 5.2). Nothing else can be sent before all
/// of that, not even a Pong.
pub(crate) fn begin_text(stream: &mut TcpStream, length: u8) -> io::Result<()> {
    const TEXT: u8 = 0x81;
    const MASKED: u8 = 0x80;
    // A mask of zeros leaves the payload as it is.
    stream.write_all(&[TEXT, MASKED | length, 0, 0, 0, 0])
}

/// Reads a short frame: its opcode and payload.
pub(crate) fn read_frame(stream: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    stream.read_exact(&mut head)?;
    let mut payload = vec![0; head[1].into()];
    stream.read_exact(&mut payload)?;
    Ok((head[0] & 0x0f, payload))
}

pub(crate) const PING: u8 = 0x9;
