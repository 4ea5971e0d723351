//! The status page: its files, the live stream that it shows, and who may see them.

use std::sync::Arc;

use crossbeam_channel as channel;

use crate::browser::HEARTWIRE_JS;
use crate::connection::Connection;
use crate::connection::sender::Sender;
use crate::error::Error;
use crate::http::request::Request;
use crate::http::response::Response;
use crate::server::Server;
use crate::server::accept::Accept;
use crate::server::access::{Refused, StatusAccess};
use crate::server::routes::{File, Stream};

mod json;
pub(super) mod publisher;

/// Where the live stream is.
const STREAM_PATH: &str = "/heartwire/status";

const PAGE: File = File { media_type: "text/html; charset=utf-8", content: include_str!("status/page/index.html") };

/// What the page consists of. It has its own copy of the module, so that it works whatever is at `/heartwire.js`.
const PARTS: [(&str, File); 5] = [
    (
        "/heartwire/status.css",
        File { media_type: "text/css; charset=utf-8", content: include_str!("status/page/status.css") },
    ),
    ("/heartwire/status.js", File::javascript(include_str!("status/page/status.js"))),
    ("/heartwire/trace.js", File::javascript(include_str!("status/page/trace.js"))),
    ("/heartwire/heartwire.js", File::javascript(HEARTWIRE_JS)),
    ("/heartwire/icon.svg", File { media_type: "image/svg+xml", content: include_str!("status/page/icon.svg") }),
];

/// With the feature `status`.
impl Server {
    /// Shows a status page at this path, such as `"/"` or `"/status"`. Default: not.
    ///
    /// It shows who is connected, each Pong as a spike in a moving line and each miss as a cross, the last connections
    /// that ended and why, and the counters; and it has a field to try a connection. It names the addresses and the
    /// paths of peers, without queries: `access` says who may see it, and everybody else gets 403.
    ///
    /// The page uses nothing from other places, and its Content Security Policy lets nothing else run in it. What
    /// belongs to it is below `/heartwire/`: its files, and the WebSocket `/heartwire/status` that the state comes
    /// over, as JSON (of which the form may change). Pages of another origin are refused there, whatever
    /// [`allow_origins`](Self::allow_origins) says, for browsers let every page open a WebSocket to everywhere.
    ///
    /// Who watches is a connection like any other, counted, limited, and found when dead, but it meets neither
    /// [`on_handshake`](Self::on_handshake) nor the handler, and gets no broadcasts. One thread, `heartwire-status`,
    /// takes a snapshot of the server twice a second, or four times when much happens, while somebody watches; with
    /// more than 1,000 connections it looks a quarter as often. It sends the same text to all, with 100 connections at
    /// most and their texts cut, and none to a watcher that has not taken the last. While nobody watches, it only keeps
    /// what it would show of the last 30 connections that ended.
    ///
    /// ```no_run
    /// use heartwire::{Server, StatusAccess};
    ///
    /// # fn main() -> Result<(), heartwire::Error> {
    /// let server = Server::bind("127.0.0.1:9001")?.status_page("/", StatusAccess::Loopback);
    /// # Ok(()) }
    /// ```
    pub fn status_page(mut self, path: impl Into<String>, access: StatusAccess) -> Self {
        let (watchers, arrivals) = channel::unbounded();
        let routes = &mut self.config.routes;
        routes.add_stream(STREAM_PATH, Arc::new(StatusStream { access, watchers }));
        let parts = PARTS.map(|(path, file)| (path.to_owned(), file));
        for (path, file) in parts.into_iter().chain([(path.into(), PAGE)]) {
            routes.add_page(path, move |request| match access.check_host(request) {
                Ok(()) => guarded(file.respond(request), request),
                Err((refusal, _)) => refusal,
            });
        }
        let log = Arc::clone(&self.supervisor.log);
        self.status = Some(publisher::Start { handle: self.handle(), log, arrivals });
        self
    }
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

/// The WebSocket that the page listens to.
struct StatusStream {
    access: StatusAccess,
    /// To the publisher.
    watchers: channel::Sender<Sender>,
}

impl Stream for StatusStream {
    fn decide(&self, request: &Request) -> Result<Accept, Refused> {
        self.access.check_origin(request).map(|()| Accept::new().without_broadcasts())
    }

    fn run(&self, conn: &mut Connection) -> Result<(), Error> {
        // Fails only when the server has ended, or the publisher has failed.
        let watching = self.watchers.send(conn.sender());
        watching.map_err(|_| Error::handler("the status stream has failed"))?;
        loop {
            conn.recv()?;
        }
    }
}
