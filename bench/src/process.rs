//! Servers and clients in processes of their own: this program again, with a hidden command.

use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::answers::Dialect;
use crate::server::{Kind, ServeOptions};

/// A process that ends when its standard input does, so that it never outlives us.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Process {
    /// This program, with these arguments.
    pub(crate) fn start(arguments: &[String]) -> io::Result<Self> {
        Self::spawn(Command::new(std::env::current_exe()?).args(arguments))
    }

    pub(crate) fn spawn(command: &mut Command) -> io::Result<Self> {
        // A group of its own: Ctrl-C is for us, and we end it.
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut child = command.spawn()?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().ok_or_else(|| io::Error::other("no pipe from a process"))?;
        Ok(Self { child, stdin, lines: read_lines(stdout) })
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
        match &mut self.stdin {
            Some(stdin) => writeln!(stdin, "{line}"),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Stops it as Ctrl-Z would, with all that it has started: its sockets stay open, and nothing answers.
    pub(crate) fn freeze(&self) -> io::Result<()> {
        Ok(kill_process_group(Pid::from_child(&self.child), Signal::STOP)?)
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) -> io::Result<()> {
        Ok(kill_process_group(Pid::from_child(&self.child), Signal::CONT)?)
    }

    /// Lets it end by itself.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.stdin = None;
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "a process did not end"));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // With all that it has started. That fails only when it has ended already.
        if let Ok(None) = self.child.try_wait() {
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            let _ = self.child.wait();
        }
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
    pub(crate) is_tls: bool,
    pub(crate) process: Process,
}

impl Server {
    pub(crate) fn start(kind: Kind, options: &ServeOptions) -> io::Result<Self> {
        let mut command = kind.command(options)?;
        Self::spawn(kind, options, &mut command)
    }

    /// Starts it by a command of which it is a part.
    pub(crate) fn spawn(kind: Kind, options: &ServeOptions, command: &mut Command) -> io::Result<Self> {
        let process = Process::spawn(command)?;
        let line = process.line(Duration::from_secs(30))?;
        let port = line.strip_prefix("listening ").and_then(|port| port.parse::<u16>().ok());
        let port = port.ok_or_else(|| io::Error::other(format!("{} said: {line}", kind.name())))?;
        Ok(Self { kind, address: ([127, 0, 0, 1], port).into(), is_tls: options.tls.is_some(), process })
    }

    /// How its clients talk.
    pub(crate) fn dialect(&self, text: bool) -> Dialect {
        Dialect { is_websocket: self.kind.is_websocket(), is_tls: self.is_tls, text }
    }
}

/// Ends this process when its standard input does: whoever started it is gone, or wants that.
pub(crate) fn end_with_stdin() {
    obey_stdin(|_| {});
}

/// The same, and lines are orders.
pub(crate) fn obey_stdin(mut obey: impl FnMut(&str) + Send + 'static) {
    thread::spawn(move || {
        for line in io::stdin().lines() {
            let Ok(line) = line else { break };
            obey(&line);
        }
        std::process::exit(0);
    });
}

/// Tells whoever started this process where it listens.
pub(crate) fn announce(address: SocketAddr) {
    println!("listening {}", address.port());
}
