//! What only TLS has, in full numbers: half handshakes, new keys in both directions while both are saturated, and
//! thousands of idle connections whose other end stops.

use std::io::Write;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use heartwire::{HeartbeatPolicy, Server};
use rustls::ClientConnection;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::rig::Rig;
use crate::support::tls::{self, client_config};
use crate::support::wire::Wire;
use crate::support::{Client, Incoming, PING, PONG, duplex, masked, ms, open_sockets, request_with};
use crate::{Checked, Control, Scenario, ensure, plain, scaled};

/// How long both directions are saturated.
pub(crate) const DUPLEX: Duration = Duration::from_secs(if cfg!(debug_assertions) { 2 } else { 30 });

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "TLS: flood of half handshakes",
            server: endless,
            check: half_handshakes,
            control: Control {
                what: "it drops nobody, for they are few",
                server: endless,
                check: |rig| flood(rig, 100),
            },
            // 5,000 may be half open here, at 15 KiB each.
            memory: 128,
        },
        Scenario {
            name: "TLS: both directions, new keys",
            server: plain,
            check: |rig| both_directions(rig, false),
            control: Control { what: "a record is changed", server: plain, check: |rig| both_directions(rig, true) },
            memory: 48,
        },
        Scenario {
            name: "TLS: thousands idle, then stopped",
            server: crowded,
            check: |rig| stopped(rig, scaled(10_000, 150), true),
            control: Control { what: "they do not stop", server: crowded, check: |rig| stopped(rig, 20, false) },
            memory: 400,
        },
    ]
}

/// No handshake is ever too slow, so that only the bound on their number ends them.
fn endless(server: Server) -> Server {
    server.handshake_timeout(Duration::from_secs(3600)).max_connections(scaled(20_000, 4096))
}

fn half_handshakes(rig: &Rig) -> Checked {
    // Each is a socket at either end, until it is dropped.
    flood(rig, scaled(10_000, 1500))
}

fn flood(rig: &Rig, count: usize) -> Checked {
    let name = "localhost".try_into().expect("a name");
    let mut hello = Vec::new();
    let mut client = ClientConnection::new(client_config(rustls::ALL_VERSIONS).into(), name).expect("a configuration");
    client.write_tls(&mut hello).expect("into memory");
    let said = [&b""[..], &hello[..1], &hello[..hello.len() / 2], &hello];
    let (mut peers, mut slowest, mut served) = (Vec::new(), Duration::ZERO, 0);
    for number in 0..count {
        let mut peer = TcpStream::connect(rig.address()).map_err(|error| format!("peer {number}: {error}"))?;
        // Whoever is dropped meanwhile does not hear it.
        let _ = peer.write_all(said[number % said.len()]);
        peers.push(peer);
        if number % 250 == 249 {
            let began = Instant::now();
            let mut client = rig.connect("/newcomer");
            client.expect_echo("am I served?");
            slowest = slowest.max(began.elapsed());
            client.close();
            served += 1;
        }
    }
    let failed = rig.handle.stats().handshakes_failed;
    ensure!(failed > 0, "nobody was dropped");
    let open = open_sockets();
    // They leave without having said the rest.
    drop(peers);
    rig.wait_until("all have gone", || {
        let stats = rig.handle.stats();
        stats.handshakes_failed + stats.without_request >= count as u64
    })?;
    Ok(format!("{count} half, {served} newcomers served within {slowest:.2?}; {failed} dropped, {open} sockets"))
}

fn both_directions(rig: &Rig, is_changed: bool) -> Checked {
    let mut client = rig.connect("/duplex");
    if is_changed {
        let mut socket = client.wire().socket();
        socket.write_all(&[23, 3, 3, 0, 30]).and_then(|()| socket.write_all(&[7; 30])).expect("it is connected");
    }
    let exchanged = duplex::play(&mut client, DUPLEX);
    let report = {
        let peer = client.local_addr();
        client.close();
        rig.ledger.closed(peer, rig.patience)?
    };
    ensure!(report.traffic.messages_in == exchanged.sent + 1 && report.traffic.unsent == 0, "{report:?}");
    let mib = exchanged.bytes >> 20;
    let duplex::Exchanged { sent, received, rekeyed, .. } = exchanged;
    ensure!(sent > 20 && received > 20, "not at once: {exchanged:?}");
    Ok(format!("{sent} to it, {received} from it, {mib} MiB in {DUPLEX:?}, {rekeyed} times new keys each"))
}

