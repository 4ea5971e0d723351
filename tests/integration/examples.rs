//! Every example, run as its header says, against real clients.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tungstenite::Message;
use tungstenite::protocol::frame::coding::CloseCode;

use crate::support::CEILING;
#[cfg(feature = "topics")]
use crate::support::Relay;
use crate::support::process::{
    Process, bare_connect, close_code, connect, hang_up, http, next_message, next_text, serve,
};

/// Starts an example that was built beside the program.
fn example(name: &str, address: &str) -> Process {
    Process::start(command(name).arg(address))
}

fn command(name: &str) -> Command {
    let program = Path::new(env!("CARGO_BIN_EXE_heartwire"));
    let example = program.with_file_name("examples").join(name).with_extension(std::env::consts::EXE_EXTENSION);
    assert!(example.exists(), "{} is not built: cargo build --examples", example.display());
    let mut command = Command::new(example);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn echo_sends_back_what_it_gets() {
    let server = example("echo", "127.0.0.1:0");
    let mut client = connect(server.address(), "/");
    for message in [Message::text("hello"), Message::binary(vec![0, 255]), Message::text("")] {
        client.send(message.clone()).unwrap();
        assert_eq!(next_message(&mut client), message);
    }
}

#[test]
#[cfg(unix)]
fn echo_closes_with_1001_on_a_signal_and_ends_in_order() {
    for signal in ["TERM", "INT", "HUP"] {
        let mut server = example("echo", "127.0.0.1:0");
        let mut clients: Vec<_> = (0..3).map(|_| connect(server.address(), "/")).collect();
        for client in &mut clients {
            client.send("hello".into()).unwrap();
            assert_eq!(next_text(client), "hello");
        }
        server.signal(signal);
        for client in clients {
            assert_eq!(close_code(client), 1001, "{signal}");
        }
        assert_eq!(server.wait().code(), Some(0), "{signal}");
    }
}

#[test]
#[cfg(unix)]
fn echo_ends_at_once_on_a_second_signal() {
    let mut server = example("echo", "127.0.0.1:0");
    let mut stubborn = bare_connect(server.address());
    server.signal("TERM");
    // A Close frame, so the first signal was taken. Nobody answers.
    stubborn.read_exact(&mut [0; 2]).unwrap();
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(130));
}

#[test]
#[cfg(target_os = "linux")]
fn echo_raises_the_limit_of_open_files() {
    let echo = command("echo");
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -S -n 64 && exec \"$0\" 127.0.0.1:0"]).arg(echo.get_program());
    let server = Process::start(shell.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let mut client = connect(server.address(), "/");
    client.send("hello".into()).unwrap();
    assert_eq!(next_text(&mut client), "hello");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.id())).unwrap();
    let limits = limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("a limit of open files");
    let limits: Vec<&str> = limits.split_whitespace().collect();
    assert_eq!(limits[0], limits[1], "the soft limit and the hard one");
}

#[test]
fn supervised_tells_of_a_peer_that_falls_silent() {
    let server = example("supervised", "127.0.0.1:0");
    let connected = Instant::now();
    let silent = bare_connect(server.address());
    let peer = silent.local_addr().unwrap().to_string();
    server.stdout.line_with(&["#1 ", &peer, " opened /"]);
    for missed in ["missed Pong 1 of 3", "missed Pong 2 of 3", "missed Pong 3 of 3"] {
        server.stdout.line_with(&["#1 ", missed]);
    }
    server.stdout.line_with(&["#1 ended: heartbeat lost"]);
    assert!(connected.elapsed() >= Duration::from_millis(1500), "found dead before three timeouts were over");
}

#[test]
fn supervised_tells_of_handlers_that_stall_and_panic() {
    let server = example("supervised", "127.0.0.1:0");
    let mut sleeper = connect(server.address(), "/sleeper");
    sleeper.send("sleep".into()).unwrap();
    // It answers Pings while it waits.
    let echoed = thread::spawn(move || next_text(&mut sleeper));
    server.stdout.line_with(&["#1 handler has been away"]);

    let mut victim = connect(server.address(), "/victim");
    victim.send("panic".into()).unwrap();
    assert_eq!(close_code(victim), 1011);
    server.stdout.line_with(&["#2 ended: handler panicked: as you wish"]);
    assert_eq!(echoed.join().unwrap(), "sleep", "the other connection outlives both");
}

