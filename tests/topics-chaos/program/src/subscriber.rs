//! A subscriber that keeps its positions, and comes back with them.

use std::collections::BTreeMap;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::ClientRequestBuilder;

use crate::dice::Dice;
use crate::line::Line;
use crate::record::{Event, Position};
use crate::socket::{self, Socket};
use crate::stay::Stay;
use crate::{SILENCE, number_of, topic_name, topic_number};

pub(crate) type WebSocket = tungstenite::WebSocket<Socket>;

/// What is wrong with a subscriber. The check has to find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// It does not say where it was when it comes back.
    DoesNotRecover,
    DropsOne,
    DoublesOne,
    SwapsTwo,
    SwallowsLost,
    DoublesLost,
}

impl Flaw {
    pub(crate) const ALL: [Self; 6] =
        [Self::DoesNotRecover, Self::DropsOne, Self::DoublesOne, Self::SwapsTwo, Self::SwallowsLost, Self::DoublesLost];
}

/// What all subscribers count.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) connections: AtomicU64,
    /// Connections that a subscriber gave up because nothing came.
    pub(crate) silences: AtomicU64,
    /// Messages that came because their subscriber had missed them.
    pub(crate) replayed: AtomicU64,
}

/// Who a client is, where the servers know their users.
#[derive(Debug, Clone)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) token: String,
}

pub(crate) struct Subscriber {
    pub(crate) line: Arc<Line>,
    user: Option<User>,
    flaw: Option<Flaw>,
    /// Protects what it got of each topic.
    taken: Mutex<BTreeMap<usize, Taken>>,
    /// Protects the connection that it has now, for faults.
    socket: Mutex<Option<Socket>>,
    /// Protects until when it does not read.
    dozes_until: Mutex<Option<Instant>>,
    /// Protects until when it does not come back.
    away_until: Mutex<Option<Instant>>,
    /// Protects its connections, one after the other.
    stays: Mutex<Vec<Stay>>,
}

#[derive(Debug, Default, Clone)]
pub(crate) struct Taken {
    /// Of the last message that it knows.
    pub(crate) position: Option<Position>,
    pub(crate) record: Vec<Event>,
    /// What a flawed subscriber keeps back.
    held: Option<Event>,
}

impl Subscriber {
    pub(crate) fn new(line: Arc<Line>, user: Option<User>, topics: &[usize], flaw: Option<Flaw>) -> Self {
        let taken = topics.iter().map(|topic| (*topic, Taken::default())).collect();
        Self {
            line,
            user,
            flaw,
            taken: Mutex::new(taken),
            socket: Mutex::default(),
            dozes_until: Mutex::default(),
            away_until: Mutex::default(),
            stays: Mutex::default(),
        }
    }

    pub(crate) fn name(&self) -> Option<&str> {
        self.user.as_ref().map(|user| &*user.name)
    }

    /// Whether it is subscribed to a topic now.
    pub(crate) fn is_subscribed_to(&self, topic: usize) -> bool {
        let stays = self.stays.lock().unwrap();
        let is_subscribed = stays.last().is_some_and(|stay| stay.subscribed.is_some() && stay.ended.is_none());
        is_subscribed && self.taken.lock().unwrap().contains_key(&topic)
    }

    /// Its connections so far.
    pub(crate) fn stays(&self) -> Vec<Stay> {
        self.stays.lock().unwrap().clone()
    }

    /// What it got of each topic.
    pub(crate) fn taken(&self) -> BTreeMap<usize, Taken> {
        self.taken.lock().unwrap().clone()
    }

    /// The positions that it has reached.
    pub(crate) fn positions(&self) -> Vec<(usize, Option<Position>)> {
        self.taken.lock().unwrap().iter().map(|(topic, taken)| (*topic, taken.position)).collect()
    }

    // Faults. Each tells whether there was a connection to hit.

    /// Ends its connection without a Close frame.
    pub(crate) fn vanish(&self) -> bool {
        self.hit(|socket| drop(socket.0.shutdown(Shutdown::Both)))
    }

    pub(crate) fn reset(&self) -> bool {
        self.hit(|socket| socket::reset(&socket.0))
    }

