//! A process of Redis, or of a Sentinel, and what it is asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};
use std::{fs, io};

use rustix::process::{Pid, Signal, kill_process};

use crate::CEILING;
use crate::host::Host;

pub(crate) struct Process {
    pub(crate) address: SocketAddr,
    /// What is its own.
    pub(crate) folder: PathBuf,
    host: Host,
    child: Option<Child>,
}

impl Process {
    /// One that is not started yet, on a host, with a folder of its own.
    pub(crate) fn new(host: &Host, folder: PathBuf) -> Result<Self, String> {
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let address = match host.is_here() {
            true => TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port"),
            false => (host.address, 6379).into(),
        };
        Ok(Self { address, folder, host: host.clone(), child: None })
    }

    /// Starts it, and waits until it answers.
    pub(crate) fn start(&mut self, options: &[&str]) -> Result<(), String> {
        let mut command = self.host.command("redis-server");
        command.args(options).args(["--port", &self.address.port().to_string()]);
        command.args(["--bind", &self.address.ip().to_string(), "--protected-mode", "no", "--dir"]).arg(&self.folder);
        let log = fs::OpenOptions::new().create(true).append(true).open(self.folder.join("log"));
        let log = log.map_err(|error| error.to_string())?;
        let child = command.stdout(log).spawn().map_err(|error| format!("redis-server: {error}"))?;
        self.child = Some(child);
        self.wait_until("redis-server answers", |process| process.ask("PING").is_ok())
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// It stands still for a while.
    pub(crate) fn pause(&self, time: Duration) {
        let Some(child) = &self.child else { return };
        let pid = Pid::from_child(child);
        let _ = kill_process(pid, Signal::STOP);
        thread::sleep(time);
        let _ = kill_process(pid, Signal::CONT);
    }

    pub(crate) fn wait_until(&self, what: &str, is_so: impl Fn(&Self) -> bool) -> Result<(), String> {
        let deadline = Instant::now() + CEILING;
        while !is_so(self) {
            if Instant::now() > deadline {
                return Err(format!("waited in vain until {what}"));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Asks it, in words without blanks, for texts. `None` for one that there is not.
    pub(crate) fn ask(&self, words: &str) -> Result<Vec<Option<String>>, String> {
        let ask = || -> io::Result<Vec<Option<String>>> {
            let mut stream = TcpStream::connect_timeout(&self.address, CEILING)?;
            stream.set_read_timeout(Some(CEILING))?;
            write!(stream, "{words}\r\n")?;
            let mut answer = BufReader::new(stream);
            let line = read_line(&mut answer)?;
            match line.strip_prefix('*').map(|count| count.parse().unwrap_or(0)) {
                None => Ok(vec![read_text(&line, &mut answer)?]),
                Some(count) => (0..count)
                    .map(|_: usize| {
                        let line = read_line(&mut answer)?;
                        read_text(&line, &mut answer)
                    })
                    .collect(),
            }
        };
        ask().map_err(|error| format!("Redis at {}, asked {words}: {error}", self.address))
    }

    /// The only text of an answer.
    pub(crate) fn ask_one(&self, words: &str) -> Result<Option<String>, String> {
        self.ask(words).map(|texts| texts.into_iter().next().flatten())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn read_line(answer: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    answer.read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

/// A text that a line says, or announces.
fn read_text(line: &str, answer: &mut BufReader<TcpStream>) -> io::Result<Option<String>> {
    if let Some(length) = line.strip_prefix('$') {
        // None has a length of -1.
        let Ok(length) = length.parse::<usize>() else { return Ok(None) };
        let mut text = vec![0; length + 2];
        answer.read_exact(&mut text)?;
        text.truncate(length);
        return Ok(Some(String::from_utf8_lossy(&text).into_owned()));
    }
    let text = line.strip_prefix('+').or_else(|| line.strip_prefix(':'));
    text.map(|text| Some(text.to_owned())).ok_or_else(|| io::Error::other(line.to_owned()))
}
