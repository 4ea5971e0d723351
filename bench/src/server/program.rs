//! heartwire's program as a user starts it, with topics. Only if it is built beside this one.

use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::{ServeOptions, tended};

pub(super) fn serve(options: &ServeOptions) -> io::Result<()> {
    let program = path().ok_or(io::ErrorKind::NotFound)?;
    let mut command = Command::new(program);
    command.args(["serve", "0", "--mode", "topics"]);
    if let Some(redis) = &options.redis {
        command.args(["--backplane", redis]);
    }
    tended::serve(command.stdout(Stdio::piped()), address)
}

/// Why it is not here.
pub(super) fn missing() -> Option<&'static str> {
    path().is_none().then_some("the program is not built beside this one; `cargo build --release` does that")
}

fn path() -> Option<PathBuf> {
    let beside = std::env::current_exe().ok()?.with_file_name("heartwire");
    beside.exists().then_some(beside)
}

/// From the line by which it says where it listens.
fn address(child: &mut Child) -> io::Result<SocketAddr> {
    let mut line = String::new();
    let stdout = child.stdout.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
    BufReader::new(stdout).read_line(&mut line)?;
    let address = line.strip_prefix("listening on ws://").and_then(|rest| rest.split_whitespace().next());
    let address = address.and_then(|address| address.parse().ok());
    address.ok_or_else(|| io::Error::other(format!("heartwire said: {line}")))
}
