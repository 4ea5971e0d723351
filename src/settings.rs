//! The settings that both ends have: one type, one set of defaults, one function that keeps durations within reason.
//!
//! `setters_of_both_ends!` writes their setters once, into `impl Server` and `impl Client`. So the documentation of
//! each type shows them with its own, and nobody has to import a trait or to build a second value first. Settings that
//! only one end has are kept by that end.
//!
//! A new setting needs a field, a default and a setter here. In the program it needs a flag and its call in
//! `with_settings!`, both in `src/bin/heartwire/cli/settings.rs`.

#[cfg(feature = "deflate")]
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "deflate")]
use crate::deflate::pool::Compression;
use crate::heartbeat::HeartbeatPolicy;

/// The settings of every connection of one end, within the bounds that the setters document.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) heartbeat: HeartbeatPolicy,
    pub(crate) handshake_timeout: Duration,
    pub(crate) close_timeout: Duration,
    pub(crate) max_message_size: usize,
    pub(crate) queue_size: usize,
    pub(crate) full_queue_timeout: Option<Duration>,
    pub(crate) read_buffer_size: usize,
    pub(crate) read_ahead: usize,
    pub(crate) max_buffered: usize,
    pub(crate) stack_size: usize,
    pub(crate) busy_poll: Duration,
    /// `None`: no compression is agreed to.
    #[cfg(feature = "deflate")]
    pub(crate) compression: Option<Arc<Compression>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            heartbeat: HeartbeatPolicy::default(),
            // Long enough for a few lost packets, short enough that clients which say nothing do not pile up.
            handshake_timeout: Duration::from_secs(10),
            // Enough for a round trip on a bad line, and short enough for whoever waits for a program to end.
            close_timeout: Duration::from_secs(5),
            // More than most applications ever send, and a thousand peers that all send the largest cost 1 GiB.
            max_message_size: 1024 * 1024,
            // One message of the largest size that the other end takes by default.
            queue_size: 1024 * 1024,
            // Slow is not dead.
            full_queue_timeout: None,
            // Many small messages at once, in one page of memory.
            read_buffer_size: 4 * 1024,
            // What the read buffer grows to when much comes in: hundreds of small messages.
            read_ahead: 64 * 1024,
            // Some 250 slow peers, each with its own queue full, and twice what 10,000 idle connections cost.
            max_buffered: 256 * 1024 * 1024,
            // A handler that formats and parses takes some tens of KiB; 10,000 threads reserve 2.5 GiB of addresses.
            stack_size: 256 * 1024,
            // It takes processor time, and whether it helps depends on the machine.
            busy_poll: Duration::ZERO,
            // It takes processor time, and secrets must not be compressed beside text of others.
            #[cfg(feature = "deflate")]
            compression: None,
        }
    }
}

impl Settings {
    /// When a connection opens, so much can leave a client's outbox without waiting.
    pub(crate) fn make_room_for(&mut self, outbox: usize) {
        /// Of a Ping and a Pong, which may get in first.
        const CONTROL: usize = 1024;
        if outbox == 0 {
            return;
        }
        self.queue_size = self.queue_size.max(outbox.saturating_add(CONTROL));
        // A queue may have half of what is not used otherwise.
        let others = self.read_ahead.saturating_add(self.max_message_size).saturating_add(2 * CONTROL);
        self.max_buffered = self.max_buffered.max(outbox.saturating_mul(2).saturating_add(others));
    }
}

/// The largest read buffer, in bytes: more would serve nobody, and a size that cannot be allocated ends the process.
pub(crate) const LARGEST_READ_BUFFER: usize = 16 * 1024 * 1024;
/// A connection that waits for so long is no active one.
pub(crate) const LONGEST_BUSY_POLL: Duration = Duration::from_millis(100);
/// What heartwire's own code needs of a stack, in bytes, with some to spare.
pub(crate) const SMALLEST_STACK: usize = 64 * 1024;

