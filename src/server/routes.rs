//! The paths that the server answers itself, before it asks the application: a health check, the browser module, and,
//! with their features, metrics and the status page.
//!
//! Invariant: all other paths are left to the application, and so are requests other than GET and HEAD for a page. A
//! resource answers all requests below its prefix itself.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use crate::browser::{HEARTWIRE_D_TS, HEARTWIRE_JS};
use crate::connection::Connection;
use crate::error::Error;
use crate::http::request::Request;
use crate::http::response::Response;
use crate::server::Server;
use crate::server::accept::Accept;

/// The server's own paths.
#[derive(Clone, Default)]
pub(super) struct Routes {
    pages: Vec<(String, Arc<Page>)>,
    resources: Vec<(String, Arc<Resource>)>,
    streams: Vec<(String, Arc<dyn Stream>)>,
}

/// Answers a plain HTTP request.
type Page = dyn Fn(&Request) -> Response + Send + Sync;

/// What stands at all paths that begin with a prefix.
struct Resource {
    /// The methods that it knows.
    methods: &'static [&'static str],
    answer: Box<Page>,
    reword: Reword,
}

/// Says in the words of a resource what is wrong with a request to it.
pub(super) type Reword = fn(&Response) -> Response;

/// What answers a request.
#[derive(Clone, Copy)]
pub(super) struct Route<'a> {
    answer: &'a Page,
    /// The methods, if the request has none of them.
    allowed: Option<&'static [&'static str]>,
    /// Whether it reads bodies.
    pub(super) takes_body: bool,
    /// How it says what is wrong with a request, if not in plain text.
    pub(super) reword: Option<Reword>,
}

impl Route<'_> {
    pub(super) fn answer(&self, request: &Request) -> Response {
        match self.allowed {
            None => (self.answer)(request),
            Some(methods) => {
                let methods = methods.join(", ");
                let response =
                    Response::new(405).header("Allow", methods.clone()).text(format!("allowed here: {methods}\n"));
                match self.reword {
                    Some(reword) => reword(&response),
                    None => response,
                }
            }
        }
    }
}

/// Serves the WebSockets of one path, in place of the application's functions.
pub(super) trait Stream: Send + Sync {
    /// In place of `on_handshake`: accepts a client, or gives the response that refuses it and the reason for the log.
    fn decide(&self, request: &Request) -> Result<Accept, (Response, &'static str)>;

    /// In place of the handler.
    fn run(&self, conn: &mut Connection) -> Result<(), Error>;
}

impl Routes {
    /// Adds a page, in place of an earlier one at the same path.
    pub(super) fn add_page(
        &mut self,
        path: impl Into<String>,
        page: impl Fn(&Request) -> Response + Send + Sync + 'static,
    ) {
        add(&mut self.pages, path.into(), Arc::new(page));
    }

    /// Adds a stream, in place of an earlier one at the same path.
    #[cfg(feature = "status")]
    pub(super) fn add_stream(&mut self, path: impl Into<String>, stream: Arc<dyn Stream>) {
        add(&mut self.streams, path.into(), stream);
    }

    /// Adds a resource for all paths that begin with `prefix` and go on, such as `/topics/`, in place of an earlier one
    /// with the same prefix. It is given the bodies of requests with these methods; other methods get 405. Of several
    /// the one with the longest prefix answers, and a page before any of them. `reword` makes its own of each response
    /// that the server refuses a request with before it is given it.
    #[cfg_attr(not(any(test, feature = "topics")), allow(dead_code, reason = "topics stand there"))]
    pub(super) fn add_resource(
        &mut self,
        prefix: impl Into<String>,
        methods: &'static [&'static str],
        answer: impl Fn(&Request) -> Response + Send + Sync + 'static,
        reword: Reword,
    ) {
        add(&mut self.resources, prefix.into(), Arc::new(Resource { methods, answer: Box::new(answer), reword }));
    }

