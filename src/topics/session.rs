//! Serves a client of the subprotocol `heartwire.topics.v1`, in place of the application's handler. And a client of a
//! path such as `/topics/news`, which gets and sends bare messages of that topic.
//!
//! Invariants:
//! - Each request is answered before the next is read, and before the first message that it asks for. Where several
//!   servers share the topics, the reply to a publication follows later.
//! - A request that is refused costs nothing but an answer, up to a number of refusals a minute.
//! - A client whose permit has expired is closed, whatever it reads or sends.
//!
//! The steps of a request are not inlined into one another: a page of the stack that a request has used once stays
//! resident while its client is idle.

use std::sync::Arc;
use std::time::{Duration, Instant};

#[cfg(feature = "redis")]
use super::Published;
use super::TopicError;
use super::access::{Applicant, NoPermit, Operation};
use super::counters::Way;
use super::entry::Format;
use super::hub::Hub;
use super::name::TopicName;
use super::permit::{Due, EXPIRED, Permit};
use super::presence;
use super::subscriptions::{Since, Standing, Subscriptions, Terms};
use super::topic::Topic;
use super::wire::{self, Action, Publication, Refused, Request, Wanted};
use crate::connection::Connection;
use crate::error::{Error, TrySendError};
use crate::message::{Message, Text};
use crate::protocol::close::CloseCode;

/// A client that is refused more often than so many times in such a period is sent away.
const MOST_REFUSALS: u32 = 100;
const REFUSAL_PERIOD: Duration = Duration::from_secs(60);

/// The error of what the server cannot do now.
const UNAVAILABLE: &str = "unavailable";

/// Serves a client of the subprotocol until its connection ends.
#[inline(never)]
pub(crate) fn serve(conn: &mut Connection) -> Result<(), Error> {
    Session::new(conn).run()
}

/// Serves a client of one topic's path until its connection ends.
#[inline(never)]
pub(crate) fn serve_bare(conn: &mut Connection, topic: &TopicName) -> Result<(), Error> {
    let subscribed = conn.subscribe(topic.as_str());
    let mut session = Session::new(conn);
    if let Err(error) = subscribed {
        session.note_refusal(error.name());
        return session.conn.close(CloseCode::TRY_AGAIN_LATER, &error.to_string());
    }
    loop {
        let Some(message) = session.receive()? else { return session.expire() };
        let Err(error) = session.publish_bare(topic.as_str(), message) else { continue };
        session.note_refusal(error.name());
        let (code, reason) = bare_ending(error, "publishing is not allowed");
        return session.conn.close(code, &reason);
    }
}

/// How the connection of a client ends that has no other way to hear of this.
fn bare_ending(error: TopicError, forbidden: &str) -> (CloseCode, String) {
    match error {
        TopicError::Forbidden => (CloseCode::POLICY, forbidden.to_owned()),
        error => (CloseCode::TRY_AGAIN_LATER, error.to_string()),
    }
}

struct Session<'a> {
    conn: &'a mut Connection,
    permit: Option<Permit>,
    /// Whether the client was warned that the permit expires.
    is_warned: bool,
    refusals: Refusals,
}

struct Refusals {
    count: u32,
    since: Instant,
}

impl Refusals {
    fn note(&mut self) {
        let now = Instant::now();
        if now.saturating_duration_since(self.since) >= REFUSAL_PERIOD {
            *self = Self { count: 0, since: now };
        }
        self.count += 1;
    }

    fn are_too_many(&self) -> bool {
        self.count > MOST_REFUSALS
    }
}

impl<'a> Session<'a> {
    fn new(conn: &'a mut Connection) -> Self {
        let permit = conn.extension::<Permit>().cloned();
        Self { conn, permit, is_warned: false, refusals: Refusals { count: 0, since: Instant::now() } }
    }

    fn run(mut self) -> Result<(), Error> {
        loop {
            let Some(message) = self.receive()? else { return self.expire() };
            if !self.answer(&message)? {
                return self.expire();
            }
            if self.refusals.are_too_many() {
                return self.conn.close(CloseCode::POLICY, "too many requests that were refused");
            }
        }
    }

