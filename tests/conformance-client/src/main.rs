//! The client under the Autobahn test suite, in the manner that the suite expects of clients: it asks how many cases
//! there are, runs each over a connection of its own, sending back what comes, and asks for the reports.
//!
//! Usage: `heartwire-conformance-client ws://HOST:PORT MAX_MESSAGE_SIZE off|on|context`, with what is to be offered of
//! compression; or with `wss://HOST:PORT` and a file with the CA at the end.

use heartwire::{Client, ClientTls, Connection, Deflate, Error, HeartbeatPolicy, Message};

const AGENT: &str = "heartwire";

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [base, max_message_size, deflate, ca @ ..] = &arguments[..] else {
        return Err(Error::handler("usage: heartwire-conformance-client URL MAX_MESSAGE_SIZE off|on|context [CA]"));
    };
    let deflate = match &deflate[..] {
        "off" => None,
        "on" => Some(Deflate::new()),
        "context" => Some(Deflate::new().context_takeover(true)),
        other => return Err(Error::handler(format!("no such compression: {other}"))),
    };
    let tls = ca.iter().try_fold(ClientTls::new(), |tls, ca| tls.ca_file(ca))?;
    let max_message_size = max_message_size.parse().map_err(Error::handler)?;
    // A Ping of ours within a case would fail it.
    let client = |path: &str| -> Result<Client, Error> {
        let client =
            Client::new(&format!("{base}{path}"))?.tls(tls.clone()).no_reconnect().heartbeat(HeartbeatPolicy::off());
        let client = client.max_message_size(max_message_size).queue_size(max_message_size);
        Ok(match deflate {
            Some(deflate) => client.deflate(deflate),
            None => client,
        })
    };

    let mut count = 0;
    client("/getCaseCount")?.run(|conn| {
        let Message::Text(text) = conn.recv()? else { return Err(Error::handler("the count is not a text")) };
        count = text.parse().map_err(Error::handler)?;
        Ok(())
    })?;
    for case in 1..=count {
        // However a case ends, the verdict on it is the suite's.
        until_closed(client(&format!("/runCase?case={case}&agent={AGENT}"))?)?;
    }
    until_closed(client(&format!("/updateReports?agent={AGENT}"))?)
}

/// Sends back what comes, until the connection is closed in whatever way.
fn until_closed(client: Client) -> Result<(), Error> {
    match client.run(echo) {
        Err(Error::Closed(_)) => Ok(()),
        other => other,
    }
}

fn echo(conn: &mut Connection) -> Result<(), Error> {
    loop {
        let message = conn.recv()?;
        conn.feed(message)?;
    }
}
