//! Python's `websockets`: the sync server, with a thread for each connection, as heartwire has; broadcasts by its
//! asyncio server. Only if it is installed.

use std::ffi::OsString;
use std::process::Command;
use std::sync::LazyLock;

use super::{ServeOptions, tools};

const SERVER: &str = include_str!("websockets.py");

pub(super) fn command(options: &ServeOptions) -> Command {
    let mut command = Command::new(PYTHON.as_deref().unwrap_or("python3".as_ref()));
    command.args(["-c", SERVER]).args(options.foreign_arguments());
    command
}

/// Why it is not here.
pub(super) fn missing() -> Option<&'static str> {
    PYTHON.is_none().then_some("python3 has no package websockets; `./test peers` installs it where it is looked for")
}

/// The interpreter that has it.
static PYTHON: LazyLock<Option<OsString>> = LazyLock::new(|| {
    let own = tools().map(|tools| tools.join("python/bin/python").into_os_string());
    own.into_iter().chain([OsString::from("python3")]).find(|python| {
        let mut command = Command::new(python);
        super::succeeds(command.args(["-c", "import websockets.asyncio.server, websockets.sync.server"]))
    })
});
