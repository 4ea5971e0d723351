//! The topics of a server: its setting, what a handle may do with them, and which connections are served by them
//! instead of the application's handler.

mod http;

use std::mem;
use std::sync::Arc;

use percent_encoding::percent_decode_str;

use super::Server;
use super::accept::{Accept, TEXT_HEARTBEAT};
use super::exchange::Exchange;
use super::handle::ServerHandle;
use crate::connection::Connection;
use crate::connection::user::UserName;
use crate::error::Error;
use crate::http::request::Request;
use crate::http::response::{Refusal, Response};
use crate::message::Message;
#[cfg(feature = "jwt")]
use crate::topics::TokenPlaces;
use crate::topics::access::{Applicant, Operation};
use crate::topics::counters::Way;
use crate::topics::hub::Hub;
use crate::topics::permit::Permit;
use crate::topics::subscriptions::Subscriptions;
use crate::topics::{InvalidTopic, Published, SUBPROTOCOL, TopicError, TopicInfo, TopicName, Topics, session};

/// Where single topics are to be had without any subprotocol.
const PATH: &str = "/topics/";

/// Topics.
impl Server {
    /// Gives the server [`Topics`]: handlers may [subscribe](Connection::subscribe), and any thread may
    /// [publish](ServerHandle::publish). Default: none. Of several calls the first counts.
    ///
    /// Clients may subscribe and publish by themselves, as far as [`on_subscribe`](Topics::on_subscribe) and
    /// [`on_publish`](Topics::on_publish) allow it. A client that offers the subprotocol `heartwire.topics.v1` is
    /// served by the library, and not by the application's handler, unless `on_handshake` chooses another subprotocol.
    /// So is a client of a path such as `/topics/news`, which gets the bare messages of that topic.
    /// [`on_handshake`](Self::on_handshake) is asked for both as for every client.
    ///
    /// Over plain HTTP, `POST /topics/NAME` publishes the body and answers with the position as JSON. `GET` gives the
    /// history, with `?since=POSITION` what follows, at most 1,000 messages and some 1 MiB at a time, and `GET
    /// /topics/NAME/presence` who is subscribed. That is for programs on the server's own machine, or for whoever has a
    /// [key](Topics::publish_keys) or a [token](Topics::tokens), or whom an [authorization
    /// service](Topics::auth_service) lets. `on_subscribe` and `on_publish` are asked about the latter two only. A
    /// message may be as long as [`max_request_body`](Self::max_request_body) says. What is wrong is told in JSON, also
    /// if it is the request.
    pub fn topics(mut self, topics: Topics) -> Self {
        #[cfg(feature = "jwt")]
        if topics.has_tokens_in_queries() {
            self = self.redact_query(TokenPlaces::PARAMETER);
        }
        let hub = self.topics.get_or_init(|| Arc::new(Hub::new(topics, Arc::clone(&self.supervisor))));
        let hub = Arc::clone(hub);
        let answer = move |request: &Request| http::answer(&hub, request);
        self.config.routes.add_resource(PATH, http::METHODS, answer, http::in_json);
        self
    }
}

/// Topics.
impl ServerHandle {
    /// Publishes a message to a topic. Each subscriber gets it before the call returns, if its socket takes it now.
    ///
    /// Messages of one topic are in one order for all subscribers, the order of the calls. A subscriber that is slow
    /// delays nobody. Before the server serves, and after its end, the message goes to the history, unless
    /// that is [saved](Topics::saved_at) at the end.
    ///
    /// # Errors
    /// [`TopicError::InvalidName`], [`TopicError::TooManyTopics`], [`TopicError::Closed`] once the topics of a server
    /// that has ended are saved, or [`TopicError::NoTopics`] if the server has no [topics](Server::topics).
    pub fn publish(&self, topic: &str, message: impl Into<Message>) -> Result<Published, TopicError> {
        self.hub()?.publish(topic, message.into(), None, Way::Application)
    }

    /// Like [`publish`](Self::publish), with a key of 1 to 128 bytes. Publishing again with the same key within the
    /// [window](Topics::key_window) publishes nothing, and gives the position of the first time.
    ///
    /// # Errors
    /// As [`publish`](Self::publish), and [`TopicError::InvalidKey`].
    pub fn publish_once(&self, topic: &str, message: impl Into<Message>, key: &str) -> Result<Published, TopicError> {
        self.hub()?.publish(topic, message.into(), Some(key), Way::Application)
    }

    /// All topics, in the order of their names. Empty on a server without topics.
    pub fn topics(&self) -> Vec<TopicInfo> {
        let mut infos: Vec<_> = self.topics.get().map(|hub| hub.infos()).unwrap_or_default();
        infos.sort_unstable_by(|(one, _), (other, _)| one.name.cmp(&other.name));
        infos.into_iter().map(|(info, _)| info).collect()
    }

    /// How it is with the [backplane](Topics::backplane) of the topics. `None` without one.
    #[cfg(feature = "redis")]
    pub fn backplane(&self) -> Option<crate::topics::BackplaneInfo> {
        self.topics.get().and_then(|hub| hub.backplane_info())
    }

