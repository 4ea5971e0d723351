//! What a client may subscribe and publish to: by its token, by the application's functions, or by default.
//!
//! Invariants:
//! - Where tokens are taken, nothing is allowed that the client's token does not grant.
//! - What the application's function cannot say, because it panics, is a refusal.

use std::fmt;
use std::sync::Arc;

use super::name::TopicName;
use super::permit::Permit;
#[cfg(feature = "jwt")]
use super::publish_keys::PublishKeys;
#[cfg(feature = "jwt")]
use super::token::{TokenError, TokenVerifier};
#[cfg(feature = "jwt")]
use super::token_places::TokenPlaces;
use crate::foreign;
use crate::http::request::Request;
use crate::logging::Log;

/// Allows a client a topic.
pub(super) type Allow = Arc<dyn Fn(&Request, &TopicName) -> bool + Send + Sync>;

#[derive(Clone, Default)]
pub(crate) struct Access {
    pub(super) on_subscribe: Option<Allow>,
    pub(super) on_publish: Option<Allow>,
    #[cfg(feature = "jwt")]
    pub(super) tokens: Option<Arc<Tokens>>,
    /// The keys of those who may publish and read everything by HTTP.
    #[cfg(feature = "jwt")]
    pub(super) publish_keys: Option<Arc<PublishKeys>>,
}

/// The tokens that are taken.
#[cfg(feature = "jwt")]
#[derive(Debug)]
pub(crate) struct Tokens {
    pub(super) verifier: TokenVerifier,
    pub(super) places: TokenPlaces,
}

/// A client that asks for something: what it has said of itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Applicant<'a> {
    pub(crate) request: &'a Request,
    /// The user that its connection belongs to.
    pub(crate) user: Option<&'a str>,
    pub(crate) permit: Option<&'a Permit>,
}

impl Access {
    /// Whether a client may subscribe to a topic.
    pub(super) fn may_subscribe(&self, applicant: Applicant<'_>, topic: &TopicName, log: &Log) -> bool {
        if self.takes_tokens() && !applicant.permit.is_some_and(|permit| permit.grants.may_subscribe(topic)) {
            return false;
        }
        match &self.on_subscribe {
            Some(allow) => ask("on_subscribe", allow, applicant.request, topic, log),
            None => self.takes_tokens() || !topic.is_for_a_user() || topic.is_for(applicant.user),
        }
    }

    /// Whether a client may publish to a topic.
    pub(super) fn may_publish(&self, applicant: Applicant<'_>, topic: &TopicName, log: &Log) -> bool {
        if self.takes_tokens() && !applicant.permit.is_some_and(|permit| permit.grants.may_publish(topic)) {
            return false;
        }
        match &self.on_publish {
            Some(allow) => ask("on_publish", allow, applicant.request, topic, log),
            None => self.takes_tokens(),
        }
    }

    #[cfg(feature = "jwt")]
    pub(super) fn takes_tokens(&self) -> bool {
        self.tokens.is_some()
    }

    #[cfg(not(feature = "jwt"))]
    #[allow(clippy::unused_self, reason = "there are none")]
    pub(super) fn takes_tokens(&self) -> bool {
        false
    }
}

#[cfg(feature = "jwt")]
impl Tokens {
    /// What a token permits from now on.
    pub(super) fn permit(&self, token: &str) -> Result<Permit, TokenError> {
        let valid = self.verifier.verify(token, std::time::SystemTime::now())?;
        Ok(Permit::new(valid.grants, valid.valid_for, std::time::Instant::now()))
    }
}

fn ask(name: &str, allow: &Allow, request: &Request, topic: &TopicName, log: &Log) -> bool {
    foreign::call(|| allow(request, topic)).unwrap_or_else(|message| {
        log.error(format_args!("{}: {name} panicked: {message}; {topic} is refused", request.remote()));
        false
    })
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (subscribe, publish) = (self.on_subscribe.is_some(), self.on_publish.is_some());
        f.debug_struct("Access").field("on_subscribe", &subscribe).field("on_publish", &publish).finish_non_exhaustive()
    }
}
