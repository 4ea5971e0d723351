//! A connection that publishes: by HTTP, one message at a time, or by a WebSocket that gives no answers.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::payload;
use crate::channel::Channel;
use crate::wire::{self, wrong};

pub(super) struct Line {
    pub(super) stream: TcpStream,
    host: String,
    request: Vec<u8>,
    /// What came of a response. `None` if messages are not answered.
    response: Option<Vec<u8>>,
    /// The message that is not answered yet.
    pub(super) under_way: Option<u64>,
}

/// What a publisher is told.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) number: u64,
    pub(super) is_success: bool,
    /// The response without its body.
    pub(super) head: String,
}

impl Line {
    pub(super) fn open(server: SocketAddr, is_answered: bool) -> io::Result<Self> {
        let mut channel = Channel::connect(server, None)?;
        if !is_answered {
            channel.upgrade()?;
        }
        let stream = channel.into_stream();
        stream.set_nonblocking(true)?;
        let response = is_answered.then(Vec::new);
        Ok(Self { stream, host: server.to_string(), request: Vec::new(), response, under_way: None })
    }

    pub(super) fn publish(&mut self, topic: &str, number: u64) -> io::Result<()> {
        let Self { stream, host, request, response, under_way } = self;
        let payload = payload(number);
        request.clear();
        if response.is_some() {
            write!(
                request,
                "POST /topics/{topic} HTTP/1.1\r\nHost: {host}\r\nContent-Type: text/plain\r\n\
                 Content-Length: {}\r\n\r\n",
                payload.len()
            )?;
            request.extend_from_slice(&payload);
            *under_way = Some(number);
        } else {
            wire::frame(request, wire::TEXT, &payload);
        }
        // A few bytes, of which few are under way: the socket takes them.
        stream.write_all(request)
    }

    /// Reads what is there. The answer to the message under way, if that is complete.
    ///
    /// # Errors
    /// The connection is over, or says what no server should.
    pub(super) fn receive(&mut self, scratch: &mut [u8]) -> io::Result<Option<Answer>> {
        let mut answer = None;
        loop {
            let count = match self.stream.read(scratch) {
                Ok(0) => return Err(wrong("its end to a publisher")),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(answer),
                Err(error) => return Err(error),
            };
            // What comes back to a publisher without answers is not looked at.
            if let Some(response) = &mut self.response {
                response.extend_from_slice(&scratch[..count]);
                if let Some(head) = complete_head(response)? {
                    response.clear();
                    let number = self.under_way.take().ok_or_else(|| wrong("an answer that nobody asked for"))?;
                    answer = Some(Answer { number, is_success: head.starts_with("HTTP/1.1 2"), head });
                }
            }
            if count < scratch.len() {
                return Ok(answer);
            }
        }
    }
}

/// The head of a response, if that is complete.
///
/// # Errors
/// It does not say how long it is, or is longer than it says.
fn complete_head(response: &[u8]) -> io::Result<Option<String>> {
    let Some(end) = response.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let head = String::from_utf8_lossy(&response[..end]);
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    let length = fields.find(|(name, _)| name.eq_ignore_ascii_case("Content-Length"));
    let length = length.and_then(|(_, length)| length.trim().parse::<usize>().ok());
    let length = length.ok_or_else(|| wrong(&format!("a response without a length: {head}")))?;
    match response.len().cmp(&(end + 4 + length)) {
        std::cmp::Ordering::Less => Ok(None),
        std::cmp::Ordering::Equal => Ok(Some(head.into_owned())),
        std::cmp::Ordering::Greater => Err(wrong("more than one response to a request")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_complete_with_its_last_byte() {
        let response = b"HTTP/1.1 201 Created\r\ncontent-length: 3\r\n\r\nabc";
        for cut in 0..response.len() {
            assert_eq!(complete_head(&response[..cut]).unwrap(), None, "{cut}");
        }
        assert_eq!(complete_head(response).unwrap().as_deref(), Some("HTTP/1.1 201 Created\r\ncontent-length: 3"));
        for wrong in ["HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\nabc", "HTTP/1.1 200 OK\r\n\r\n"] {
            assert!(complete_head(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