/// The setters of [`Settings`], for the `impl` of a type with a field `settings`.
macro_rules! setters_of_both_ends {
    () => {
        /// The heartbeat of each connection (Ping and Pong, RFC 6455 sections 5.5.2 and 5.5.3). Default: a Ping every
        /// 20 s, 10 s for a sign of life, dead after 3 misses in a row.
        ///
        /// A server may give a single connection its own by [`Accept::heartbeat`](crate::Accept::heartbeat). Where the
        /// other end sends Pings, ours may be [off](crate::HeartbeatPolicy::off), or
        /// [led by the peer](crate::HeartbeatPolicy::peer_led) to notice its silence.
        pub fn heartbeat(mut self, policy: $crate::HeartbeatPolicy) -> Self {
            self.settings.heartbeat = policy;
            self
        }

        /// Time limit for an opening handshake (RFC 6455 section 4), from the TCP connection to the complete answer.
        /// Default 10 s; kept between 1 ms and 10 years.
        ///
        /// A server answers 408 to a client whose request is not complete by then; a client gives up with
        /// [`ConnectError::TimedOut`](crate::ConnectError::TimedOut). The head of a request, or of an answer, may have
        /// 16 KiB and 100 header lines.
        pub fn handshake_timeout(mut self, timeout: std::time::Duration) -> Self {
            self.settings.handshake_timeout = $crate::durations::clamp_duration(timeout);
            self
        }

        /// Time limit for a closing handshake (RFC 6455 section 7.1.2), with what is queued before it; after that the
        /// socket is closed anyway. The [shutdown](crate::ServerHandle::shutdown) of a server and the
        /// [stop](crate::ClientHandle::stop) of a client end within it too. Default 5 s; kept between 1 ms and 10
        /// years.
        pub fn close_timeout(mut self, timeout: std::time::Duration) -> Self {
            self.settings.close_timeout = $crate::durations::clamp_duration(timeout);
            self
        }

        /// Largest message to accept, in bytes, all fragments together. A larger one closes the connection with 1009
        /// (RFC 6455 sections 7.4.1 and 10.4). Default 1 MiB.
        pub fn max_message_size(mut self, bytes: usize) -> Self {
            self.settings.max_message_size = bytes;
            self
        }

        /// How many bytes of memory may be taken by what waits for a slow peer, beyond what the system buffers. When
        /// they are, `send` waits, and `try_send` and broadcasts do not get in. Default 1 MiB.
        ///
        /// Callers that wait for room get it in the order of their calls, and neither `try_send` nor a broadcast
        /// overtakes them. A single larger message is let in when nothing else waits.
        ///
        /// Each message counts with its payload and 128 bytes more, until the peer has taken all of it. A payload that
        /// many connections share, as in a broadcast, counts for each of them.
        pub fn queue_size(mut self, bytes: usize) -> Self {
            self.settings.queue_size = bytes;
            self
        }

        /// How long a peer that still shows signs of life may take nothing of what waits for it. After that, the
        /// connection ends with [`CloseReason::WriteStalled`](crate::CloseReason::WriteStalled). Default `None`: no
        /// limit. A timeout is kept between 1 ms and 10 years.
        ///
        /// Each byte that the peer takes starts the time anew. This is checked at least once in that time, so the
        /// connection ends within twice the time. The [heartbeat](Self::heartbeat) finds a peer that shows no sign of
        /// life, whatever is set here.
        pub fn full_queue_timeout(mut self, timeout: Option<std::time::Duration>) -> Self {
            self.settings.full_queue_timeout = timeout.map($crate::durations::clamp_duration);
            self
        }

        /// Size of the buffer that a connection reads into, in bytes, while it receives little. The buffer grows with
        /// the traffic, up to 64 KiB, and shrinks again; an idle connection has none. Default 4 KiB; kept between 256
        /// bytes and 16 MiB.
        pub fn read_buffer_size(mut self, bytes: usize) -> Self {
            use $crate::{protocol::decoder::Decoder, settings::LARGEST_READ_BUFFER};
            self.settings.read_buffer_size = bytes.clamp(Decoder::MIN_BUFFER, LARGEST_READ_BUFFER);
            self
        }

        /// How many bytes heartwire reads ahead for a handler that is away from [`recv`](crate::Connection::recv),
        /// beyond a message that is under way. Default 64 KiB.
        ///
        /// While the handler is away, heartwire reads ahead up to this bound, so that it can answer the peer's Pings
        /// (RFC 6455 section 5.5.2) and judge its heartbeat. What it has read waits, in order, for the next `recv`.
        ///
        /// At the bound it stops reading until the handler takes something, and the peer feels backpressure: what it
        /// sends fills the buffers of both systems, and then its own sends wait. Meanwhile its Pings are not answered,
        /// and its silence proves nothing, for its Pongs may be stuck as well. A handler that stays away for long from
        /// a peer that sends much needs a larger bound.
        ///
        /// A message that has begun is read to its end. So a connection holds at most this much and one message of
        /// [`max_message_size`](Self::max_message_size); with 0, no more than that message. Each message counts with
        /// its payload and 128 bytes more. For all connections together there is [`max_buffered`](Self::max_buffered).
        pub fn read_ahead(mut self, bytes: usize) -> Self {
            self.settings.read_ahead = bytes;
            self
        }

        /// How many bytes of memory may be taken for all connections of this server, or of this client, together: by
        /// what [waits](Self::queue_size) for slow peers, and by what is [read ahead](Self::read_ahead) for handlers
        /// that are away. Default 256 MiB: room for some 250 slow peers with a full queue each, and twice what 10,000
        /// idle connections cost.
        ///
        /// The connection that holds most is refused first: a queue, or what was read ahead, grows only while it is
        /// smaller than what is left of the total. One alone gets half of it; a thousand that all take what they can
        /// get have a thousandth each, and as much is left for the next. A connection that is refused is treated as if
        /// its own bound were reached: `send` waits, broadcasts are dropped, reading ahead stops.
        ///
        /// One message in each direction of each connection is let in all the same, so that nothing that has begun is
        /// kept from its end, and a thousandth of the total, 4 KiB at most, so that whoever takes little gets it. Where
        /// [messages](Self::max_message_size) are large and peers many, bound those as well. A
        /// client's outbox has its own bound, and this one is raised to let all of it out.
        pub fn max_buffered(mut self, bytes: usize) -> Self {
            self.settings.max_buffered = bytes;
            self
        }

        /// Stack of each thread that heartwire starts for a connection, in bytes. It is reserved, and takes memory only
        /// as far as it is used. Default 256 KiB; at least 64 KiB.
        ///
        /// On a server it is the stack of the thread that calls the handler. At both ends it is that of the second
        /// thread that a connection has while it is behind. A client calls its handler in the thread that called
        /// [`run`](crate::Client::run).
        pub fn stack_size(mut self, bytes: usize) -> Self {
            self.settings.stack_size = bytes.max($crate::settings::SMALLEST_STACK);
            self
        }

        /// How long `recv` may try again and again before it sleeps (busy polling), on a connection whose messages come
        /// in quick succession. Default zero: never. Kept at 100 ms or less.
        ///
        /// A peer may answer faster than a thread falls asleep and wakes up. Where idle processors wake slowly, 200 µs
        /// make a single busy connection 1.4 times as fast or more; elsewhere it may become slower. So measure on your
        /// own machine before you use it.
        ///
        /// This is a limit. How long `recv` really tries adapts to how long the last waits took, and in all it is three
        /// quarters of the waiting at most. Nothing is polled on a machine with one processor, or while the process has
        /// more than one active connection for every two processors, or where other threads need the processor.
        pub fn busy_poll(mut self, limit: std::time::Duration) -> Self {
            self.settings.busy_poll = limit.min($crate::settings::LONGEST_BUSY_POLL);
            self
        }

        /// Compresses messages where the other end agrees to it (permessage-deflate, RFC 7692). Default: no
        /// compression is offered or accepted.
        ///
        /// See [`Deflate`](crate::Deflate) for when it pays and what it costs.
        #[cfg(feature = "deflate")]
        pub fn deflate(mut self, deflate: $crate::Deflate) -> Self {
            let compression = $crate::deflate::pool::Compression::new(deflate);
            self.settings.compression = Some(std::sync::Arc::new(compression));
            self
        }
    };
}

pub(crate) use setters_of_both_ends;