    /// Does what a message asks for, and replies. `false` if the permit has expired meanwhile.
    #[inline(never)]
    fn answer(&mut self, message: &Message) -> Result<bool, Error> {
        let mut held = Vec::new();
        let outcome = Request::parse(message).and_then(|request| self.serve(request, &mut held));
        let reply = outcome.unwrap_or_else(|refused| {
            self.note_refusal(refused.error);
            Some(Text::from(&refused).into())
        });
        let replied = reply.map_or(Ok(true), |reply| self.reply(reply));
        for topic in held {
            topic.release(self.conn.id());
        }
        replied
    }

    /// The client was refused something.
    fn note_refusal(&mut self, error: &str) {
        // What cannot be done now is no fault of the client's: it is to try again.
        if error != UNAVAILABLE {
            self.refusals.note();
        }
        if let Ok(subscriptions) = self.subscriptions() {
            subscriptions.hub.note_refusal(error);
        }
    }

    // Time.

    /// The next message. `None` if the permit has expired. Before that, whoever gave it is asked for more time, and if
    /// there is none, a client of the subprotocol is warned.
    fn receive(&mut self) -> Result<Option<Message>, Error> {
        loop {
            let due = self.permit.as_mut().map_or(Due::Nothing(None), |permit| permit.due(Instant::now()));
            let until = match due {
                Due::Expired => return Ok(None),
                Due::Nothing(until) => until,
                Due::Warning => {
                    if !self.renew() && !std::mem::replace(&mut self.is_warned, true) {
                        self.warn()?;
                    }
                    continue;
                }
            };
            let received = match until {
                None => Some(self.conn.recv()?),
                Some(until) => self.conn.recv_timeout(until.saturating_duration_since(Instant::now()))?,
            };
            if received.is_some() {
                return Ok(received);
            }
        }
    }

    /// Sends a reply. A client that does not take it until its permit has expired does not get it: `false`.
    fn reply(&mut self, reply: Message) -> Result<bool, Error> {
        let Some(until) = self.permit.as_ref().and_then(Permit::until) else {
            return self.conn.feed(reply).map(|()| true);
        };
        match self.conn.sender().send_timeout(reply, until.saturating_duration_since(Instant::now())) {
            Ok(()) => Ok(true),
            Err(TrySendError::Full(_)) => Ok(false),
            // The next `recv` says why.
            Err(TrySendError::Closed(_)) => Ok(true),
        }
    }

    /// Warns a client of the subprotocol that its permit expires.
    fn warn(&mut self) -> Result<(), Error> {
        let left = self.permit.as_ref().and_then(|permit| permit.remaining(Instant::now()));
        match left.filter(|_| self.conn.subprotocol() == Some(super::SUBPROTOCOL)) {
            // Should it not be taken in time, the permit has expired, which the next look at it finds.
            Some(left) => self.reply(wire::expiring(left)).map(drop),
            None => Ok(()),
        }
    }

    fn expire(self) -> Result<(), Error> {
        self.conn.close(EXPIRED, "the token has expired")
    }

    /// Asks an authorization service for more time, if one gave the permit. Whether there is more.
    #[cfg(feature = "auth-url")]
    fn renew(&mut self) -> bool {
        let Ok(subscriptions) = self.subscriptions() else { return false };
        let Some(permit) = &self.permit else { return false };
        let Some(answer) = subscriptions.hub.renewed(self.conn.request(), permit) else { return false };
        let is_given = self.permit.as_mut().is_some_and(|permit| permit.renew(answer));
        if is_given {
            self.permit_has_changed();
        }
        is_given
    }

    #[cfg(not(feature = "auth-url"))]
    #[allow(clippy::unused_self, reason = "nobody can be asked")]
    fn renew(&mut self) -> bool {
        false
    }

    // Requests.

