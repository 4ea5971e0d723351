//! Python's `websockets`, the sync server: a thread for each connection, as heartwire has. Only if it is installed.

use std::process::{Command, Stdio};

const SERVER: &str = include_str!("websockets.py");

pub(crate) fn command() -> Command {
    let mut command = Command::new("python3");
    command.args(["-c", SERVER]);
    command
}

pub(super) fn is_installed() -> bool {
    let mut command = Command::new("python3");
    command.args(["-c", "import websockets.sync.server"]).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
