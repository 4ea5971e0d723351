//! A publisher that numbers its messages, and repeats each until it is acknowledged.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use serde_json::{Value, json};

use crate::dice::Dice;
use crate::record::Position;
use crate::subscriber::{self, User, WebSocket};
use crate::{SILENCE, text_of, topic_name};

/// How it publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Http,
    WebSocket,
}

#[derive(Debug, Default)]
pub(crate) struct Published {
    /// Of each message, in the order of their numbers.
    pub(crate) positions: Vec<Position>,
    /// Attempts without a reply.
    pub(crate) unanswered: u64,
    /// Messages that were published before their reply was lost.
    pub(crate) again: u64,
}

enum Reply {
    Published {
        position: Position,
        again: bool,
    },
    /// The server cannot do it now.
    Unavailable,
}

/// Whoever publishes on a topic, and where.
pub(crate) struct Publisher {
    pub(crate) line: SocketAddr,
    pub(crate) user: Option<User>,
    pub(crate) topic: usize,
    pub(crate) way: Way,
}

/// Publishes until it is to stop and its last message is acknowledged, or until all is over.
pub(crate) fn run(
    publisher: &Publisher,
    mut dice: Dice,
    is_to_stop: &AtomicBool,
    is_over: &AtomicBool,
) -> Result<Published, String> {
    let mut published = Published::default();
    let mut connection = None;
    for number in 1.. {
        if is_to_stop.load(SeqCst) {
            break;
        }
        let position = loop {
            if is_over.load(SeqCst) {
                return Ok(published);
            }
            match publisher.attempt(&mut connection, number)? {
                Some(Reply::Published { position, again }) => {
                    published.again += u64::from(again);
                    break position;
                }
                Some(Reply::Unavailable) => {}
                None => {
                    published.unanswered += 1;
                    connection = None;
                }
            }
            thread::sleep(dice.millis(10, 60));
        };
        published.positions.push(position);
        thread::sleep(dice.millis(10, 180));
    }
    Ok(published)
}

enum Connection {
    Http(TcpStream),
    WebSocket(Box<WebSocket>),
}

impl Publisher {
    /// Publishes a message once. `None`: nobody knows what became of it.
    fn attempt(&self, connection: &mut Option<Connection>, number: u64) -> Result<Option<Reply>, String> {
        if connection.is_none() {
            let connect = || subscriber::connect(self.line, self.user.as_ref());
            *connection = match self.way {
                Way::Http => dial(self.line).ok().map(Connection::Http),
                Way::WebSocket => connect().map(|socket| Connection::WebSocket(Box::new(socket))),
            };
        }
        match connection {
            None => Ok(None),
            Some(Connection::Http(stream)) => self.post(stream, number),
            Some(Connection::WebSocket(socket)) => send(socket, self.topic, number),
        }
    }

    fn post(&self, stream: &mut TcpStream, number: u64) -> Result<Option<Reply>, String> {
        let Ok((status, body)) = self.exchange(stream, number) else { return Ok(None) };
        match status {
            200 => {
                let reply: Value = serde_json::from_str(&body).map_err(|error| format!("{error} in {body:?}"))?;
                published(&reply).map(Some)
            }
            503 => Ok(Some(Reply::Unavailable)),
            // We were late ourselves, or the line was silent in the middle of it.
            408 => Ok(None),
            _ => Err(format!("publishing was answered with {status} {body}")),
        }
    }

    fn exchange(&self, stream: &mut TcpStream, number: u64) -> io::Result<(u16, String)> {
        let (topic, user) = (self.topic, self.user.as_ref());
        let (name, key, text) = (topic_name(topic), key(topic, number), text_of(topic, number));
        let token = user.map(|user| format!("Authorization: Bearer {}\r\n", user.token)).unwrap_or_default();
        let headers = format!("Host: 127.0.0.1\r\nIdempotency-Key: {key}\r\nContent-Length: {}\r\n{token}", text.len());
        stream.write_all(format!("POST /topics/{name} HTTP/1.1\r\n{headers}\r\n{text}").as_bytes())?;
        let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            if let Some(complete) = complete(&answer) {
                return Ok(complete);
            }
            match stream.read(&mut buffer)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => answer.extend(&buffer[..count]),
            }
        }
    }
}

fn key(topic: usize, number: u64) -> String {
    format!("{topic}-{number}")
}

// By HTTP. ############################################################################################################

fn dial(line: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&line, SILENCE)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The status and the body of an answer, once all of it is there.
fn complete(answer: &[u8]) -> Option<(u16, String)> {
    let text = std::str::from_utf8(answer).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let mut lines = head.lines().filter_map(|line| line.split_once(':'));
    let (_, length) = lines.find(|(name, _)| name.eq_ignore_ascii_case("Content-Length"))?;
    let length: usize = length.trim().parse().ok()?;
    (body.len() >= length).then(|| (status, body.to_owned()))
}

// By WebSocket. #######################################################################################################

fn send(socket: &mut WebSocket, topic: usize, number: u64) -> Result<Option<Reply>, String> {
    let request = json!({
        "type": "publish", "id": number, "topic": topic_name(topic), "text": text_of(topic, number),
        "key": key(topic, number),
    });
    if socket.send(request.to_string().into()).is_err() {
        return Ok(None);
    }
    loop {
        let Ok(message) = socket.read() else { return Ok(None) };
        let Ok(text) = message.to_text() else { continue };
        if !message.is_text() || !text.starts_with('{') {
            continue;
        }
        let reply: Value = serde_json::from_str(text).map_err(|error| format!("{error} in {text:?}"))?;
        return match (reply["id"].as_u64(), reply["type"].as_str(), reply["error"].as_str()) {
            (Some(id), Some("published"), _) if id == number => published(&reply).map(Some),
            (Some(id), Some("error"), Some("unavailable")) if id == number => Ok(Some(Reply::Unavailable)),
            _ => Err(format!("publishing was answered with {text}")),
        };
    }
}

fn published(reply: &Value) -> Result<Reply, String> {
    let position = reply["position"].as_str().ok_or_else(|| format!("no position in {reply}"))?;
    Ok(Reply::Published { position: Position::parse(position)?, again: reply["again"] == true })
}