    /// Reads nothing for a while.
    pub(crate) fn doze(&self, time: Duration) -> bool {
        self.hit(|_| *self.dozes_until.lock().unwrap() = Some(Instant::now() + time))
    }

    /// Ends its connection, and does not come back for a while.
    pub(crate) fn stay_away(&self, time: Duration) -> bool {
        self.hit(|socket| {
            *self.away_until.lock().unwrap() = Some(Instant::now() + time);
            drop(socket.0.shutdown(Shutdown::Both));
        })
    }

    /// Its connection is about to end, and then it does not come back for a while.
    pub(crate) fn stay_away_once_over(&self, time: Duration) {
        *self.away_until.lock().unwrap() = Some(Instant::now() + time);
    }

    /// Comes back, if it stays away.
    pub(crate) fn come_back(&self) {
        self.away_until.lock().unwrap().take();
    }

    /// The process of a server that it is connected to.
    pub(crate) fn process(&self) -> Option<SocketAddr> {
        self.stays.lock().unwrap().last().filter(|stay| stay.ended.is_none())?.process
    }

    fn hit(&self, hit: impl Fn(&Socket)) -> bool {
        let socket = self.socket.lock().unwrap();
        if socket.is_some() {
            self.stay(Stay::is_touched);
        }
        socket.as_ref().map(hit).is_some()
    }

    // Its life.

    /// Connects, and comes back, until all is over.
    pub(crate) fn run(&self, mut dice: Dice, counters: &Counters, is_over: &AtomicBool) -> Result<(), String> {
        while !is_over.load(SeqCst) {
            if self.is_away() {
                thread::sleep(Duration::from_millis(20));
                continue;
            }
            if let Some(mut socket) = connect(self.line.address, self.user.as_ref()) {
                counters.connections.fetch_add(1, SeqCst);
                let client = socket.get_ref().0.local_addr();
                let process = client.ok().and_then(|client| self.line.process_of(client));
                self.stays.lock().unwrap().push(Stay::new(process));
                *self.socket.lock().unwrap() = Some(socket.get_ref().clone());
                let outcome = self.listen(&mut socket, counters, is_over);
                self.socket.lock().unwrap().take();
                drop(socket);
                self.stay(|stay| stay.ended = Some(Instant::now()));
                outcome?;
            }
            thread::sleep(dice.millis(10, 150));
        }
        Ok(())
    }

    fn is_away(&self) -> bool {
        self.away_until.lock().unwrap().is_some_and(|until| Instant::now() < until)
    }

    /// Notes something of its present connection.
    fn stay(&self, note: impl FnOnce(&mut Stay)) {
        self.stays.lock().unwrap().last_mut().map(note);
    }

    /// Subscribes, and takes what comes until the connection ends.
    ///
    /// # Errors
    /// If the server says what it must not.
    fn listen(&self, socket: &mut WebSocket, counters: &Counters, is_over: &AtomicBool) -> Result<(), String> {
        if socket.send(self.request().into()).is_err() {
            return Ok(());
        }
        let mut replies = BTreeMap::new();
        while !is_over.load(SeqCst) {
            let dozes_until = self.dozes_until.lock().unwrap().take();
            if let Some(until) = dozes_until {
                thread::sleep(until.saturating_duration_since(Instant::now()));
            }
            let message = match socket.read() {
                Ok(message) => {
                    self.stay(Stay::heard);
                    message
                }
                Err(error) => {
                    if matches!(&error, tungstenite::Error::Io(error) if error.kind() == std::io::ErrorKind::WouldBlock)
                    {
                        counters.silences.fetch_add(1, SeqCst);
                    }
                    return Ok(());
                }
            };
            let Ok(text) = message.to_text() else { continue };
            if message.is_text() && text.starts_with('{') && !self.take(text, &mut replies, counters)? {
                return Ok(());
            }
        }
        // As a page that is left.
        let _ = socket.close(None);
        let _ = socket.flush();
        Ok(())
    }

