//! One request to the authorization service, by ureq.
//!
//! Invariants: the answer is bounded, and is there before the deadline or not at all. Each request has a connection of
//! its own: a small service may serve one connection at a time, and would wait on one that is kept.

use std::time::{Duration, Instant};

use ureq::config::AutoHeaderValue;
use ureq::http::{HeaderMap, Uri, header};
use ureq::{Agent, Error};

use super::answer::Received;
use super::question::Question;
use super::{AuthService, InvalidAuthService};

/// The longest head of an answer, in bytes.
const MAX_HEAD: usize = 16 * 1024;

pub(super) struct Transport {
    agent: Agent,
}

impl Transport {
    /// # Errors
    /// If the URL is none that can be asked.
    pub(super) fn new(url: &str) -> Result<Self, InvalidAuthService> {
        let invalid = |why| Err(InvalidAuthService::Url { why });
        if url.contains('#') {
            return invalid("it has a fragment (#)");
        }
        let Ok(uri) = url.parse::<Uri>() else { return invalid("it is not a URL") };
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return invalid("https:// is not supported: ask a service on this machine, or by a tunnel");
            }
            _ => return invalid("it does not begin with http://"),
        }
        match uri.authority() {
            Some(authority) if authority.as_str().contains('@') => return invalid("it names a user"),
            Some(authority) if !authority.host().is_empty() => {}
            _ => return invalid("it names no host"),
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_idle_connections(0)
            .max_response_header_size(MAX_HEAD)
            // The client's own is passed on.
            .user_agent(AutoHeaderValue::None)
            .accept("application/json".to_owned());
        Ok(Self { agent: config.build().into() })
    }

    /// Asks. The error is for the log.
    pub(super) fn ask(&self, question: &Question, deadline: Instant) -> Result<Received, String> {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let mut request = self.agent.get(&*question.url).header(header::CONNECTION, "close");
        for (name, value) in &*question.headers {
            request = request.header(&**name, &**value);
        }
        let mut response = request.config().timeout_global(Some(left)).build().call().map_err(in_words)?;
        let headers = response.headers();
        let received = Received {
            status: response.status().as_u16(),
            cache_control: texts(headers, header::CACHE_CONTROL).collect::<Vec<_>>().join(","),
            challenge: texts(headers, header::WWW_AUTHENTICATE).next().map(str::to_owned),
            body: Vec::new(),
        };
        // Of a refusal nothing is read: many services answer with a page.
        if received.status >= 300 {
            return Ok(received);
        }
        let body = response.body_mut().with_config().limit(AuthService::MAX_ANSWER as u64).read_to_vec();
        Ok(Received { body: body.map_err(in_words)?, ..received })
    }

    /// Cuts all requests that are under way, and lets no more begin.
    pub(super) fn cut(&self) {
        self.agent.clone().shutdown();
    }
}

fn texts(headers: &HeaderMap, name: header::HeaderName) -> impl Iterator<Item = &str> {
    headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok())
}

/// What went wrong, without the URL.
fn in_words(error: Error) -> String {
    match error {
        Error::Timeout(_) => "it does not answer in time".to_owned(),
        Error::HostNotFound => "its name cannot be resolved".to_owned(),
        Error::BodyExceedsLimit(limit) => format!("its answer is longer than {limit} bytes"),
        Error::Io(error) => match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(Error::Timeout(_)) => "it does not answer in time".to_owned(),
            Some(Error::BodyExceedsLimit(limit)) => format!("its answer is longer than {limit} bytes"),
            _ => error.to_string(),
        },
        Error::LargeResponseHeader(_, limit) => format!("the head of its answer is longer than {limit} bytes"),
        Error::Protocol(error) => format!("its answer is not HTTP: {error}"),
        Error::BadUri(_) => "its URL cannot be used".to_owned(),
        error => error.to_string(),
    }
}
