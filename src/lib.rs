//! Blocking WebSockets that know when the other side is gone.
//!
//! A server on plain threads: one blocking thread for each connection, a Ping on schedule, an exact count of missed
//! Pongs, and a supervisor that reports every closure once. No async runtime. The settings for common needs, the
//! program `heartwire`, nginx, and the limits of systems are in the README.
//!
//! # Echo
//!
//! [`Server::bind`] listens, [`Server::serve`] calls the handler in a thread for each connection. [`Connection::recv`]
//! waits for the next message; meanwhile the heartbeat beats and Pings are answered. When the connection ends, `recv`
//! and `send` give [`Error::Closed`], and `?` ends the handler as it should.
//!
//! ```
//! use heartwire::Server;
//! use std::thread;
//! # use std::{net::{SocketAddr, TcpStream}, time::Duration};
//! # type Client = tungstenite::WebSocket<TcpStream>;
//! # fn connect(address: SocketAddr) -> Result<Client, Box<dyn std::error::Error>> {
//! #     let stream = TcpStream::connect(address)?;
//! #     stream.set_read_timeout(Some(Duration::from_secs(30)))?;
//! #     Ok(tungstenite::client(format!("ws://{address}/"), stream)?.0)
//! # }
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
//! let mut client = connect(handle.local_addr())?; // any WebSocket client; here tungstenite's
//! client.send("hello".into())?;
//! assert_eq!(client.read()?.into_text()?, "hello");
//! # drop(client);
//!
//! handle.shutdown();
//! serving.join().unwrap()?;
//! # Ok(()) }
//! ```
//!
//! # A peer that is gone
//!
//! This client connects and then neither reads nor answers. Its TCP is fine, and its kernel acknowledges all it gets:
//! only the missing Pongs tell. [`HeartbeatPolicy`] says how long that may take, [`ServerHandle::events`] tells how it
//! ended.
//!
//! ```
//! use heartwire::{CloseReason, Event, HeartbeatPolicy, Server};
//! use std::thread;
//! use std::time::Duration;
//! # use std::net::TcpStream;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // A Ping every 100 ms; 50 ms for some sign of life; dead after 3 misses in a row.
//! let policy = HeartbeatPolicy::new(Duration::from_millis(100), Duration::from_millis(50)).max_missed(3);
//! assert_eq!(policy.worst_case(), Some(Duration::from_millis(250)));
//!
//! let server = Server::bind("127.0.0.1:0")?.heartbeat(policy);
//! let handle = server.handle();
//! let events = handle.events();
//! let serving = thread::spawn(move || server.serve(|conn| loop { conn.recv()?; }));
//!
//! # let address = handle.local_addr();
//! # let stubborn = tungstenite::client(format!("ws://{address}/"), TcpStream::connect(address)?)?;
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
//! - Every [`interval`](HeartbeatPolicy::interval) (20 s) a Ping is written, on a fixed schedule. The first comes
//!   after half an interval to a whole one, different for each connection, so that clients that came together do not
//!   beat together.
//! - Its miss clock starts when the socket has taken it. If nothing that counts as life arrives within
//!   [`timeout`](HeartbeatPolicy::timeout) (10 s), that is one miss, and the next Ping leaves at once.
//! - Any life forgets all misses. By default any byte that arrives is life, also one of a message that is only half
//!   here; [`Liveness::PongOnly`] asks for Pongs.
//! - At [`max_missed`](HeartbeatPolicy::max_missed) (3) in a row the peer is dead: a Close frame with 1011 as far as
//!   the socket takes it at once, both directions of the socket shut down, reported.
//! - So a dead peer is found `interval + max_missed x timeout` after its last byte arrived, 50 s by default, and a
//!   peer that answers within `timeout` never is. Timers of the system add some milliseconds for each miss.
//! - Policies: [`off`](HeartbeatPolicy::off), [`keepalive`](HeartbeatPolicy::keepalive) only, or a full one, for the
//!   [server](Server::heartbeat), for [one connection](Accept::heartbeat), and changed while it is open, by its
//!   [handler](Connection::set_heartbeat) or [any thread](Sender::set_heartbeat). Without a timeout nobody is found
//!   dead, neither by silence nor by taking nothing.
//! - A Pong for a Ping answers all earlier ones (RFC 6455 section 5.5.3), and gives a [`RoundTrip`] sample (RFC 6298).
//!   A Pong that was not asked for is life, and no sample.
//!
//! A peer is alive if its WebSocket layer answers, or sends anything, within `max_missed x timeout` of our first Ping
//! that it leaves unanswered. Whatever lies between, such as a line that is down, an application that does not read, or
//! a kernel that still acknowledges, is not looked through. What is concluded from what:
//!
//! | seen | concluded |
//! | --- | --- |
//! | more bytes have *arrived*, read or waiting in the socket, than when the Ping was written | alive. Reading an old backlog is no news. |
//! | the Ping has left, its timeout is over, nothing more has arrived | a miss, however late we look |
//! | we were held up as a whole: a look of at least four in each timeout came late, or the machine was suspended | deadlines move by as much, and one fresh Ping has a whole timeout; once in each silence |
//! | the Ping waits behind data, in our queue or in the system's buffer | nothing by silence: slow is not dead |
//! | we have stopped reading for want of room, and nothing more arrives | nothing by silence: no room may be left for an answer. The system probes whether the host is there. |
//! | data waits, none of it is taken and nothing arrives, for `max_missed x timeout` | dead: [`CloseReason::WriteStalled`] |
//! | data waits, none of it is taken, but bytes arrive | alive; [`full_queue_timeout`](Server::full_queue_timeout) bounds it, if set |
//! | the system says reset, unreachable, timed out | over, with that cause |
//!
//! # While the handler is away
//!
//! The heartbeat does not depend on the handler. While a handler does something else than wait in `recv`, one thread of
//! ours [stands in](#how-data-flows) for all that do: after a tenth of a second it reads ahead, answers the peer's Pings
//! and texts `ping`, sends our Pings, and judges by the same table. So a handler may sleep for an hour: a peer that dies
//! meanwhile is found and reported within the bound, and one that lives does not take us for dead. A handler that waits
//! in [`send`](Connection::send) for room is away as well.
//!
//! What was read waits, in order, for the next `recv`, up to [`read_ahead`](Server::read_ahead) (64 KiB) for each
//! connection, and for all together, their queues included, up to [`max_buffered`](Server::max_buffered) (256 MiB).
//! Beyond that the peer feels backpressure, its Pings are not answered, and, once it sends nothing more, its silence
//! proves nothing: a peer that sends more to a handler that sleeps, or that takes it slowly, and then dies, is found
//! within the bound of when all of it could be read, or when the system finds its host gone.
//!
//! A Close frame that comes meanwhile ends pinging and judging. It is answered at the handler's next `recv`, behind its
//! replies, or after the [close timeout](Server::close_timeout). A reset is reported at once. What the peer sent before
//! its end is still given to the handler, and then the error.
//!
//! A handler that stays away for longer than the interval is reported by [`Event::HandlerStalled`].
//!
//! The state machine itself, without sockets or clocks, is [`heartbeat::Heartbeat`]; it can drive any WebSocket.
//!
//! # Receiving
//!
//! [`Connection::recv`] gives whole data messages, [`Message::Text`] or [`Message::Binary`]; Ping, Pong and Close
//! never reach the handler. [`Connection::recv_timeout`] comes back with `Ok(None)` when it is time to do something
//! else; the half of a message that is already here is kept.
//!
//! ```
//! # use heartwire::Server;
//! # use std::{net::{SocketAddr, TcpStream}, thread};
//! use std::time::Duration;
//! # type Client = tungstenite::WebSocket<TcpStream>;
//! # fn connect(address: SocketAddr) -> Result<Client, Box<dyn std::error::Error>> {
//! #     let stream = TcpStream::connect(address)?;
//! #     stream.set_read_timeout(Some(Duration::from_secs(30)))?;
//! #     Ok(tungstenite::client(format!("ws://{address}/"), stream)?.0)
//! # }
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
//! # let mut client = connect(handle.local_addr())?;
//! # assert_eq!(client.read()?.into_text()?, "nothing yet");
//! # client.send("four".into())?;
//! # while client.read()?.into_text()? != "4 bytes" {}
//! # drop(client);
//! # handle.shutdown();
//! # serving.join().unwrap()?;
//! # Ok(()) }
//! ```
//!
//! # Sending from any thread
//!
//! [`Connection::sender`] gives a [`Sender`]: cloned and moved to other threads, it sends while the connection's
//! thread is blocked in `recv`. Frames are never torn, and leave in the order of the calls. A thread that sends learns
//! of the end by the error of its next `send`.
//!
//! ```
//! # use heartwire::Server;
//! # use std::{net::{SocketAddr, TcpStream}, thread};
//! # use std::time::Duration;
//! # type Client = tungstenite::WebSocket<TcpStream>;
//! # fn connect(address: SocketAddr) -> Result<Client, Box<dyn std::error::Error>> {
//! #     let stream = TcpStream::connect(address)?;
//! #     stream.set_read_timeout(Some(Duration::from_secs(30)))?;
//! #     Ok(tungstenite::client(format!("ws://{address}/"), stream)?.0)
//! # }
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
//! # let mut client = connect(handle.local_addr())?;
//! # assert_eq!(client.read()?.into_text()?, "tick 0");
//! # assert_eq!(client.read()?.into_text()?, "tick 1");
//! # drop(client);
//! # handle.shutdown();
//! # serving.join().unwrap()?;
//! # Ok(()) }
//! ```
//!
//! [`Sender::try_send`] never waits and gives the message back, [`Sender::send_timeout`] waits for room for so long,
//! [`Sender::confirm`] waits until the peer has read all that was sent, [`Sender::ping`] measures the round trip now,
//! and [`Sender::close`] closes from outside. [`Connection::feed`] is for many small replies: they may stay in memory
//! until the thread next waits in `recv`, and then leave in one system call.
//!
//! # To all of them
//!
//! [`Server::handle`] gives a [`ServerHandle`], the remote control for any thread. [`ServerHandle::broadcast`] encodes a message
//! once and sends it to all; one thread fans out, so all receivers see one order, and a peer that is behind misses it
//! rather than hold the others up. [`ServerHandle::connections`] and [`ServerHandle::stats`] are snapshots; [`ServerHandle::events`]
//! tells what happens as it happens.
//!
//! ```
//! # use heartwire::Server;
//! # use std::{net::{SocketAddr, TcpStream}, thread};
//! # use std::time::Duration;
//! # type Client = tungstenite::WebSocket<TcpStream>;
//! # fn connect(address: SocketAddr) -> Result<Client, Box<dyn std::error::Error>> {
//! #     let stream = TcpStream::connect(address)?;
//! #     stream.set_read_timeout(Some(Duration::from_secs(30)))?;
//! #     Ok(tungstenite::client(format!("ws://{address}/"), stream)?.0)
//! # }
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
//! # let events = handle.events();
//! # let (mut one, mut two) = (connect(handle.local_addr())?, connect(handle.local_addr())?);
//! # while handle.connections().len() < 2 { events.recv_timeout(Duration::from_secs(30))?; }
//! # one.send("to the other".into())?;
//! # assert_eq!(two.read()?.into_text()?, "to the other");
//! # drop((one, two));
//! # handle.shutdown();
//! # serving.join().unwrap()?;
//! # Ok(()) }
//! ```
//!
//! # Who may come in
//!
//! [`Server::on_handshake`] sees the [`Request`] of every opening handshake and gives an [`Accept`], with a
//! subprotocol, headers or a heartbeat of its own, or a [`Response`] that rejects it, [with a
//! reason](Response::because) for the log. [`Server::on_request`] answers plain HTTP; what it leaves gets 426, or 405 for
//! methods other than GET and HEAD. A request with two `Host` lines gets 400, and so does one of HTTP/1.1 with none.
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
//! #     write!(stream, "GET {path} HTTP/1.1\r\nHost: h\r\n\r\n")?;
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
//! The whole opening handshake has one [deadline](Server::handshake_timeout) (10 s) and one limit of size (16 KiB, 100
//! header lines), however its bytes trickle in. Both functions run in the connection's thread; a panic in them is
//! answered with 500.
//!
//! Behind a reverse proxy every peer is the proxy. [`Server::trust_proxies`] says whose word on the client's address is
//! taken; then [`Request::remote_ip`], [`Connection::remote_ip`], the log and all reports have it. From anybody else the headers
//! `X-Forwarded-For` and `X-Real-IP` change nothing, for they can be forged.
//!
//! [`Server::allow_origins`] names the pages that may connect. Browsers let every page open a WebSocket to everywhere,
//! with the cookies of its user, so a server that trusts cookies, or its network, needs it.
//!
//! # Health, pages, metrics, status
//!
//! Some paths the server answers by itself, if asked to, before [`Server::on_request`]:
//!
//! | setting | path | who may see it |
//! | --- | --- | --- |
//! | [`Server::health`] | yours | everybody: 200, or 503 while it shuts down |
//! | [`Server::browser_module`] | `/heartwire.js`, `/heartwire.d.ts` | everybody: the module for pages, [`HEARTWIRE_JS`] |
//! | `Server::metrics` (feature `metrics`) | yours | as `StatusAccess` says: the counters, for Prometheus |
//! | `Server::status_page` (feature `status`) | yours, and below `/heartwire/` | as `StatusAccess` says: what is connected, live |
//!
//! `StatusAccess::Loopback` is this machine alone, also against pages from the web whose host name was made to point
//! here. Whoever watches the status page is a connection of its own kind: it meets neither `on_handshake` nor the
//! handler, and gets no broadcasts.
//!
//! # Closing
//!
//! A handler that returns `Ok` closes with 1000; [`Connection::close`] and [`Sender::close`] say another code and a
//! reason. What was sent before goes out first, the peer's Close frame is awaited, and all of it ends within the
//! [close timeout](Server::close_timeout) (5 s). The first cause of the end is the [`CloseReason`] in every error and
//! in the one [`CloseReport`]:
//!
//! | [`CloseReason`] | what happened | our Close frame |
//! | --- | --- | --- |
//! | `Peer` | the peer sent a Close frame | its own code, as the answer |
//! | `Local` | the handler returned `Ok` (1000), or somebody called `close` | the code given |
//! | `Shutdown` | [`ServerHandle::shutdown`] | 1001 |
//! | `Protocol` | the peer broke the protocol | 1002 |
//! | `InvalidUtf8` | text that is not UTF-8 | 1007 |
//! | `TooBig` | a message over [`max_message_size`](Server::max_message_size) | 1009 |
//! | `HeartbeatLost` | too many misses in a row | 1011, if the socket takes it at once |
//! | `HandlerFailed` | the handler returned an error of its own | 1011 |
//! | `HandlerPanicked` | the handler panicked | 1011 |
//! | `WriteStalled` | data waited, and the peer took nothing of it for too long | none |
//! | `Disconnected` | the TCP connection ended without a Close frame (1006, which is never sent) | none |
//! | `Io` | the socket failed, for example by a reset | none |
//!
//! [`CloseReason::is_clean`] is true of the first three. Codes that must not be sent (RFC 6455 section 7.4) are
//! refused with [`Error::InvalidCloseCode`].
//!
//! # Backpressure
//!
//! A message goes straight to the socket. What the socket does not take waits in the connection's own queue, and a
//! second thread, the drainer, writes it while the connection is behind. The queue is bounded by
//! [`queue_size`](Server::queue_size) (1 MiB of memory, not of bytes on the wire): when it is full,
//! [`send`](Sender::send) waits for room, [`try_send`](Sender::try_send) gives [`TrySendError::Full`], and a broadcast is
//! dropped for this peer and counted in [`Traffic::dropped`]. Those who wait get room in the order of the calls, so a
//! large message is not kept out by small ones. All queues together, and what was read ahead for handlers that are away,
//! are bounded by [`max_buffered`](Server::max_buffered) (256 MiB), of which the fattest is refused first. Pings, Pongs and Close frames do not count against the bound; Pings and Pongs overtake the
//! data that waits, at the next boundary of a frame. The wait of `send` ends when the peer is found stalled; with a
//! heartbeat without a timeout nothing ends it but the peer.
//!
//! # Shutdown
//!
//! [`ServerHandle::shutdown`] works from any thread. New clients are refused, handshakes under way are cut, all connections
//! get a Close frame with 1001, and after seven eighths of the close timeout those still open are cut. `serve` returns
//! when all threads have ended, or at the close timeout, as far as processors are free: a handler that does not return by
//! then is logged and left behind, its connection closed and reported. Then the channels of [`ServerHandle::events`] end;
//! [`ServerHandle::stats`] stays. Only a logger that does not take its last lines makes `serve` return up to half a second later.
//!
//! # The other end
//!
//! [`Client::run`] is the counterpart of [`Server::serve`]: the same [`Connection`], the same heartbeat, in the caller's
//! thread. When the server is lost, or not reached, it waits (exponential backoff with full jitter, [`Backoff`]) and
//! connects again, until the handler returns, somebody calls [`ClientHandle::stop`], or an error shows that it is
//! pointless ([`Error::is_fatal`]). [`Client::prepare`] gives each attempt its own headers and URL, such as a token that
//! expires; [`Client::give_up_if`] chooses which errors end the client.
//!
//! ```no_run
//! use heartwire::{Client, Error};
//!
//! fn main() -> Result<(), Error> {
//!     let client = Client::new("ws://127.0.0.1:9001/")?.outbox_size(64 * 1024);
//!     let handle = client.handle(); // for other threads: send, stop, events, set_heartbeat
//!     let _ = handle.send("kept until there is a connection");
//!     client.run(|conn| loop {
//!         println!("{:?}", conn.recv()?);
//!     })
//! }
//! ```
//!
//! # Errors
//!
//! - [`Error::Closed`]: the connection is closed or closing, and why. From `recv`, `send`, `feed`, `close`, `ping`.
//! - [`Error::InvalidCloseCode`]: from `close`; the connection stays as it was.
//! - [`Error::Io`]: from [`Server::bind`], [`Server::from_listener`] and [`Server::serve`].
//! - [`Error::Connect`]: from [`Client::new`] and [`Client::run`].
//! - [`Error::Internal`]: from [`Server::serve`] and [`Client::run`], if a thread of heartwire itself has panicked.
//! - [`Error::Handler`]: never from heartwire; it is for the handler's own errors, see [`Error::handler`].
//!
//! In a handler, `?` does what is right with each: the end of this connection is that, whatever it was; any other
//! error closes with 1011 and is reported as [`CloseReason::HandlerFailed`].
//!
//! # How data flows
//!
//! ```text
//! TcpListener -- accept loop --> thread per connection --> opening handshake --> your handler(conn)
//!                                      |    recv: socket -> decoder -> Message
//!                                      |          (the read ends at the heartbeat's next deadline)
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
//! | the caller of `serve` | as long as the server | accepts |
//! | `heartwire-supervisor` | as long as the server or client | counters, events, broadcasts, closing deadlines |
//! | `heartwire-stand-in` | as long as the server or client | reads, answers, beats and judges for handlers that are away |
//! | `heartwire-log` | as long as the server or client | calls the logger |
//! | `heartwire-conn` | as long as its connection | opening handshake, handler, heartbeat, closing handshake |
//! | `heartwire-drain-N` | while connection N is behind | blocking writes of what is queued |
//! | `heartwire-status` | as long as a server with a status page | tells those who watch that page |
//! | `heartwire-dial` | for one attempt of a client | [`prepare`](Client::prepare), name resolution, connecting, opening handshake |
//!
//! The supervisor and the stand-in never wait for a peer or a subscriber, and run no code of yours. If a thread of heartwire
//! itself panics, which is a bug of heartwire, all ends: nobody is accepted any more, connections are cut and reported, and
//! [`Server::serve`] or [`Client::run`] returns [`Error::Internal`].
//!
//! # Your code
//!
//! What you give to heartwire runs with no lock of heartwire held, and not on a thread that keeps a deadline:
//!
//! | your code | runs in | if it panics |
//! | --- | --- | --- |
//! | the handler | its connection's thread; a client's in the caller of `run` | Close 1011, reported as `HandlerPanicked`; a client's passes through `run` after that |
//! | `Display` and `Drop` of the handler's error | the same | reported as `HandlerFailed` all the same; a text that cannot be had is replaced by a fixed one |
//! | [`on_handshake`](Server::on_handshake), [`on_request`](Server::on_request) | the connection's thread | the client gets 500, and the log an error |
//! | [`prepare`](Client::prepare) | the thread of the attempt | the attempt has failed, and the next is made |
//! | [`give_up_if`](Client::give_up_if) | the caller of `run` | it passes through `run` |
//! | the logger | `heartwire-log` | the line is lost, and counted |
//!
//! So each of them may block, and may call any handle or [`Sender`]: it holds up its own connection, attempt or log, and
//! nothing else. The payload of a panic may panic again when it is dropped. Every connection that opened is reported once,
//! whatever happens.
//!
//! Nobody can mend these, and heartwire does not: a call of `abort` or `exit`, a panic while another one unwinds, a panic in
//! the panic hook, a stack that overflows, memory that is exhausted. They end the process, with `panic = "abort"` every panic
//! does, and a thread that finds no memory map left for its signal stack aborts the process as it starts (Rust's
//! standard library does that).
//!
//! Memory that you lend to a message (`Bytes::from_owner`) is given back with no lock held, in whatever thread has sent the
//! last of it. Its `Drop` may panic. While it blocks, it holds up that thread and its connection.
//!
//! # Log
//!
//! heartwire logs through the crate [`log`](https://docs.rs/log), with the target `heartwire`. A message that is sent logs
//! nothing, so a logger may send. Lines wait in a queue of
//! 4 MiB for the thread that calls the logger. If that is behind, lines are lost: they are counted in
//! [`Stats::log_lines_lost`], and a line says how many, as soon as there is room again. When the server or client ends, what
//! waits is logged, for half a second at most. Before `serve` or `run`, and after its end, the logger is called where the
//! line arises.
//!
//! What stands at which level is a contract:
//!
//! - **error**: something for you to repair. A handler panicked or failed, `on_handshake` panicked or gave what cannot
//!   be sent, connections cannot be taken (once for each burst), a handler was left behind at shutdown, the logger panicked
//!   (once).
//! - **warn**: something was lost, or may be. `panic = "abort"`, as the server or client starts; a missed Pong, a connection that ended without a closing handshake, a stalled
//!   handler, a peer whose broadcasts are dropped (once for each connection), the end of a burst of failures; a client's
//!   attempt that failed, messages that were kept and never sent, or dropped from a full outbox; lines of the log.
//! - **info**: the course of things. Opened, closed in order, an opening handshake that failed, with its path, its
//!   `Origin` and what refused it; a client's pause.
//! - **debug**: plain HTTP requests, clients that connected and sent no request, failed writes, a socket option that
//!   could not be set.
//! - **trace**: the beat. Each Ping that was sent, and each Pong that came, with its round trip.
//!
//! A line stays one line, whatever a peer or a handler puts into it: characters that would end it, control a terminal or
//! change the direction of text are escaped, as in `\u{202e}`. Queries often hold tokens, so they stand in no line and in no
//! `Debug` output; [`RequestTarget`] gives them to code that asks. `#` and a number name a connection. A client that is
//! never let in, such as a browser that asks for `/favicon.ico`, takes no number.
//!
//! # Features and versions
//!
//! | feature | gives | brings |
//! | --- | --- | --- |
//! | `metrics` | `Server::metrics` | `prometheus-client` |
//! | `status` | `Server::status_page` | `serde_json` |
//! | `cli` (on by default) | the program `heartwire` | both features, `clap`, `ctrlc`, `humantime`, `rlimit`, `simplelog`, `time` |
//!
//! No feature changes what the rest does. With `default-features = false` there is the library alone. Rust 1.88 or
//! newer; no `unsafe` code of our own.
//!
//! Handlers that panic are caught, which needs `panic = "unwind"`, the default. In a program that is built with
//! `panic = "abort"` every panic ends the process: no connection is closed in order, and none is reported. Each `serve`
//! and `run` begins with a warning in the log there.
//!
//! Linux is where it is tested; macOS is meant to work in the same way, but does not tell whether a Ping still waits in the
//! system's own buffer. Windows cannot ask a single send not to block, so there every frame goes through the drainer: the same guarantees, at the price of a
//! second thread while there is something to write.

mod browser;
mod client;
mod connection;
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
mod transport;

pub use browser::{HEARTWIRE_D_TS, HEARTWIRE_JS};
pub use client::{Attempt, Backoff, Client, ClientHandle};
pub use connection::identity::ConnectionId;
pub use connection::report::{CloseReport, ConnectionInfo, Traffic};
pub use connection::{Connection, sender::Sender};
pub use error::{ClientSendError, ConfirmError, ConnectError, Error, TrySendError};
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
pub use server::{Server, accept::Accept, handle::ServerHandle};
pub use supervisor::event::Event;
pub use supervisor::stats::{RoundTrips, Snapshot, Stats};

// What other crates' types stand in our signatures. Each is one that many libraries share, and stable.
#[doc(no_inline)]
pub use bytes::Bytes;
#[doc(no_inline)]
pub use crossbeam_channel;
#[doc(no_inline)]
pub use ipnet::IpNet;

/// The examples of the README are kept true by compiling them.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