    /// What answers a plain HTTP request, if the server does so itself.
    pub(super) fn find(&self, request: &Request) -> Option<Route<'_>> {
        let (method, path) = (request.method(), request.path());
        let page = find(&self.pages, path).filter(|_| matches!(method, "GET" | "HEAD"));
        if let Some(page) = page {
            return Some(Route { answer: &**page, allowed: None, takes_body: false, reword: None });
        }
        let goes_on = |prefix: &str| path.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty());
        let resources = self.resources.iter().filter(|(prefix, _)| goes_on(prefix));
        let (_, resource) = resources.max_by_key(|(prefix, _)| prefix.len())?;
        let is_known = resource.methods.contains(&method);
        let allowed = (!is_known).then_some(resource.methods);
        Some(Route { answer: &*resource.answer, allowed, takes_body: is_known, reword: Some(resource.reword) })
    }

    /// The stream of a path, if the server serves its WebSockets itself.
    pub(super) fn stream(&self, path: &str) -> Option<&dyn Stream> {
        find(&self.streams, path).map(|stream| &**stream)
    }
}

fn add<T>(routes: &mut Vec<(String, T)>, mut path: String, route: T) {
    if !path.starts_with('/') {
        path.insert(0, '/');
    }
    routes.retain(|(other, _)| *other != path);
    routes.push((path, route));
}

fn find<'a, T>(routes: &'a [(String, T)], path: &str) -> Option<&'a T> {
    routes.iter().find(|(other, _)| other == path).map(|(_, route)| route)
}

/// A file that is part of the library.
#[derive(Debug, Clone, Copy)]
pub(super) struct File {
    pub(super) media_type: &'static str,
    pub(super) content: &'static str,
}

impl File {
    pub(super) const fn javascript(content: &'static str) -> Self {
        Self { media_type: "text/javascript; charset=utf-8", content }
    }

    /// The file, or 304 if the client has it already (RFC 9110 section 13.1.2).
    pub(super) fn respond(self, request: &Request) -> Response {
        let mut hasher = DefaultHasher::new();
        self.content.hash(&mut hasher);
        let tag = format!("\"{:016x}\"", hasher.finish());
        let is_known = request.header_list("If-None-Match").any(|known| known.trim_start_matches("W/") == tag);
        let response = if is_known { Response::new(304) } else { Response::new(200).body(self.content) };
        response
            .header("Content-Type", self.media_type)
            .header("Cache-Control", "no-cache")
            .header("ETag", tag)
            .header("X-Content-Type-Options", "nosniff")
    }
}

/// Paths that the server answers itself, to GET and HEAD, before it calls [`on_request`](Server::on_request). A later
/// setting for the same path replaces an earlier one.
impl Server {
    /// Answers health checks at this path, such as `"/healthz"`. Default: no such path. Further calls add paths.
    ///
    /// The response is 200 with the text `ok`, or 503 while the server [drains](crate::ServerHandle::drain), and while
    /// it shuts down, if the client can still connect.
    ///
    /// It is open to every client, and is answered even when the server is [full](Self::max_connections).
    ///
    /// ```no_run
    /// # fn main() -> Result<(), heartwire::Error> {
    /// let server = heartwire::Server::bind("127.0.0.1:9001")?.health("/healthz");
    /// # Ok(()) }
    /// ```
    pub fn health(mut self, path: impl Into<String>) -> Self {
        let handle = self.handle();
        self.config.routes.add_page(path, move |_| {
            let response = if handle.is_shutting_down() {
                Response::new(503).text("shutting down\n")
            } else if handle.is_draining() {
                Response::new(503).text("draining\n")
            } else {
                Response::new(200).text("ok\n")
            };
            response.header("Cache-Control", "no-store")
        });
        self
    }

