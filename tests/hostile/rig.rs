//! A server under attack, a bystander who must not notice, and what is checked after every scenario.

use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use heartwire::ServerHandle;
use socket2::{Domain, Socket, Type};

use crate::ledger::Ledger;
use crate::support::usage::kib_of;
use crate::support::{CEILING, CLOSE, Client, Incoming, PING, PONG, Running, TEXT, ms, open_sockets, request_with};
use crate::support::{eventually, server, start, threads_named};
use crate::{Checked, Scenario, ensure, site};

/// How long a negative control waits for what must not come.
const IMPATIENCE: Duration = Duration::from_millis(1200);

pub(crate) struct Rig {
    pub(crate) handle: ServerHandle,
    pub(crate) ledger: Ledger,
    /// How long to wait for what should come.
    pub(crate) patience: Duration,
    running: Mutex<Option<Running>>,
    bystander: Mutex<Option<Bystander>>,
    /// How many are open with nobody but the bystander.
    sockets: usize,
}

/// What was measured, for the table.
pub(crate) struct Outcome {
    measured: String,
    opened: usize,
    false_deaths: usize,
    slowest: Duration,
    memory: u64,
}

impl Outcome {
    pub(crate) fn header() -> String {
        let columns = ["scenario", "opened", "reports", "false", "slowest", "memory", "took", "measured"];
        let [a, b, c, d, e, f, g, h] = columns;
        let first = format!("{a:<34} {b:>6} {c:>7} {d:>6} {e:>8} {f:>8} {g:>6}  {h}");
        let under = ["", "", "each", "deaths", "echo", "grew by", "", ""];
        let [a, b, c, d, e, f, g, _] = under;
        format!("{first}\n{a:<34} {b:>6} {c:>7} {d:>6} {e:>8} {f:>8} {g:>6}")
    }

    pub(crate) fn row(&self, name: &str, took: Duration) -> String {
        let Self { measured, opened, false_deaths, slowest, memory } = self;
        let (slowest, took) =
            (format!("{:.0} ms", slowest.as_secs_f64() * 1e3), format!("{:.1} s", took.as_secs_f64()));
        let memory = format!("{memory} MiB");
        format!("{name:<34} {opened:>6} {:>7} {false_deaths:>6} {slowest:>8} {memory:>8} {took:>6}  {measured}", 1)
    }
}

static RELEASED: AtomicBool = AtomicBool::new(false);

/// Whether handlers that are stuck may go on.
pub(crate) fn is_released() -> bool {
    RELEASED.load(SeqCst)
}

/// Runs a scenario, and checks what must hold after all of them.
pub(crate) fn run(scenario: &Scenario) -> Result<Outcome, String> {
    let before = Usage::now();
    reset_peak();
    let rig = Rig::new(scenario.server, CEILING);
    let measured = rig.attempt(scenario.check);
    let memory = kib("VmHWM:").saturating_sub(before.resident) / 1024;
    let after = rig.settle(measured.is_ok());
    let measured = measured?;
    let (opened, false_deaths, slowest) = after?;
    before.is_back(CEILING)?;
    ensure!(memory <= scenario.memory, "memory grew by {memory} MiB, {} are allowed", scenario.memory);
    Ok(Outcome { measured, opened, false_deaths, slowest, memory })
}

/// Runs the negative control of a scenario: it is to fail.
pub(crate) fn run_control(scenario: &Scenario) -> Checked {
    let before = Usage::now();
    let rig = Rig::new(scenario.control.server, IMPATIENCE);
    let measured = rig.attempt(scenario.control.check);
    RELEASED.store(true, SeqCst);
    drop(rig);
    before.is_back(CEILING).expect("a control leaves nothing behind");
    RELEASED.store(false, SeqCst);
    measured
}

impl Rig {
    fn new(settings: fn(heartwire::Server) -> heartwire::Server, patience: Duration) -> Self {
        let server = settings(site::settings(server()));
        let handle = server.handle();
        let ledger = Ledger::new(handle.events());
        let running = start(server, site::handle);
        let bystander = Bystander::start(handle.local_addr());
        eventually("the bystander is connected", || handle.stats().opened == 1);
        let (running, bystander) = (Some(running).into(), Some(bystander).into());
        Self { handle, ledger, patience, running, bystander, sockets: open_sockets() }
    }

    /// Runs a check. One that panics has found something as well.
    fn attempt(&self, check: fn(&Self) -> Checked) -> Checked {
        let outcome = thread::scope(|scope| scope.spawn(|| check(self)).join());
        outcome.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            Err(format!("panicked: {}", text.unwrap_or("?")))
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.handle.local_addr()
    }

    pub(crate) fn connect(&self, path: &str) -> Client {
        Client::tcp(self.address()).upgraded(&request_with(path, ""))
    }

    /// Like [`connect`](Self::connect), but the kernel takes little that this client does not read.
    pub(crate) fn connect_narrow(&self, path: &str) -> Client {
        let socket = Socket::new(Domain::for_address(self.address()), Type::STREAM, None).expect("a socket");
        socket.set_recv_buffer_size(4096).expect("SO_RCVBUF");
        socket.connect(&self.address().into()).expect("the server listens");
        Client::of(socket.into()).upgraded(&request_with(path, ""))
    }

    /// Waits until a condition holds, as long as patience lasts.
    pub(crate) fn wait_until(&self, what: &str, mut holds: impl FnMut() -> bool) -> Result<(), String> {
        let deadline = Instant::now() + self.patience;
        while !holds() {
            ensure!(Instant::now() < deadline, "waited in vain until {what}");
            thread::sleep(ms(2));
        }
        Ok(())
    }

