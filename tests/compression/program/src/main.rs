//! What the program has no way to do: a client that sends files, and a server whose handlers are away.
//!
//! Usage: `heartwire-test-compression client URL FOLDER DEFLATE [CA]`, or `heartwire-test-compression away DEFLATE`.
//! `DEFLATE` is `off`, `on`, or `context`.
//!
//! - `client` sends the files of the folder in the order of their names, each after the echo of the one before: as a
//!   text if its name ends in .txt, else binary. It says "ok NAME" or "bad NAME", then sends the last one again, by a
//!   sender that does not compress ("ok uncompressed"), waits for a Pong if none came yet, and closes. With
//!   `CA`, a file, the URL is one of wss://.
//! - `away` says "listening on ws://ADDRESS". Its handlers sleep, say "back", and then echo. It has a page at / for
//!   heartwire.js.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, thread};

use heartwire::{Client, ClientTls, Connection, Deflate, Error, HeartbeatPolicy, Message, Response, Server};

/// So short that Pings meet messages.
const QUICK: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(10);
/// Of the server whose handlers are away, and how long they are.
const INTERVAL: Duration = Duration::from_millis(500);
const AWAY: Duration = Duration::from_secs(4);

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match &arguments[..] {
        ["client", url, folder, deflate, ca @ ..] => send_files(url, Path::new(folder), compression(deflate)?, ca),
        ["away", deflate] => be_away(compression(deflate)?),
        _ => Err(Error::handler("usage: client URL FOLDER DEFLATE [CA], or away DEFLATE")),
    }
}

fn compression(name: &str) -> Result<Option<Deflate>, Error> {
    match name {
        "off" => Ok(None),
        "on" => Ok(Some(Deflate::new())),
        "context" => Ok(Some(Deflate::new().context_takeover(true))),
        _ => Err(Error::handler(format!("no compression {name}"))),
    }
}

fn send_files(url: &str, folder: &Path, deflate: Option<Deflate>, ca: &[&str]) -> Result<(), Error> {
    let files = files_of(folder).map_err(Error::handler)?;
    let tls = ca.iter().try_fold(ClientTls::new(), |tls, ca| tls.ca_file(ca))?;
    let mut client = Client::new(url)?.tls(tls).heartbeat(HeartbeatPolicy::new(QUICK, PATIENCE)).no_reconnect();
    if let Some(deflate) = deflate {
        client = client.deflate(deflate);
    }
    client.run(|conn| {
        println!("extensions {}", conn.extensions());
        for (name, message) in &files {
            conn.send(message.clone())?;
            judge(conn, name, message)?;
        }
        if let Some((_, last)) = files.last() {
            conn.sender().uncompressed().send(last.clone())?;
            judge(conn, "uncompressed", last)?;
        }
        wait_for_pong(conn)
    })
}

fn judge(conn: &mut Connection, name: &str, sent: &Message) -> Result<(), Error> {
    println!("{} {name}", if conn.recv()? == *sent { "ok" } else { "bad" });
    Ok(())
}

/// All may have been sent before the first Ping was due.
fn wait_for_pong(conn: &mut Connection) -> Result<(), Error> {
    while conn.round_trip().is_none() {
        if conn.recv_timeout(QUICK)?.is_some() {
            return Err(Error::handler("a message came that was not sent"));
        }
    }
    Ok(())
}

fn files_of(folder: &Path) -> Result<Vec<(String, Message)>, String> {
    let entries = fs::read_dir(folder).map_err(|error| error.to_string())?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let read = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let content = fs::read(path).map_err(|error| error.to_string())?;
        let message = match name.ends_with(".txt") {
            true => Message::from(String::from_utf8(content).map_err(|error| error.to_string())?),
            false => Message::from(content),
        };
        Ok((name, message))
    };
    paths.iter().map(read).collect()
}

fn be_away(deflate: Option<Deflate>) -> Result<(), Error> {
    let page = || Response::new(200).header("Content-Type", "text/html; charset=utf-8").body("<!doctype html>");
    let mut server = Server::bind("127.0.0.1:0")?
        .heartbeat(HeartbeatPolicy::new(INTERVAL, INTERVAL))
        .browser_module()
        .on_request(move |request| (request.path() == "/").then(page));
    if let Some(deflate) = deflate {
        server = server.deflate(deflate);
    }
    println!("listening on ws://{}", server.local_addr());
    server.serve(|conn| {
        thread::sleep(AWAY);
        println!("back");
        loop {
            let message = conn.recv()?;
            conn.send(message)?;
        }
    })
}
