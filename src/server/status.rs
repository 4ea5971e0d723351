//! The status page: its files, its live stream, and who may see them.

use std::sync::Arc;

use crossbeam_channel as channel;

use crate::browser::HEARTWIRE_JS;
use crate::connection::Connection;
use crate::connection::sender::Sender;
use crate::error::Error;
use crate::http::request::Request;
use crate::http::response::Response;
#[cfg(feature = "topics")]
use crate::protocol::close::CloseCode;
use crate::server::Server;
use crate::server::accept::Accept;
use crate::server::access::{Refused, StatusAccess};
use crate::server::routes::{File, Stream};

mod json;
#[cfg(feature = "redis")]
mod nodes;
pub(super) mod publisher;
#[cfg(feature = "topics")]
mod topics;

/// The path of the live stream.
const STREAM_PATH: &str = "/heartwire/status";

const PAGE: File = File { media_type: "text/html; charset=utf-8", content: include_str!("status/page/index.html") };

/// The parts of the page. It has its own copy of the module, so that it works whatever `/heartwire.js` serves.
const PARTS: [(&str, File); 8] = [
    (
        "/heartwire/status.css",
        File { media_type: "text/css; charset=utf-8", content: include_str!("status/page/status.css") },
    ),
    ("/heartwire/status.js", File::javascript(include_str!("status/page/status.js"))),
    ("/heartwire/nodes.js", File::javascript(include_str!("status/page/nodes.js"))),
    ("/heartwire/topics.js", File::javascript(include_str!("status/page/topics.js"))),
    ("/heartwire/trace.js", File::javascript(include_str!("status/page/trace.js"))),
    ("/heartwire/words.js", File::javascript(include_str!("status/page/words.js"))),
    ("/heartwire/heartwire.js", File::javascript(HEARTWIRE_JS)),
    ("/heartwire/icon.svg", File { media_type: "image/svg+xml", content: include_str!("status/page/icon.svg") }),
];

/// Requires the feature `status`.
impl Server {
    /// Serves a status page at this path, such as `"/"` or `"/status"`. Default: no such path.
    ///
    /// The page shows the open connections, each Pong as a spike in a moving line and each miss as a cross, the
    /// connections that ended last and why, and the counters. It also has a field to try a connection. Where the server
    /// has topics, it shows those too, and with presence their members. Where it shares them with other servers, it
    /// shows the backplane and all of these servers. It names the addresses of peers and their paths, without queries,
    /// topics and users, so `access` says who may see it. All others get 403.
    ///
    /// The page loads nothing from other servers, and its Content Security Policy lets nothing else run in it. Its
    /// parts are below `/heartwire/`: its files, and the WebSocket `/heartwire/status`, which carries the state as JSON
    /// (whose form may change). That WebSocket refuses pages of another origin, whatever
    /// [`allow_origins`](Self::allow_origins) says.
    ///
    /// Each viewer counts as a connection, against the limits too, and has a heartbeat. It never reaches
    /// [`on_handshake`](Self::on_handshake) or the handler, and receives no broadcasts.
    ///
    /// One thread, `heartwire-status`, takes a snapshot of the server twice a second while there are viewers, and up to
    /// four times when much happens. With more than 1,000 connections it takes a quarter as many. It sends the same
    /// text to all viewers, with 100 connections at most and long texts cut, and skips a viewer that has not taken the
    /// last one. Without viewers it only remembers the last 30 connections that ended. After a snapshot it rests for 19
    /// times as long as that took, up to 5 seconds, so that very many topics or viewers do not keep a processor busy.
    ///
    /// Of topics it sends 30 at most, those in which subscribers are behind before the busiest, and how many more there
    /// are. A viewer may ask for those whose names contain a text, and for 30 members of one topic. Of servers it sends
    /// 30 at most, those in trouble first.
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
        let (wished, wishes) = channel::bounded(1);
        let routes = &mut self.config.routes;
        routes.add_stream(STREAM_PATH, Arc::new(StatusStream { access, watchers, wished }));
        let parts = PARTS.map(|(path, file)| (path.to_owned(), file));
        for (path, file) in parts.into_iter().chain([(path.into(), PAGE)]) {
            routes.add_page(path, move |request| match access.check_host(request) {
                Ok(()) => guarded(file.respond(request), request),
                Err((refusal, _)) => refusal,
            });
        }
        let log = Arc::clone(&self.supervisor.log);
        self.status = Some(publisher::Start { handle: self.handle(), log, arrivals, wishes });
        self
    }
}

/// Adds headers so that nothing from elsewhere runs in the page, and no other page shows it in a frame.
fn guarded(response: Response, request: &Request) -> Response {
    let host = request.header("Host").unwrap_or_default();
    // In some browsers 'self' does not include ws. A Host that is not plain stays out of the header.
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

/// The WebSocket that carries the state to the page.
struct StatusStream {
    access: StatusAccess,
    /// To the publisher.
    watchers: channel::Sender<Watcher>,
    /// Tells the publisher that a viewer wants to see something else. One word is enough for any number of changes.
    wished: channel::Sender<()>,
}

/// A viewer of the page, as the publisher sees it.
struct Watcher {
    sender: Sender,
    #[cfg(feature = "topics")]
    wish: Arc<topics::Wished>,
}

impl Stream for StatusStream {
    fn decide(&self, request: &Request) -> Result<Accept, Refused> {
        self.access.check_origin(request).map(|()| Accept::new().without_broadcasts())
    }

    fn run(&self, conn: &mut Connection) -> Result<(), Error> {
        let watcher = Watcher {
            sender: conn.sender(),
            #[cfg(feature = "topics")]
            wish: Arc::default(),
        };
        #[cfg(feature = "topics")]
        let wish = Arc::clone(&watcher.wish);
        // Fails only if the server has ended or the publisher has failed.
        let watching = self.watchers.send(watcher);
        watching.map_err(|_| Error::handler("the status stream has failed"))?;
        loop {
            #[cfg(not(feature = "topics"))]
            conn.recv()?;
            #[cfg(feature = "topics")]
            if let Err(reason) = wish.set(&conn.recv()?) {
                return conn.close(CloseCode::POLICY, reason);
            }
            // Full: the publisher is about to look anyway.
            let _ = self.wished.try_send(());
        }
    }
}