    /// Does what a request asks for. Returns the reply that is to be sent, before the messages of topics that are
    /// `held`.
    #[inline(always)]
    fn serve(&mut self, request: Request, held: &mut Vec<Arc<Topic>>) -> Result<Option<Message>, Refused> {
        let Request { id, action } = request;
        match action {
            Action::Subscribe(wanted) => Ok(self.subscribe(id, wanted, held)),
            Action::Unsubscribe(topics) => {
                for topic in &topics {
                    self.conn.unsubscribe(topic);
                }
                Ok(wire::unsubscribed(id, &topics))
            }
            Action::Publish(publication) => self.publish_and_reply(id, publication),
            Action::Presence(topic) => match self.members(&topic) {
                Ok((name, members)) => Ok(Some(presence::list(id, &name, &members))),
                Err(error) => Err(Refused::of_topic(id, &topic, &error)),
            },
            Action::Authenticate(token) => self.authenticate(id, &token),
        }
    }

    /// Subscribes to several topics, which are held until the reply is sent.
    #[inline(never)]
    fn subscribe(&mut self, id: Option<u64>, wanted: Vec<Wanted>, held: &mut Vec<Arc<Topic>>) -> Option<Message> {
        let mut outcomes = Vec::with_capacity(wanted.len());
        for Wanted { topic, since, presence } in wanted {
            let outcome = self.subscribe_to(&topic, since.as_deref(), presence).map(|(topic, standing)| {
                held.push(topic);
                standing
            });
            let error = outcome.as_ref().err().copied();
            if let (Some(error), None) = (&error, id) {
                // There is no reply to say so in. If this is not sent, the next `receive` says why.
                let _ = self.reply(Text::from(&Refused::of_topic(None, &topic, error)).into());
            }
            outcomes.push((wire::shortened(&topic), outcome));
            if let Some(error) = error {
                self.note_refusal(error.name());
            }
            // The connection is about to be closed: what else the client wants is not tried.
            if self.refusals.are_too_many() || self.has_expired() {
                break;
            }
        }
        wire::subscribed(id, &outcomes)
    }

    #[inline(never)]
    fn subscribe_to(
        &self,
        topic: &str,
        since: Option<&str>,
        watches: bool,
    ) -> Result<(Arc<Topic>, Standing), TopicError> {
        let name: TopicName = topic.parse()?;
        let since = match since {
            None => Since::Now,
            Some(wire::EARLIEST) => Since::Earliest,
            Some(position) => Since::Position(position.parse()?),
        };
        let subscriptions = self.subscriptions()?;
        subscriptions.hub.check(self.applicant(), Operation::Subscribe, &name)?;
        subscriptions.subscribe(self.conn.shared(), topic, Terms { format: Format::Json, since, watches })
    }

    /// Publishes a message. If others have the topics too, the reply follows once it is known.
    #[inline(never)]
    fn publish_and_reply(&self, id: Option<u64>, publication: Publication) -> Result<Option<Message>, Refused> {
        let Publication { topic, message, key } = publication;
        let refused = |error| Refused::of_topic(id, &topic, &error);
        let hub = self.hub_to_publish_by(&topic).map_err(refused)?;
        #[cfg(feature = "redis")]
        if hub.is_shared() {
            let (sender, answered) = (self.conn.sender(), topic.clone());
            let answer = move |outcome| {
                let reply = match outcome {
                    Ok(published) => wire::published(id, &answered, published),
                    Err(error) => Some(Text::from(&Refused::of_topic(id, &answered, &error)).into()),
                };
                if let Some(Err(TrySendError::Full(_))) = reply.map(|reply| sender.try_send(reply)) {
                    // It fails only if the connection is closing already.
                    let _ = sender.close(CloseCode::TRY_AGAIN_LATER, "replies are not taken");
                }
            };
            hub.publish_later(&topic, message, key, Way::Subprotocol, Box::new(answer)).map_err(refused)?;
            return Ok(None);
        }
        let published = hub.publish(&topic, message, key.as_deref(), Way::Subprotocol).map_err(refused)?;
        Ok(wire::published(id, &topic, published))
    }

    /// Publishes a message of a client that has no way to hear what became of it but by the end of its connection.
    fn publish_bare(&self, topic: &str, message: Message) -> Result<(), TopicError> {
        let hub = self.hub_to_publish_by(topic)?;
        #[cfg(feature = "redis")]
        if hub.is_shared() {
            let sender = self.conn.sender();
            let answer = move |outcome: Result<Published, TopicError>| {
                if let Err(error) = outcome {
                    // It fails only if the connection is closing already.
                    let _ = sender.close(CloseCode::TRY_AGAIN_LATER, &error.to_string());
                }
            };
            return hub.publish_later(topic, message, None, Way::Path, Box::new(answer));
        }
        hub.publish(topic, message, None, Way::Path).map(drop)
    }

