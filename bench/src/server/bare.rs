//! TCP with a thread for each connection and no WebSocket: what this shape can do when nothing is done.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::ServeOptions;
use super::handler::Work;
use crate::process::announce;

/// The buffer that heartwire starts with, and the one that it grows to.
const SMALL: usize = 4 * 1024;
const LARGE: usize = 64 * 1024;

/// Protects the list of connections, and while it is held the order of what is sent to all of them.
type Everybody = Arc<Mutex<HashMap<usize, Arc<TcpStream>>>>;

pub(super) fn serve(options: &ServeOptions) -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    announce(listener.local_addr()?);
    let everybody = options.broadcast.then(Everybody::default);
    let with_handler = options.handler.is_some();
    for (number, stream) in listener.incoming().enumerate() {
        let stream = stream?;
        let everybody = everybody.clone();
        thread::Builder::new().stack_size(256 * 1024).spawn(move || match everybody {
            Some(everybody) => fan_out(stream, number, &everybody),
            None if with_handler => handled(stream),
            None => echo(stream),
        })?;
    }
    Ok(())
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; SMALL];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..count])?;
        if count == buffer.len() {
            buffer.resize(LARGE, 0);
        }
    }
}

/// An echo of whole messages, each after the handler has done what it asks for.
fn handled(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; LARGE];
    let mut filled = 0;
    loop {
        let count = stream.read(&mut buffer[filled..])?;
        if count == 0 {
            return Ok(());
        }
        filled += count;
        let mut start = 0;
        while let Some(length) = message_length(&buffer[start..filled]).filter(|length| start + length <= filled) {
            let message = &buffer[start..start + length];
            Work::of(&message[head_length(message)..]).run();
            stream.write_all(message)?;
            start += length;
        }
        buffer.copy_within(start..filled, 0);
        filled -= start;
    }
}

/// A bare loop of sends, one for each message and receiver.
fn fan_out(stream: TcpStream, number: usize, everybody: &Everybody) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let stream = Arc::new(stream);
    everybody.lock().unwrap_or_else(PoisonError::into_inner).insert(number, Arc::clone(&stream));
    let mut buffer = vec![0; LARGE];
    let mut filled = 0;
    loop {
        let count = (&*stream).read(&mut buffer[filled..]).unwrap_or(0);
        let mut all = everybody.lock().unwrap_or_else(PoisonError::into_inner);
        if count == 0 {
            all.remove(&number);
            return Ok(());
        }
        filled += count;
        let mut start = 0;
        while let Some(length) = message_length(&buffer[start..filled]).filter(|length| start + length <= filled) {
            all.retain(|_, receiver| (&**receiver).write_all(&buffer[start..start + length]).is_ok());
            start += length;
        }
        buffer.copy_within(start..filled, 0);
        filled -= start;
    }
}

/// The load's messages over plain TCP have the headers of a client's frames, the short or the middle one.
fn message_length(bytes: &[u8]) -> Option<usize> {
    match *bytes {
        [_, length, ..] if length & 0x7f < 126 => Some(head_length(bytes) + usize::from(length & 0x7f)),
        [_, _, high, low, ..] => Some(head_length(bytes) + usize::from(u16::from_be_bytes([high, low]))),
        _ => None,
    }
}

fn head_length(message: &[u8]) -> usize {
    if message[1] & 0x7f < 126 { 6 } else { 8 }
}
