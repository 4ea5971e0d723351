//! The client under the Autobahn test suite, in the manner that the suite expects of clients: it asks how many cases
//! there are, runs each over a connection of its own, sending back what comes, and asks for the reports.
//!
//! Usage: `heartwire-conformance-client ws://HOST:PORT MAX_MESSAGE_SIZE`, or with `wss://HOST:PORT` and a file with the
//! CA behind it.

use heartwire::{Client, ClientTls, Connection, Error, HeartbeatPolicy, Message};

const AGENT: &str = "heartwire";

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [base, max_message_size, ca @ ..] = &arguments[..] else {
        return Err(Error::handler("usage: heartwire-conformance-client URL MAX_MESSAGE_SIZE [CA]"));
    };
    let tls = ca.iter().try_fold(ClientTls::new(), |tls, ca| tls.ca_file(ca))?;
    let max_message_size = max_message_size.parse().map_err(Error::handler)?;
    // A Ping of ours within a case would fail it.
    let client = |path: &str| -> Result<Client, Error> {
        let client =
            Client::new(&format!("{base}{path}"))?.tls(tls.clone()).no_reconnect().heartbeat(HeartbeatPolicy::off());
        Ok(client.max_message_size(max_message_size).queue_size(max_message_size))
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