    /// The topics, if the client may publish to this one.
    fn hub_to_publish_by(&self, topic: &str) -> Result<&Arc<Hub>, TopicError> {
        let hub = &self.subscriptions()?.hub;
        hub.check(self.applicant(), Operation::Publish, &topic.parse()?)?;
        Ok(hub)
    }

    /// Who is subscribed to a topic.
    fn members(&self, topic: &str) -> Result<(TopicName, Vec<String>), TopicError> {
        let (name, hub): (TopicName, &Arc<Hub>) = (topic.parse()?, &self.subscriptions()?.hub);
        hub.check(self.applicant(), Operation::Subscribe, &name)?;
        let members = hub.members(&name)?;
        Ok((name, members))
    }

    /// Takes a token in place of the one before it. Subscriptions that it does not grant end.
    #[inline(never)]
    fn authenticate(&mut self, id: Option<u64>, token: &str) -> Result<Option<Message>, Refused> {
        let refused = |error, reason: &str| Err(Refused { id, topic: None, error, reason: reason.to_owned() });
        let Ok(subscriptions) = self.subscriptions() else { return refused(UNAVAILABLE, "the server has no topics") };
        let hub = Arc::clone(&subscriptions.hub);
        let permit = match hub.permit_by(self.conn.request(), token) {
            Ok(permit) => permit,
            #[cfg(any(feature = "auth-url", feature = "jwt"))]
            Err(NoPermit::Refused(why)) => {
                let connection = self.conn.shared().identity;
                hub.common.supervisor.log.info(format_args!("{connection} sent a token that is refused: {why}"));
                return refused("bad-token", "the token is refused");
            }
            #[cfg(feature = "auth-url")]
            Err(NoPermit::Unavailable) => {
                return refused(UNAVAILABLE, "nobody can say now whether the token is good");
            }
            Err(NoPermit::NotTaken) => return refused("no-tokens", "the server takes no tokens"),
        };
        if let (Some(user), Some(other)) = (self.conn.user(), permit.grants.user())
            && user != other
        {
            return refused("bad-token", "the token is that of another user");
        }
        let (user, remaining) = (permit.grants.user().map(str::to_owned), permit.remaining(Instant::now()));
        self.permit = Some(permit);
        self.permit_has_changed();
        Ok(wire::authenticated(id, user.as_deref(), remaining))
    }

    /// A permit has taken the place of another. Subscriptions that it does not allow end, and so does the connection of
    /// a client that has no other way to hear of that.
    fn permit_has_changed(&mut self) {
        self.is_warned = false;
        let Ok(subscriptions) = self.subscriptions() else { return };
        let (hub, topics) = (Arc::clone(&subscriptions.hub), subscriptions.names());
        for topic in topics {
            // Each question may take as long as the service does, and what is not asked in time ends with the permit.
            if self.has_expired() {
                return;
            }
            let Err(error) = hub.check(self.applicant(), Operation::Subscribe, &topic) else { continue };
            self.conn.unsubscribe(topic.as_str());
            if self.conn.subprotocol() == Some(super::SUBPROTOCOL) {
                let _ = self.reply(Text::from(&Refused::of_topic(None, topic.as_str(), &error)).into());
            } else {
                let (code, reason) = bare_ending(error, "subscribing is not allowed any more");
                // The next `recv` says that it is over.
                let _ = self.conn.sender().close(code, &reason);
            }
        }
    }

    fn has_expired(&self) -> bool {
        self.permit.as_ref().and_then(Permit::until).is_some_and(|until| until <= Instant::now())
    }

    fn subscriptions(&self) -> Result<&Subscriptions, TopicError> {
        self.conn.shared().observer::<Subscriptions>().ok_or(TopicError::NoTopics)
    }

    fn applicant(&self) -> Applicant<'_> {
        Applicant { request: self.conn.request(), user: self.conn.user(), permit: self.permit.as_ref() }
    }
}
