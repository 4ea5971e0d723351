//! The handlers. The first word of the path names one, the others are numbers:
//!
//! - `/echo` sends back what comes
//! - `/sleep/MS` sleeps first, says "back", then echoes
//! - `/work/MS` takes a message and sleeps, again and again
//! - `/poll/MS` takes what is there without waiting and sends it back, then sleeps, again and again
//! - `/feed/MS/BYTES` sends messages of so many bytes with pauses, and never receives
//! - `/push/MS/BYTES` has another thread do that, and echoes
//! - `/give/BYTES` sends one message, then echoes

use std::thread;
use std::time::Duration;

use heartwire::{Connection, Error, Sender};

use crate::command;
use crate::report::say;
use crate::settings::{milliseconds, number};

pub fn run(conn: &mut Connection, path: &str) -> Result<(), Error> {
    command::register(conn.sender());
    say(format_args!("begins {}", conn.id()));
    let words: Vec<&str> = path.trim_matches('/').split('/').collect();
    match words[..] {
        ["echo"] => echo(conn),
        ["sleep", pause] => {
            thread::sleep(milliseconds(pause)?);
            say(format_args!("back {}", conn.id()));
            echo(conn)
        }
        ["work", pause] => {
            let pause = milliseconds(pause)?;
            loop {
                conn.recv()?;
                thread::sleep(pause);
            }
        }
        ["poll", pause] => {
            let pause = milliseconds(pause)?;
            loop {
                while let Some(message) = conn.recv_timeout(Duration::ZERO)? {
                    conn.send(message)?;
                }
                thread::sleep(pause);
            }
        }
        ["feed", pause, bytes] => feed(&conn.sender(), milliseconds(pause)?, number(bytes)?),
        ["push", pause, bytes] => {
            let (sender, pause, bytes) = (conn.sender(), milliseconds(pause)?, number(bytes)?);
            thread::spawn(move || feed(&sender, pause, bytes));
            echo(conn)
        }
        ["give", bytes] => {
            conn.send(vec![0; number(bytes)?])?;
            echo(conn)
        }
        _ => Err(Error::handler(format!("no handler {path}"))),
    }
}

fn echo(conn: &mut Connection) -> Result<(), Error> {
    loop {
        let message = conn.recv()?;
        conn.send(message)?;
    }
}

fn feed(sender: &Sender, pause: Duration, bytes: usize) -> Result<(), Error> {
    loop {
        sender.send(vec![0; bytes])?;
        thread::sleep(pause);
    }
}
