//! Node's `ws`, on one thread, with zlib on the threads of libuv. Only if it is installed.

use std::ffi::OsString;
use std::process::Command;
use std::sync::LazyLock;

use super::{ServeOptions, tools};

const SERVER: &str = include_str!("node_ws.js");

pub(super) fn command(options: &ServeOptions) -> Command {
    let mut command = node(NODE_PATH.as_ref().and_then(Option::as_ref));
    command.args(["-e", SERVER, "--"]).args(options.foreign_arguments());
    command
}

/// Why it is not here.
pub(super) fn missing() -> Option<&'static str> {
    NODE_PATH.is_none().then_some("node has no package ws; `./test peers` installs it where it is looked for")
}

/// The folder of packages with it; the inner `None` if the environment says it already.
static NODE_PATH: LazyLock<Option<Option<OsString>>> = LazyLock::new(|| {
    let own = tools().map(|tools| tools.join("node/peers/node_modules").into_os_string());
    let mut paths = [None].into_iter().chain(own.map(Some));
    paths.find(|path| super::succeeds(node(path.as_ref()).args(["-e", "require('ws')"])))
});

fn node(packages: Option<&OsString>) -> Command {
    let mut command = Command::new("node");
    if let Some(packages) = packages {
        command.env("NODE_PATH", packages);
    }
    command
}
