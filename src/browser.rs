//! The browser module, `heartwire.js`, and its types, as constants for servers of any kind.

/// `heartwire.js`: a JavaScript module for pages.
///
/// Its class `HeartSocket` is a WebSocket with a heartbeat and reconnection. It sends its heartbeat as text, because
/// pages can neither send nor see a Ping frame. Its class `Topics` subscribes and publishes over one. It imports
/// nothing.
///
/// [`Server::browser_module`](crate::Server::browser_module) serves it at `/heartwire.js`. Another server has to serve
/// it with the media type of JavaScript, or browsers refuse to run it:
///
/// ```
/// use heartwire::{HEARTWIRE_JS, Response};
///
/// let response = Response::new(200).header("Content-Type", "text/javascript; charset=utf-8").body(HEARTWIRE_JS);
/// ```
///
/// A page of another origin can import it only with the header `Access-Control-Allow-Origin`. The module agrees on its
/// heartbeat with the server by the subprotocol `heartwire.v1`, or `heartwire.topics.v1` for topics: see
/// [`Server::text_heartbeat`](crate::Server::text_heartbeat). Use the module of the same version as the server.
pub const HEARTWIRE_JS: &str = include_str!("browser/heartwire.js");

/// `heartwire.d.ts`: the TypeScript declarations of [`HEARTWIRE_JS`]. Keep them beside it, or serve them as text.
pub const HEARTWIRE_D_TS: &str = include_str!("browser/heartwire.d.ts");
