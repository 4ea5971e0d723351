//! What the program answers over plain HTTP: its health, heartwire.js, and, where the status is shown, the page and the
//! metrics.
//!
//! The status names peers. So it is for people who may see that: on a loopback address for those at this machine, and
//! not for a page on the web whose host name was made to point here (DNS rebinding): its requests carry that name.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::Ipv4Addr;

use heartwire::{Request, Response, ServerHandle};

use crate::metrics::Metrics;

/// A file that is part of the program.
struct Asset {
    path: &'static str,
    media_type: &'static str,
    content: &'static str,
    /// Whether it shows the status, or is the module that everybody may use.
    is_status: bool,
}

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

const ASSETS: [Asset; 7] = [
    Asset {
        path: "/heartwire.js",
        media_type: JAVASCRIPT,
        content: include_str!("page/heartwire.js"),
        is_status: false,
    },
    Asset {
        path: "/heartwire.d.ts",
        media_type: "text/plain; charset=utf-8",
        content: include_str!("page/heartwire.d.ts"),
        is_status: false,
    },
    Asset {
        path: "/",
        media_type: "text/html; charset=utf-8",
        content: include_str!("page/index.html"),
        is_status: true,
    },
    Asset {
        path: "/heartwire/pulse.css",
        media_type: "text/css; charset=utf-8",
        content: include_str!("page/pulse.css"),
        is_status: true,
    },
    Asset {
        path: "/heartwire/pulse.js",
        media_type: JAVASCRIPT,
        content: include_str!("page/pulse.js"),
        is_status: true,
    },
    Asset {
        path: "/heartwire/trace.js",
        media_type: JAVASCRIPT,
        content: include_str!("page/trace.js"),
        is_status: true,
    },
    Asset {
        path: "/heartwire/icon.svg",
        media_type: "image/svg+xml",
        content: include_str!("page/icon.svg"),
        is_status: true,
    },
];

/// Who may see the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Audience {
    Nobody,
    /// Whoever asks by a name of this machine itself.
    ThisMachine,
    /// Whoever reaches us.
    Everybody,
}

impl Audience {
    /// Refuses a request for the status that may come from elsewhere.
    pub(crate) fn check_host(self, request: &Request) -> Result<(), Response> {
        let host = request.header("Host").unwrap_or_default();
        let is_welcome = match self {
            Self::Nobody => false,
            Self::ThisMachine => is_loopback_host(host),
            Self::Everybody => true,
        };
        if is_welcome {
            return Ok(());
        }
        let text = "The status is shown under the name localhost or a loopback address only.\n";
        Err(Response::new(403).text(text).because("the status is not shown under this Host"))
    }

    /// Refuses, beyond that, pages of another origin: browsers let them open WebSockets to anywhere.
    pub(crate) fn check_origin(self, request: &Request) -> Result<(), Response> {
        self.check_host(request)?;
        let Some(origin) = request.headers().find(|(name, _)| name.eq_ignore_ascii_case("Origin")) else {
            return Ok(());
        };
        let host = request.header("Host").unwrap_or_default();
        // With https there is a proxy in front.
        let is_own = ["http://", "https://"]
            .iter()
            .any(|scheme| origin.1.eq_ignore_ascii_case(format!("{scheme}{host}").as_bytes()));
        if is_own {
            return Ok(());
        }
        let response = Response::new(403).text("The status is not for pages from elsewhere.\n");
        Err(response.because("the status is not for pages of another origin"))
    }
}

/// Whether a Host header names this machine itself, with any port.
fn is_loopback_host(host: &str) -> bool {
    let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    let name = name.map_or(host, |(name, _)| name).to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || name == "[::1]"
        || name.parse().is_ok_and(|address: Ipv4Addr| address.is_loopback())
}

/// Answers requests.
pub(crate) struct Page {
    handle: ServerHandle,
    audience: Audience,
    metrics: Metrics,
}

impl Page {
    pub(crate) fn new(handle: ServerHandle, audience: Audience) -> Self {
        let metrics = Metrics::new(handle.clone());
        Self { handle, audience, metrics }
    }

    /// `None` for what is not here.
    pub(crate) fn answer(&self, request: &Request) -> Option<Response> {
        if !matches!(request.method(), "GET" | "HEAD") {
            return None;
        }
        if request.path() == "/healthz" {
            return Some(self.health());
        }
        let asset = ASSETS.iter().find(|asset| asset.path == request.path());
        if let Some(asset) = asset.filter(|asset| !asset.is_status) {
            // A static file without secrets: pages of any origin may use it.
            let response = deliver(asset, request).header("Access-Control-Allow-Origin", "*");
            return Some(response.header("Cross-Origin-Resource-Policy", "cross-origin"));
        }
        let is_known = asset.is_some() || request.path() == "/metrics";
        if !is_known || self.audience == Audience::Nobody {
            return None;
        }
        if let Err(refusal) = self.audience.check_host(request) {
            return Some(refusal);
        }
        Some(match asset {
            Some(asset) => guarded(deliver(asset, request), request),
            None => self.metrics.answer(),
        })
    }

    fn health(&self) -> Response {
        let response = if self.handle.is_shutting_down() {
            Response::new(503).text("shutting down\n")
        } else {
            Response::new(200).text("ok\n")
        };
        response.header("Cache-Control", "no-store")
    }
}

/// The file, or that it has not changed.
fn deliver(asset: &Asset, request: &Request) -> Response {
    let mut hasher = DefaultHasher::new();
    asset.content.hash(&mut hasher);
    let tag = format!("\"{:016x}\"", hasher.finish());
    let is_known = request.header_list("If-None-Match").any(|known| known.trim_start_matches("W/") == tag);
    let response = if is_known { Response::new(304) } else { Response::new(200).body(asset.content) };
    response
        .header("Content-Type", asset.media_type)
        .header("Cache-Control", "no-cache")
        .header("ETag", tag)
        .header("X-Content-Type-Options", "nosniff")
}

/// Nothing from elsewhere runs in the page, and no other page shows it in a frame.
fn guarded(response: Response, request: &Request) -> Response {
    let host = request.header("Host").unwrap_or_default();
    // To some browsers 'self' does not stand for ws as well. What is no plain host does not get into the header.
    let is_plain = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".:-[]".contains(&byte));
    let sockets = if is_plain && !host.is_empty() { format!(" ws://{host} wss://{host}") } else { String::new() };
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'{sockets}; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    response
        .header("Content-Security-Policy", policy)
        .header("Cross-Origin-Resource-Policy", "same-origin")
        .header("Cross-Origin-Opener-Policy", "same-origin")
        .header("Referrer-Policy", "no-referrer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_many_names_and_no_others() {
        for host in
            ["localhost", "LOCALHOST:9001", "127.0.0.1:9001", "127.9.9.9", "[::1]", "[::1]:9001", "a.localhost:80"]
        {
            assert!(is_loopback_host(host), "{host}");
        }
        for host in [
            "",
            "example.org",
            "localhost.example.org",
            "127.0.0.1.example.org",
            "10.0.0.1",
            "[::2]:9001",
            "alocalhost",
        ] {
            assert!(!is_loopback_host(host), "{host}");
        }
    }
}
