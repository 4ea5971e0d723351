//! The program with topics under attack, a witness who must not notice, and clients as fast as can be.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::processes::Program;
use crate::support::topics::SUBPROTOCOL;
use crate::support::usage::kib_of;
use crate::support::{CEILING, Client, Incoming, TEXT, exchange, masked, ms, request_with};
use crate::{Checked, ensure};

/// An attack on a server with topics, where everybody may publish, unless the options say otherwise.
pub(super) struct Attack<'a> {
    pub(super) options: &'a [&'a str],
    /// What the witness shows.
    pub(super) headers: &'a str,
    /// Where it publishes and subscribes.
    pub(super) topic: &'a str,
    /// By how many MiB the server may grow.
    pub(super) most: u64,
}

impl Attack<'_> {
    pub(super) const PLAIN: Self = Self { options: &["--allow-publish=*"], headers: "", topic: "witness", most: 32 };

    /// Attacks. Meanwhile the witness gets each of its messages within this patience.
    pub(super) fn run(&self, patience: Duration, attack: impl FnOnce(&Site) -> Checked) -> Checked {
        let site = Site::start(self.options);
        let witness = Witness::start(&site, self, patience)?;
        let before = site.program.resident_kib();
        // Has the kernel measure the peak from here on.
        fs::write(format!("/proc/{}/clear_refs", site.program.pid), "5").map_err(|error| error.to_string())?;
        let (busy, started) = (site.program.busy(), Instant::now());
        let measured = attack(&site);
        let (busy, took) = (site.program.busy() - busy, started.elapsed());
        let witnessed = witness.stop();
        let (measured, (messages, slowest)) = (measured?, witnessed?);
        let peak = kib_of(&site.program.pid, "VmHWM:");
        site.wait_until("only the server's own threads are left", || site.program.count("task") <= 10)?;
        let after = site.program.resident_kib();
        let logged = site.program.process.stderr.lines();
        ensure!(logged.is_empty(), "the server logged {logged:?}");
        let grew = peak.saturating_sub(before) / 1024;
        ensure!(grew <= self.most, "the server grew by {grew} MiB, {} are allowed", self.most);
        Ok(format!(
            "{measured}; witness {messages}, slowest {} ms; server busy {:.0} %, {} MiB, {} at most, {} after",
            slowest.as_millis(),
            100.0 * busy.as_secs_f64() / took.as_secs_f64(),
            before / 1024,
            peak / 1024,
            after / 1024
        ))
    }
}

pub(super) struct Site {
    pub(super) program: Program,
    pub(super) address: SocketAddr,
}

impl Site {
    fn start(options: &[&str]) -> Self {
        let usual = ["--mode=topics", "--ping-interval=off", "--log-level=error", "--max-connections=5000"];
        let program = Program::start("$(ulimit -Hn)", &[&usual, options].concat());
        let address = program.address();
        Self { program, address }
    }

    /// A client of the subprotocol that has read its greeting.
    pub(super) fn client(&self) -> Client {
        self.client_with("")
    }

    pub(super) fn client_with(&self, headers: &str) -> Client {
        Self::upgraded(Client::tcp(self.address), headers)
    }

    /// A client for which the kernel takes little that it does not read.
    pub(super) fn narrow_client(&self) -> Client {
        let socket = Socket::new(Domain::for_address(self.address), Type::STREAM, None).expect("a socket");
        socket.set_recv_buffer_size(4096).expect("SO_RCVBUF");
        socket.connect(&self.address.into()).expect("the server listens");
        Self::upgraded(Client::of(socket.into()), "")
    }

    fn upgraded(client: Client, headers: &str) -> Client {
        let mut client = client.upgraded(&request_with("/", &format!("{SUBPROTOCOL}{headers}")));
        let greeting = client.text();
        assert!(greeting.starts_with("heartwire {"), "{greeting}");
        client
    }

    pub(super) fn flooder(&self) -> Flooder {
        let mut stream = TcpStream::connect(self.address).expect("the server takes connections");
        stream.set_write_timeout(Some(CEILING)).expect("a timeout");
        stream.write_all(request_with("/", SUBPROTOCOL).as_bytes()).expect("a request is taken");
        let replies = Arc::new(Replies::default());
        let (reading, counting) = (stream.try_clone().expect("a handle"), Arc::clone(&replies));
        let reader = thread::spawn(move || counting.count(reading));
        Flooder { stream, replies, sent: 0, reader: Some(reader) }
    }

