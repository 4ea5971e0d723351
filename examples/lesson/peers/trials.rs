//! Four ways to break a heartbeat. Each runs a server in a process of its own, has a peer do something to it, and says
//! what both of them see.
//!
//! `trickle`: a message comes byte by byte. `blocked-write`: the peer does not read what the server sends.
//! `busy-handler`: the handler works for long. `suspend`: the server's process is stopped and goes on, as on a laptop
//! whose lid is closed and opened.

use std::error::Error;
use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use super::cable;
use super::narrator::{say, say_at, scene, seconds};
use super::websocket::{self, PING, Peer};

/// What a peer asks the handler for.
pub(crate) const WORK: &str = "work";
pub(crate) const SEND_A_LOT: &str = "send a lot";
/// How long `WORK` takes, longer than it may take to find a dead peer.
pub(crate) const WORK_TIME: Duration = Duration::from_secs(4);

const TENTH: Duration = Duration::from_millis(100);

type Outcome = Result<(), Box<dyn Error>>;

/// The heartbeat of the server: its interval, and how long it may take to find a dead peer.
#[derive(Clone, Copy)]
pub(crate) struct Beat {
    pub(crate) interval: Duration,
    pub(crate) bound: Duration,
}

type Trial = fn(Beat) -> Outcome;

const TRIALS: [(&str, Trial); 4] =
    [("trickle", trickle), ("blocked-write", blocked_write), ("busy-handler", busy_handler), ("suspend", suspend)];

/// Runs the trial of this name, or all.
pub(crate) fn run(chosen: Option<&str>, beat: Beat) -> Outcome {
    if let Some(other) = chosen.filter(|chosen| TRIALS.iter().all(|(name, _)| name != chosen)) {
        return Err(format!("no trial {other}; there are trickle, blocked-write, busy-handler and suspend").into());
    }
    for (name, trial) in TRIALS {
        if chosen.is_none_or(|chosen| chosen == name) {
            trial(beat)?;
        }
    }
    Ok(())
}

fn trickle(beat: Beat) -> Outcome {
    let server = Server::start()?;
    scene("A peer sends a long message, one byte every 0.1 s");
    let mut peer = websocket::connect(server.address)?;
    let stream = peer.get_mut();
    let begin = Instant::now();
    websocket::begin_text(stream, 100)?;
    while begin.elapsed() < 4 * beat.interval {
        stream.write_all(b".")?;
        thread::sleep(TENTH);
    }
    let sent_for = begin.elapsed();
    server.tell();
    // All that has come meanwhile.
    stream.set_read_timeout(Some(TENTH))?;
    let mut pings = 0;
    while let Ok((opcode, _)) = websocket::read_frame(stream) {
        pings += u32::from(opcode == PING);
    }
    let for_so_long = seconds(sent_for);
    match pings {
        0..3 => say("peer", format!("has received {pings} Pings in {for_so_long}, and 3 at least were due")),
        _ => say("peer", format!("has received all Pings that were due in {for_so_long}")),
    }

    let server = Server::start()?;
    scene("A peer sends a long message, one byte 0.2 s after each Ping");
    let mut peer = websocket::connect(server.address)?;
    let sent = send_with_pings(&mut peer, "slowly");
    server.tell();
    match sent.and_then(|()| Ok(peer.read()?)) {
        Ok(echo) => say("peer", format!("reads its echo: {echo}")),
        Err(_) => say("peer", "lives, and finds its connection closed"),
    }
    Ok(())
}

/// Sends a text, each byte a little after a Ping.
fn send_with_pings(peer: &mut Peer, text: &str) -> Outcome {
    let stream = peer.get_mut();
    websocket::begin_text(stream, text.len() as u8)?;
    for byte in text.bytes() {
        while websocket::read_frame(stream)?.0 != PING {}
        thread::sleep(2 * TENTH);
        stream.write_all(&[byte])?;
    }
    Ok(())
}

