//! Blocking WebSockets that notice when the peer is gone.
//!
//! A server and a client on plain threads: one blocking thread for each connection, a Ping on schedule, an exact count
//! of missed Pongs, and a supervisor that reports every closure once. No async runtime. The guide, in the folder
//! `docs`, has settings for common needs, the program `heartwire`, nginx, and the limits of systems.
//!
//! # Echo
//!
//! [`Server::bind`] listens. [`Server::serve`] calls the handler for each connection, in a thread of its own.
//! [`Connection::recv`] waits for the next message; meanwhile the heartbeat runs, and Pings are answered. When the
//! connection ends, `recv` and `send` return [`Error::Closed`], and `?` ends the handler properly. [`Client::run`] does
//! the same for the other end.
//!
//! ```
//! use heartwire::{Client, Server};
//! use std::thread;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = Server::bind("127.0.0.1:0")?;
//! let handle = server.handle();
//! let serving = thread::spawn(move || {
//!     server.serve(|conn| {
//!         loop {
//!             let message = conn.recv()?;
//!             conn.send(message)?;
//!         }
//!     })
//! });
//!
//! Client::new(&format!("ws://{}/", handle.local_addr()))?.run(|conn| {
//!     conn.send("hello")?;
//!     assert_eq!(conn.recv()?.as_text(), Some("hello"));
//!     Ok(()) // closes the connection, and ends the client
//! })?;
//!
//! handle.shutdown();
//! serving.join().unwrap()?;
//! # Ok(()) }
//! ```
//!
//! # A dead peer
//!
//! This client (tungstenite's) connects and then neither reads nor answers. TCP shows nothing: the kernel acknowledges
//! everything. Only the missing Pongs do. [`HeartbeatPolicy`] sets how long that may take, and
//! [`ServerHandle::events`] reports how it ended.
//!
//! ```
//! use heartwire::{CloseReason, Event, HeartbeatPolicy, Server};
//! use std::net::TcpStream;
//! use std::thread;
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // A Ping every 100 ms; 50 ms for a sign of life; dead after 3 misses in a row.
//! let policy = HeartbeatPolicy::new(Duration::from_millis(100), Duration::from_millis(50)).max_missed(3);
//! assert_eq!(policy.worst_case(), Some(Duration::from_millis(250)));
//!
//! let server = Server::bind("127.0.0.1:0")?.heartbeat(policy);
//! let handle = server.handle();
//! let events = handle.events();
//! let serving = thread::spawn(move || server.serve(|conn| loop { conn.recv()?; }));
//!
//! let address = handle.local_addr();
//! let stubborn = tungstenite::client(format!("ws://{address}/"), TcpStream::connect(address)?)?;
//!
//! let report = loop {
//!     match events.recv_timeout(Duration::from_secs(30))? {
//!         Event::Closed(report) => break report,
//!         other => println!("{other:?}"), // Opened, and each Missed
//!     }
//! };
//! assert!(matches!(report.reason, CloseReason::HeartbeatLost { missed: 3, .. }));
//!
//! handle.shutdown();
//! serving.join().unwrap()?;
//! # Ok(()) }
//! ```
//!
//! # The heartbeat, exactly
//!
//! - Every [`interval`](HeartbeatPolicy::interval) (20 s) a Ping leaves, on a fixed schedule. The first Ping comes
//!   after half an interval to a whole one, different for each connection, so that clients that connected together do
//!   not get their Pings together.
//! - Its miss clock starts when the socket has taken it. If no sign of life arrives within
//!   [`timeout`](HeartbeatPolicy::timeout) (10 s), that is a miss, and the next Ping leaves at once.
//! - Any sign of life resets the count of misses. By default any byte is a sign of life, even one of a partial message;
//!   [`Liveness::PongOnly`] requires Pongs.
//! - After [`max_missed`](HeartbeatPolicy::max_missed) (3) misses in a row the peer is dead. We send a Close frame with
//!   1011 if the socket takes it at once, shut the socket down in both directions, and report the end.
//! - A dead peer is therefore found `interval + max_missed x timeout` after its last byte arrived, 50 s by default. A
//!   peer that answers within `timeout` is never found dead. Timers of the system add some milliseconds for each miss.
//! - A policy applies to the [server](Server::heartbeat) or to [one connection](Accept::heartbeat). Its
//!   [handler](Connection::set_heartbeat) or [any thread](Sender::set_heartbeat) can change it. It can be
//!   [off](HeartbeatPolicy::off), or [keepalive](HeartbeatPolicy::keepalive) only: without a timeout no peer is found
//!   dead.
//! - A Pong for one Ping also answers all earlier ones (RFC 6455 section 5.5.3), and gives a [`RoundTrip`] sample (RFC
//!   6298). An unsolicited Pong is a sign of life, but no sample.
//!
//! A peer is alive if its WebSocket layer answers, or sends anything, within `max_missed x timeout` of our first Ping
//! that it leaves unanswered. The heartbeat cannot tell why a peer does not answer: a line that is down, an application
//! that does not read, and a kernel that still acknowledges all look the same. It concludes:
//!
//! | evidence | conclusion |
//! | --- | --- |
//! | more bytes have *arrived* than when the Ping left, read or not | alive; reading an old backlog is no evidence |
//! | the Ping has left, its timeout is over, nothing arrived | a miss, however late we check |
//! | [we were late](#our-own-delays) | deadlines move; one new Ping has a whole timeout |
//! | the Ping waits behind data, in our queue or the system's buffer | nothing: slow is not dead |
//! | we stopped reading at a bound, nothing arrives | nothing: a Pong may be stuck; TCP keepalive probes the host |
//! | for `max_missed x timeout` no waiting data is taken, nothing arrives | dead: [`CloseReason::WriteStalled`] |
//! | no waiting data is taken, but bytes arrive | alive, up to [`full_queue_timeout`](Server::full_queue_timeout) |
//! | the system reports reset, unreachable or timed out | the connection is over, with that cause |
//!
//! ## Our own delays
//!
//! We check at least four times in each timeout. If a check comes late, or the machine was suspended, the delay is
//! ours: all deadlines move by as much, and one new Ping has a whole timeout. This happens once in each silence.
//!
//! # While the handler is away
//!
//! The heartbeat does not depend on the handler. While handlers do something other than wait in `recv`, one thread
//! [stands in](#how-data-flows) for all of them. After a tenth of a second it reads ahead, answers the peer's Pings and
//! texts `ping`, sends our Pings, and judges by the same table. A handler may therefore sleep for an hour: a peer that
//! dies meanwhile is found and reported within the bound, and a live peer does not find us dead. A handler that waits
//! for room in [`send`](Connection::send) is away too.
//!
//! What was read waits, in order, for the next `recv`: up to [`read_ahead`](Server::read_ahead) (64 KiB) for each
//! connection and [`max_buffered`](Server::max_buffered) (256 MiB) for all together, including their queues. Beyond
//! that the peer feels backpressure, its Pings are not answered, and its silence proves nothing. If a peer sends more
//! than that to a busy or slow handler and then dies, the bound begins when the last of it could be read, unless the
//! system notices first that its host is gone.
//!
//! A Close frame that arrives meanwhile ends the heartbeat. It is answered at the handler's next `recv`, after the
//! handler's replies, or after the [close timeout](Server::close_timeout). A reset is reported at once. The handler
//! still receives what the peer sent before its end, and then the error.
//!
//! [`Event::HandlerStalled`] reports a handler that stays away for longer than the interval.
//!
//! [`heartbeat::Heartbeat`] is the state machine itself, without sockets or clocks. It can drive any WebSocket.
//!
//! # Receiving
//!
//! [`Connection::recv`] returns whole data messages, [`Message::Text`] or [`Message::Binary`]. Ping, Pong and Close
//! never reach the handler. [`Connection::recv_timeout`] returns `Ok(None)` after the timeout, so that the handler can
//! do something else. A partial message is kept.
//!
//! ```
//! # use heartwire::{Client, Server};
//! # use std::thread;
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let server = Server::bind("127.0.0.1:0")?;
//! # let handle = server.handle();
//! # let serving = thread::spawn(move || {
//! server.serve(|conn| {
//!     loop {
//!         match conn.recv_timeout(Duration::from_millis(100))? {
//!             Some(message) => conn.send(format!("{} bytes", message.len()))?,
//!             None => conn.send("nothing yet")?,
//!         }
//!     }
//! })
//! # });
//! # let url = format!("ws://{}/", handle.local_addr());
//!
//! Client::new(&url)?.run(|conn| {
//!     assert_eq!(conn.recv()?.as_text(), Some("nothing yet"));
//!     conn.send("four")?;
//!     while conn.recv()?.as_text() != Some("4 bytes") {}
//!     Ok(())
//! })?;
//! # handle.shutdown();
//! # serving.join().unwrap()?;
//! # Ok(()) }
//! ```
//!
//! # Sending from any thread
//!
//! [`Connection::sender`] returns a [`Sender`]. Clone it and move it to other threads: it sends while the connection's
//! thread is blocked in `recv`. Frames are never torn, and leave in the order of the calls. After the end of the
//! connection, the next `send` fails.
//!
//! ```
//! # use heartwire::{Client, Server};
//! # use std::{thread, time::Duration};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let server = Server::bind("127.0.0.1:0")?;
//! # let handle = server.handle();
//! # let serving = thread::spawn(move || {
//! server.serve(|conn| {
//!     let sender = conn.sender();
//!     thread::spawn(move || {
//!         let mut count = 0;
//!         while sender.send(format!("tick {count}")).is_ok() {
//!             count += 1;
//!             thread::sleep(Duration::from_millis(20));
//!         }
//!     });
//!     loop {
//!         conn.recv()?;
//!     }
//! })
//! # });
//! # let url = format!("ws://{}/", handle.local_addr());
//!
//! Client::new(&url)?.run(|conn| {
//!     assert_eq!(conn.recv()?.as_text(), Some("tick 0"));
//!     assert_eq!(conn.recv()?.as_text(), Some("tick 1"));
//!     Ok(())
//! })?;
//! # handle.shutdown();
//! # serving.join().unwrap()?;
//! # Ok(()) }
//! ```
//!
//! [`Sender::try_send`] never waits and gives the message back. [`Sender::send_timeout`] limits the wait for room.
//! [`Sender::confirm`] waits until the peer has read all that was sent, [`Sender::ping`] measures the round trip now,
//! and [`Sender::close`] closes from outside. [`Connection::feed`] is for many small replies: they may stay in memory
//! until the thread next waits in `recv`, and then leave in one system call.
//!
//! # Broadcasts
//!
//! [`Server::handle`] returns a [`ServerHandle`] for any thread. [`ServerHandle::broadcast`] encodes a message once and
//! sends it to all connections. One thread sends, so all receivers see the same order. A peer whose queue is full
//! misses the message and delays no other. [`ServerHandle::connections`] and [`ServerHandle::stats`] are snapshots;
//! [`ServerHandle::events`] delivers events as they happen.
//!
//! ```
//! # use heartwire::{Client, Server};
//! # use std::{thread, time::Duration};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let server = Server::bind("127.0.0.1:0")?;
//! let room = server.handle();
//! # let handle = room.clone();
//! # let serving = thread::spawn(move || {
//! server.serve(move |conn| {
//!     loop {
//!         let message = conn.recv()?;
//!         room.broadcast_except(conn.id(), message); // or broadcast: to the speaker as well
//!     }
//! })
//! # });
//! # let url = format!("ws://{}/", handle.local_addr());
//!
//! let listener = Client::new(&url)?;
//! let listening = listener.handle();
//! let heard = thread::spawn(move || {
//!     listener.run(|conn| {
//!         assert_eq!(conn.recv()?.as_text(), Some("to the other"));
//!         Ok(())
//!     })
//! });
//! listening.wait_connected(Duration::from_secs(10));
//! # while handle.connections().is_empty() { thread::yield_now(); }
//! Client::new(&url)?.run(|conn| conn.send("to the other"))?;
//! heard.join().unwrap()?;
//! # handle.shutdown();
//! # serving.join().unwrap()?;
//! # Ok(()) }
//! ```
//!
//! # The opening handshake
//!
//! [`Server::on_handshake`] gets the [`Request`] of every opening handshake. It returns an [`Accept`], with its own
//! subprotocol, headers or heartbeat, or a [`Response`] that rejects it, [with a reason](Response::because) for the
//! log. [`Server::on_request`] answers plain HTTP, with a [body](Request::body) if there is one. The server answers
//! what it leaves: 426 for GET and HEAD, 405 for other methods. A request with two `Host` lines gets 400, and so does
//! an HTTP/1.1 request without one.
//!
//! Clients may send any number of plain requests over one connection, and idle for a
//! [moment](Server::keep_alive_timeout) between them. Bodies have a [limit](Server::max_request_body), and whatever a
//! proxy might read differently (two lengths, a coding other than chunked) is refused with 400.
//!
//! ```
//! use heartwire::{Accept, Response, Server};
//! # use std::{io::{Read, Write}, net::TcpStream, thread, time::Duration};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = Server::bind("127.0.0.1:0")?
//!     .on_handshake(|request| match request.header("Authorization") {
//!         Some("Bearer swordfish") => Ok(Accept::new().header("X-Welcome", "yes")),
//!         _ => Err(Response::new(401).header("WWW-Authenticate", "Bearer").text("who are you?\n")),
//!     })
//!     .on_request(|request| (request.path() == "/about").then(|| Response::new(200).text("a server\n")));
//! # let handle = server.handle();
//! # let address = handle.local_addr();
//! # let serving = thread::spawn(move || server.serve(|conn| loop { conn.recv()?; }));
//! # let ask = |path: &str| -> std::io::Result<String> {
//! #     let mut stream = TcpStream::connect(address)?;
//! #     stream.set_read_timeout(Some(Duration::from_secs(30)))?;
//! #     write!(stream, "GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")?;
//! #     let mut answer = String::new();
//! #     stream.read_to_string(&mut answer)?;
//! #     Ok(answer)
//! # };
//! # assert!(ask("/about")?.starts_with("HTTP/1.1 200 "));
//! # assert!(ask("/")?.starts_with("HTTP/1.1 426 "));
//! # match tungstenite::client(format!("ws://{address}/"), TcpStream::connect(address)?) {
//! #     Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(no))) => assert_eq!(no.status(), 401),
//! #     other => panic!("{other:?}"),
//! # }
//! # handle.shutdown();
//! # serving.join().unwrap()?;
//! # Ok(()) }
//! ```
//!
//! The whole opening handshake has one [deadline](Server::handshake_timeout) (10 s) and one size limit (16 KiB, 100
//! header lines), however slowly its bytes arrive. Both functions run in the connection's thread. If one panics, the
//! client gets 500.
//!
//! Behind a reverse proxy every peer is the proxy. [`Server::trust_proxies`] names the proxies that are trusted to name
//! their clients. [`Request::remote_ip`], [`Connection::remote_ip`], the log and all reports then have the client's
//! address. From other peers the headers `X-Forwarded-For` and `X-Real-IP` are ignored, because anybody can forge them.
//!
//! [`Server::allow_origins`] names the pages that may connect. Browsers let every page open a WebSocket to any server,
//! with that server's cookies. A server that trusts cookies, or its network, needs this setting.
//!
//! # Users
//!
//! [`Accept::user`] says which user a connection belongs to. The name is in [`Connection::user`], in the log, in
//! events, snapshots and reports, and on the status page. [`Accept::extension`] attaches a value of a type of yours,
//! which the handler finds by that type. [`ServerHandle::send_to`] and [`ServerHandle::close`] reach one connection by
//! its number, [`ServerHandle::send_to_user`] and [`ServerHandle::close_user`] all connections of a user. They say at
//! once what has become of the message, and never wait for a slow peer.
//!
//! ```
//! use heartwire::{Accept, Client, Error, Response, Server};
//! # use std::thread;
//!
//! struct Session {
//!     name: String,
//!     may_write: bool,
//! }
//!
//! # fn find_session(_: &str) -> Option<Session> { Some(Session { name: "anna".into(), may_write: false }) }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = Server::bind("127.0.0.1:0")?.on_handshake(|request| {
//!     let session = request.query().and_then(find_session).ok_or_else(|| Response::new(401))?;
//!     Ok(Accept::new().user(&session.name).extension(session))
//! });
//! let handle = server.handle();
//! let serving = thread::spawn(move || {
//!     server.serve(|conn| {
//!         let may_write = conn.extension::<Session>().is_some_and(|session| session.may_write);
//!         conn.send(if may_write { "you may write" } else { "you may read" })?;
//!         loop {
//!             conn.recv()?;
//!         }
//!     })
//! });
//!
//! Client::new(&format!("ws://{}/?session=4711", handle.local_addr()))?.run(|conn| {
//!     assert_eq!(conn.recv()?.as_text(), Some("you may read"));
//!     let outcome = handle.send_to_user("anna", "you have mail");
//!     assert_eq!((outcome.sent, outcome.full), (1, 0));
//!     assert_eq!(conn.recv()?.as_text(), Some("you have mail"));
//!     handle.close_user("anna", 4001, "signed out")?;
//!     assert!(matches!(conn.recv(), Err(Error::Closed(_))));
//!     Ok(())
//! })?;
//!
//! handle.shutdown();
//! serving.join().unwrap()?;
//! # Ok(()) }
//! ```
//!
//! What one thread sends to a connection leaves in the order of its calls, whether by a [`Sender`] or by the handle. A
//! broadcast leaves by another thread, so a message that is sent to one connection after it may overtake it.
//!
//! # TLS
//!
//! With the feature `tls`, [`Server::tls`] serves `wss://` and `https://` with the certificates of a [`ServerTls`], and
//! a [`Client`] takes `wss://` URLs. It trusts the system's roots, or whom its [`ClientTls`] names. TLS is that of
//! rustls with ring: versions 1.2 and 1.3, sessions resumed by tickets, no early data.
//!
//! Certificates are replaced while the server runs ([`ServerTls::reload`]). Clients can be asked for theirs
//! ([`ServerTls::require_client_certificates`]), which `on_handshake` and reports then show
//! ([`Request::client_certificate`]). [`TlsError`] says what is wrong with a certificate, and what to do. For a client
//! a wrong name and an unknown issuer are fatal; an expired certificate passes, and so does one that is not valid yet.
//! No key and no certificate appears in the log or in `Debug` output.
//!
//! # Compression
//!
//! With the feature `deflate`, [`Server::deflate`] and [`Client::deflate`] compress messages where the other end agrees
//! (permessage-deflate, RFC 7692), as a [`Deflate`] says. Each message is compressed by itself unless context takeover
//! is asked for, so an idle connection keeps no state of it. A broadcast is compressed once. Pings are never
//! compressed, and wait for no compression. [`Connection::extensions`] tells what was agreed. Secrets must not be
//! compressed together with text of others: see [`Sender::uncompressed`].
//!
//! # Health, pages, metrics, status
//!
//! With these settings the server answers some paths itself, before it calls [`Server::on_request`]:
//!
//! | setting | path | response | access |
//! | --- | --- | --- | --- |
//! | [`Server::health`] | yours | 200, or 503 while it drains or shuts down | everyone |
//! | [`Server::browser_module`] | `/heartwire.js`, `/heartwire.d.ts` | the module [`HEARTWIRE_JS`] | everyone |
//! | `Server::metrics` (feature `metrics`) | yours | the counters, for Prometheus | `StatusAccess` |
//! | `Server::status_page` (feature `status`) | yours, and below `/heartwire/` | a live status page | `StatusAccess` |
//!
//! `StatusAccess::Loopback` admits only this machine, and keeps out web pages whose host name was made to point to it.
//! Each viewer of the status page counts as a connection, but reaches neither `on_handshake` nor the handler, and
//! receives no broadcasts.
//!
//! # Closing
//!
//! A handler that returns `Ok` closes with 1000. [`Connection::close`] and [`Sender::close`] set another code and a
//! reason. Everything that was sent before leaves first, then the peer's Close frame is awaited, all within the [close
//! timeout](Server::close_timeout) (5 s). The first cause of the end is the [`CloseReason`] in every error and in the
//! one [`CloseReport`]:
//!
//! | [`CloseReason`] | cause | our Close frame |
//! | --- | --- | --- |
//! | `Peer` | the peer sent a Close frame | the peer's code |
//! | `Local` | the handler returned `Ok` (1000), or `close` was called | the given code |
//! | `Shutdown` | [`ServerHandle::shutdown`], or [`drain`](ServerHandle::drain) | 1001, or the given code; 1012 |
//! | `Protocol` | the peer broke the protocol | 1002 |
//! | `InvalidUtf8` | a text was not UTF-8 | 1007 |
//! | `TooBig` | a message over [`max_message_size`](Server::max_message_size) | 1009 |
//! | `HeartbeatLost` | too many misses in a row | 1011, if the socket takes it at once |
//! | `HandlerFailed` | the handler returned an error of its own | 1011 |
//! | `HandlerPanicked` | the handler panicked | 1011 |
//! | `WriteStalled` | data waited, and the peer took none of it for too long | none |
//! | `Disconnected` | the TCP connection ended without a Close frame (1006, which is never sent) | none |
//! | `Io` | the socket failed, for example by a reset | none |
//!
//! [`CloseReason::is_clean`] is true for the first three. [`Error::InvalidCloseCode`] refuses codes that must not be
//! sent (RFC 6455 section 7.4).
//!
//! # Backpressure
//!
//! A message goes straight to the socket. What the socket does not take waits in the connection's queue, and a second
//! thread, the drainer, writes it while the connection is behind. [`queue_size`](Server::queue_size) bounds the queue
//! (1 MiB of memory, not of bytes on the wire). When it is full, [`send`](Sender::send) waits for room,
//! [`try_send`](Sender::try_send) returns [`TrySendError::Full`], and a broadcast is dropped for this peer and counted
//! in [`Traffic::dropped`]. Waiting callers get room in the order of their calls, so small messages do not keep out a
//! large one.
//!
//! [`max_buffered`](Server::max_buffered) (256 MiB) bounds all queues together, including what was read ahead for
//! handlers that are away. The connection that holds most is refused first.
//!
//! Pings, Pongs and Close frames do not count against the bounds. Pings and Pongs overtake waiting data at the next
//! frame boundary. The wait of `send` ends when the peer is found stalled. With a heartbeat without a timeout, only the
//! peer or [`full_queue_timeout`](Server::full_queue_timeout) ends it.
//!
//! # Addresses
//!
//! A server listens at one address or several ([`Server::also_bind`]), at Unix sockets (`Server::bind_unix`), and at
//! listeners that others have made ([`Server::from_listener`]), such as systemd. All clients are treated alike. Those
//! at a Unix socket have no address. [`Client`] takes the URL `unix:/run/heartwire.sock:/path` for such a server.
//!
//! # Shutdown
//!
//! `Server::shutdown_on_signals` (feature `signals`) lets SIGTERM and Ctrl-C shut the server down, so that a program
//! ends in order with one line more. [`ServerHandle::shutdown`] works from any thread. New clients are refused,
//! handshakes under way are cut, and all connections get a Close frame with 1001, or with the code of
//! [`shutdown_with`](ServerHandle::shutdown_with). After seven eighths of the close timeout, those still open are cut.
//! `serve` returns when all threads have ended, or at the close timeout if processors are free. A handler that has not
//! returned by then is logged and its thread abandoned; its connection is closed and reported. Then the channels of
//! [`ServerHandle::events`] end, and [`ServerHandle::stats`] stays readable. A logger that does not take its last lines
//! delays the return of `serve` by up to half a second.
//!
//! [`ServerHandle::drain`] sends clients away one after another before that, with 1012, so that another server can take
//! them over without a rush. Our clients come back at once. `Server::drain_on_signals` does so on SIGTERM.
//!
//! # The client
//!
//! [`Client::run`] is the counterpart of [`Server::serve`]: the same [`Connection`] and the same heartbeat, in the
//! caller's thread. When the server is lost or cannot be reached, the client waits (exponential backoff with full
//! jitter, [`Backoff`]) and reconnects. It ends when the handler returns, when [`ClientHandle::stop`] is called, or
//! when an error shows that retrying is pointless ([`Error::is_fatal`]). [`Client::prepare`] sets headers and the URL
//! of each attempt, such as a token that expires. [`Client::give_up_if`] decides which errors end the client.
//!
//! ```no_run
//! use heartwire::{Client, Error};
//!
//! fn main() -> Result<(), Error> {
//!     let client = Client::new("ws://127.0.0.1:9001/")?.outbox_size(64 * 1024);
//!     let handle = client.handle(); // for other threads: send, stop, events, set_heartbeat
//!     let _ = handle.send("waits in the outbox for a connection");
//!     client.run(|conn| loop {
//!         println!("{:?}", conn.recv()?);
//!     })
//! }
//! ```
//!
//! `Client::topics` (feature `topics`) makes it a client of a server's topics, a `TopicsClient`: it subscribes and
//! publishes, and over reconnections it misses nothing and publishes nothing twice.
//!
//! [`Client::proxy`] connects through an HTTP or SOCKS5 [`Proxy`], or by [`Proxy::from_env`] as the environment says.
//! The heartbeat judges the server behind it.
//!
//! # Errors
//!
//! - [`Error::Closed`]: the connection is closed or closing, with the cause. From `recv`, `send`, `feed`, `close`,
//!   `ping`.
//! - [`Error::InvalidCloseCode`]: from `close`. The connection stays open.
//! - [`Error::NoSuchConnection`]: from [`ServerHandle::close`].
//! - [`Error::Io`]: from [`Server::bind`], [`Server::from_listener`], [`Server::serve`], [`Client::new`],
//!   [`Client::run`].
//! - [`Error::Connect`]: from [`Client::new`] and [`Client::run`].
//! - [`Error::Tls`]: from [`ServerTls`] and [`ClientTls`], for files that cannot be used.
//! - [`Error::Internal`]: from [`Server::serve`] and [`Client::run`], if a thread of heartwire itself panicked.
//! - [`Error::Handler`]: never from heartwire. It is for the handler's own errors: see [`Error::handler`].
//!
//! In a handler, `?` is right for each of them. The end of this connection ends the handler, with its own cause. Any
//! other error closes with 1011 and is reported as [`CloseReason::HandlerFailed`].
//!
//! # How data flows
//!
//! ```text
//! TcpListener -- accept ------> thread per connection --> opening handshake --> your handler(conn)
//!                                      |    recv: socket -> decoder -> Message
//!                                      |          (a read ends at the heartbeat's next deadline)
//!                                      |          the heartbeat says: Ping | Missed | Dead | wait until
//! any thread --- Sender ---> write half ---> socket
//!                                      |
//!                 stand-in: the same as recv, for connections whose handler is away
//!                                      |
//!                                      +--- Opened, Missed, Closed --> supervisor --> stats, events
//!                                                                           +--> log thread --> logger
//! ```
//!
//! | thread | lives | does |
//! | --- | --- | --- |
//! | the caller of `serve` | as long as the server | accepts, while no idle thread does |
//! | `heartwire-accept` | as long as the server | the same, one for each address after the first |
//! | `heartwire-supervisor` | as long as the server or client | counters, events, broadcasts, closing deadlines |
//! | `heartwire-stand-in` | as long as the server or client | `recv`'s work, for handlers that are away |
//! | `heartwire-log` | as long as the server or client | calls the logger |
//! | `heartwire-conn` | as long as its connection, and idle for 3 s | handshakes, handler, heartbeat; accepts |
//! | `heartwire-drain-N` | while connection N is behind | writes its queue, and blocks |
//! | `heartwire-status` | as long as a server with a status page | sends the state to the viewers |
//! | `heartwire-dial` | for one attempt of a client | [`prepare`](Client::prepare), name resolution, handshake |
//! | `heartwire-tls` | ten seconds after its last handshake | computes handshakes, one for each processor at most |
//! | `heartwire-signals` | as long as the process | signals that end servers (feature `signals`) |
//! | `heartwire-hangup` | as long as the process | SIGHUP (feature `signals`, on Unix) |
//!
//! The supervisor and the stand-in never wait for a peer or a subscriber, and run no code of yours. A panic in a thread
//! of heartwire itself is a bug in heartwire, and ends everything: the server accepts no more connections, open
//! connections are cut and reported, and [`Server::serve`] or [`Client::run`] returns [`Error::Internal`].
//!
//! # Your code
//!
//! Your code runs with no lock of heartwire held, and never on a thread that keeps a deadline, but for a configuration
//! of rustls that you have made yourself:
//!
//! | your code | runs in | a panic |
//! | --- | --- | --- |
//! | a server's handler | the connection's thread | Close 1011, reported as `HandlerPanicked` |
//! | a client's handler | the caller of `run` | the same, and then passes through `run` |
//! | `Display` and `Drop` of the handler's error | the handler's thread | `HandlerFailed`, perhaps with a fixed text |
//! | [`Server::on_handshake`], [`Server::on_request`] | the connection's thread | 500 and an error in the log |
//! | `Drop` of what [`Accept::extension`] attached | the connection's thread, or its last [`Sender`]'s | ignored |
//! | [`Client::prepare`] | the thread of the attempt | the attempt fails |
//! | [`Client::give_up_if`] | the caller of `run` | passes through `run` |
//! | the handler of a `TopicsClient` | the caller of `run` | as a client's handler |
//! | `TopicsClient::token` | the thread of the attempt; to renew a token the caller of `run` | that attempt fails |
//! | the logger | `heartwire-log` | the line is lost and counted |
//! | `Server::on_hangup` | `heartwire-hangup` | an error in the log |
//! | your own `rustls` configuration | any: it must not block, nor call heartwire | its connection ends |
//!
//! All but the last may block, and may call any handle or [`Sender`]: it delays its own connection, attempt or
//! log, and nothing else. The payload of a panic may itself panic when it is dropped. Every connection that opened is
//! reported once, whatever happens.
//!
//! Some failures end the process, and no library can catch them: a call of `abort` or `exit`, a panic during unwinding
//! or in the panic hook, a stack overflow, and exhausted memory. With `panic = "abort"` every panic is one. So is a
//! thread that finds no memory map left for its signal stack: Rust's standard library aborts the process.
//!
//! Memory that you lend to a message (`Bytes::from_owner`) is dropped with no lock held, in the thread that sends the
//! last of it. Its `Drop` may panic. If it blocks, it delays that thread and its connection.
//!
//! # Log
//!
//! heartwire logs through the crate [`log`](https://docs.rs/log), with the target `heartwire`. A successful send logs
//! nothing, so a logger may send. Lines wait in a queue of 4 MiB for the thread that calls the logger. If the logger is
//! slow, lines are lost: [`Stats::log_lines_lost`] counts them, and a line says how many as soon as there is room
//! again. At the end of the server or client, waiting lines are logged for half a second at most. Before `serve` or
//! `run`, and after it, the thread that logs a line calls the logger itself.
//!
//! The levels are a contract:
//!
//! - **error**: something for you to repair. A handler panicked or failed; `on_handshake` or `on_request` panicked or
//!   returned what cannot be sent; connections cannot be accepted (once for each burst); an authorization service gives
//!   no answer (once until it does); a handler's thread was abandoned at shutdown; the logger (once) or a thread of
//!   heartwire itself panicked.
//! - **warn**: something was lost, or may be. `panic = "abort"` (at the start); a missed Pong; a connection that ended
//!   without a closing handshake; a stalled handler; broadcasts dropped for a slow peer (once for each connection); the
//!   end of a burst of failures to accept; a lost node; a client's failed attempt;
//!   messages that an outbox dropped or never sent; messages to topics that were not confirmed, and subscriptions that
//!   have to be made again; lost log lines.
//! - **info**: normal operation. A connection opened, with its user, or closed in order; a failed opening handshake,
//!   with its path, its `Origin` and what refused it; an authorization service that answers again; a client's pause.
//! - **debug**: plain HTTP requests, and the ends of connections that were kept for more; clients that sent no request;
//!   failed writes; socket options that could not be set.
//! - **trace**: the heartbeat. Each Ping sent, and each Pong received, with its round trip.
//!
//! A line stays one line, whatever text of a peer or a handler it contains: characters that would end it, control a
//! terminal or change the direction of text are escaped, as in `\u{202e}`. Queries often hold tokens, so neither the
//! log nor `Debug` output shows them; [`RequestTarget`] has them. `#` and a number name a connection. A client that
//! never becomes a connection, such as a browser that requests `/favicon.ico`, gets no number.
//!
//! # Features and versions
//!
//! | feature | gives | brings |
//! | --- | --- | --- |
//! | `signals` | `Server::shutdown_on_signals` | `signal-hook` (elsewhere than on Unix `ctrlc`), `rlimit` |
//! | `metrics` | `Server::metrics` | `prometheus-client` |
//! | `status` | `Server::status_page` | `serde_json` |
//! | `deflate` (default) | compressed messages: [`Server::deflate`], [`Client::deflate`] | `flate2`, `zlib-rs` |
//! | `testing` | `heartwire::testing`: peers, handlers without ports and more for your tests | nothing |
//! | `tls` (default) | `wss://`: [`Server::tls`], [`Client::tls`] | `rustls`, `ring`, `rustls-native-certs` |
//! | `topics` (default) | `Server::topics`, `Client::topics` | `serde`, `serde_json`, `percent-encoding` |
//! | `auth-url` (default) | `Topics::auth_service`: a service of yours says who may do what | `ureq` |
//! | `redis` (default) | `Topics::backplane`: several servers share their topics | `redis` |
//! | `jwt` (default) | `Topics::tokens`: signed tokens (JWT) and keys for topics | `ring` |
//! | `cli` (default) | the program | `metrics`, `signals` and `status`; `anstream`, `clap`, `humantime` |
//! | `self-signed` (default) | `heartwire serve --tls-self-signed` | `cli`, `tls`, `rcgen` |
//! | `completions` (default) | `heartwire completions`, `heartwire manual` | `cli`, `clap_complete`, `clap_mangen` |
//!
//! No feature changes the behaviour of the rest. With `default-features = false` only the library is built. It needs
//! Rust 1.88 or newer, and has no `unsafe` code of its own.
//!
//! Catching a handler's panic needs `panic = "unwind"`, the default. In a program built with `panic = "abort"`, every
//! panic ends the process: connections are neither closed in order nor reported. There, each `serve` and `run` logs a
//! warning at its start.
//!
//! heartwire is tested on Linux. macOS should work in the same way, but does not tell whether a Ping still waits in the
//! system's own buffer. Windows cannot send without blocking on a single call, so there every frame goes through the
//! drainer: the guarantees are the same, at the price of a second thread while there is something to write.

