//! A client for what `heartwire connect` has no way to do: binary messages, and a heartbeat led by the server.
//!
//! Usage: `heartwire-test-probe echo|follow URL [CA]`, with a file that has the CA to trust if the URL is one of
//! wss://.
//!
//! - `echo` sends four messages, each after the echo of the one before, says "ok NAME" or "bad NAME", and closes.
//! - `follow` sends nothing and only listens, says "open", and at the end "ended: REASON".

use std::time::Duration;

use heartwire::{Client, ClientTls, Connection, Error, HeartbeatPolicy, Message};

const USAGE: &str = "usage: heartwire-test-probe echo|follow URL [CA]";

/// How long the server may be silent, and how often in a row.
const EXPECT: Duration = Duration::from_secs(2);
const MAX_MISSED: u32 = 1;

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [what, url, ca @ ..] = &arguments[..] else { return Err(Error::handler(USAGE)) };
    let tls = ca.iter().try_fold(ClientTls::new(), |tls, ca| tls.ca_file(ca))?;
    let client = Client::new(url)?.tls(tls).no_reconnect();
    match *what {
        "echo" => client.run(echo),
        "follow" => {
            let heartbeat = HeartbeatPolicy::peer_led(EXPECT).max_missed(MAX_MISSED);
            match client.heartbeat(heartbeat).run(follow) {
                Err(Error::Closed(reason)) => println!("ended: {reason}"),
                other => return other,
            }
            Ok(())
        }
        _ => Err(Error::handler(USAGE)),
    }
}

fn echo(conn: &mut Connection) -> Result<(), Error> {
    for (name, sent) in [
        ("text", Message::from("héllo ✓")),
        ("empty", Message::from("")),
        ("binary", Message::from(pattern(256))),
        ("large", Message::from(pattern(1 << 20))),
    ] {
        conn.send(sent.clone())?;
        println!("{} {name}", if conn.recv()? == sent { "ok" } else { "bad" });
    }
    Ok(())
}

fn follow(conn: &mut Connection) -> Result<(), Error> {
    println!("open");
    loop {
        conn.recv()?;
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i % 251) as u8).collect()
}
