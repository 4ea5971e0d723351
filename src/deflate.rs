//! Compressed messages: permessage-deflate (RFC 7692), without I/O.
//!
//! What is agreed in the opening handshake is in [`negotiation`], one message in and out of DEFLATE in [`codec`], and
//! what all connections of a server or a client share in [`pool`].
//!
//! Invariant: by default no connection keeps anything from one message to the next, so an idle one has no state of
//! compression.

pub(crate) mod codec;
pub(crate) mod negotiation;
pub(crate) mod pool;

/// Compression of messages (permessage-deflate, RFC 7692), for [`Server::deflate`](crate::Server::deflate) and
/// [`Client::deflate`](crate::Client::deflate).
///
/// Both ends have to agree to it, so a peer that knows nothing of it is served as before. Browsers offer it always.
/// Whether it pays depends on the messages and on the line: mostly for text of 2 KB and more, over lines of up to 100
/// Mbit/s, and for broadcasts. docs/compression.md in the repository has the figures.
///
/// Neither side keeps anything from one message to the next, unless [context takeover](Self::context_takeover) is
/// asked for. So an idle connection has no state of it; only the stack of a thread that has compressed is a page
/// deeper, and some small blocks stay with it (6.5 KB in all). There are as many compressors as processors, for all
/// connections together; when all are busy, a message goes uncompressed. Pings, Pongs and Close frames are never
/// compressed, and never wait for a compression.
///
/// **Secrets.** How well a message compresses tells something of what is in it. Where a message holds a secret beside a
/// text that an attacker can choose, and the attacker sees the length of what is sent, the secret can be guessed piece
/// by piece (CRIME, BREACH), also over TLS. Do not put the two into one message, or send that message by
/// [`Sender::uncompressed`](crate::Sender::uncompressed), for [`ClientHandle`](crate::ClientHandle),
/// [`Connection::feed`](crate::Connection::feed) and broadcasts have no such way. With context takeover all messages of
/// a connection count as one.
///
/// ```no_run
/// # fn main() -> Result<(), heartwire::Error> {
/// use heartwire::{Deflate, Server};
///
/// let server = Server::bind("127.0.0.1:9001")?.deflate(Deflate::new());
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "it changes nothing until it is given to a server or a client"]
pub struct Deflate {
    level: u8,
    threshold: Option<usize>,
    window_bits: u8,
    sends_with_context: bool,
    receives_with_context: bool,
}

impl Default for Deflate {
    fn default() -> Self {
        Self {
            // JSON of 2 to 200 KB becomes at most 4 % larger than by level 6, in two thirds of the time.
            level: 4,
            threshold: None,
            // What a peer has to understand anyway, so that nothing need be agreed.
            window_bits: 15,
            // The price stands beside the setters.
            sends_with_context: false,
            receives_with_context: false,
        }
    }
}

impl Deflate {
    /// The defaults: level 4, for messages of 1 KiB and more, windows of 15 bits, no context takeover.
    pub fn new() -> Self {
        Self::default()
    }

    /// How much time to spend on compressing, from 1 (fast) to 9 (small). Clamped to that. Default 4: at most 4 %
    /// larger than zlib's own default of 6 for JSON of 2 to 200 KB, in two thirds of the time. A page of 20 KB takes 20
    /// to 50 µs, a fifteenth of that at its receiver.
    pub fn level(mut self, level: u8) -> Self {
        self.level = level.clamp(1, 9);
        self
    }

    /// Messages of fewer bytes are not compressed. Default 1 KiB, for below that little is gained; with [context
    /// takeover](Self::sending_context_takeover) 64 bytes, for then a message shares much with those before it.
    pub fn threshold(mut self, bytes: usize) -> Self {
        self.threshold = Some(bytes);
        self
    }

    /// How far back a repetition may be found, as a power of two in bytes: 9 (512 bytes) to 15 (32 KiB). Clamped to
    /// that. Default 15.
    ///
    /// A peer may ask for a smaller window than this for what we send, and gets it. We ask for this window for what it
    /// sends. Fewer bits save memory where [context takeover](Self::context_takeover) keeps it: a compressor takes 380
    /// KB at 15 bits, 265 at 12 and 240 at 9, what decompresses 48 KB at 15 bits and 16 KB at 9, in the peer as well.
    pub fn window_bits(mut self, bits: u8) -> Self {
        self.window_bits = bits.clamp(9, 15);
        self
    }

    /// Whether messages are compressed with what came before them on the same connection (context takeover, RFC 7692
    /// section 7.1.1), in both directions. Default `false`.
    ///
    /// It makes small messages that resemble each other much smaller: a text of 145 bytes becomes 120 without it, and 6
    /// with it when it is sent again. The price is memory for as long as a connection lasts, also an idle one: 380 KB
    /// for [sending](Self::sending_context_takeover) and 48 KB for
    /// [receiving](Self::receiving_context_takeover), with windows of 15 bits. And broadcasts are not compressed for
    /// these connections, for each would need its own.
    pub fn context_takeover(self, takes_over: bool) -> Self {
        self.sending_context_takeover(takes_over).receiving_context_takeover(takes_over)
    }

    /// Like [`context_takeover`](Self::context_takeover), only for what is sent. Default `false`. A connection keeps a
    /// compressor of 380 KB from its first compressed message on.
    ///
    /// The order of compression is then the order on the wire, so threads that send on one connection wait for each
    /// other while they compress, and `try_send` gives a message back as `Full` rather than wait. The peer can decline.
    pub fn sending_context_takeover(mut self, takes_over: bool) -> Self {
        self.sends_with_context = takes_over;
        self
    }

    /// Like [`context_takeover`](Self::context_takeover), only for what is received. Default `false`. A connection
    /// keeps 48 KB from the first compressed message on that it receives.
    ///
    /// A server refuses it to clients that send their heartbeat as text (`heartwire.v1`,
    /// [`text_heartbeat`](crate::Server::text_heartbeat)): such a text must be understood while the handler is away. A
    /// client has to grant it to a server that insists.
    pub fn receiving_context_takeover(mut self, takes_over: bool) -> Self {
        self.receives_with_context = takes_over;
        self
    }

    pub(crate) fn bits(&self) -> u8 {
        self.window_bits
    }

    /// From how many bytes on a message is compressed.
    pub(crate) fn threshold_for(&self, takes_over: bool) -> usize {
        self.threshold.unwrap_or(if takes_over { 64 } else { 1024 })
    }
}
