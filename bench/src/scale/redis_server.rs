//! A redis-server of the measurement's own, and what it says that it has done.

use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use redis::{Cmd, FromRedisValue, RedisResult};

use crate::process::Process;

/// Longer than anything takes that is asked.
const CEILING: Duration = Duration::from_secs(60);

/// Its folder is gone when it is dropped.
pub(super) struct RedisServer {
    // Ended first.
    process: Option<Process>,
    folder: PathBuf,
    port: u16,
    connection: redis::Connection,
}

/// What it has done since it began.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counters {
    /// Processor time in microseconds.
    pub(super) processor: f64,
    /// Bytes that it sent.
    pub(super) sent: f64,
    /// How often a node has asked what is new.
    pub(super) readings: f64,
    /// Entries of the log.
    pub(super) entries: f64,
}

impl RedisServer {
    pub(super) fn version() -> Option<String> {
        let output = Command::new("redis-server").arg("--version").output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        text.split_whitespace().find_map(|word| word.strip_prefix("v=").map(str::to_owned))
    }

    /// One that keeps nothing on disk.
    pub(super) fn start() -> io::Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let folder = std::env::temp_dir().join(format!("heartwire-scale-{}-{port}", std::process::id()));
        std::fs::create_dir(&folder)?;
        let process = launch(port, &folder)?;
        let connection = connect(port)?;
        Ok(Self { process: Some(process), folder, port, connection })
    }

    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(super) fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> io::Result<T> {
        command.query(&mut self.connection).map_err(io::Error::other)
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.ask(&redis::cmd("FLUSHALL"))
    }

    pub(super) fn counters(&mut self) -> io::Result<Counters> {
        let info: String = self.ask(redis::cmd("INFO").arg("everything"))?;
        let number = |name: &str| {
            let found = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            found.and_then(|value| value.trim().parse::<f64>().ok()).unwrap_or(0.0)
        };
        let calls = |command: &str| {
            let found = info.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
            found.and_then(|rest| rest.split(',').next()?.parse::<f64>().ok()).unwrap_or(0.0)
        };
        let processor = (number("used_cpu_sys") + number("used_cpu_user")) * 1e6;
        // A reading is an MGET and an XREAD, which is counted when it ends.
        let (sent, readings) = (number("total_net_output_bytes"), calls("mget"));
        let entries: Option<f64> = self.ask(redis::cmd("GET").arg("heartwire:log-number"))?;
        Ok(Counters { processor, sent, readings, entries: entries.unwrap_or(0.0) })
    }
}

impl Counters {
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            processor: self.processor - before.processor,
            sent: self.sent - before.sent,
            readings: self.readings - before.readings,
            entries: self.entries - before.entries,
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        drop(self.process.take());
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn launch(port: u16, folder: &Path) -> io::Result<Process> {
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port", &port.to_string(), "--dir"]);
    command.arg(folder);
    Process::spawn(&mut command)
}

fn connect(port: u16) -> io::Result<redis::Connection> {
    let open = || -> RedisResult<redis::Connection> {
        let client = redis::Client::open(format!("redis://127.0.0.1:{port}"))?;
        let mut connection = client.get_connection_with_timeout(CEILING)?;
        redis::cmd("PING").query::<String>(&mut connection).map(|_| connection)
    };
    let deadline = Instant::now() + CEILING;
    loop {
        match open() {
            Ok(connection) => return Ok(connection),
            Err(error) if Instant::now() > deadline => return Err(io::Error::other(error)),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}
