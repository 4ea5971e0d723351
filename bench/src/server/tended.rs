//! Servers that know nothing of us. A process of this program starts one, tells where it listens, and ends it when its
//! own standard input ends.

use std::io;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::process;

/// Runs a server until the standard input ends. `address` waits until the server listens.
pub(super) fn serve(
    command: &mut Command,
    address: impl FnOnce(&mut Child) -> io::Result<SocketAddr>,
) -> io::Result<()> {
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let served = address(&mut child).and_then(|address| {
        process::announce(address);
        io::copy(&mut io::stdin(), &mut io::sink())
    });
    // It fails only if the server has ended already.
    let _ = kill_process(Pid::from_child(&child), Signal::TERM);
    child.wait()?;
    served.map(drop)
}