mod atomic;
mod browser;
mod client;
mod connection;
#[cfg(feature = "deflate")]
mod deflate;
mod durations;
mod error;
mod escape;
mod foreign;
#[cfg(test)]
mod fuzz;
pub mod heartbeat;
mod http;
mod logging;
mod message;
mod protocol;
mod server;
mod settings;
mod supervisor;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "topics")]
pub mod topics;
mod transport;

pub use browser::{HEARTWIRE_D_TS, HEARTWIRE_JS};
#[cfg(feature = "topics")]
pub use client::topics::{
    Delivery, Member, MemberName, PendingPublish, Presence, PublishError, Subscription, TopicRefusal, TopicsClient,
    TopicsHandle, Vitals,
};
pub use client::{Attempt, Backoff, Client, ClientHandle, Proxy};
pub use connection::identity::ConnectionId;
pub use connection::report::{CloseReport, ConnectionInfo, Traffic};
pub use connection::{Connection, sender::Sender};
#[cfg(feature = "deflate")]
pub use deflate::Deflate;
pub use error::{
    ClientSendError, ConfirmError, ConnectError, Error, ProxyError, ProxyErrorKind, SendToError, TrySendError,
};
pub use escape::Escaped;
pub use heartbeat::round_trip::RoundTrip;
pub use heartbeat::{HeartbeatPolicy, Liveness};
pub use http::origin::{InvalidOrigin, Origin};
pub use http::request::{Request, RequestTarget};
pub use http::response::Response;
pub use message::{Message, Text};
pub use protocol::close::{CloseCode, CloseReason};
#[cfg(any(feature = "metrics", feature = "status"))]
pub use server::access::StatusAccess;
pub use server::{
    Server,
    accept::Accept,
    handle::{SentToUser, ServerHandle},
    probe::ServerPart,
};
pub use supervisor::event::Event;
pub use supervisor::stats::{RoundTrips, Snapshot, Stats};
#[cfg(feature = "tls")]
pub use tls::{Certificate, ClientTls, ServerTls, TlsError, TlsErrorKind};