#[test]
fn chat_delivers_to_the_others_and_tells_who_comes_and_goes() {
    let server = example("chat", "127.0.0.1:0");
    let mut ann = connect(server.address(), "/ann");
    assert_eq!(next_text(&mut ann), "* ann joined");
    let mut guest = connect(server.address(), "/");
    for client in [&mut ann, &mut guest] {
        assert_eq!(next_text(client), "* guest 2 joined");
    }
    guest.send("hello".into()).unwrap();
    ann.send("hi".into()).unwrap();
    let mut heard = [next_text(&mut ann), next_text(&mut ann)];
    assert_eq!([next_text(&mut guest), next_text(&mut guest)], heard, "all see one order");
    heard.sort();
    assert_eq!(heard, ["ann: hi", "guest 2: hello"]);

    hang_up(guest, CloseCode::Normal, "tired");
    assert_eq!(next_text(&mut ann), "* guest 2 left: closed by peer with 1000 \"tired\"");
}

#[test]
fn ticker_ticks_by_itself_until_the_connection_closes() {
    let server = example("ticker", "127.0.0.1:0");
    let mut client = connect(server.address(), "/");
    for count in 1..=3 {
        assert_eq!(next_text(&mut client), format!("tick {count}"));
    }
    client.send("still there?".into()).unwrap();
    while next_text(&mut client) != "still there?" {}
    hang_up(client, CloseCode::Away, "");
    server.stdout.line_with(&["#1 ticker stopped", "closed by peer with 1001"]);
}

