//! The module for pages, `heartwire.js`, and its types: part of the library, for servers of any kind to serve.

/// `heartwire.js`: a JavaScript module whose class `HeartSocket` is a WebSocket with a heartbeat and reconnection, for
/// pages, which can neither send nor see a Ping frame. It imports nothing.
///
/// [`Server::browser_module`](crate::Server::browser_module) serves it at `/heartwire.js`. At any other place it needs
/// the type of JavaScript, or browsers refuse to run it:
///
/// ```
/// use heartwire::{HEARTWIRE_JS, Response};
///
/// let response = Response::new(200).header("Content-Type", "text/javascript; charset=utf-8").body(HEARTWIRE_JS);
/// ```
///
/// A page of another origin that imports it also needs the header `Access-Control-Allow-Origin`. The module agrees on
/// its heartbeat with the server by the subprotocol `heartwire.v1`, see
/// [`Server::text_heartbeat`](crate::Server::text_heartbeat): use the module of the version that the server has.
pub const HEARTWIRE_JS: &str = include_str!("browser/heartwire.js");

/// `heartwire.d.ts`: the TypeScript declarations of [`HEARTWIRE_JS`], to be kept beside it, or served as text.
pub const HEARTWIRE_D_TS: &str = include_str!("browser/heartwire.d.ts");
