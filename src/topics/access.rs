//! What a client may subscribe and publish to: by its token, by an authorization service, by the application's
//! functions, or by default.
//!
//! Invariants:
//! - Where tokens are taken, nothing is allowed that the client's token does not grant. Where a service is asked,
//!   nothing is that it has not granted.
//! - What the application's function cannot say, because it panics, is a refusal.

use std::fmt;
use std::sync::Arc;
#[cfg(any(feature = "auth-url", feature = "jwt"))]
use std::time::Instant;

use super::TopicError;
#[cfg(feature = "auth-url")]
use super::auth_service::{AuthError, AuthService};
use super::grants::Grants;
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
#[cfg(any(feature = "auth-url", feature = "jwt"))]
use crate::http::response::Refusal;
#[cfg(feature = "jwt")]
use crate::http::response::Response;
use crate::logging::Log;

/// Allows a client a topic.
pub(super) type Allow = Arc<dyn Fn(&Request, &TopicName) -> bool + Send + Sync>;

/// What a client wants to do with a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Subscribe,
    Publish,
}

#[derive(Clone, Default)]
pub(crate) struct Access {
    pub(super) on_subscribe: Option<Allow>,
    pub(super) on_publish: Option<Allow>,
    /// Who grants clients what they may do.
    pub(super) authority: Authority,
    /// The keys of those who may publish and read everything by HTTP.
    #[cfg(feature = "jwt")]
    pub(super) publish_keys: Option<Arc<PublishKeys>>,
}

/// Who grants clients what they may do.
#[derive(Clone, Default)]
pub(super) enum Authority {
    /// Nobody: they may do what they may by default.
    #[default]
    Nobody,
    /// Whoever has signed their tokens.
    #[cfg(feature = "jwt")]
    Tokens(Arc<Tokens>),
    /// A service that is asked.
    #[cfg(feature = "auth-url")]
    Service(AuthService),
}

/// The tokens that are taken.
#[cfg(feature = "jwt")]
#[derive(Debug)]
pub(super) struct Tokens {
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

/// Why there is no permit for a token that came later.
#[derive(Debug)]
pub(super) enum NoPermit {
    /// No tokens are taken.
    NotTaken,
    /// It is refused, for this reason, which is for the log.
    #[cfg(any(feature = "auth-url", feature = "jwt"))]
    Refused(String),
    /// Nobody can say now.
    #[cfg(feature = "auth-url")]
    Unavailable,
}

impl Operation {
    fn function(self) -> &'static str {
        match self {
            Self::Subscribe => "on_subscribe",
            Self::Publish => "on_publish",
        }
    }

    /// Its name for an authorization service.
    #[cfg(feature = "auth-url")]
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Subscribe => "subscribe",
            Self::Publish => "publish",
        }
    }

    pub(super) fn is_granted(self, grants: &Grants, topic: &TopicName) -> bool {
        match self {
            Self::Subscribe => grants.may_subscribe(topic),
            Self::Publish => grants.may_publish(topic),
        }
    }
}

impl Access {
    /// Whether a client may do that. Asking a service may block.
    pub(super) fn check(
        &self,
        applicant: Applicant<'_>,
        operation: Operation,
        topic: &TopicName,
        log: &Log,
    ) -> Result<(), TopicError> {
        let is_granted = self.has_authority();
        if is_granted {
            self.check_grant(applicant, operation, topic)?;
        }
        let function = match operation {
            Operation::Subscribe => &self.on_subscribe,
            Operation::Publish => &self.on_publish,
        };
        let is_allowed = match (function, operation) {
            (Some(allow), _) => ask(operation.function(), allow, applicant.request, topic, log),
            (None, Operation::Subscribe) => is_granted || !topic.is_for_a_user() || topic.is_for(applicant.user),
            (None, Operation::Publish) => is_granted,
        };
        if is_allowed { Ok(()) } else { Err(TopicError::Forbidden) }
    }