fn blocked_write(beat: Beat) -> Outcome {
    let server = Server::start()?;
    scene("A peer asks for 64 MiB, and is stopped");
    let mut peer = websocket::connect(server.address)?;
    peer.send(SEND_A_LOT.into())?;
    server.watch_dying(Instant::now(), 2 * beat.bound, beat.bound);
    Ok(())
}

fn busy_handler(beat: Beat) -> Outcome {
    let server = Server::start()?;
    scene("A peer asks for 4 s of work, and is cut off");
    let mut peer = websocket::connect(server.address)?;
    peer.send(WORK.into())?;
    let last_byte = Instant::now();
    thread::sleep(TENTH);
    cable::pull(peer.get_ref())?;
    server.watch_dying(last_byte, WORK_TIME + 2 * beat.bound, beat.bound);

    let server = Server::start()?;
    scene("A peer asks for 4 s of work, and answers every Ping");
    let mut peer = websocket::connect(server.address)?;
    peer.send(WORK.into())?;
    let lived = websocket::live(&mut peer, WORK_TIME + beat.bound);
    server.tell();
    tell_of_living(lived.is_ok());
    Ok(())
}

fn suspend(beat: Beat) -> Outcome {
    let pause = beat.bound + beat.interval;
    let server = Server::start()?;
    scene("The server is stopped for a while, and its peer answers every Ping");
    let mut peer = websocket::connect(server.address)?;
    let living = thread::spawn(move || (websocket::live(&mut peer, pause + beat.bound).is_ok(), peer));
    thread::sleep(5 * TENTH);
    server.tell();
    say("lid", "is closed");
    server.signal("STOP")?;
    thread::sleep(pause);
    say("lid", "is opened");
    server.signal("CONT")?;
    let (lived, _still_open) = living.join().expect("it does not panic");
    server.tell();
    tell_of_living(lived);
    Ok(())
}

fn tell_of_living(is_open: bool) {
    say("peer", if is_open { "lives, and its connection is open" } else { "lives, and finds its connection closed" });
}

/// A server in a process of its own: this program, run with the argument `serve`. It prints its address, and then what
/// its supervisor hears.
struct Server {
    process: Child,
    address: SocketAddr,
    events: Receiver<(Instant, String)>,
}

impl Server {
    fn start() -> Result<Self, Box<dyn Error>> {
        let mut process = Command::new(std::env::current_exe()?).arg("serve").stdout(Stdio::piped()).spawn()?;
        let stdout = process.stdout.take().ok_or("it has no output")?;
        let mut lines = BufReader::new(stdout).lines();
        let address = lines.next().ok_or("it ended at once")??.parse()?;
        let (sender, events) = mpsc::channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = sender.send((Instant::now(), line));
            }
        });
        Ok(Self { process, address, events })
    }

    /// Says what it has told so far.
    fn tell(&self) {
        // What is on its way is to come too.
        while let Ok((when, event)) = self.events.recv_timeout(TENTH) {
            say_at(when, "server", event);
        }
    }

    /// Says what it tells until it has found the peer dead, or for so long at most.
    fn watch_dying(&self, last_byte: Instant, limit: Duration, bound: Duration) {
        let until = Instant::now() + limit;
        while let Ok((when, event)) = self.events.recv_timeout(until.saturating_duration_since(Instant::now())) {
            let is_over = event.contains("closed");
            say_at(when, "server", event);
            if is_over {
                let took = when.saturating_duration_since(last_byte);
                let verdict = if took < bound + 5 * TENTH { "within" } else { "over" };
                say("peer", format!("was found dead {} after its last byte, {verdict} the bound", seconds(took)));
                return;
            }
        }
        say(
            "peer",
            format!("was not found dead for {}; the bound is {}", seconds(last_byte.elapsed()), seconds(bound)),
        );
    }

    fn signal(&self, name: &str) -> io::Result<()> {
        let status = Command::new("kill").args(["-s", name, &self.process.id().to_string()]).status()?;
        if status.success() { Ok(()) } else { Err(io::Error::other("kill failed")) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails only if it has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