    /// Serves the browser module, [`HEARTWIRE_JS`], at `/heartwire.js`, and its types, [`HEARTWIRE_D_TS`], at
    /// `/heartwire.d.ts`. Default off.
    ///
    /// It is open to every client, and pages of any origin may import it (`Access-Control-Allow-Origin: *`): it is a
    /// static file without secrets. Browsers check for changes each time, and get 304 if there are none.
    ///
    /// ```no_run
    /// use heartwire::{Response, Server};
    ///
    /// const PAGE: &str = r#"<!doctype html>
    /// <script type="module">
    ///   import { HeartSocket } from '/heartwire.js';
    ///   const socket = new HeartSocket(location.href.replace(/^http/, 'ws'));
    ///   socket.onmessage = ({ data }) => (document.title = data);
    /// </script>"#;
    ///
    /// # fn main() -> Result<(), heartwire::Error> {
    /// let page = || Response::new(200).header("Content-Type", "text/html; charset=utf-8").body(PAGE);
    /// let server = Server::bind("127.0.0.1:9001")?
    ///     .browser_module()
    ///     .on_request(move |request| (request.path() == "/").then(page));
    /// # Ok(()) }
    /// ```
    pub fn browser_module(mut self) -> Self {
        let types = File { media_type: "text/plain; charset=utf-8", content: HEARTWIRE_D_TS };
        for (path, file) in [("/heartwire.js", File::javascript(HEARTWIRE_JS)), ("/heartwire.d.ts", types)] {
            self.config.routes.add_page(path, move |request| {
                let response = file.respond(request).header("Access-Control-Allow-Origin", "*");
                response.header("Cross-Origin-Resource-Policy", "cross-origin")
            });
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(routes: &Routes, request_line: &str) -> Option<u16> {
        let head = format!("{request_line} HTTP/1.1\r\nHost: h\r\n\r\n");
        let request = Request::from_bytes(head.as_bytes(), "127.0.0.1:1".parse().unwrap()).unwrap();
        routes.find(&request).map(|route| route.answer(&request).status())
    }

    #[test]
    fn a_path_has_one_answer_the_newest_and_others_have_none() {
        let mut routes = Routes::default();
        routes.add_page("/a", |_| Response::new(200));
        routes.add_page("b", |_| Response::new(201));
        routes.add_page("/a", |_| Response::new(202));
        assert_eq!((ask(&routes, "GET /a?b"), ask(&routes, "HEAD /b")), (Some(202), Some(201)));
        for other in ["GET /", "GET /a/", "GET /A", "POST /a", "GET /c"] {
            assert_eq!(ask(&routes, other), None, "{other}");
        }
    }
    #[test]
    fn a_resource_has_all_paths_below_its_prefix_and_knows_its_methods() {
        let mut routes = Routes::default();
        routes.add_resource("/t/", &["POST", "PUT"], |_| Response::new(202), Response::clone);
        routes.add_resource("t/deep/", &["GET"], |_| Response::new(203), Response::clone);
        routes.add_page("/t/page", |_| Response::new(200));
        for (request_line, status) in [
            ("POST /t/a", Some(202)),
            ("PUT /t/a/b?c", Some(202)),
            ("GET /t/a", Some(405)),
            ("post /t/a", Some(405)),
            ("GET /t/deep/a", Some(203)),
            ("POST /t/deep/a", Some(405)),
            ("POST /t/deep", Some(202)),
            ("GET /t/page", Some(200)),
            ("POST /t/page", Some(202)),
            ("POST /t/", None),
            ("POST /t", None),
            ("POST /T/a", None),
        ] {
            assert_eq!(ask(&routes, request_line), status, "{request_line}");
        }
        let request = |head: &[u8]| Request::from_bytes(head, "127.0.0.1:1".parse().unwrap()).unwrap();
        let wrong = request(b"DELETE /t/a HTTP/1.1\r\n\r\n");
        let route = routes.find(&wrong).unwrap();
        assert!(!route.takes_body, "nobody reads it");
        let allows = Response::new(405).header("Allow", "POST, PUT").text("allowed here: POST, PUT\n");
        assert_eq!(route.answer(&wrong), allows);
        assert!(routes.find(&request(b"POST /t/a HTTP/1.1\r\n\r\n")).unwrap().takes_body);
    }
}