    /// Whether a client's permit, or the service that gave it, allows that.
    fn check_grant(&self, applicant: Applicant<'_>, operation: Operation, topic: &TopicName) -> Result<(), TopicError> {
        let permit = applicant.permit.ok_or(TopicError::Forbidden)?;
        if operation.is_granted(&permit.grants, topic) {
            return Ok(());
        }
        #[cfg(feature = "auth-url")]
        if let (Authority::Service(service), Some(asked)) = (&self.authority, &permit.asked)
            && asked.for_topics
        {
            return match service.allows(applicant.request, asked.token.as_deref(), operation, topic) {
                Ok(true) => Ok(()),
                Ok(false) => Err(TopicError::Forbidden),
                Err(_) => Err(TopicError::Unavailable),
            };
        }
        Err(TopicError::Forbidden)
    }

    /// Whether somebody grants clients what they may do, so that there are no defaults.
    pub(super) fn has_authority(&self) -> bool {
        !matches!(self.authority, Authority::Nobody)
    }

    /// Whether a service is asked.
    #[cfg(feature = "auth-url")]
    pub(super) fn asks_a_service(&self) -> bool {
        matches!(self.authority, Authority::Service(_))
    }

    /// What a request may do by the token that it has, or by what a service says of it until then. `None` if there is
    /// no token, or nobody grants anything.
    ///
    /// # Errors
    /// The response to the client, and the reason for the log.
    #[cfg(any(feature = "auth-url", feature = "jwt"))]
    pub(super) fn permit_of(&self, request: &Request, until: Option<Instant>) -> Result<Option<Permit>, Box<Refusal>> {
        #[cfg(not(feature = "auth-url"))]
        let _ = until;
        match &self.authority {
            Authority::Nobody => Ok(None),
            #[cfg(feature = "jwt")]
            Authority::Tokens(tokens) => {
                let refused = |why: &dyn fmt::Display| {
                    let response = Response::new(401).header("WWW-Authenticate", "Bearer");
                    Refusal::new(response.text("the token is refused\n"), format!("token refused: {why}"))
                };
                let Some(token) = tokens.places.find(request).map_err(|why| refused(&why))? else { return Ok(None) };
                tokens.permit(token).map(Some).map_err(|why| refused(&why))
            }
            #[cfg(feature = "auth-url")]
            Authority::Service(service) => service.permit(request, None, until, true).map(Some).map_err(|error| {
                let reason = error.to_string();
                Refusal::new(error.into(), reason)
            }),
        }
    }

    /// What the client of a request may do by a token that it has sent later.
    pub(super) fn permit_by(&self, request: &Request, token: &str) -> Result<Permit, NoPermit> {
        #[cfg(not(feature = "auth-url"))]
        let _ = request;
        #[cfg(not(any(feature = "auth-url", feature = "jwt")))]
        let _ = token;
        match &self.authority {
            Authority::Nobody => Err(NoPermit::NotTaken),
            #[cfg(feature = "jwt")]
            Authority::Tokens(tokens) => tokens.permit(token).map_err(|why| NoPermit::Refused(why.to_string())),
            #[cfg(feature = "auth-url")]
            Authority::Service(_) if !is_token(token) => Err(NoPermit::Refused("it cannot be one".to_owned())),
            #[cfg(feature = "auth-url")]
            Authority::Service(service) => {
                service.permit(request, Some(token), None, false).map_err(|error| match error {
                    AuthError::Unavailable => NoPermit::Unavailable,
                    error => NoPermit::Refused(error.to_string()),
                })
            }
        }
    }

    /// What the client of a request may do from now on, if that can be asked: `None` if not.
    #[cfg(feature = "auth-url")]
    pub(super) fn renewed(&self, request: &Request, permit: &Permit) -> Option<Result<Permit, AuthError>> {
        let (Authority::Service(service), Some(asked)) = (&self.authority, &permit.asked) else { return None };
        Some(service.permit(request, asked.token.as_deref(), permit.until(), false))
    }
}

#[cfg(feature = "jwt")]
impl Tokens {
    /// What a token permits from now on.
    fn permit(&self, token: &str) -> Result<Permit, TokenError> {
        let valid = self.verifier.verify(token, std::time::SystemTime::now())?;
        Ok(Permit::new(valid.grants, valid.valid_for, Instant::now()))
    }
}

/// Whether a token may stand in a header (RFC 6750 section 2.1), and is not longer than a head may be.
#[cfg(feature = "auth-url")]
fn is_token(token: &str) -> bool {
    (1..=8 * 1024).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic())
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
