//! The server: the real program, which ends in order, or is killed, and comes again.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::CEILING;
use crate::host::Host;
use crate::record::{End, Epoch, Position};
use crate::token::Secret;

/// Heartbeats that find a peer dead within 900 ms. Queues are small, so that whoever comes back does not get all that
/// it missed at once.
const OPTIONS: [&str; 19] = [
    "--mode=topics",
    "--history=100000,64MiB,10m",
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

/// How long after its last byte a peer is found dead, as the servers say with these options.
pub(crate) const FOUND_DEAD: Duration = Duration::from_millis(300 + 2 * 300);

/// Where histories are kept while no server runs.
pub(crate) enum Keep {
    /// In a file that an orderly end writes.
    File(PathBuf),
    /// By a Redis, which several servers share.
    Redis(Shared),
}

/// What servers need that share their topics. They know their users by tokens, and tell who is there.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) url: String,
    pub(crate) secret: Secret,
    /// A file that has the secret.
    pub(crate) key_file: PathBuf,
}

pub(crate) struct Server {
    program: PathBuf,
    host: Host,
    keep: Keep,
    /// For those who connect.
    pub(crate) address: Arc<RwLock<SocketAddr>>,
    running: Option<Running>,
    /// All epochs that there were, in their order, if they are not those of a Redis.
    pub(crate) epochs: Vec<Epoch>,
    /// Its processes, one after the other.
    pub(crate) lives: Vec<Life>,
    pub(crate) tally: Tally,
}

/// A process of a server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Life {
    pub(crate) address: SocketAddr,
    pub(crate) began: Instant,
    /// Since when it answers, and has a copy of all topics.
    pub(crate) serves: Instant,
    /// When it was sent a signal, and had ended.
    pub(crate) end: Option<(Instant, Instant)>,
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
    pub(crate) fn new(program: PathBuf, host: Host, keep: Keep) -> Self {
        let nowhere = Arc::new(RwLock::new(([127, 0, 0, 1], 9).into()));
        let (epochs, lives) = (Vec::new(), Vec::new());
        Self { program, host, keep, address: nowhere, running: None, epochs, lives, tally: Tally::default() }
    }

    /// Starts it, and waits until it serves.
    ///
    /// # Errors
    /// If it goes on with topics that were not saved, or does not go on with those that were.
    pub(crate) fn start(&mut self) -> Result<(), String> {
        let (began, is_saved) = (Instant::now(), matches!(&self.keep, Keep::File(path) if path.exists()));
        let mut command = self.host.command(&self.program);
        command.arg(format!("{}:0", self.host.address)).args(OPTIONS);
        match &self.keep {
            Keep::File(path) => command.arg("--allow-publish=chaos/*").arg("--history-file").arg(path),
            Keep::Redis(shared) => {
                command.arg("--presence").arg("--backplane").arg(&shared.url);
                command.arg("--jwt-key-file").arg(&shared.key_file)
            }
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
        let epoch = self.epoch()?;
        self.lives.push(Life { address, began, serves: Instant::now(), end: None });
        if matches!(self.keep, Keep::Redis(_)) {
            return Ok(());
        }
        let is_last = self.epochs.last().is_some_and(|last| last.id == epoch);
        let is_known = self.epochs.iter().any(|known| known.id == epoch);
        match (is_saved, is_last, is_known) {
            (true, false, _) if !self.epochs.is_empty() => Err("topics were saved, and are not used".to_owned()),
            (true, true, _) => Ok(()),
            (false, _, true) => Err("a server goes on with topics that were not saved".to_owned()),
            _ => {
                self.epochs.push(Epoch { id: epoch, end: End::Complete });
                Ok(())
            }
        }
    }

    /// The address that its process has now.
    pub(crate) fn process(&self) -> SocketAddr {
        *self.address.read().unwrap()
    }

    /// The epoch that it has, by a position that it does not know.
    pub(crate) fn epoch(&self) -> Result<u64, String> {
        let path = "/topics/chaos/none?since=0000000000000000:1";
        let answer = self.ask_until_available("GET", path, "")?;
        let position = answer.split(r#""position":""#).nth(1).and_then(|rest| rest.split('"').next());
        let position = position.ok_or_else(|| format!("no position in {answer:?}"))?;
        Position::parse(position).map(|position| position.epoch)
    }

    /// Publishes a probe, as soon as it can.
    pub(crate) fn publish_probe(&self, probe: &str) -> Result<(), String> {
        self.ask_until_available("POST", "/topics/probe", probe).map(drop)
    }

    /// Waits until it has read a probe, and so has looked at what Redis has. A publication may be answered before that,
    /// if it takes long.
    pub(crate) fn wait_for_probe(&self, probe: &str) -> Result<(), String> {
        let deadline = Instant::now() + CEILING;
        while !self.ask_until_available("GET", "/topics/probe", "")?.contains(&format!("\"{probe}\"")) {
            if Instant::now() > deadline {
                return Err(format!("a server does not read {probe}"));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Asks it by HTTP, again and again while it has no copy of the topics, or cannot publish.
    fn ask_until_available(&self, method: &str, path: &str, body: &str) -> Result<String, String> {
        let token = match &self.keep {
            Keep::File(_) => String::new(),
            Keep::Redis(shared) => format!("Authorization: Bearer {}\r\n", shared.secret.token_of("chaos")),
        };
        let ask = || {
            let mut stream = TcpStream::connect_timeout(&self.process(), CEILING)?;
            stream.set_read_timeout(Some(CEILING))?;
            let close = format!("Host: {}\r\nConnection: close\r\n", self.process());
            let headers = format!("{close}Content-Length: {}\r\n{token}", body.len());
            write!(stream, "{method} {path} HTTP/1.1\r\n{headers}\r\n{body}")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        let deadline = Instant::now() + CEILING;
        loop {
            let answer = ask().map_err(|error: std::io::Error| format!("the server does not answer: {error}"))?;
            if !answer.starts_with("HTTP/1.1 503") || Instant::now() > deadline {
                return Ok(answer);
            }
            thread::sleep(Duration::from_millis(10));
        }
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

    fn signal(&mut self, signal: Signal) {
        if let Some(Life { end: end @ None, .. }) = self.lives.last_mut() {
            let now = Instant::now();
            *end = Some((now, now));
        }
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
        if let Some(Life { end: Some((_, dead)), .. }) = self.lives.last_mut() {
            *dead = Instant::now();
        }
        let (stdout, stderr) = (stdout.join().expect("it reads"), stderr.join().expect("it reads"));
        // The close timeout is short, so a busy machine may not let all threads end in time.
        // Redis is away at times, and that is told.
        let lines = stderr.lines().filter(|line| !line.contains("the backplane redis"));
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

fn number_after(text: &str, what: &str) -> u64 {
    let rest = text.split(what).nth(1).unwrap_or_default();
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(0)
}
