//! A Redis of the test's own.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use redis::FromRedisValue;

use crate::support::{CEILING, Folder};

/// Ends when it is dropped.
pub(crate) struct RedisServer {
    port: u16,
    folder: Folder,
    options: Vec<String>,
    /// The file of a Sentinel, which it writes to.
    config: Option<PathBuf>,
    process: Option<Child>,
}

impl RedisServer {
    /// Whether there is any.
    pub(crate) fn is_installed() -> bool {
        Command::new("redis-server")
            .arg("--version")
            .stdout(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }

    /// One that keeps nothing on disk.
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    pub(crate) fn with(options: &[&str]) -> Self {
        let mut server = Self::prepared(options);
        server.start_again();
        server
    }

    fn prepared(options: &[&str]) -> Self {
        let port = free_port();
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        Self { port, folder: Folder::new(), options, config: None, process: None }
    }

    /// One that is to be had by TLS as well, at the port that comes with it.
    #[cfg(feature = "tls")]
    pub(crate) fn with_tls(certificate: &str, key: &str) -> (Self, u16) {
        let port = free_port();
        let files = ["--tls-cert-file", certificate, "--tls-key-file", key, "--tls-auth-clients", "no"];
        let listening = ["--tls-port", &port.to_string()];
        (Self::with(&[&files[..], &listening[..]].concat()), port)
    }

    /// A copy of another one.
    pub(crate) fn replica_of(master: &Self) -> Self {
        let replica = Self::with(&["--replicaof", &format!("127.0.0.1 {}", master.port)]);
        let deadline = Instant::now() + CEILING;
        while !replica.ask::<String>("INFO replication").is_ok_and(|info| info.contains("master_link_status:up")) {
            assert!(Instant::now() < deadline, "the replica has no master");
            thread::sleep(Duration::from_millis(10));
        }
        replica
    }

    /// A Sentinel that watches a master by the name `main`, and needs no other to agree.
    pub(crate) fn sentinel_of(master: &Self) -> Self {
        let mut sentinel = Self::prepared(&["--sentinel"]);
        let watch = format!("sentinel monitor main 127.0.0.1 {} 1\n", master.port);
        let times = "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\n";
        let config = sentinel.folder.at("sentinel.conf");
        fs::write(&config, format!("{watch}{times}port {}\n", sentinel.port)).expect("a file");
        sentinel.config = Some(config);
        sentinel.start_again();
        sentinel
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn start_again(&mut self) {
        let mut command = Command::new("redis-server");
        match &self.config {
            Some(config) => command.arg(config),
            None => command.args(["--port", &self.port.to_string(), "--save", ""]),
        };
        command.args(["--bind", "127.0.0.1", "--dir", &self.folder.at("").to_string_lossy()]);
        command.args(&self.options).stdout(Stdio::null());
        let deadline = Instant::now() + CEILING;
        let mut process = command.spawn().expect("redis-server");
        while !self.is_up(process.id()) {
            assert!(Instant::now() < deadline, "redis-server does not answer");
            if process.try_wait().expect("its state").is_some() {
                // Somebody has its port, and may not have it for long.
                process = command.spawn().expect("redis-server");
            }
            thread::sleep(Duration::from_millis(10));
        }
        self.process = Some(process);
    }

    /// Whether this process answers, and no other at its port, be it that it asks for a password.
    fn is_up(&self, process: u32) -> bool {
        match self.ask::<String>("INFO server") {
            Ok(info) => info.lines().any(|line| line == format!("process_id:{process}")),
            Err(error) => error.code() == Some("NOAUTH"),
        }
    }

    /// As kill -9 does.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Sends the process a signal, such as STOP.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.process.as_ref().expect("it runs").id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &id]).status().expect("kill").success());
    }

    /// Asks it something, a command and its arguments.
    pub(crate) fn ask<T: FromRedisValue>(&self, command: &str) -> redis::RedisResult<T> {
        let mut words = command.split(' ');
        let mut asked = redis::cmd(words.next().unwrap_or_default());
        words.for_each(|word| _ = asked.arg(word));
        self.query(&asked)
    }

    pub(crate) fn query<T: FromRedisValue>(&self, command: &redis::Cmd) -> redis::RedisResult<T> {
        let client = redis::Client::open(self.url())?;
        command.query(&mut client.get_connection_with_timeout(CEILING)?)
    }

    /// What follows one of its options.
    pub(crate) fn option(&self, name: &str) -> Option<&str> {
        let at = self.options.iter().position(|option| option == name)?;
        self.options.get(at + 1).map(String::as_str)
    }
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}
