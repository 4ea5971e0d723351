//! Redis, as what several servers share their topics by. It writes everything to disk before it answers, so that it may
//! be killed and nothing is lost.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::CEILING;

pub(crate) struct Redis {
    folder: PathBuf,
    pub(crate) address: SocketAddr,
    child: Option<Child>,
}

impl Redis {
    pub(crate) fn new(folder: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
        Self { folder: folder.to_owned(), address: port, child: None }
    }

    pub(crate) fn start(&mut self) -> Result<(), String> {
        let mut command = Command::new("redis-server");
        command.args(["--port", &self.address.port().to_string(), "--bind", "127.0.0.1", "--save", ""]);
        command.args(["--appendonly", "yes", "--appendfsync", "always", "--dir"]).arg(&self.folder);
        let child = command.stdout(Stdio::null()).spawn().map_err(|error| format!("redis-server: {error}"))?;
        self.child = Some(child);
        let deadline = Instant::now() + CEILING;
        while TcpStream::connect(self.address).is_err() {
            if Instant::now() > deadline {
                return Err("redis-server does not listen".to_owned());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// It stands still for a while.
    pub(crate) fn pause(&self, time: Duration) {
        let Some(child) = &self.child else { return };
        let _ = kill_process(Pid::from_child(child), Signal::STOP);
        thread::sleep(time);
        let _ = kill_process(Pid::from_child(child), Signal::CONT);
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}