/// The heartbeat of the thousands, longer than any pause of a machine that serves so many handshakes meanwhile.
const PERIOD: Duration = Duration::from_secs(8);

fn idle() -> HeartbeatPolicy {
    HeartbeatPolicy::new(PERIOD, PERIOD).max_missed(2)
}

fn crowded(server: Server) -> Server {
    server.max_connections(20_000).handshake_timeout(Duration::from_secs(60)).on_handshake(|request| {
        let accept = heartwire::Accept::new();
        Ok(if request.path().starts_with("/quick") { accept.heartbeat(idle()) } else { accept })
    })
}

/// Where the process of the clients finds what to do.
const CROWD: &str = "HEARTWIRE_HOSTILE_CROWD";

/// A process of clients, ended with its handle.
struct Crowd(Child);

impl Crowd {
    fn start(rig: &Rig, count: usize) -> Self {
        let mut command = Command::new(env::current_exe().expect("a test has a program"));
        command.args(["--exact", "hostile_and_clumsy_peers_hurt_nobody", "--nocapture"]);
        let ca = tls::site_ca().pem();
        command.env(CROWD, format!("{} {count}\n{ca}", rig.address())).stdin(Stdio::null());
        Self(command.stdout(Stdio::null()).spawn().expect("this program"))
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.0.id().to_string()]).status();
        assert!(status.expect("kill runs").success());
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn stopped(rig: &Rig, count: usize, really: bool) -> Checked {
    let crowd = Crowd::start(rig, count);
    let began = Instant::now();
    let deadline = began + Duration::from_secs(120);
    let open = || rig.handle.stats().open;
    while open() < count as u64 + 1 {
        ensure!(Instant::now() < deadline, "{} of {count} connected", open() - 1);
        thread::sleep(ms(20));
    }
    let connected = began.elapsed();
    // Each has been pinged at least once, and has answered.
    thread::sleep(2 * PERIOD);
    ensure!(open() == count as u64 + 1, "{} of {count} while all lived", open() - 1);
    if really {
        crowd.signal("STOP");
    }
    let (stop, bound) = (Instant::now(), idle().worst_case().expect("it finds the dead"));
    // The bystander stays.
    while open() > 1 {
        let limit = if really { bound + Duration::from_secs(10) } else { ms(1500) };
        ensure!(stop.elapsed() < limit, "{} of {count} not found after {:.1?}", open() - 1, stop.elapsed());
        thread::sleep(ms(20));
    }
    let found = stop.elapsed();
    let closed = rig.handle.stats().closed;
    ensure!(closed.get("heartbeat_lost") == Some(&(count as u64)), "{closed:?} for {count}");
    Ok(format!("{count} connected within {connected:.1?}, all found within {found:.1?}, bound {bound:?}"))
}

/// If this process is one that a scenario has started: connects all its clients, and answers their Pings until it is
/// ended. Returns whether it was such a process.
pub(crate) fn be_a_crowd() -> bool {
    let Ok(orders) = env::var(CROWD) else { return false };
    let (first, ca) = orders.split_once('\n').expect("orders");
    let (address, count) = first.split_once(' ').expect("an address and a number");
    let count: usize = count.parse().expect("a number");
    #[cfg(feature = "cli")]
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let ca = CertificateDer::from_pem_slice(ca.as_bytes()).expect("a CA");
    let config = std::sync::Arc::new(tls::client_config_trusting(ca, rustls::ALL_VERSIONS));
    let mut clients: Vec<Client> = Vec::new();
    loop {
        if clients.len() < count {
            let socket = TcpStream::connect(address).expect("the server listens");
            let name = "localhost".try_into().expect("a name");
            let tls = ClientConnection::new(config.clone(), name).expect("a configuration");
            let client = Client::on(Wire::secured(socket, tls)).upgraded(&request_with("/quick/idle", ""));
            client.wire().socket().set_nonblocking(true).expect("a socket");
            clients.push(client);
            if !clients.len().is_multiple_of(100) && clients.len() < count {
                continue;
            }
        }
        // All that is here, and no more.
        for client in &mut clients {
            while let Incoming::Frame(ping) = client.next_before(Instant::now()) {
                assert!(ping.opcode == PING && client.try_write(&masked(PONG, &ping.payload)), "{ping:?}");
            }
        }
        thread::sleep(ms(if clients.len() < count { 0 } else { 20 }));
    }
}
