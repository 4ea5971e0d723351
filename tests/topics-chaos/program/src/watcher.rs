//! Whoever watches who is subscribed, on one of the servers, and comes back to it when that was down. It notes what it
//! is told, and whether that fits together: each joins who was not there, and is gone who was.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::stay::ATTENTION;
use crate::subscriber::{self, User, WebSocket};
use crate::{TOPICS, topic_name, topic_number};

/// Why somebody is gone whose server was found dead, and within how many milliseconds that is.
pub(crate) const NODE_LOST: &str = "node lost 11000";

/// What is wrong with a watcher. The check has to find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blindness {
    /// It does not see that some are gone.
    ToThoseWhoLeave,
    /// It does not see that some have joined.
    ToThoseWhoJoin,
    SeesJoiningTwice,
    SeesGoingTwice,
    /// It takes every end for that of a node.
    BlamesNodes,
}

impl Blindness {
    pub(crate) const ALL: [Self; 5] =
        [Self::ToThoseWhoLeave, Self::ToThoseWhoJoin, Self::SeesJoiningTwice, Self::SeesGoingTwice, Self::BlamesNodes];
}

/// What it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sight {
    /// Of a topic, all that are there.
    All(usize, BTreeSet<String>),
    Joined(usize, String),
    /// Of a topic, who is gone, for this cause.
    Gone(usize, String, String),
    /// Nothing was read for too long, since then: what was told meanwhile is late by our own fault.
    Late(Instant),
    /// The connection has ended.
    Nothing,
}

pub(crate) struct Watcher {
    pub(crate) server: usize,
    /// Where the server is now.
    address: Arc<RwLock<SocketAddr>>,
    user: User,
    pub(crate) blindness: Option<Blindness>,
    /// Protects what it has seen, and when.
    seen: Mutex<Seen>,
}

#[derive(Debug, Default, Clone)]
pub(crate) struct Seen {
    pub(crate) sights: Vec<(Instant, Sight)>,
    /// Of each topic whose members are known at present.
    pub(crate) now: BTreeMap<usize, BTreeSet<String>>,
    /// What does not fit together.
    pub(crate) wrong: Vec<String>,
}

impl Watcher {
    pub(crate) fn new(
        server: usize,
        address: Arc<RwLock<SocketAddr>>,
        user: User,
        blindness: Option<Blindness>,
    ) -> Self {
        Self { server, address, user, blindness, seen: Mutex::default() }
    }

    pub(crate) fn name(&self) -> &str {
        &self.user.name
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }

    /// The members of each topic, as far as it knows them at present.
    pub(crate) fn seen_now(&self) -> BTreeMap<usize, BTreeSet<String>> {
        self.seen.lock().unwrap().now.clone()
    }

    /// Watches, and comes back, until all is over.
    ///
    /// # Errors
    /// If the server says what it must not.
    pub(crate) fn run(&self, is_over: &AtomicBool) -> Result<(), String> {
        while !is_over.load(SeqCst) {
            let address = *self.address.read().unwrap();
            if let Some(mut socket) = subscriber::connect(address, Some(&self.user)) {
                let outcome = self.watch(&mut socket, is_over);
                self.seen.lock().unwrap().note(Sight::Nothing);
                outcome?;
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn watch(&self, socket: &mut WebSocket, is_over: &AtomicBool) -> Result<(), String> {
        let topics: Vec<_> = (0..TOPICS).map(|topic| json!({"topic": topic_name(topic), "presence": true})).collect();
        let request = json!({"type": "subscribe", "id": 1, "topics": topics});
        if socket.send(request.to_string().into()).is_err() {
            return Ok(());
        }
        let mut heard = Instant::now();
        while !is_over.load(SeqCst) {
            let Ok(message) = socket.read() else { return Ok(()) };
            if heard.elapsed() > ATTENTION {
                self.seen.lock().unwrap().note(Sight::Late(heard));
            }
            heard = Instant::now();
            let Ok(text) = message.to_text() else { continue };
            if !message.is_text() || !text.starts_with('{') || text.starts_with(r#"{"type":"message""#) {
                continue;
            }
            if text.starts_with(r#"{"type":"subscribed""#) && text.contains(r#""error":"unavailable""#) {
                return Ok(());
            }
            let sights = parse(text).ok_or_else(|| format!("a watcher was sent {text}"))?;
            let mut seen = self.seen.lock().unwrap();
            sights.into_iter().flat_map(|sight| self.make_of(sight)).for_each(|sight| seen.note(sight));
        }
        let _ = socket.close(None);
        let _ = socket.flush();
        Ok(())
    }

    /// What one that is blind makes of what it is told.
    fn make_of(&self, sight: Sight) -> Vec<Sight> {
        // Every other user.
        let is_odd = |who: &str| who.bytes().last().is_some_and(|last| last % 2 == 1);
        match (self.blindness, sight) {
            (Some(Blindness::ToThoseWhoLeave), Sight::Gone(_, who, _)) if is_odd(&who) => vec![],
            (Some(Blindness::ToThoseWhoJoin), Sight::Joined(_, who)) if is_odd(&who) => vec![],
            (Some(Blindness::SeesJoiningTwice), sight @ Sight::Joined(..)) => vec![sight.clone(), sight],
            (Some(Blindness::SeesGoingTwice), sight @ Sight::Gone(..)) => vec![sight.clone(), sight],
            (Some(Blindness::BlamesNodes), Sight::Gone(topic, who, _)) => {
                vec![Sight::Gone(topic, who, NODE_LOST.to_owned())]
            }
            (_, sight) => vec![sight],
        }
    }
}

impl Seen {
    fn note(&mut self, sight: Sight) {
        let wrong = match &sight {
            Sight::All(topic, members) => {
                self.now.insert(*topic, members.clone());
                false
            }
            Sight::Joined(topic, who) => !self.now.entry(*topic).or_default().insert(who.clone()),
            Sight::Gone(topic, who, _) => !self.now.entry(*topic).or_default().remove(who),
            Sight::Late(_) => false,
            Sight::Nothing => {
                self.now.clear();
                false
            }
        };
        if wrong {
            self.wrong.push(format!(
                "{sight:?} was told of one who was {}",
                match sight {
                    Sight::Joined(..) => "there",
                    _ => "not there",
                }
            ));
        }
        self.sights.push((Instant::now(), sight));
    }
}

/// What an object from the server tells. `None` if it must not send that.
fn parse(text: &str) -> Option<Vec<Sight>> {
    let object: Value = serde_json::from_str(text).ok()?;
    let topic = || topic_number(object["topic"].as_str()?);
    let sight = match object["type"].as_str()? {
        "presence" => {
            let members: Option<BTreeSet<_>> = object["members"].as_array()?.iter().map(name).collect();
            Sight::All(topic()?, members?)
        }
        "joined" => Sight::Joined(topic()?, name(&object["member"])?),
        "gone" => {
            // Within how long it is known, after the cause.
            let cause = format!("{} {}", object["cause"].as_str()?, object["within"].as_u64()?);
            Sight::Gone(topic()?, name(&object["member"])?, cause)
        }
        // That messages are lost is for subscribers to judge.
        "subscribed" | "doubted" | "alive" | "lost" => return Some(Vec::new()),
        _ => return None,
    };
    Some(vec![sight])
}

/// A member: a user, or a connection without one.
fn name(member: &Value) -> Option<String> {
    match member["user"].as_str() {
        Some(user) => Some(user.to_owned()),
        None => Some(format!("{} of {}", member["connection"].as_u64()?, member["node"].as_str().unwrap_or_default())),
    }
}
