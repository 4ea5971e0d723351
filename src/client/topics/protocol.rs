//! The protocol of topics as a client speaks it: which requests are due, what a reply means, what the application is
//! told. A state machine without I/O or clock.
//!
//! Whoever drives it says when a connection [opens](Protocol::opened) and [ends](Protocol::closed), sends the frames
//! that it [gives](Protocol::next_frame), hands in what [arrives](Protocol::received), and takes what
//! [comes of it](Protocol::next_output).
//!
//! Invariants:
//! - Between two messages of a topic there is no gap: each is the one after the position that the application was
//!   given last, or a loss is told. What does not fit is asked for again.
//! - Replies mean something on their own connection only. Whatever had none at its end is due again on the next.
//! - What grows has a bound: bytes of the outbox, messages and requests without a reply.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use crossbeam_channel as channel;

use super::delivery::{Delivery, Start, Subscription};
use super::error::{PublishError, TopicRefusal};
use super::wire::{self, Answer, Incoming, Outcome, Unusable, Wanted};
use crate::message::Message;
use crate::topics::{EARLIEST, InvalidTopic, Position, TopicName};

mod outbox;
#[cfg(test)]
mod tests;

use outbox::Outbox;
pub(super) use outbox::{Limits, Settled};

/// Requests, other than to publish, that may be without a reply at a time.
const MOST_REQUESTS: usize = 64;

/// Topics of one request: its reply names them all.
const MOST_TOPICS: usize = 100;

/// The longest key, in bytes.
const LONGEST_KEY: usize = 128;

/// The whole state of a client of topics.
pub(super) struct Protocol {
    pub(super) limits: Limits,
    /// The number of the open connection. `None` between connections.
    line: Option<u64>,
    last_line: u64,
    feeds: BTreeMap<TopicName, Feed>,
    /// One of them may be due.
    has_due: bool,
    /// Topics that the server still has to be told we have left.
    leaving: BTreeSet<TopicName>,
    /// A token that is to be sent.
    token: Option<String>,
    /// A token has to be asked for again.
    lacks_token: bool,
    /// Requests on this connection that have no reply yet.
    requests: BTreeMap<u64, Request>,
    /// Messages to be published.
    outbox: Outbox,
    /// Something has failed that may succeed later.
    wants_retry: bool,
    last_id: u64,
    outputs: VecDeque<Output>,
    has_ended: bool,
}

/// One subscription.
#[derive(Debug)]
struct Feed {
    start: Start,
    presence: bool,
    phase: Phase,
    /// That of the last message that was given out, or of the place after which the first follows.
    position: Option<Position>,
    /// The same, once the handler has returned.
    taken: Option<Position>,
}

/// How far a subscription is on the open connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It is to be asked for.
    Due,
    /// It is to be asked for at the next retry.
    Later,
    /// The request with this id asks for it.
    Asked(u64),
    /// The server has accepted it.
    Live,
}

#[derive(Debug)]
enum Request {
    Subscribe(Vec<TopicName>),
    Unsubscribe(Vec<TopicName>),
    Authenticate,
}

/// A frame to be sent, and what it was for, in case it cannot be.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) message: Message,
    /// Whether it holds a token.
    #[cfg_attr(not(feature = "deflate"), allow(dead_code, reason = "nothing is compressed"))]
    pub(super) is_secret: bool,
    line: u64,
    id: u64,
}

/// What comes of what has happened.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Output {
    Deliver(Delivery),
    /// The token is about to expire: [`Protocol::authenticate`] wants another.
    TokenExpiring,
    /// A line for the log.
    Warn(String),
}

impl Feed {
    fn since(&self) -> Option<String> {
        match (self.position, self.start) {
            (Some(position), _) | (None, Start::After(position)) => Some(position.to_string()),
            (None, Start::Earliest) => Some(EARLIEST.to_owned()),
            (None, Start::Now) => None,
        }
    }
}

