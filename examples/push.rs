//! Pushing to pages: one thread broadcasts, every open page shows it, and reconnects by itself.
//!
//! Run `cargo run --example push [ADDRESS]`, and open the address in a browser. Stop the program and start it again:
//! the page says that the server is gone, and continues when it is back. The page is below; heartwire.js makes the
//! connection.

use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use heartwire::{Error, HeartbeatPolicy, Response, Server, ServerHandle};

const PERIOD: Duration = Duration::from_secs(1);

const PAGE: &str = r#"<!doctype html>
<meta charset="utf-8"><meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<title>push</title>
<h1 id="news" aria-live="polite">…</h1>
<p id="state">connecting</p>
<script type="module">
  import { HeartSocket } from '/heartwire.js';
  const say = (id, text) => (document.getElementById(id).textContent = text);
  const socket = new HeartSocket(location.href.replace(/^http/, 'ws'), [], { reconnect: { longest: 2000 } });
  socket.onopen = () => say('state', 'connected');
  socket.onmessage = ({ data }) => say('news', data);
  socket.onbeat = ({ roundTrip }) => say('state', `connected, ${roundTrip?.toFixed(1) ?? '?'} ms away`);
  socket.onclose = ({ retryIn }) => say('state', `the server is gone, retrying in ${Math.ceil(retryIn / 1000)} s`);
</script>
"#;

fn main() -> Result<(), Error> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".into());
    let server = Server::bind(address)?
        .heartbeat(HeartbeatPolicy::new(Duration::from_secs(5), Duration::from_secs(2)))
        .browser_module()
        .on_request(|request| (request.path() == "/").then(page));
    println!("listening on ws://{}", server.local_addr());
    println!("the page is at http://{}/", server.local_addr());
    let handle = server.handle();
    thread::spawn(move || push(&handle));
    // Pages only listen. Their heartbeats are answered while we wait in recv.
    server.serve(|conn| {
        loop {
            conn.recv()?;
        }
    })
}

fn page() -> Response {
    Response::new(200).header("Content-Type", "text/html; charset=utf-8").body(PAGE)
}

fn push(handle: &ServerHandle) {
    for count in 1_u64.. {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() % 86_400;
        handle.broadcast(format!("news {count}, {:02}:{:02}:{:02} UTC", now / 3600, now / 60 % 60, now % 60));
        thread::sleep(PERIOD);
    }
}