    /// A request for all topics, each with the position where it was.
    fn request(&self) -> String {
        let topics = self.taken.lock().unwrap();
        let topics = topics.iter().map(|(topic, taken)| {
            let since = taken.position.filter(|_| self.flaw != Some(Flaw::DoesNotRecover));
            let mut wanted = json!({"topic": topic_name(*topic)});
            if let Some(since) = since {
                wanted["since"] = since.to_string().into();
            }
            wanted
        });
        json!({"type": "subscribe", "id": 1, "topics": topics.collect::<Vec<_>>()}).to_string()
    }

    /// Takes an object from the server. `false`: it cannot serve now.
    fn take(&self, text: &str, replies: &mut BTreeMap<usize, Position>, counters: &Counters) -> Result<bool, String> {
        let object: Value = serde_json::from_str(text).map_err(|error| format!("{error} in {text}"))?;
        let unexpected = || format!("the server sent {text}");
        let topic_of = |object: &Value| object["topic"].as_str().and_then(topic_number).ok_or_else(unexpected);
        let position_of = |object: &Value| Position::parse(object["position"].as_str().ok_or_else(unexpected)?);
        let mut all = self.taken.lock().unwrap();
        match object["type"].as_str() {
            Some("subscribed") => {
                for object in object["topics"].as_array().ok_or_else(unexpected)? {
                    if object["error"] == "unavailable" {
                        return Ok(false);
                    }
                    let (topic, position) = (topic_of(object)?, position_of(object)?);
                    replies.insert(topic, position);
                    let taken = all.get_mut(&topic).ok_or_else(unexpected)?;
                    if taken.position.is_none() {
                        taken.note(Event::Began(position), None);
                    }
                }
                self.stay(|stay| stay.subscribed = Some(Instant::now()));
            }
            Some("message") => {
                let (topic, position) = (topic_of(&object)?, position_of(&object)?);
                let reply = replies.get(&topic).ok_or_else(unexpected)?;
                if position.offset <= reply.offset {
                    counters.replayed.fetch_add(1, SeqCst);
                }
                let number = number_of(topic, object["text"].as_str().ok_or_else(unexpected)?);
                let taken = all.get_mut(&topic).ok_or_else(unexpected)?;
                taken.note(Event::Message(position, number), self.flaw);
            }
            Some("lost") => {
                let (topic, position) = (topic_of(&object)?, position_of(&object)?);
                all.get_mut(&topic).ok_or_else(unexpected)?.note(Event::Lost(position), self.flaw);
            }
            _ => return Err(unexpected()),
        }
        Ok(true)
    }
}

impl Taken {
    /// Records what came, or what a flawed subscriber makes of it.
    pub(crate) fn note(&mut self, event: Event, flaw: Option<Flaw>) {
        self.position = Some(event.position());
        // Once, after some messages, and then no more.
        let is_time = matches!(event, Event::Message(..)) && self.record.len() == 20;
        match flaw {
            Some(Flaw::DropsOne) if is_time && self.held.is_none() => self.held = Some(event),
            Some(Flaw::DoublesOne) if is_time => self.record.extend([event, event]),
            Some(Flaw::SwapsTwo) if is_time && self.held.is_none() => self.held = Some(event),
            Some(Flaw::SwapsTwo) if is_time => self.record.extend([Some(event), self.held].into_iter().flatten()),
            Some(Flaw::SwallowsLost) if matches!(event, Event::Lost(_)) => {}
            Some(Flaw::DoublesLost) if matches!(event, Event::Lost(_)) => self.record.extend([event, event]),
            _ => self.record.push(event),
        }
    }
}

/// A connection with the subprotocol, if there is one to be had.
pub(crate) fn connect(address: SocketAddr, user: Option<&User>) -> Option<WebSocket> {
    let stream = TcpStream::connect_timeout(&address, SILENCE).ok()?;
    stream.set_read_timeout(Some(SILENCE)).ok()?;
    stream.set_write_timeout(Some(SILENCE)).ok()?;
    stream.set_nodelay(true).ok()?;
    let uri = format!("ws://{address}/").parse().expect("a URI");
    let mut request = ClientRequestBuilder::new(uri).with_sub_protocol("heartwire.topics.v1");
    if let Some(User { token, .. }) = user {
        request = request.with_header("Authorization", format!("Bearer {token}"));
    }
    tungstenite::client(request, Socket(Arc::new(stream))).ok().map(|(socket, _)| socket)
}