    /// Reads up to a Close frame, past whatever else comes: its code and reason.
    pub(crate) fn close_frame(&self, client: &mut Client) -> Result<(Option<u16>, String), String> {
        let deadline = Instant::now() + self.patience;
        loop {
            match client.next_before(deadline) {
                Incoming::Frame(frame) if frame.opcode == CLOSE => return Ok(frame.close()),
                Incoming::Frame(frame) if frame.opcode == PING => {
                    client.try_write(&crate::support::masked(PONG, &frame.payload));
                }
                Incoming::Frame(_) => {}
                other => return Err(format!("{other:?} instead of a Close frame")),
            }
        }
    }

    /// Waits until nobody but the bystander is connected. Threads may wait for the next client.
    pub(crate) fn is_idle(&self) -> Result<(), String> {
        self.wait_until("only the bystander is connected", || {
            let is_alone = self.handle.connections().len() == 1 && self.handle.stats().open == 1;
            is_alone && threads_named("heartwire-drain") == 0
        })
    }

    /// Waits until no thread is left but the bystander's, not even one that waits for the next client.
    pub(crate) fn has_one_thread(&self) -> Result<(), String> {
        self.wait_until("only the bystander has a thread", || threads_named("heartwire-conn") == 1)
    }

    /// Shuts the server down, and says how long that took.
    pub(crate) fn shut_down(&self) -> Duration {
        let running = self.running.lock().unwrap().take().expect("the server runs");
        running.handle.shutdown();
        running.wait_for_end()
    }

    /// After the attack: how many connections there were, how many false deaths, and the bystander's slowest echo.
    fn settle(self, is_worth_it: bool) -> Result<(usize, usize, Duration), String> {
        let bystander = self.bystander.lock().unwrap().take().expect("the rig has one");
        if self.running.lock().unwrap().is_some() {
            if is_worth_it {
                self.is_idle()?;
                self.wait_until("only the bystander has a socket", || open_sockets() <= self.sockets)?;
                let mut client = self.connect("/afterwards");
                client.expect_echo("does it still serve?");
                client.close();
            }
            let slowest = bystander.stop();
            self.shut_down();
            self.judge(slowest?)
        } else {
            let slowest = bystander.stop();
            self.judge(slowest?)
        }
    }

    fn judge(&self, slowest: Duration) -> Result<(usize, usize, Duration), String> {
        // "/quick" peers are to be found dead; whoever else is was alive.
        let (opened, false_deaths) = self.ledger.settle(|path| !path.starts_with("/quick"))?;
        ensure!(false_deaths == 0, "{false_deaths} false deaths");
        Ok((opened, false_deaths, slowest))
    }
}

/// A well-behaved client that sends and receives all the time.
struct Bystander {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Result<Duration, String>>,
}

impl Bystander {
    fn start(address: SocketAddr) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            let client = Client::tcp(address).upgraded(&request_with("/bystander", ""));
            Self::live(client, &over)
        });
        Self { is_over, thread }
    }

    fn live(mut client: Client, is_over: &AtomicBool) -> Result<Duration, String> {
        let mut slowest = Duration::ZERO;
        for number in 0_u64.. {
            if is_over.load(SeqCst) {
                break;
            }
            let (text, sent) = (format!("bystander {number}"), Instant::now());
            client.try_write(&crate::support::masked(TEXT, text.as_bytes()));
            loop {
                match client.next_within(CEILING) {
                    Incoming::Frame(frame) if frame.opcode == PING => client.send(PONG, &frame.payload),
                    Incoming::Frame(frame) if frame.opcode == CLOSE => {
                        let (code, reason) = frame.close();
                        client.try_write(&crate::support::masked(CLOSE, &frame.payload));
                        // Only a shutdown is no surprise.
                        ensure!(code == Some(1001), "the bystander was closed with {code:?} {reason}");
                        return Ok(slowest);
                    }
                    Incoming::Frame(frame) if frame.opcode == PONG => {}
                    Incoming::Frame(frame) => {
                        ensure!(frame.text() == text, "the bystander got {:?} for {text:?}", frame.text());
                        break;
                    }
                    other => return Err(format!("the bystander came to {other:?}")),
                }
            }
            slowest = slowest.max(sent.elapsed());
            thread::sleep(ms(2));
        }
        client.close();
        Ok(slowest)
    }

    fn stop(self) -> Result<Duration, String> {
        self.is_over.store(true, SeqCst);
        self.thread.join().map_err(|_| "the bystander panicked".to_owned())?
    }
}

/// What a process has in use.
struct Usage {
    threads: usize,
    sockets: usize,
    resident: u64,
}

impl Usage {
    fn now() -> Self {
        Self { threads: threads_named("heartwire-"), sockets: open_sockets(), resident: kib("VmRSS:") }
    }

    /// Threads and sockets are no more than they were.
    fn is_back(&self, patience: Duration) -> Result<(), String> {
        let deadline = Instant::now() + patience;
        loop {
            let now = Self::now();
            if now.threads <= self.threads && now.sockets <= self.sockets {
                return Ok(());
            }
            let (threads, sockets) = (now.threads, now.sockets);
            ensure!(
                Instant::now() < deadline,
                "{threads} threads and {sockets} sockets, {} and {} before",
                self.threads,
                self.sockets
            );
            thread::sleep(ms(5));
        }
    }
}

/// A figure of this process in KiB.
fn kib(name: &str) -> u64 {
    kib_of("self", name)
}

/// Has the kernel measure `VmHWM` from here on.
fn reset_peak() {
    // Without that right the peak is that of all scenarios so far, which is no less strict.
    let _ = fs::write("/proc/self/clear_refs", "5");
}
