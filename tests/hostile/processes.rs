//! What concerns a whole process, shown on the program: memory under many half-announced messages, the stacks of idle
//! connections, and the limit of files.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use crate::rig::Rig;
use crate::support::process::Process;
use crate::support::usage::kib_of;
use crate::support::{Client, Incoming, PING, TEXT, masked, ms};
use crate::{Checked, Control, Scenario, ensure, plain, scaled};

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "many announce the largest message",
            server: plain,
            check: |_| announcers(scaled(10_000, 1_000), 0),
            control: Control { what: "32 KiB of each do come", server: plain, check: |_| announcers(300, 32 * 1024) },
            memory: 48,
        },
        Scenario {
            name: "idle stacks",
            server: plain,
            // Two pages, as ARCHITECTURE.md says. A build without optimisation needs more.
            check: |_| idle_stacks(scaled(8, 32) as u64),
            control: Control { what: "one page were enough", server: plain, check: |_| idle_stacks(4) },
            memory: 16,
        },
        Scenario {
            name: "out of file descriptors, and back",
            server: plain,
            check: |rig| out_of_files(rig, 60),
            control: Control { what: "there are enough", server: plain, check: |rig| out_of_files(rig, 2000) },
            memory: 16,
        },
    ]
}

/// The program, with so many files to open at most, and what it is known by to the system.
pub(crate) struct Program {
    pub(crate) process: Process,
    pub(crate) pid: String,
}

impl Program {
    pub(crate) fn start(files: &str, options: &[&str]) -> Self {
        let mut shell = Command::new("sh");
        let script = format!("ulimit -n {files}; echo \"pid $$\"; exec \"$0\" 127.0.0.1:0 \"$@\"");
        shell.args(["-c", &script, env!("CARGO_BIN_EXE_heartwire")]).args(options);
        let process = Process::start(shell.stdout(Stdio::piped()).stderr(Stdio::piped()));
        let pid = process.stdout.line_with(&["pid "]).replace("pid ", "");
        Self { process, pid }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.process.address()
    }

    pub(crate) fn resident_kib(&self) -> u64 {
        kib_of(&self.pid, "VmRSS:")
    }

    pub(crate) fn count(&self, what: &str) -> usize {
        fs::read_dir(format!("/proc/{}/{what}", self.pid)).expect("it runs").count()
    }

    /// Processor time used so far.
    pub(crate) fn busy(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).expect("it runs");
        // Behind the name in parentheses, utime and stime are the 12th and 13th, in hundredths of a second.
        let (_, fields) = stat.rsplit_once(')').expect("Linux");
        let ticks = fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number"));
        ms(10 * ticks.sum::<u64>())
    }

    fn still_serves(&self) -> Result<(), String> {
        let mut client = Client::connect(self.address());
        client.expect_echo("does it still serve?");
        client.close();
        Ok(())
    }
}

/// How many files this process, and so its children, may open.
fn limit_of_files() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").expect("Linux");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("Linux tells");
    line.split_whitespace().nth(3).and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX)
}

/// Each connection announces a message of 1 MiB, the largest allowed, and sends `really` bytes of it.
fn announcers(wanted: usize, really: usize) -> Checked {
    // What the announcements alone may cost.
    const EACH: u64 = 2 * 1024;
    let count = wanted.min(limit_of_files().saturating_sub(200));
    let most = (2 * count).to_string();
    let program =
        Program::start("$(ulimit -Hn)", &["--max-connections", &most, "--ping-interval", "off", "--log-level", "warn"]);
    let address = program.address();
    let started = Instant::now();
    let workers: Vec<_> = (0..4)
        .map(|worker| {
            let share = (worker..count).step_by(4).count();
            thread::spawn(move || (0..share).map(|_| Client::connect(address)).collect::<Vec<_>>())
        })
        .collect();
    let mut clients: Vec<Client> = workers.into_iter().flat_map(|worker| worker.join().expect("all connect")).collect();
    let (threads, idle) = (program.count("task"), program.resident_kib());
    ensure!(threads > count, "{threads} threads for {count} connections");

    let announcement = [&[0x82, 0xff][..], &(1_u64 << 20).to_be_bytes(), &[1, 2, 3, 4], &vec![7; really]].concat();
    for client in &mut clients {
        client.write(&announcement);
    }
    // No answer tells that it was read, so the memory is watched for a while.
    let mut announced = program.resident_kib();
    for _ in 0..scaled(20, 10) {
        thread::sleep(ms(50));
        announced = announced.max(program.resident_kib());
    }
    let (grew, allowed) = (announced.saturating_sub(idle), count as u64 * EACH / 1024);
    ensure!(grew <= allowed.max(1024), "{count} announcements of 1 MiB cost {grew} KiB, {allowed} are allowed");
    program.still_serves()?;
    drop(clients);
    wait_until("the threads have ended", || program.count("task") < 10)?;
    program.still_serves()?;
    let took = started.elapsed();
    Ok(format!(
        "{count} announced 1 MiB each: {} MiB idle ({:.1} KiB each), grew by {grew} KiB; {took:.1?}",
        idle / 1024,
        idle as f64 / count as f64,
    ))
}

