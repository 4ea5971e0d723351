//! Where a process runs: on this host, or on one of our own out of a network namespace of Linux, whose line to others
//! can be cut so that packets are dropped without a word.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use crate::times::Span;

/// How long TCP may wait at least before it sends something again.
const RESENDING: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    pub(crate) address: IpAddr,
    /// `None`: the one that we run on ourselves.
    namespace: Option<String>,
}

impl Host {
    pub(crate) fn here() -> Self {
        Self { address: Ipv4Addr::LOCALHOST.into(), namespace: None }
    }

    pub(crate) fn inside(namespace: &str, address: IpAddr) -> Self {
        Self { address, namespace: Some(namespace.to_owned()) }
    }

    pub(crate) fn is_here(&self) -> bool {
        self.namespace.is_none()
    }

    /// A program that runs there.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let program = program.as_ref();
        let Some(namespace) = &self.namespace else { return Command::new(program) };
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace]).arg(program);
        command
    }
}

/// The line between a host of ours and another one.
pub(crate) struct Wire {
    host: Host,
    other: IpAddr,
    /// Protects when it was cut.
    faults: Mutex<Vec<Span>>,
}

impl Wire {
    pub(crate) fn new(host: &Host, other: IpAddr) -> Self {
        Self { host: host.clone(), other, faults: Mutex::default() }
    }

    pub(crate) fn faults(&self) -> Vec<Span> {
        self.faults.lock().unwrap().clone()
    }

    /// Drops all packets in both directions, for a while.
    ///
    /// # Errors
    /// If that cannot be done.
    pub(crate) fn drop_packets(&self, time: Duration) -> Result<(), String> {
        let began = Instant::now();
        // Until it is known when that is over.
        self.faults.lock().unwrap().push((began, began + 3 * time + RESENDING));
        self.rules("-I")?;
        thread::sleep(time);
        self.rules("-D")?;
        // TCP sends again what was lost, after a time that grows with that for which it was in vain.
        if let Some(last) = self.faults.lock().unwrap().last_mut() {
            last.1 = Instant::now() + began.elapsed() + RESENDING;
        }
        Ok(())
    }

    fn rules(&self, action: &str) -> Result<(), String> {
        let other = self.other.to_string();
        for [chain, end] in [["INPUT", "-s"], ["OUTPUT", "-d"]] {
            let mut command = self.host.command("iptables");
            let done = command.args(["-w", action, chain, end, &other, "-j", "DROP"]).output();
            let done = done.map_err(|error| format!("iptables: {error}"))?;
            if !done.status.success() {
                return Err(format!("iptables: {}", String::from_utf8_lossy(&done.stderr)));
            }
        }
        Ok(())
    }
}