impl Protocol {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            line: None,
            last_line: 0,
            feeds: BTreeMap::new(),
            has_due: false,
            leaving: BTreeSet::new(),
            token: None,
            lacks_token: false,
            requests: BTreeMap::new(),
            outbox: Outbox::new(),
            wants_retry: false,
            last_id: 0,
            outputs: VecDeque::new(),
            has_ended: false,
        }
    }

    // What the application asks for.

    /// Subscribes to a topic, in place of an earlier subscription to it.
    pub(super) fn subscribe(&mut self, subscription: Subscription) -> Result<(), InvalidTopic> {
        let Subscription { topic, start, presence } = subscription;
        let topic: TopicName = topic.parse()?;
        let position = if let Start::After(position) = start { Some(position) } else { None };
        // The request begins a subscription anew by itself.
        self.leaving.remove(&topic);
        self.feeds.insert(topic, Feed { start, presence, phase: Phase::Due, position, taken: position });
        self.has_due = true;
        Ok(())
    }

    pub(super) fn unsubscribe(&mut self, topic: &str) {
        let Some((topic, feed)) = self.feeds.remove_entry(topic) else { return };
        if self.line.is_some() && matches!(feed.phase, Phase::Asked(_) | Phase::Live) {
            self.leaving.insert(topic);
        }
    }

    /// The position of the last message that the application has taken.
    pub(super) fn position(&self, topic: &str) -> Option<Position> {
        self.feeds.get(topic)?.taken
    }

    /// The handler has returned from a delivery.
    pub(super) fn taken(&mut self, topic: &TopicName, position: Position) {
        if let Some(feed) = self.feeds.get_mut(topic).filter(|feed| feed.position == Some(position)) {
            feed.taken = Some(position);
        }
    }

    /// Takes a message to be published. Its outcome comes over the channel.
    pub(super) fn publish(
        &mut self,
        topic: &str,
        message: &Message,
        key: &str,
        now: Instant,
    ) -> Result<(u64, channel::Receiver<Settled>), PublishError> {
        let topic: TopicName = topic.parse().map_err(PublishError::InvalidTopic)?;
        if key.is_empty() || key.len() > LONGEST_KEY {
            return Err(PublishError::InvalidKey);
        }
        if self.has_ended {
            return Err(PublishError::Closed);
        }
        // Before it is written out, which makes it longer.
        if message.len() > self.limits.frame {
            return Err(PublishError::TooLarge);
        }
        let id = self.last_id + 1;
        let frame = Message::from(wire::publish(id, topic.as_str(), message, key));
        let settled = self.outbox.add(id, topic, frame, now, &self.limits)?;
        self.last_id = id;
        Ok((id, settled))
    }

    /// Nobody waits for the outcome any more, and the message is not to be sent any more.
    pub(super) fn forget(&mut self, id: u64) {
        self.outbox.forget(id);
    }

    /// Sends this token before anything else.
    pub(super) fn authenticate(&mut self, token: String) {
        if self.line.is_some() {
            self.token = Some(token);
        }
    }

    /// There was no token to be had: it is asked for again at the next retry.
    pub(super) fn token_failed(&mut self) {
        self.lacks_token = true;
        self.wants_retry = true;
    }

    // Connections.

    /// A connection is open.
    pub(super) fn opened(&mut self) {
        debug_assert!(self.line.is_none(), "one connection at a time");
        self.last_line += 1;
        self.line = Some(self.last_line);
    }

    /// It has ended: what had no reply is due again on the next one.
    pub(super) fn closed(&mut self) {
        self.line = None;
        self.requests.clear();
        self.leaving.clear();
        self.token = None;
        self.lacks_token = false;
        for feed in self.feeds.values_mut() {
            feed.phase = Phase::Due;
        }
        self.has_due = true;
        self.outbox.closed();
        self.wants_retry = false;
    }

    /// There will be no connection any more. Lines for the log are all that may come of it.
    pub(super) fn end(&mut self) {
        self.has_ended = true;
        self.outputs.retain(|output| matches!(output, Output::Warn(_)));
        self.outbox.end();
    }

    /// Whether something is to be tried again after a pause.
    pub(super) fn wants_retry(&self) -> bool {
        self.wants_retry
    }

    /// The pause is over.
    pub(super) fn retry(&mut self) {
        self.wants_retry = false;
        self.outbox.release();
        for feed in self.feeds.values_mut().filter(|feed| feed.phase == Phase::Later) {
            feed.phase = Phase::Due;
        }
        self.has_due = true;
        if std::mem::take(&mut self.lacks_token) {
            self.outputs.push_back(Output::TokenExpiring);
        }
    }

    // What is sent.

    /// The next frame to send. It counts as sent, unless it is [given back](Self::give_back).
    pub(super) fn next_frame(&mut self, now: Instant) -> Option<Frame> {
        let line = self.line?;
        let (id, message) = match self.next_request() {
            Some(request) => request,
            None => self.outbox.next(now)?,
        };
        let is_secret = matches!(self.requests.get(&id), Some(Request::Authenticate));
        Some(Frame { message, is_secret, line, id })
    }

    fn next_request(&mut self) -> Option<(u64, Message)> {
        if self.requests.len() >= MOST_REQUESTS {
            return None;
        }
        let id = self.last_id + 1;
        let (text, request) = if let Some(token) = self.token.take() {
            (wire::authenticate(id, &token), Request::Authenticate)
        } else if !self.leaving.is_empty() {
            let topics: Vec<_> = self.leaving.iter().take(MOST_TOPICS).cloned().collect();
            self.leaving.retain(|topic| !topics.contains(topic));
            let names: Vec<_> = topics.iter().map(TopicName::as_str).collect();
            (wire::unsubscribe(id, &names), Request::Unsubscribe(topics))
        } else if self.has_due {
            let due = self.feeds.iter_mut().filter(|(_, feed)| feed.phase == Phase::Due).take(MOST_TOPICS);
            let (mut topics, mut wanted) = (Vec::new(), Vec::new());
            for (topic, feed) in due {
                feed.phase = Phase::Asked(id);
                wanted.push(Wanted { topic: topic.as_str(), since: feed.since(), presence: feed.presence });
                topics.push(topic.clone());
            }
            if topics.is_empty() {
                self.has_due = false;
                return None;
            }
            (wire::subscribe(id, &wanted), Request::Subscribe(topics))
        } else {
            return None;
        };
        self.last_id = id;
        self.requests.insert(id, request);
        Some((id, text.into()))
    }

    /// A frame was not sent: the connection has no room for it now, or has ended.
    pub(super) fn give_back(&mut self, frame: &Frame) {
        let Frame { line, id, .. } = *frame;
        // If that connection has ended, all is due again already.
        if self.line != Some(line) {
            return;
        }
        match self.requests.remove(&id) {
            Some(Request::Subscribe(_)) => {
                for feed in self.feeds.values_mut().filter(|feed| feed.phase == Phase::Asked(id)) {
                    feed.phase = Phase::Due;
                }
                self.has_due = true;
            }
            Some(Request::Unsubscribe(topics)) => {
                let left = topics.into_iter().filter(|topic| !self.feeds.contains_key(topic));
                self.leaving.extend(left);
            }
            // It is asked for anew rather than kept.
            Some(Request::Authenticate) => self.token_failed(),
            None => self.outbox.give_back(id),
        }
    }

    // What arrives.

    /// The next thing for the driver to do.
    pub(super) fn next_output(&mut self) -> Option<Output> {
        self.outputs.pop_front().or_else(|| self.outbox.take_unheard().map(Output::Warn))
    }

    /// The server has sent a message over the open connection.
    pub(super) fn received(&mut self, message: &Message) {
        match Incoming::parse(message) {
            Ok(Incoming::Message { topic, position, message, only_here: true }) => {
                if let Some((topic, _)) = self.live(&topic) {
                    self.deliver(Delivery::Message { topic, message, position });
                }
            }
            Ok(Incoming::Message { topic, position, message, .. }) => self.on_message(&topic, position, message),
            Ok(Incoming::Lost { topic, position }) => self.on_lost(&topic, position),
            Ok(Incoming::Subscribed { id, topics }) => self.on_subscribed(id, topics),
            Ok(Incoming::Published { id, published }) => self.outbox.replied(id, Ok(published)),
            Ok(Incoming::Presence { topic, presence }) => {
                if let Some((topic, _)) = self.live(&topic).filter(|(_, feed)| feed.presence) {
                    self.deliver(Delivery::Presence { topic, presence });
                }
            }
            Ok(Incoming::Error { id, topic, error, reason }) => {
                self.on_error(id, topic.as_deref(), TopicRefusal::new(error, reason));
            }
            Ok(Incoming::Done { id }) => _ = self.requests.remove(&id),
            Ok(Incoming::Expiring) => self.outputs.push_back(Output::TokenExpiring),
            Ok(Incoming::Other) => {}
            Err(unusable) => self.on_unusable(unusable),
        }
    }

    /// A subscription that the server has accepted on this connection.
    fn live(&mut self, topic: &str) -> Option<(TopicName, &mut Feed)> {
        let (name, _) = self.feeds.get_key_value(topic)?;
        let name = name.clone();
        self.feeds.get_mut(topic).filter(|feed| feed.phase == Phase::Live).map(|feed| (name, feed))
    }

    /// Messages before the reply to a subscription belong to an earlier one, and come again.
    fn on_message(&mut self, topic: &str, position: Position, message: Message) {
        let Some((topic, feed)) = self.live(topic) else { return };
        let last = feed.position;
        let step = last
            .filter(|last| last.is_comparable_to(&position))
            .map(|last| (position.offset() > last.offset()).then(|| position.offset() - last.offset()));
        match step {
            Some(Some(1)) => {
                feed.position = Some(position);
                self.deliver(Delivery::Message { topic, message, position });
            }
            // It was given out before.
            Some(None) => {}
            _ => {
                let last = last.map_or("nothing".to_owned(), |last| last.to_string());
                self.ask_again(&topic, &format!("a message at {position} follows {last}"));
            }
        }
    }

    fn on_lost(&mut self, topic: &str, position: Position) {
        if let Some((topic, feed)) = self.live(topic) {
            feed.position = Some(position);
            self.deliver(Delivery::Lost { topic, position });
        }
    }

    fn on_subscribed(&mut self, id: u64, answers: Vec<Answer>) {
        let Some(Request::Subscribe(topics)) = self.requests.remove(&id) else { return };
        let mut answers: BTreeMap<String, Outcome> =
            answers.into_iter().map(|Answer { topic, outcome }| (topic, outcome)).collect();
        for topic in topics {
            // Others were subscribed to anew meanwhile, or left.
            let Some(feed) = self.feeds.get_mut(&topic).filter(|feed| feed.phase == Phase::Asked(id)) else { continue };
            match answers.remove(topic.as_str()) {
                Some(Outcome::Accepted { position, since }) => {
                    feed.phase = Phase::Live;
                    let begins_after = *feed.position.get_or_insert(since.unwrap_or(position));
                    feed.taken.get_or_insert(begins_after);
                    self.deliver(Delivery::Subscribed { topic, position });
                }
                Some(Outcome::Refused { error, reason }) => self.refused(topic, TopicRefusal::new(error, reason)),
                None => self.ask_again(&topic, "the server did not say whether it is subscribed to"),
            }
        }
    }

    fn on_error(&mut self, id: Option<u64>, topic: Option<&str>, refusal: TopicRefusal) {
        let Some(id) = id else {
            // It is about no request: a new token does not allow the topic any more.
            match topic.and_then(|topic| self.live(topic)) {
                Some((topic, _)) => self.refused(topic, refusal),
                None => self.warn(format!("the server reports an error: {refusal}")),
            }
            return;
        };
        match self.requests.remove(&id) {
            Some(Request::Subscribe(topics)) => {
                for topic in topics {
                    if self.feeds.get(&topic).is_some_and(|feed| feed.phase == Phase::Asked(id)) {
                        self.refused(topic, refusal.clone());
                    }
                }
            }
            Some(Request::Unsubscribe(_)) => self.warn(format!("unsubscribing failed: {refusal}")),
            Some(Request::Authenticate) => {
                self.warn(format!("the server refused the new token: {refusal}"));
                self.token_failed();
            }
            None if refusal.code() == "unavailable" => self.publish_later(id, &refusal),
            None => self.outbox.replied(id, Err(PublishError::Refused(refusal))),
        }
    }

    /// The server cannot take a message now.
    fn publish_later(&mut self, id: u64, refusal: &TopicRefusal) {
        let Some(is_news) = self.outbox.hold(id) else { return };
        self.wants_retry = true;
        if is_news {
            self.warn(format!("publishing later: {refusal}"));
        }
    }

    /// The server does not accept a subscription, or ends it.
    fn refused(&mut self, topic: TopicName, refusal: TopicRefusal) {
        if refusal.code() == "unavailable" {
            return self.ask_again(&topic, &refusal.to_string());
        }
        self.feeds.remove(&topic);
        self.deliver(Delivery::Refused { topic, refusal });
    }

    fn on_unusable(&mut self, Unusable { topic, why }: Unusable) {
        match topic.and_then(|topic| self.live(&topic).map(|(topic, _)| topic)) {
            // It may have been a message.
            Some(topic) => self.ask_again(&topic, &why),
            None => self.warn(format!("the server sent what cannot be used: {why}")),
        }
    }

    /// Subscribes to a topic once more, later, from where the application is.
    fn ask_again(&mut self, topic: &TopicName, why: &str) {
        if let Some(feed) = self.feeds.get_mut(topic) {
            feed.phase = Phase::Later;
            self.wants_retry = true;
            self.warn(format!("subscribing to {topic} again later: {why}"));
        }
    }

    fn deliver(&mut self, delivery: Delivery) {
        self.outputs.push_back(Output::Deliver(delivery));
    }

    fn warn(&mut self, line: String) {
        self.outputs.push_back(Output::Warn(line));
    }
}
