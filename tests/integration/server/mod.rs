//! The server: who is let in and how others are refused, reports, broadcasts, its bounds, its log, and its end.

mod binding;
mod bounds;
mod broadcasts;
mod callbacks;
mod draining;
mod forwarded;
mod handshake;
mod limits;
mod log;
mod plain_http;
mod probes;
mod reports;
mod routes;
mod shortages;
mod shutdown;
mod threads;
#[cfg(unix)]
mod unix;
mod users;

use heartwire::{Accept, Response, Server};

use crate::support::{Answer, End, request, server};

/// The request with a line replaced, or removed if the new one is empty.
fn request_but(header: &str, line: &str) -> String {
    let lines = request();
    let lines = lines.trim_end().split("\r\n").map(|old| match old.strip_prefix(header) {
        Some(rest) if rest.starts_with(':') => line,
        _ => old,
    });
    let kept: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
    kept.join("\r\n") + "\r\n\r\n"
}

/// What every refusal has in common.
fn assert_proper(answer: &Answer, what: &str) {
    assert_eq!(answer.end, End::Clean, "{what}: the answer must not be lost by a reset");
    let connection = answer.header("Connection").expect("Connection").to_ascii_lowercase();
    assert!(connection.split(", ").any(|token| token == "close"), "{what}: {answer:?}");
    assert!(answer.header("Content-Length").is_some(), "{what}: {answer:?}");
    let is_text = answer.header("Content-Type") == Some("text/plain; charset=utf-8");
    assert!(is_text && (answer.body.is_empty() || answer.body.ends_with('\n')), "{what}: {answer:?}");
    assert!(answer.body.lines().count() <= 1, "{what}: one line says it: {answer:?}");
}

fn deciding(decide: impl Fn(&heartwire::Request) -> Result<Accept, Response> + Send + Sync + 'static) -> Server {
    server().on_handshake(decide)
}
