//! What the program does when told to, from threads other than those of the connections:
//!
//! - `heartbeat ID BEAT` gives a connection another heartbeat (in a client by its `ClientHandle`)
//! - `deliver ID BYTES MS` sends a message, says "sent", and waits so long for the peer to have read it
//!
//! The end of standard input ends the program at once, whatever its handlers do.

use std::collections::HashMap;
use std::io;
use std::process;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use heartwire::{ClientHandle, ConnectionId, Error, Sender};

use crate::report::say;
use crate::settings::{heartbeat, milliseconds, number};

/// Of each connection whose handler has begun.
static SENDERS: LazyLock<Mutex<HashMap<ConnectionId, Sender>>> = LazyLock::new(Mutex::default);

pub fn register(sender: Sender) {
    SENDERS.lock().unwrap_or_else(PoisonError::into_inner).insert(sender.id(), sender);
}

pub fn obey(client: Option<&ClientHandle>) {
    for line in io::stdin().lines() {
        let Ok(line) = line else { break };
        if let Err(error) = carry_out(&line, client) {
            say(format_args!("failed {line}: {error}"));
        }
    }
    process::exit(0);
}

fn carry_out(line: &str, client: Option<&ClientHandle>) -> Result<(), Error> {
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        ["heartbeat", id, beat] => match client {
            Some(client) => client.set_heartbeat(heartbeat(beat)?),
            None => sender(id)?.set_heartbeat(heartbeat(beat)?),
        },
        ["deliver", id, bytes, patience] => {
            let (sender, bytes, patience) = (sender(id)?, number(bytes)?, milliseconds(patience)?);
            thread::spawn(move || deliver(&sender, bytes, patience));
            Ok(())
        }
        _ => Err(Error::handler("no such command")),
    }
}

fn sender(id: &str) -> Result<Sender, Error> {
    let senders = SENDERS.lock().unwrap_or_else(PoisonError::into_inner);
    senders.get(&number(id)?).cloned().ok_or_else(|| Error::handler("no such connection"))
}

fn deliver(sender: &Sender, bytes: usize, patience: Duration) {
    let id = sender.id();
    match sender.send(vec![0; bytes]) {
        Ok(()) => say(format_args!("sent {id}")),
        Err(error) => return say(format_args!("unconfirmed {id} {error}")),
    }
    match sender.confirm(patience) {
        Ok(()) => say(format_args!("confirmed {id}")),
        Err(error) => say(format_args!("unconfirmed {id} {error}")),
    }
}
