//! Serves a client of the subprotocol `heartwire.topics.v1`, in place of the application's handler. And a client of a
//! path such as `/topics/news`, which gets and sends bare messages of that topic.
//!
//! Invariants:
//! - Each request is answered before the next is read, and before the first message that it asks for.
//! - A request that is refused costs nothing but an answer, up to a number of refusals a minute.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::entry::Format;
use super::name::TopicName;
use super::position::Position;
use super::presence;
use super::subscriptions::{Subscriptions, Terms};
use super::topic::Topic;
use super::wire::{self, Action, Publication, Refused, Request, Wanted};
use super::{Published, TopicError};
use crate::connection::Connection;
use crate::error::Error;
use crate::message::{Message, Text};
use crate::protocol::close::CloseCode;

/// A client that is refused more often than so many times in such a period is sent away.
const MOST_REFUSALS: u32 = 100;
const REFUSAL_PERIOD: Duration = Duration::from_secs(60);

/// Serves a client of the subprotocol until its connection ends.
pub(crate) fn serve(conn: &mut Connection) -> Result<(), Error> {
    let mut refusals = Refusals { count: 0, since: Instant::now() };
    loop {
        let message = conn.recv()?;
        let outcome = Request::parse(&message).and_then(|request| serve_request(conn, request));
        match outcome {
            Ok(Some(reply)) => conn.feed(reply)?,
            Ok(None) => {}
            Err(refused) => {
                conn.feed(Text::from(&refused))?;
                if refusals.is_one_too_many() {
                    return conn.close(CloseCode::POLICY, "too many requests that were refused");
                }
            }
        }
    }
}

/// Serves a client of one topic's path until its connection ends.
pub(crate) fn serve_bare(conn: &mut Connection, topic: &TopicName) -> Result<(), Error> {
    if let Err(error) = conn.subscribe(topic.as_str()) {
        return conn.close(CloseCode::TRY_AGAIN_LATER, &error.to_string());
    }
    loop {
        let message = conn.recv()?;
        match publish(conn, topic.as_str(), message, None) {
            Ok(_) => {}
            Err(TopicError::Forbidden) => return conn.close(CloseCode::POLICY, "publishing is not allowed"),
            Err(error) => return conn.close(CloseCode::TRY_AGAIN_LATER, &error.to_string()),
        }
    }
}

struct Refusals {
    count: u32,
    since: Instant,
}

impl Refusals {
    fn is_one_too_many(&mut self) -> bool {
        let now = Instant::now();
        if now.saturating_duration_since(self.since) >= REFUSAL_PERIOD {
            *self = Self { count: 0, since: now };
        }
        self.count += 1;
        self.count > MOST_REFUSALS
    }
}

/// Does what a request asks for. Returns the reply that is still to be sent.
fn serve_request(conn: &mut Connection, request: Request) -> Result<Option<Message>, Refused> {
    let Request { id, action } = request;
    match action {
        Action::Subscribe(wanted) => {
            subscribe(conn, id, wanted);
            Ok(None)
        }
        Action::Unsubscribe(topics) => {
            for topic in &topics {
                conn.unsubscribe(topic);
            }
            Ok(wire::unsubscribed(id, &topics))
        }
        Action::Publish(Publication { topic, message, key }) => match publish(conn, &topic, message, key.as_deref()) {
            Ok(published) => Ok(wire::published(id, &topic, &published)),
            Err(error) => Err(Refused::of_topic(id, &topic, &error)),
        },
        Action::Presence(topic) => match members(conn, &topic) {
            Ok(members) => Ok(Some(members(id))),
            Err(error) => Err(Refused::of_topic(id, &topic, &error)),
        },
        Action::Authenticate(_) => {
            Err(Refused { id, topic: None, error: "unavailable", reason: "the server takes no tokens".to_owned() })
        }
    }
}

/// Subscribes to several topics. The reply goes out before their messages.
fn subscribe(conn: &Connection, id: Option<u64>, wanted: Vec<Wanted>) {
    let mut outcomes = Vec::with_capacity(wanted.len());
    let mut held = Vec::new();
    for Wanted { topic, since, presence } in wanted {
        let outcome = subscribe_one(conn, &topic, since.as_deref(), presence).map(|(topic, position)| {
            held.push(topic);
            position
        });
        // A name is echoed, so not at any length.
        outcomes.push((topic.chars().take(TopicName::MAX_LEN).collect(), outcome));
    }
    if let Some(reply) = wire::subscribed(id, &outcomes) {
        // If the connection is closed, the next `recv` says so.
        let _ = conn.send(reply);
    }
    for topic in held {
        topic.release(conn.id());
    }
}

fn subscribe_one(
    conn: &Connection,
    topic: &str,
    since: Option<&str>,
    watches: bool,
) -> Result<(Arc<Topic>, Position), TopicError> {
    let shared = conn.shared();
    let subscriptions = shared.observer::<Subscriptions>().ok_or(TopicError::NoTopics)?;
    let name: TopicName = topic.parse()?;
    let since = since.map(str::parse).transpose()?;
    if !subscriptions.hub.may_subscribe(conn.request(), &name) {
        return Err(TopicError::Forbidden);
    }
    subscriptions.subscribe(shared, topic, Terms { format: Format::Json, since, watches })
}

/// Who is subscribed to a topic, as a reply to a request with an id.
fn members(conn: &Connection, topic: &str) -> Result<impl FnOnce(Option<u64>) -> Message, TopicError> {
    let subscriptions = conn.shared().observer::<Subscriptions>().ok_or(TopicError::NoTopics)?;
    let name: TopicName = topic.parse()?;
    if !subscriptions.hub.may_subscribe(conn.request(), &name) {
        return Err(TopicError::Forbidden);
    }
    let members = subscriptions.hub.members(&name)?;
    Ok(move |id| presence::list(id, &name, &members))
}

/// Publishes what a client sends.
fn publish(conn: &Connection, topic: &str, message: Message, key: Option<&str>) -> Result<Published, TopicError> {
    let subscriptions = conn.shared().observer::<Subscriptions>().ok_or(TopicError::NoTopics)?;
    if !subscriptions.hub.may_publish(conn.request(), &topic.parse()?) {
        return Err(TopicError::Forbidden);
    }
    subscriptions.hub.publish(topic, message, key)
}
