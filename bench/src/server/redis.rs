//! redis-server, which the nodes of a server share: a process of its own, with its files in a folder of its own, and as
//! docs/nodes.md has it. Only if it is installed.

use std::fs;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use super::tended;
use crate::process::Process;

/// How long it may take until it answers, all that it kept read again.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    folder: PathBuf,
    port: u16,
    /// `appendfsync`.
    fsync: String,
}

/// Runs redis-server until the standard input ends.
pub(crate) fn serve(options: &Options) -> io::Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, options.port));
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &options.port.to_string(), "--save", "", "--dir"]);
    command.arg(&options.folder).args(["--appendonly", "yes", "--appendfsync", &options.fsync]);
    command.args(["--maxmemory-policy", "noeviction"]).stdout(Stdio::null());
    tended::serve(&mut command, |_| await_answer(address).map(|()| address))
}

/// Why it is not here.
pub(crate) fn missing() -> Option<&'static str> {
    let is_here = super::succeeds(Command::new("redis-server").arg("--version"));
    (!is_here).then_some("redis-server is not installed (Debian: redis-server)")
}

/// One that runs.
#[derive(Debug)]
pub(crate) struct Redis {
    options: Options,
    /// `None` while it is down.
    process: Option<Process>,
}

impl Redis {
    pub(crate) fn start(fsync: &str) -> io::Result<Self> {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let name = format!("heartwire-bench-{}-{}.redis", std::process::id(), STARTED.fetch_add(1, Relaxed));
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder)?;
        // It has to have the same port when it comes again.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let mut redis = Self { options: Options { folder, port, fsync: fsync.to_owned() }, process: None };
        redis.run()?;
        Ok(redis)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.options.port)
    }

    /// The group of its processes.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Starts it, with what it had written to disk, and waits until it answers.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        let Options { folder, port, fsync } = &self.options;
        let arguments = ["redis".to_owned(), folder.display().to_string(), port.to_string(), fsync.clone()];
        let process = Process::start(&arguments)?;
        process.line(PATIENCE)?;
        self.process = Some(process);
        Ok(())
    }

    /// Kills it at once, as by `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// Stops it, so that it answers nothing and all connections stay open.
    pub(crate) fn freeze(&self) -> io::Result<()> {
        self.process.as_ref().map_or(Ok(()), Process::freeze)
    }

    pub(crate) fn thaw(&self) -> io::Result<()> {
        self.process.as_ref().map_or(Ok(()), Process::thaw)
    }

    /// Cuts off all connections. How many they were.
    pub(crate) fn cut_off_all(&self) -> io::Result<usize> {
        let mut cut = 0;
        for kind in ["normal", "pubsub"] {
            let killed = ask(self.address(), &format!("CLIENT KILL TYPE {kind}"))?;
            cut += killed.strip_prefix(':').and_then(|count| count.parse::<usize>().ok()).unwrap_or(0);
        }
        Ok(cut)
    }

    fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.options.port).into()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
        // What is left there is in a folder for temporary files.
        let _ = fs::remove_dir_all(&self.options.folder);
    }
}

fn await_answer(address: SocketAddr) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask(address, "PING") {
            Ok(answer) if answer == "+PONG" => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            // It is not there yet, or still reads what it had.
            _ => thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// One command, as a line, and the first line of the answer.
fn ask(address: SocketAddr, command: &str) -> io::Result<String> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    (&stream).write_all(format!("{command}\r\n").as_bytes())?;
    let mut answer = String::new();
    if BufReader::new(stream.take(1024)).read_line(&mut answer)? == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(answer.trim_end().to_owned())
}