// The types of other crates in our signatures. Many libraries share them, and they are stable.
#[doc(no_inline)]
pub use bytes::Bytes;
#[doc(no_inline)]
pub use crossbeam_channel;
#[doc(no_inline)]
pub use ipnet::IpNet;
#[cfg(feature = "tls")]
#[doc(no_inline)]
pub use rustls;

/// Compiles the examples of the README and of the guide; those that need a feature, with it.
#[cfg(doctest)]
mod guide {
    macro_rules! pages {
        ($($(#[$condition:meta])* $page:ident: $path:literal,)*) => {
            $($(#[$condition])* #[doc = include_str!($path)] struct $page;)*
        };
    }
    pages! {
        #[cfg(feature = "signals")] Readme: "../README.md",
        #[cfg(feature = "signals")] Library: "../docs/library.md",
        Authentication: "../docs/authentication.md",
        Client: "../docs/client.md",
        #[cfg(feature = "deflate")] Compression: "../docs/compression.md",
        Delivery: "../docs/delivery.md",
        Embedded: "../docs/embedded.md",
        Migrating: "../docs/migrating.md",
        #[cfg(feature = "topics")] Topics: "../docs/topics.md",
        #[cfg(feature = "topics")] TopicsClient: "../docs/topics-client.md",
    }
}
