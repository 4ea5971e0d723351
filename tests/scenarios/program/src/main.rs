//! The program of the scenarios: a server, or a client, with handlers that are away in all the ways that matter. The
//! path of a request names the handler (src/handler.rs); a client has it as an argument.
//!
//! Usage: `heartwire-test-scenarios server|client URL|- HANDLER|- [NAME=VALUE...]`, with these settings:
//!
//! - `beat=off`, `beat=default`, or `beat=INTERVAL,TIMEOUT,MAX_MISSED[,pong]` in milliseconds; `pong` for `PongOnly`
//! - `read-ahead=BYTES`, `max-connections=COUNT`
//! - `certificate=CHAIN,KEY` for a server with TLS, `ca=FILE` for a client of one; the files in PEM
//!
//! It says on standard output what happens (src/report.rs), and obeys lines on standard input (src/command.rs), whose
//! end is its own end.

use std::process;
use std::thread;

use heartwire::{Client, Error, Response, Server};

mod command;
mod handler;
mod report;
mod settings;

use report::say;
use settings::Settings;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match &arguments[..] {
        ["server", _, _, settings @ ..] => Settings::parse(settings).and_then(|settings| serve(&settings)),
        ["client", url, handler, settings @ ..] => {
            Settings::parse(settings).and_then(|settings| connect(url, handler, &settings))
        }
        _ => Err(Error::handler("usage: server - - [NAME=VALUE...], or client URL HANDLER [NAME=VALUE...]")),
    };
    if let Err(error) = outcome {
        say(format_args!("over {error}"));
        process::exit(1);
    }
}

fn serve(settings: &Settings) -> Result<(), Error> {
    let mut server = Server::bind("127.0.0.1:0")?
        .heartbeat(settings.heartbeat)
        .max_connections(settings.max_connections)
        .browser_module()
        .on_request(|request| {
            let page = || Response::new(200).header("Content-Type", "text/html; charset=utf-8").body("<!doctype html>");
            (request.path() == "/").then(page)
        });
    if let Some(bytes) = settings.read_ahead {
        server = server.read_ahead(bytes);
    }
    let mut scheme = "ws";
    if let Some(tls) = &settings.server_tls {
        server = server.tls(tls.clone());
        scheme = "wss";
    }
    println!("listening on {scheme}://{}", server.local_addr());
    let events = server.handle().events();
    thread::spawn(move || report::tell(events));
    thread::spawn(|| command::obey(None));
    server.serve(|conn| {
        let script = conn.path().to_owned();
        handler::run(conn, &script)
    })
}

fn connect(url: &str, handler: &str, settings: &Settings) -> Result<(), Error> {
    let mut client = Client::new(url)?.tls(settings.client_tls.clone()).no_reconnect().heartbeat(settings.heartbeat);
    if let Some(bytes) = settings.read_ahead {
        client = client.read_ahead(bytes);
    }
    let handle = client.handle();
    let events = handle.events();
    let teller = thread::spawn(move || report::tell(events));
    thread::spawn(move || command::obey(Some(&handle)));
    let outcome = client.run(|conn| handler::run(conn, handler));
    // Everything was told when the client has ended.
    let _ = teller.join();
    outcome
}