/// The resident memory of the stacks of idle connections that were pinged, in KiB: at most `most` for nine in ten. One
/// whose thread waited for a lock may be deeper.
fn idle_stacks(most: u64) -> Checked {
    const COUNT: usize = 100;
    let program = Program::start("$(ulimit -Hn)", &["--ping-interval", "200ms", "--pong-timeout", "60s"]);
    let mut clients: Vec<Client> = (0..COUNT).map(|_| Client::connect(program.address())).collect();
    for client in &mut clients {
        // Nothing here answers, and the timeout is far away.
        (0..2).for_each(|_| assert_eq!(client.frame().opcode, PING));
    }
    let mut stacks = stacks(&program.pid);
    ensure!(stacks.len() >= COUNT, "{} stacks for {COUNT} connections", stacks.len());
    stacks.sort_unstable();
    let (usual, deepest) = (stacks[COUNT * 9 / 10 - 1], stacks[COUNT - 1]);
    ensure!(usual <= most, "nine in ten stacks take up to {usual} KiB, {most} are allowed");
    program.still_serves()?;
    Ok(format!("{COUNT} idle stacks: {usual} KiB for nine in ten, {deepest} at most"))
}

/// The resident KiB of each mapping of a process that is as large as a connection's stack.
fn stacks(pid: &str) -> Vec<u64> {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("it runs");
    let kib = |line: &str| line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok());
    let mut stacks = Vec::new();
    let mut is_stack = false;
    for line in smaps.lines() {
        if line.starts_with("Size:") {
            // The default of `Server::stack_size`.
            is_stack = kib(line) == Some(256);
        } else if is_stack && line.starts_with("Rss:") {
            stacks.extend(kib(line));
        }
    }
    stacks
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) -> Result<(), String> {
    let deadline = Instant::now() + crate::support::CEILING;
    while !holds() {
        ensure!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(ms(5));
    }
    Ok(())
}

fn out_of_files(rig: &Rig, files: usize) -> Checked {
    let clients = 100;
    let program = Program::start(&files.to_string(), &["--log-level", "warn", "--ping-interval", "off"]);
    let mut first = Client::connect(program.address());
    first.expect_echo("hello");
    let idle = program.count("fd");
    let mut waiting: Vec<TcpStream> =
        (0..clients).map(|_| TcpStream::connect(program.address()).expect("the backlog takes it")).collect();
    // Where it logs is for the program to know.
    let lines = || [program.process.stdout.lines(), program.process.stderr.lines()].concat().join("\n");
    rig.wait_until("it is out of files", || lines().contains("(see ulimit -n)"))?;
    let (busy, started) = (program.busy(), Instant::now());
    // Who is connected goes on, and the accept loop does not spin.
    for _ in 0..20 {
        first.expect_echo("still there?");
        thread::sleep(ms(50));
    }
    let load = (program.busy() - busy).as_secs_f64() / started.elapsed().as_secs_f64();
    let spins = load >= 0.5;
    ensure!(!spins, "it spins: {:.0} % of a processor", load * 100.0);
    // The first ones leave, so that later ones get their turn.
    let mut last = waiting.pop().expect("there are many");
    drop(waiting);
    last.write_all(crate::support::request().as_bytes()).expect("it is connected");
    last.set_read_timeout(Some(rig.patience)).unwrap();
    rig.wait_until("the last in the queue has its turn", || last.peek(&mut [0]).is_ok_and(|count| count == 1))?;
    rig.wait_until("it says that it is over", || lines().contains("accepting connections again"))?;
    drop(last);
    program.still_serves()?;
    wait_until("all files are closed", || program.count("fd") == idle)?;
    first.send(TEXT, "bye");
    ensure!(matches!(first.next_within(rig.patience), Incoming::Frame(_)), "the first client was lost");
    ensure!(first.try_write(&masked(TEXT, b"and again")), "the first client was lost");
    Ok(format!("{files} files allowed, {:.1} % of a processor meanwhile, {idle} open before and after", load * 100.0))
}
