//! The server: the real program, which ends in order, or is killed, and comes again.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::CEILING;
use crate::record::Position;

/// Heartbeats that find a peer dead within 900 ms. Queues are small, so that whoever comes back does not get all that
/// it missed at once.
const OPTIONS: [&str; 21] = [
    "127.0.0.1:0",
    "--mode=topics",
    "--history=100000,64MiB,10m",
    "--allow-publish=chaos/*",
    "--ping-interval",
    "300ms",
    "--pong-timeout",
    "300ms",
    "--max-missed",
    "2",
    "--queue-size",
    "8KiB",
    "--close-timeout",
    "500ms",
    "--handshake-timeout",
    "1s",
    "--max-connections",
    "2000",
    "--log-level",
    "error",
    "--no-status",
];

/// Where histories are kept while no server runs.
pub(crate) enum Keep {
    /// In a file that an orderly end writes.
    File(PathBuf),
    /// By a Redis at this address, which several servers share.
    Redis(SocketAddr),
}

pub(crate) struct Server {
    program: PathBuf,
    keep: Keep,
    /// For those who connect.
    pub(crate) address: Arc<RwLock<SocketAddr>>,
    running: Option<Running>,
    /// All epochs that there were, in their order.
    pub(crate) epochs: Vec<u64>,
    pub(crate) tally: Tally,
}

struct Running {
    child: Child,
    stdout: JoinHandle<String>,
    stderr: JoinHandle<String>,
}

/// What servers told of their peers at an orderly end.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Found by the heartbeat.
    pub(crate) found_dead: u64,
    /// Threads that had not ended in time.
    pub(crate) abandoned: u64,
}

impl Server {
    pub(crate) fn new(program: PathBuf, keep: Keep) -> Self {
        let nowhere = Arc::new(RwLock::new(([127, 0, 0, 1], 9).into()));
        Self { program, keep, address: nowhere, running: None, epochs: Vec::new(), tally: Tally::default() }
    }

    /// Starts it, and waits until it serves.
    ///
    /// # Errors
    /// If it goes on with topics that were not saved, or does not go on with those that were.
    pub(crate) fn start(&mut self) -> Result<(), String> {
        let is_saved = match &self.keep {
            Keep::File(path) => path.exists(),
            Keep::Redis(_) => !self.epochs.is_empty(),
        };
        let mut command = Command::new(&self.program);
        match &self.keep {
            Keep::File(path) => command.args(OPTIONS).arg("--history-file").arg(path),
            Keep::Redis(address) => command.args(OPTIONS).arg(format!("--backplane=redis://{address}")),
        };
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("{}: {error}", self.program.display()))?;
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut stderr = child.stderr.take().expect("piped");
        let stderr = thread::spawn(move || {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
            text
        });
        let mut line = String::new();
        stdout.read_line(&mut line).map_err(|error| error.to_string())?;
        let address = line.split("://").nth(1).and_then(|rest| rest.split_whitespace().next());
        let address = address.and_then(|address| address.parse().ok());
        let stdout = thread::spawn(move || {
            let mut text = String::new();
            let _ = stdout.read_to_string(&mut text);
            text
        });
        let Some(address) = address else {
            let _ = child.kill();
            return Err(format!("it does not listen: {line}{}", stderr.join().expect("it reads")));
        };
        self.running = Some(Running { child, stdout, stderr });
        *self.address.write().unwrap() = address;
        let epoch = epoch(address)?;
        match self.epochs.last() {
            Some(last) if is_saved && *last != epoch => return Err("topics were saved, and are not used".to_owned()),
            Some(_) if is_saved => {}
            _ if self.epochs.contains(&epoch) => return Err("a server goes on with topics that were not saved".into()),
            _ => self.epochs.push(epoch),
        }
        Ok(())
    }

    /// Ends it as a service manager does, and waits for its end.
    ///
    /// # Errors
    /// If it does not end in order, or has not saved its topics.
    pub(crate) fn end(&mut self) -> Result<(), String> {
        self.signal(Signal::TERM);
        let (status, stdout) = self.wait()?;
        if !status.success() {
            return Err(format!("the server did not end in order: {status}: {stdout}"));
        }
        if let Keep::File(path) = &self.keep
            && !path.exists()
        {
            return Err(format!("the server has saved nothing: {stdout}"));
        }
        self.tally.found_dead += number_after(&stdout, "heartbeat_lost ");
        Ok(())
    }

    /// Kills it, so that nothing is saved.
    ///
    /// # Errors
    /// If something was wrong before.
    pub(crate) fn kill(&mut self) -> Result<(), String> {
        self.signal(Signal::KILL);
        self.wait().map(drop)
    }

    /// Kills it while it ends in order: then either all is saved, or nothing.
    ///
    /// # Errors
    /// As [`kill`](Self::kill).
    pub(crate) fn kill_while_it_ends(&mut self, after: Duration) -> Result<(), String> {
        self.signal(Signal::TERM);
        thread::sleep(after);
        self.kill()
    }

    fn signal(&self, signal: Signal) {
        let child = &self.running.as_ref().expect("it runs").child;
        // Fails if it has ended, which is found when it is waited for.
        let _ = kill_process(Pid::from_child(child), signal);
    }

    /// Its end, and what it wrote to its standard output. It must not have logged an error.
    fn wait(&mut self) -> Result<(ExitStatus, String), String> {
        let Running { mut child, stdout, stderr } = self.running.take().expect("it runs");
        let deadline = Instant::now() + CEILING;
        let status = loop {
            match child.try_wait().map_err(|error| error.to_string())? {
                Some(status) => break status,
                None if Instant::now() > deadline => {
                    let _ = child.kill();
                    return Err(format!("the server does not end within {CEILING:?}"));
                }
                None => thread::sleep(Duration::from_millis(2)),
            }
        };
        let (stdout, stderr) = (stdout.join().expect("it reads"), stderr.join().expect("it reads"));
        // The close timeout is short, so a busy machine may not let all threads end in time.
        // Redis is away at times, and that is told.
        let lines = stderr.lines().filter(|line| !line.contains("the backplane redis://"));
        let (late, errors): (Vec<_>, Vec<_>) = lines.partition(|line| line.ends_with("thread is abandoned"));
        self.tally.abandoned += late.len() as u64;
        if errors.is_empty() { Ok((status, stdout)) } else { Err(format!("the server logged {errors:?}")) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut running) = self.running.take() {
            let _ = running.child.kill();
            let _ = running.child.wait();
        }
    }
}

/// The epoch of a server, by a position that it does not know.
fn epoch(address: SocketAddr) -> Result<u64, String> {
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&address, CEILING)?;
        stream.set_read_timeout(Some(CEILING))?;
        let path = "/topics/chaos/none?since=0000000000000000:1";
        write!(stream, "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let deadline = std::time::Instant::now() + CEILING;
    let answer = loop {
        let answer = ask().map_err(|error: std::io::Error| format!("the server does not answer: {error}"))?;
        // One that shares its topics has no copy of them yet.
        if !answer.starts_with("HTTP/1.1 503") || std::time::Instant::now() > deadline {
            break answer;
        }
        thread::sleep(Duration::from_millis(10));
    };
    let position = answer.split(r#""position":""#).nth(1).and_then(|rest| rest.split('"').next());
    let position = position.ok_or_else(|| format!("no position in {answer:?}"))?;
    Position::parse(position).map(|position| position.epoch)
}

fn number_after(text: &str, what: &str) -> u64 {
    let rest = text.split(what).nth(1).unwrap_or_default();
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(0)
}
