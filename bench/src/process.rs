//! Servers and clients in processes of their own: this program again, with a hidden command.

use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use crate::server::{Kind, ServeOptions};

/// A process that ends when its standard input does, so that it never outlives us.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Process {
    pub(crate) fn start(arguments: &[String]) -> io::Result<Self> {
        Self::spawn(Command::new(std::env::current_exe()?).args(arguments))
    }

    pub(crate) fn spawn(command: &mut Command) -> io::Result<Self> {
        // A group of its own: Ctrl-C is for us, and we end it.
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut child = command.spawn()?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("no pipes"));
        };
        let lines = read_lines(stdout);
        Ok(Self { child, stdin, lines })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line that the process prints.
    pub(crate) fn line(&self, timeout: Duration) -> io::Result<String> {
        self.lines.recv_timeout(timeout).map_err(|error| match error {
            RecvTimeoutError::Timeout => io::Error::new(io::ErrorKind::TimedOut, "a process said nothing"),
            RecvTimeoutError::Disconnected => io::Error::new(io::ErrorKind::UnexpectedEof, "a process ended"),
        })
    }

    pub(crate) fn tell(&mut self, line: &str) -> io::Result<()> {
        writeln!(self.stdin, "{line}")
    }

    /// Stops it as Ctrl-Z would: its sockets stay open, and nothing answers.
    pub(crate) fn freeze(&self) -> io::Result<()> {
        let pid = rustix::process::Pid::from_child(&self.child);
        Ok(rustix::process::kill_process(pid, rustix::process::Signal::STOP)?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_lines(stdout: ChildStdout) -> Receiver<String> {
    let (sender, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines() {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// A server that listens.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) kind: Kind,
    pub(crate) address: SocketAddr,
    pub(crate) process: Process,
}

impl Server {
    pub(crate) fn start(kind: Kind, options: &ServeOptions) -> io::Result<Self> {
        let process = match kind {
            Kind::Websockets => Process::spawn(&mut crate::server::websockets::command())?,
            _ => Process::start(&options.arguments(kind))?,
        };
        let line = process.line(Duration::from_secs(10))?;
        let port = line.strip_prefix("listening ").and_then(|port| port.parse::<u16>().ok());
        let port = port.ok_or_else(|| io::Error::other(format!("{} said: {line}", kind.name())))?;
        Ok(Self { kind, address: ([127, 0, 0, 1], port).into(), process })
    }
}

/// Ends this process when its standard input does: whoever started it is gone, or wants that.
pub(crate) fn end_with_stdin() {
    thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        std::process::exit(0);
    });
}

/// Tells whoever started this process where it listens.
pub(crate) fn announce(address: SocketAddr) {
    println!("listening {}", address.port());
}