    /// The body of an answer over HTTP.
    pub(super) fn get(&self, path: &str) -> String {
        exchange(self.address, format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")).body
    }

    /// Publishes over HTTP, and gives the status and the body of the answer.
    pub(super) fn post(&self, topic: &str, text: &str) -> (u16, String) {
        let headers = format!("Host: 127.0.0.1\r\nContent-Length: {}\r\n", text.len());
        let answer = exchange(self.address, format!("POST /topics/{topic} HTTP/1.1\r\n{headers}\r\n{text}"));
        (answer.status, answer.body)
    }

    pub(super) fn wait_until(&self, what: &str, holds: impl Fn() -> bool) -> Result<(), String> {
        let deadline = Instant::now() + CEILING;
        while !holds() {
            ensure!(Instant::now() < deadline, "waited in vain until {what}");
            thread::sleep(ms(5));
        }
        Ok(())
    }

    /// So many flooders send what a function gives them, again and again, each request with an id. Gives how many
    /// requests were answered.
    pub(super) fn flood(&self, count: usize, time: Duration, requests: impl Fn(u64) -> Vec<String> + Sync) -> u64 {
        let (answered, next) = (AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            for _ in 0..count {
                scope.spawn(|| {
                    let mut flooder = self.flooder();
                    let end = Instant::now() + time;
                    while Instant::now() < end {
                        if !flooder.send(requests(next.fetch_add(1, SeqCst))) {
                            answered.fetch_add(flooder.replies.number(), SeqCst);
                            flooder = self.flooder();
                        }
                    }
                    flooder.wait_for_all();
                    answered.fetch_add(flooder.replies.number(), SeqCst);
                });
            }
        });
        answered.load(SeqCst)
    }
}

/// A client as fast as can be. A thread reads what the server sends, and counts the replies.
pub(super) struct Flooder {
    stream: TcpStream,
    replies: Arc<Replies>,
    sent: u64,
    reader: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Replies {
    /// How many there were, and whether the connection has ended.
    state: Mutex<(u64, bool)>,
    changed: Condvar,
}

impl Flooder {
    /// So many requests may be under way, so that not all of them wait in buffers when time is over.
    const WINDOW: u64 = 500;

    /// Sends requests at once. `false`: the connection has ended.
    pub(super) fn send(&mut self, requests: impl IntoIterator<Item = String>) -> bool {
        let mut bytes = Vec::new();
        for request in requests {
            bytes.extend(masked(TEXT, request.as_bytes()));
            self.sent += 1;
        }
        self.stream.write_all(&bytes).is_ok() && self.replies.wait_for(self.sent.saturating_sub(Self::WINDOW))
    }

    pub(super) fn wait_for_all(&self) -> bool {
        self.replies.wait_for(self.sent)
    }
}

impl Replies {
    /// Counts what has an id, to the end of the connection, or until the client is sent away.
    fn count(&self, mut from: TcpStream) {
        const ID: &[u8] = br#","id":"#;
        // The Close frame with 1008 and "too many requests that were refused".
        const SENT_AWAY: &[u8] = &[0x88, 0x25, 0x03, 0xf0];
        let (mut buffer, mut kept) = (vec![0; 64 * 1024], 0);
        loop {
            let count = from.read(&mut buffer[kept..]).unwrap_or(0);
            let bytes = &buffer[..kept + count];
            let found = bytes.windows(ID.len()).filter(|window| *window == ID).count() as u64;
            let is_over = count == 0 || bytes.windows(SENT_AWAY.len()).any(|window| window == SENT_AWAY);
            {
                let mut state = self.state.lock().unwrap();
                *state = (state.0 + found, is_over);
            }
            self.changed.notify_all();
            if is_over {
                return;
            }
            // One may be cut in two.
            let len = bytes.len();
            kept = len.min(ID.len() - 1);
            buffer.copy_within(len - kept..len, 0);
        }
    }

    fn number(&self) -> u64 {
        self.state.lock().unwrap().0
    }