#[test]
fn push_serves_its_page_and_pushes_to_who_only_listens() {
    let server = example("push", "127.0.0.1:0");
    let page = http(server.address(), "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(page.contains("text/html") && page.contains("new HeartSocket("), "{page}");
    let script = http(server.address(), "GET /heartwire.js HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(script.contains("text/javascript") && script.contains("export class HeartSocket"), "{script}");
    let mut client = connect(server.address(), "/");
    for _ in 0..2 {
        assert!(next_text(&mut client).starts_with("news "));
    }
}

#[test]
fn stubborn_client_is_found() {
    let beat = ["--ping-interval", "300ms", "--pong-timeout", "300ms", "--max-missed", "2"];
    let server = serve(&[&["127.0.0.1:0"][..], &beat].concat());
    let mut client = example("stubborn_client", &server.address().to_string());

    let connected = client.stdout.line_with(&["connected from "]);
    let peer = connected.split([' ', ';']).nth(2).expect("its address");
    server.stderr.line_with(&["#1 ", peer, "missed Pong 1 of 2"]);
    server.stderr.line_with(&["#1 ", peer, "ended: heartbeat lost (2 Pongs missed)"]);
    client.stdout.line_with(&["Ping 2, not answered"]);
    client.stdout.line_with(&["Close 1011 \"heartbeat lost\""]);
    assert!(client.wait().success());
}

#[test]
fn plain_tungstenite_answers_and_keeps_a_peer_that_answers() {
    let server = example("plain_tungstenite", "127.0.0.1:0");
    let mut client = connect(server.address(), "/");
    client.send("hello".into()).unwrap();
    assert_eq!(next_text(&mut client), "hello");
    client.send(Message::Ping("are you there?".into())).unwrap();
    assert_eq!(client.read().unwrap(), Message::Pong("are you there?".into()));

    // Silent but for its Pongs, for longer than it takes to be found dead.
    for count in 1..=4 {
        assert_eq!(client.read().unwrap(), Message::Ping(count.to_string().into()));
        client.flush().unwrap();
    }
    client.send("still here".into()).unwrap();
    assert_eq!(next_text(&mut client), "still here");
    let peer = client.get_ref().local_addr().unwrap().to_string();
    hang_up(client, CloseCode::Normal, "");
    server.stdout.line_with(&[&peer, "is gone"]);
}

#[test]
fn plain_tungstenite_finds_a_silent_peer_dead() {
    let server = example("plain_tungstenite", "127.0.0.1:0");
    let connected = Instant::now();
    let mut silent = bare_connect(server.address());
    let peer = silent.local_addr().unwrap().to_string();
    server.stdout.line_with(&[&peer, "missed Pong 2"]);
    server.stdout.line_with(&[&peer, "is dead after 3 misses"]);
    assert!(connected.elapsed() >= Duration::from_millis(1500), "found dead before three timeouts were over");

    let mut received = Vec::new();
    silent.read_to_end(&mut received).expect("the socket is at its end");
    let lost = [&[0x88, 16, 0x03, 0xf3][..], b"heartbeat lost"].concat();
    assert!(received.starts_with(&[0x89, 1, b'1']) && received.ends_with(&lost), "{received:?}");
}

#[test]
fn reconnect_comes_back_with_every_reading_to_a_server_that_was_started_again() {
    let server = serve(&["127.0.0.1:0"]);
    let address = server.address().to_string();
    let client = example("reconnect", &format!("ws://{address}/"));
    client.stdout.line_with(&["attempt 1"]);
    client.stdout.line_with(&["#1 connected to ", &address]);
    client.stdout.line_with(&["#1 came back: reading 2"]);
    drop(server);
    client.stdout.line_with(&["#1 ended: "]);
    client.stdout.line_with(&["not connected: cannot connect: "]);
    let again = serve(&[&address]);
    client.stdout.line_with(&["#2 connected to "]);
    again.stderr.line_with(&["#1 ", "opened /"]);
    let first = client.stdout.line_with(&["#2 came back: "]);
    // Those that were taken without a connection come first, in order.
    let number: u32 = first.rsplit(' ').next().and_then(|number| number.parse().ok()).expect("a reading");
    for number in number..number + 5 {
        client.stdout.line_with(&[&format!("#2 came back: reading {number}")]);
    }
    let lines = client.stdout.lines();
    let back: Vec<_> = lines.iter().filter(|line| line.starts_with("#2 came back")).take(5).collect();
    let expected = (number..number + 5).map(|number| format!("#2 came back: reading {number}"));
    assert!(back.into_iter().eq(&expected.collect::<Vec<_>>()), "{lines:#?}");
}

/// Everything that a server reads until it has seen so many, and then it is gone without a word.
fn readings(listener: &TcpListener, count: usize) -> Vec<u64> {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(CEILING)).unwrap();
    let mut server = tungstenite::accept(stream).unwrap();
    let mut numbers = Vec::new();
    while numbers.len() < count {
        // Pings are answered on the way.
        if let Message::Text(text) = server.read().unwrap() {
            numbers.push(text.split(' ').next().and_then(|number| number.parse().ok()).expect("a number"));
        }
    }
    numbers
}

/// A server takes some readings, is away for many periods, and another one on its address takes more. Gives what each
/// has read, the newest reading that the sensor takes for confirmed, and how many it has dropped.
fn readings_around_an_absence(capacity: &str) -> (Vec<u64>, Vec<u64>, u64, u64) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let sensor = Process::start(command("sensor").args([&format!("ws://{address}/"), "2", capacity]));
    let before = readings(&listener, 5);
    drop(listener);
    sensor.stdout.line_with(&["#1 connected"]);
    // A day, for one that takes a reading every two minutes.
    thread::sleep(Duration::from_millis(1500));
    let listener = TcpListener::bind(address).unwrap();
    // More than one batch, so that the first of them is confirmed.
    let mut after = readings(&listener, 150);
    after.extend(readings(&listener, 1));
    sensor.stdout.line_with(&["#3 connected"]);
    let lines = sensor.stdout.lines();
    let line = lines.iter().rfind(|line| line.starts_with("confirmed up to ")).expect("something was confirmed");
    let numbers: Vec<u64> =
        line.split(|char: char| !char.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect();
    let [confirmed, _, dropped] = numbers[..] else { panic!("{line}") };
    (before, after, confirmed, dropped)
}

#[test]
fn sensor_delivers_every_reading_whatever_the_server_does() {
    let (before, after, confirmed, dropped) = readings_around_an_absence("100000");
    assert_eq!(dropped, 0);
    assert_eq!(before, (1..=5).collect::<Vec<_>>());
    let read: BTreeSet<u64> = before.iter().chain(&after).copied().collect();
    assert!(confirmed > 0 && read.len() > 100, "{confirmed}: {read:?}");
    // All of them, without a gap, and nothing is confirmed that nobody has read.
    assert!(read.iter().copied().eq(1..=read.len() as u64), "{before:?} {after:?}");
    assert!(read.contains(&confirmed), "{confirmed}");
}

#[test]
fn sensor_drops_the_oldest_readings_when_its_memory_is_full_and_counts_them() {
    let (before, after, confirmed, dropped) = readings_around_an_absence("20");
    assert!(dropped > 0, "nothing was dropped");
    let read: BTreeSet<u64> = before.iter().chain(&after).copied().collect();
    let missing = (1..=confirmed).filter(|number| !read.contains(number)).count() as u64;
    assert!((1..=dropped).contains(&missing), "{missing} are missing up to {confirmed}, {dropped} were dropped");
}

#[test]
fn device_announces_what_it_does_and_lives_in_both_states_and_is_missed_when_it_lies() {
    let led = ["--heartbeat", "peer", "--expect", "300ms", "--announcements", "10ms..1h", "--max-missed", "2"];
    let options = ["--pong-timeout", "400ms", "--log-level", "info"];
    let server = serve(&[&["127.0.0.1:0"][..], &led, &options].concat());
    let url = format!("ws://{}/", server.address());
    let (device, mut stdin) = Process::start_typing(command("device").args([&url, "50", "1500"]));
    device.stdout.line_with(&["#1 connected, in the foreground"]);
    stdin.write_all(b"\n").unwrap();
    device.stdout.line_with(&["now in the background"]);
    // Silent for 1.5 s at a time, and so for many windows of 300 ms.
    thread::sleep(Duration::from_secs(3));
    stdin.write_all(b"\n").unwrap();
    device.stdout.line_with(&["now in the foreground"]);
    thread::sleep(Duration::from_millis(500));
    assert!(!server.stderr.lines().iter().any(|line| line.contains("ended")), "{:#?}", server.stderr.lines());
    if cfg!(unix) {
        // How long that takes cannot be told from here: on a busy machine its last Ping may have been late.
        device.signal("STOP");
        server.stderr.line_with(&["#1 ", "ended: heartbeat lost"]);
        device.signal("CONT");
        device.stdout.line_with(&["#2 connected, in the foreground"]);
    }
    drop(stdin);
    let mut device = device;
    assert!(device.wait().success());
    server.stderr.line_with(&["ended: closed by peer with 1000"]);
}

#[test]
#[cfg(feature = "topics")]
fn topics_is_brought_up_to_date_after_a_cut_and_publishes_what_was_typed_meanwhile() {
    let server = serve(&["127.0.0.1:0", "--mode", "topics", "--allow-publish", "chat"]);
    let relay = Relay::to(server.address());
    let url = format!("ws://{}/", relay.address());
    let (mut client, mut stdin) = Process::start_typing(command("topics").arg(&url));
    client.stdout.line_with(&["#1 connected"]);
    client.stdout.line_with(&["subscribed to chat"]);
    stdin.write_all(b"hello\n").unwrap();
    client.stdout.line_with(&["chat 1: hello"]);
    relay.cut();
    let posted = "POST /topics/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6\r\n\r\nmissed";
    assert!(http(server.address(), posted).starts_with("HTTP/1.1 200"));
    client.stdout.line_with(&["#2 connected"]);
    client.stdout.line_with(&["chat 2: missed"]);
    stdin.write_all(b"and back\n").unwrap();
    drop(stdin);
    assert!(client.wait().success());
    let messages: Vec<_> = client.stdout.lines().into_iter().filter(|line| line.starts_with("chat ")).collect();
    assert_eq!(messages, ["chat 1: hello", "chat 2: missed", "chat 3: and back"]);

    let (client, _stdin) = Process::start_typing(command("topics").args([&url, "user/alice"]));
    client.stdout.line_with(&["not subscribed to user/alice: forbidden"]);
}
