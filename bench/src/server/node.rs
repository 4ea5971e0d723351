//! Servers by packages of Node: only if node and the package are installed.

use std::ffi::OsString;
use std::process::Command;
use std::sync::LazyLock;

use super::{ServeOptions, tools};

/// A server that is a script, which needs a package.
pub(super) struct Script {
    source: &'static str,
    /// The folder of packages that has it; the inner `None` if the environment says it already.
    packages: LazyLock<Option<Option<OsString>>>,
    missing: &'static str,
}

/// `ws`, on one thread, with zlib on the threads of libuv.
pub(super) static WS: Script = Script {
    source: include_str!("node_ws.js"),
    packages: LazyLock::new(|| find("ws", "peers")),
    missing: "node has no package ws; `./test peers` installs it where it is looked for",
};

/// `socket.io`, on one thread.
pub(super) static SOCKET_IO: Script = Script {
    source: include_str!("socket_io.js"),
    packages: LazyLock::new(|| find("socket.io", "bench")),
    missing: "node has no package socket.io; bench/README.md says how to install it where it is looked for",
};

/// `socket.io` on several nodes, by either adapter.
pub(super) static SOCKET_IO_NODES: Script = Script {
    source: include_str!("socket_io.js"),
    packages: LazyLock::new(|| find("@socket.io/redis-streams-adapter", "bench")),
    missing: "node has no adapters of socket.io; bench/README.md says how to install them where they are looked for",
};

impl Script {
    pub(super) fn command(&self, options: &ServeOptions) -> Command {
        self.command_with(options, &[])
    }

    pub(super) fn command_with(&self, options: &ServeOptions, others: &[&str]) -> Command {
        let mut command = node(self.packages.as_ref().and_then(Option::as_ref));
        command.args(["-e", self.source, "--"]).args(options.foreign_arguments()).args(others);
        command
    }

    /// Why it is not here.
    pub(super) fn missing(&self) -> Option<&'static str> {
        self.packages.is_none().then_some(self.missing)
    }
}

fn find(package: &str, folder: &str) -> Option<Option<OsString>> {
    let own = tools().map(|tools| tools.join("node").join(folder).join("node_modules").into_os_string());
    let requires = format!("require('{package}')");
    let mut paths = [None].into_iter().chain(own.map(Some));
    paths.find(|path| super::succeeds(node(path.as_ref()).args(["-e", &requires])))
}

fn node(packages: Option<&OsString>) -> Command {
    let mut command = Command::new("node");
    if let Some(packages) = packages {
        command.env("NODE_PATH", packages);
    }
    command
}