    /// All servers that share the topics by a [backplane](Topics::backplane), this one first, and the others as they
    /// were last heard of. Empty without one.
    #[cfg(feature = "redis")]
    pub fn nodes(&self) -> Vec<crate::topics::NodeInfo> {
        self.topics.get().map(|hub| hub.node_infos()).unwrap_or_default()
    }

    /// The last eight servers that have shared the topics and no longer do, those that went last first. Empty without a
    /// [backplane](Topics::backplane).
    #[cfg(feature = "redis")]
    pub fn former_nodes(&self) -> Vec<crate::topics::FormerNode> {
        self.topics.get().map(|hub| hub.former_nodes()).unwrap_or_default()
    }

    fn hub(&self) -> Result<&Arc<Hub>, TopicError> {
        self.topics.get().ok_or(TopicError::NoTopics)
    }
}

/// The opening handshake.
impl Exchange<'_> {
    /// Chooses the subprotocol of topics for a client that offers it, and refuses a client of a topic's path that may
    /// not subscribe to it.
    #[inline(never)]
    pub(super) fn check_topic(&self, request: &Request, accept: &mut Accept) -> Result<(), Box<Refusal>> {
        let Some(hub) = &self.config.topics else { return Ok(()) };
        if accept.subprotocol.is_none() && request.subprotocols().any(|offered| offered == SUBPROTOCOL) {
            accept.subprotocol = Some(SUBPROTOCOL.to_owned());
        }
        // A broadcast is no text of that subprotocol.
        accept.takes_broadcasts &= !accept.has_topics();
        let topic = topic_of_path(request.path()).transpose().map_err(|error| {
            hub.note_refusal(TopicError::InvalidName(error).name());
            Refusal::new(Response::new(404).text(format!("{error}\n")), "the path names no topic")
        })?;
        if !accept.has_topics() && (!is_bare(accept.subprotocol.as_deref()) || topic.is_none()) {
            return Ok(());
        }
        let permit = self.permit(hub, request)?;
        if let (None, Some(user)) = (&accept.user, permit.as_ref().and_then(Permit::user)) {
            *accept = mem::take(accept).user(user);
        }
        let user = accept.user_name().ok().flatten();
        let applicant = Applicant { request, user: user.as_ref().map(UserName::as_str), permit: permit.as_ref() };
        if let Some(topic) = topic.filter(|_| !accept.has_topics()) {
            let checked = hub.check(applicant, Operation::Subscribe, &topic);
            checked.inspect_err(|error| hub.note_refusal(error.name())).map_err(not_now_or_never)?;
        }
        if let Some(permit) = permit {
            *accept = mem::take(accept).extension(permit);
        }
        Ok(())
    }

    /// What the token in the request permits, if there is one, or what an authorization service says of the client.
    #[cfg(any(feature = "auth-url", feature = "jwt"))]
    fn permit(&self, hub: &Hub, request: &Request) -> Result<Option<Permit>, Box<Refusal>> {
        hub.permit_of(request, Some(self.deadline)).inspect_err(|refusal| {
            hub.note_refusal(if refusal.response.status() == 503 { "unavailable" } else { "bad-token" });
        })
    }

    #[cfg(not(any(feature = "auth-url", feature = "jwt")))]
    #[allow(clippy::unnecessary_wraps, clippy::unused_self, reason = "nothing permits")]
    fn permit(&self, _: &Hub, _: &Request) -> Result<Option<Permit>, Box<Refusal>> {
        Ok(None)
    }
}

/// The refusal of a client that may not subscribe to the topic of its path.
fn not_now_or_never(error: TopicError) -> Box<Refusal> {
    let response = match error {
        TopicError::Unavailable => Response::new(503).header("Retry-After", "5"),
        _ => Response::new(403),
    };
    Refusal::new(response.text(format!("{error}\n")), format!("topic refused: {error}"))
}

/// Handles a connection, if it is one that topics are for. All others may be subscribed by the application's handler.
pub(super) fn handle(hub: &Arc<Hub>, connection: &mut Connection) -> Option<Result<(), Error>> {
    Subscriptions::observe(hub, connection);
    if connection.subprotocol() == Some(SUBPROTOCOL) {
        return Some(session::serve(connection));
    }
    let topic = topic_of_path(connection.path()).filter(|_| is_bare(connection.subprotocol()))?.ok()?;
    Some(session::serve_bare(connection, &topic))
}

/// Whether a client of a topic's path is one for bare messages: with no subprotocol but that of the heartbeat as text.
fn is_bare(subprotocol: Option<&str>) -> bool {
    subprotocol.is_none_or(|subprotocol| subprotocol == TEXT_HEARTBEAT)
}

/// The topic of a path such as `/topics/news`.
fn topic_of_path(path: &str) -> Option<Result<TopicName, InvalidTopic>> {
    path.strip_prefix(PATH).map(decoded)
}

/// A name that is percent-encoded (RFC 3986 section 2.1).
fn decoded(encoded: &str) -> Result<TopicName, InvalidTopic> {
    // What is not UTF-8 has a character that no name has.
    percent_decode_str(encoded).decode_utf8().unwrap_or("\u{0}".into()).parse()
}