    /// `false`: the connection has ended before, or nothing comes.
    fn wait_for(&self, number: u64) -> bool {
        let state = self.state.lock().unwrap();
        let (state, _) = self.changed.wait_timeout_while(state, CEILING, |state| state.0 < number && !state.1).unwrap();
        state.0 >= number && !state.1
    }
}

impl Drop for Flooder {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.stream.shutdown(Shutdown::Both);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

// Requests. ###########################################################################################################

pub(super) fn subscribe(topics: impl IntoIterator<Item = String>) -> String {
    let topics: Vec<_> = topics.into_iter().map(|topic| format!(r#"{{"topic":"{topic}"}}"#)).collect();
    format!(r#"{{"type":"subscribe","id":1,"topics":[{}]}}"#, topics.join(","))
}

pub(super) fn unsubscribe(topics: impl IntoIterator<Item = String>) -> String {
    let topics: Vec<_> = topics.into_iter().map(|topic| format!(r#""{topic}""#)).collect();
    format!(r#"{{"type":"unsubscribe","id":2,"topics":[{}]}}"#, topics.join(","))
}

pub(super) fn publish(topic: &str, text: &str, key: Option<&str>) -> String {
    let key = key.map(|key| format!(r#","key":"{key}""#)).unwrap_or_default();
    format!(r#"{{"type":"publish","id":3,"topic":"{topic}","text":"{text}"{key}}}"#)
}

// Those who are served. ###############################################################################################

/// What a subscriber is told of one topic: each message is the next one, or it is told that some are lost.
pub(super) struct Follower {
    topic: String,
    offset: u64,
    pub(super) losts: u64,
    pub(super) messages: u64,
}

impl Follower {
    /// Follows a topic from the reply to its subscription on.
    pub(super) fn new(topic: &str, reply: &str) -> Result<Self, String> {
        let offset = offset(reply).ok_or_else(|| format!("not subscribed: {reply}"))?;
        Ok(Self { topic: topic.to_owned(), offset, losts: 0, messages: 0 })
    }

    /// Takes what the server sends. `false`: it is about something else.
    pub(super) fn take(&mut self, text: &str) -> Result<bool, String> {
        let is = |kind: &str| text.starts_with(&format!(r#"{{"type":"{kind}","topic":"{}","#, self.topic));
        let (is_message, is_lost) = (is("message"), is("lost"));
        if !is_message && !is_lost {
            return Ok(false);
        }
        let offset = offset(text).ok_or_else(|| format!("no position in {text}"))?;
        let follows = if is_message { offset == self.offset + 1 } else { offset > self.offset };
        ensure!(follows, "{text} came after {}", self.offset);
        self.offset = offset;
        self.messages += u64::from(is_message);
        self.losts += u64::from(is_lost);
        Ok(true)
    }
}

fn offset(text: &str) -> Option<u64> {
    let position = text.split(r#""position":""#).nth(1)?.split('"').next()?;
    position.split_once(':')?.1.parse().ok()
}

/// Publishes by HTTP to a topic that it is subscribed to, and gets each message before it publishes the next. It is
/// never told that some are lost.
struct Witness {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Result<(usize, Duration), String>>,
}

impl Witness {
    fn start(site: &Site, attack: &Attack<'_>, patience: Duration) -> Result<Self, String> {
        let is_over = Arc::new(AtomicBool::new(false));
        let mut client = site.client_with(attack.headers);
        client.send_text(&subscribe([attack.topic.to_owned()]));
        let follower = Follower::new(attack.topic, &client.text())?;
        let publisher = TcpStream::connect(site.address).map_err(|error| error.to_string())?;
        publisher.set_read_timeout(Some(patience)).map_err(|error| error.to_string())?;
        let (over, headers) = (Arc::clone(&is_over), attack.headers.to_owned());
        let thread = thread::spawn(move || witness(client, follower, publisher, &headers, patience, &over));
        Ok(Self { is_over, thread })
    }

    fn stop(self) -> Result<(usize, Duration), String> {
        self.is_over.store(true, SeqCst);
        self.thread.join().map_err(|_| "the witness panicked".to_owned())?
    }
}

fn witness(
    mut client: Client,
    mut follower: Follower,
    mut publisher: TcpStream,
    headers: &str,
    patience: Duration,
    is_over: &AtomicBool,
) -> Result<(usize, Duration), String> {
    let (mut number, mut slowest) = (0, Duration::ZERO);
    while !is_over.load(SeqCst) {
        number += 1;
        let (text, sent) = (format!("message {number}"), Instant::now());
        let head = format!("Host: 127.0.0.1\r\n{headers}Content-Length: {}\r\n", text.len());
        let request = format!("POST /topics/{} HTTP/1.1\r\n{head}\r\n{text}", follower.topic);
        publisher.write_all(request.as_bytes()).map_err(|error| format!("the witness cannot publish: {error}"))?;
        let mut answer = [0; 2048];
        let count = publisher.read(&mut answer).map_err(|error| format!("the witness has no answer: {error}"))?;
        let answer = String::from_utf8_lossy(&answer[..count]);
        ensure!(answer.starts_with("HTTP/1.1 200 "), "the witness is answered with {answer:?}");
        loop {
            let got = match client.next_before(sent + patience) {
                Incoming::Frame(frame) => frame.text().to_owned(),
                other => return Err(format!("the witness waits for {text:?}, and there is {other:?}")),
            };
            follower.take(&got)?;
            ensure!(follower.losts == 0, "the witness has lost something");
            if got.ends_with(&format!(r#""text":"{text}"}}"#)) {
                break;
            }
        }
        slowest = slowest.max(sent.elapsed());
        thread::sleep(ms(2));
    }
    client.send_close(1000, "");
    Ok((number, slowest))
}
