//! What a client may subscribe and publish to.
//!
//! Invariant: what the application's function cannot say, because it panics, is a refusal.

use std::fmt;
use std::sync::Arc;

use super::name::TopicName;
use crate::foreign;
use crate::http::request::Request;
use crate::logging::Log;

/// Allows a client a topic.
pub(super) type Allow = Arc<dyn Fn(&Request, &TopicName) -> bool + Send + Sync>;

#[derive(Clone, Default)]
pub(crate) struct Access {
    pub(super) on_subscribe: Option<Allow>,
    pub(super) on_publish: Option<Allow>,
}

impl Access {
    /// Whether a client may subscribe to a topic.
    pub(super) fn may_subscribe(&self, request: &Request, topic: &TopicName, log: &Log) -> bool {
        match &self.on_subscribe {
            Some(allow) => ask("on_subscribe", allow, request, topic, log),
            None => !topic.as_str().starts_with("user/"),
        }
    }

    /// Whether a client may publish to a topic.
    pub(super) fn may_publish(&self, request: &Request, topic: &TopicName, log: &Log) -> bool {
        self.on_publish.as_ref().is_some_and(|allow| ask("on_publish", allow, request, topic, log))
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
        f.debug_struct("Access").field("on_subscribe", &subscribe).field("on_publish", &publish).finish()
    }
}
