//! nginx with nchan, as Debian has them. Only if they are installed.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::{ServeOptions, tended};

const CONFIGURATION: &str = include_str!("nchan.conf");
const MODULE: &str = "/usr/lib/nginx/modules/ngx_nchan_module.so";

pub(super) fn serve(workers: &str, options: &ServeOptions) -> io::Result<()> {
    // Of all files that it makes.
    let folder = std::env::temp_dir().join(format!("heartwire-bench-{}.nginx", std::process::id()));
    fs::create_dir(&folder)?;
    let served = serve_in(&folder, workers, options);
    fs::remove_dir_all(&folder)?;
    served
}

fn serve_in(folder: &Path, workers: &str, options: &ServeOptions) -> io::Result<()> {
    // nginx cannot say which port it got.
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let file = folder.join("nginx.conf");
    let redis = options.redis.as_ref();
    let upstream = redis.map(|url| format!("upstream shared {{ nchan_redis_server {url}; }}")).unwrap_or_default();
    let pass = redis.map_or("", |_| "nchan_redis_pass shared;");
    let address_text = address.to_string();
    let values = [
        ("@WORKERS@", workers),
        ("@MODULE@", MODULE),
        ("@ADDRESS@", &address_text),
        ("@UPSTREAM@", &upstream),
        ("@PASS@", pass),
    ];
    let fill = |text: String, (name, value)| text.replace(name, value);
    fs::write(&file, values.into_iter().fold(CONFIGURATION.to_owned(), fill))?;
    let mut command = nginx().ok_or(io::ErrorKind::NotFound)?;
    command.arg("-p").arg(folder).arg("-c").arg(&file).args(["-e", "stderr"]);
    tended::serve(&mut command, |_| await_listener(address))
}

/// Why it is not here.
pub(super) fn missing() -> Option<&'static str> {
    let is_here = Path::new(MODULE).exists() && nginx().is_some();
    (!is_here).then_some("nginx or its module nchan is not installed (Debian: nginx, libnginx-mod-nchan)")
}

/// It is not in the path of everybody.
fn nginx() -> Option<Command> {
    let mut names = ["nginx", "/usr/sbin/nginx"].into_iter();
    names.find(|name| super::succeeds(Command::new(name).arg("-v"))).map(Command::new)
}

fn await_listener(address: SocketAddr) -> io::Result<SocketAddr> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match TcpStream::connect(address) {
            Ok(_) => return Ok(address),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
}
