//! Compression on one connection, as both ends have agreed (permessage-deflate, RFC 7692).
//!
//! A message is compressed by the thread that sends it, before the lock of the write half, so neither Pings nor other
//! connections wait for that. It is decompressed by the thread that receives it: the stand-in passes messages on as
//! they came, except for texts that may be heartbeats.
//!
//! Invariant: with context takeover, messages leave in the order in which they were compressed. Only a sender that has
//! its [`Turn`] compresses, and it keeps the turn until the write half has the message.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::deflate::codec::{Compressor, InflateError, Inflater};
use crate::deflate::negotiation::{Agreed, Direction};
use crate::deflate::pool::Compression;
use crate::foreign;
use crate::message::{Message, Text};
use crate::protocol::close::CloseReason;
use crate::protocol::decoder::Compressed;
use crate::protocol::frame::{Outgoing, Role};
use crate::transport::waiting_line::WaitingLine;
use crate::transport::write_half::{Refused, Sent, Wait};

/// The compression of a connection.
pub(crate) struct Deflating {
    compression: Arc<Compression>,
    sending: Direction,
    receiving: Direction,
    /// What was agreed, in the terms of the header.
    pub(crate) extensions: String,
    /// With context takeover for what is sent.
    context: Option<Context>,
    /// Whether it counts as one that takes broadcasts which are compressed once for all.
    is_recipient: AtomicBool,
}

impl Deflating {
    /// `shares_frames`: whether the connection is sent frames that are compressed once for many.
    pub(crate) fn new(compression: &Arc<Compression>, agreed: &Agreed, role: Role, shares_frames: bool) -> Self {
        let deflating = Self {
            compression: Arc::clone(compression),
            sending: agreed.sending(role),
            receiving: agreed.receiving(role),
            extensions: agreed.to_string(),
            context: agreed.sending(role).takes_over.then(Context::default),
            is_recipient: AtomicBool::new(false),
        };
        if shares_frames && deflating.takes_broadcasts() {
            compression.add_recipient();
            deflating.is_recipient.store(true, Relaxed);
        }
        deflating
    }

    /// The connection has ended: gives back what only an open one needs.
    pub(super) fn end(&self) {
        if self.is_recipient.swap(false, Relaxed) {
            self.compression.remove_recipient();
        }
        if let Some(context) = &self.context {
            context.end();
        }
    }

    /// Whether it takes broadcasts that are compressed once for all: they refer to nothing before them, and need the
    /// window of the server's own settings.
    pub(crate) fn takes_broadcasts(&self) -> bool {
        !self.sending.takes_over && self.sending.window_bits == self.compression.settings.bits()
    }

    // Sending.

    /// Gives the write half a message by `send`, compressed if that is worth it.
    ///
    /// Not inlined: this keeps the path of what is not compressed short.
    #[inline(never)]
    pub(super) fn send(
        &self,
        message: Message,
        wait: Wait,
        is_closing: impl FnOnce() -> bool,
        send: impl FnOnce(Outgoing) -> Result<Sent, Refused>,
    ) -> Result<Sent, Refused> {
        let is_text = message.as_text().is_some();
        let Some(context) = &self.context else {
            let compressed = self.compression.compress(message.as_bytes(), self.sending.window_bits);
            return match compressed {
                Some(payload) => {
                    foreign::dispose(message);
                    send(Outgoing::compressed(is_text, payload))
                }
                None => send(Outgoing::message(message)),
            };
        };
        if message.len() < self.compression.settings.threshold_for(true) {
            return send(Outgoing::message(message));
        }
        let mut turn = context.turn(wait)?;
        if is_closing() {
            // Those who wait for their turn behind this one are not to wait for a compression in vain.
            return Err(Refused::Closed);
        }
        let compressor =
            turn.compressor.get_or_insert_with(|| Box::new(self.compression.own_compressor(self.sending.window_bits)));
        let window = 1 << self.sending.window_bits;
        let sent = match compressor.compress(message.as_bytes()) {
            // It became longer, and so may exceed what the peer accepts. It fills the window, so that nothing but
            // itself is forgotten.
            Some(payload) if payload.len() > message.len() && message.len() >= window => {
                compressor.forget();
                send(Outgoing::message(message.clone()))
            }
            Some(payload) => send(Outgoing::compressed(is_text, payload)),
            None => {
                turn.compressor = None;
                send(Outgoing::message(message.clone()))
            }
        };
        if sent.is_err() {
            // The peer will not know what this message would have added to the context.
            turn.compressor = None;
        }
        drop(turn);
        foreign::dispose(message);
        sent
    }

    // Receiving.

    /// The message of a payload. `context`: what the connection keeps for that, with context takeover.
    pub(super) fn inflate(
        &self,
        compressed: &Compressed,
        context: &mut Option<Box<Inflater>>,
        limit: usize,
    ) -> Result<Message, CloseReason> {
        let inflated = if self.receiving.takes_over {
            let inflater = context.get_or_insert_with(|| Box::new(Inflater::new(self.receiving.window_bits)));
            inflater.inflate(&compressed.payload, limit)
        } else {
            self.compression.inflate(&compressed.payload, limit)
        };
        let payload = inflated.map_err(|error| match error {
            InflateError::Invalid => CloseReason::InvalidDeflate,
            InflateError::TooBig => CloseReason::TooBig { size: limit as u64 + 1, limit },
        })?;
        match compressed.is_text {
            true => {
                String::from_utf8(payload).map(|text| Text::from(text).into()).map_err(|_| CloseReason::InvalidUtf8)
            }
            false => Ok(payload.into()),
        }
    }

    /// The message, if it is so short that it may be a heartbeat in text, and can be understood by itself. Costs next
    /// to nothing, so the stand-in may call it.
    pub(super) fn inflate_short(&self, compressed: &Compressed) -> Option<Message> {
        /// The longest text that is a heartbeat, `ping next=<milliseconds>`, with some to spare.
        const LONGEST: usize = 64;
        if self.receiving.takes_over || !compressed.is_text || compressed.payload.len() > LONGEST {
            return None;
        }
        let inflated = self.compression.inflate_now(&compressed.payload, LONGEST)?;
        String::from_utf8(inflated).map(Message::from).ok()
    }
}

/// For connections that never opened.
impl Drop for Deflating {
    fn drop(&mut self) {
        self.end();
    }
}

/// The context of what a connection sends, and who may use it.
#[derive(Default)]
struct Context {
    /// Protects whose turn it is, and the compressor while it is nobody's.
    state: Mutex<ContextState>,
    /// Signalled when a turn is over.
    freed: Condvar,
}

#[derive(Default)]
struct ContextState {
    compressor: Option<Box<Compressor>>,
    /// Whether the connection has ended, so that no compressor is kept.
    has_ended: bool,
    is_taken: bool,
    waiting: WaitingLine,
}

impl Context {
    /// Waits for the turn of this thread. Turns come in the order of the calls.
    fn turn(&self, wait: Wait) -> Result<Turn<'_>, Refused> {
        let mut state = self.lock();
        if state.is_taken || !state.waiting.is_empty() {
            state = self.wait_for_turn(state, wait)?;
        }
        state.is_taken = true;
        Ok(Turn { context: self, compressor: state.compressor.take() })
    }

    #[cold]
    fn wait_for_turn<'a>(
        &'a self,
        mut state: MutexGuard<'a, ContextState>,
        wait: Wait,
    ) -> Result<MutexGuard<'a, ContextState>, Refused> {
        let ticket = state.waiting.join();
        let outcome = loop {
            if !state.is_taken && state.waiting.is_first(ticket) {
                break Ok(());
            }
            state = match wait.remaining() {
                Ok(Some(limit)) => self.freed.wait_timeout(state, limit).unwrap_or_else(PoisonError::into_inner).0,
                Ok(None) => self.freed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Err(refused) => break Err(refused),
            };
        };
        if state.waiting.leave(ticket) {
            self.freed.notify_all();
        }
        outcome.map(|()| state)
    }

    fn end(&self) {
        let mut state = self.lock();
        state.has_ended = true;
        state.compressor = None;
    }

    fn lock(&self) -> MutexGuard<'_, ContextState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A sender's turn, with the compressor of the connection, if there is one.
struct Turn<'a> {
    context: &'a Context,
    compressor: Option<Box<Compressor>>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.context.lock();
        state.is_taken = false;
        if !std::thread::panicking() && !state.has_ended {
            state.compressor = self.compressor.take();
        }
        drop(state);
        self.context.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::deflate::{Deflate, negotiation};
    use crate::http::extensions;
    use crate::protocol::frame::Frame;

    #[test]
    fn a_turn_is_for_one_at_a_time_and_whoever_may_not_wait_is_told_that_it_is_full() {
        let context = Context::default();
        let turn = context.turn(Wait::No).unwrap();
        assert!(matches!(context.turn(Wait::No), Err(Refused::Full)));
        let soon = Instant::now() + Duration::from_millis(10);
        assert!(matches!(context.turn(Wait::Until(soon)), Err(Refused::Full)));
        assert!(Instant::now() >= soon);
        drop(turn);
        drop(context.turn(Wait::No).unwrap());
    }

    #[test]
    fn turns_come_in_the_order_of_the_calls_and_nobody_gets_in_before_those_who_wait() {
        let context = Context::default();
        thread::scope(|scope| {
            let turn = context.turn(Wait::Forever).unwrap();
            let (sender, order) = mpsc::channel();
            for number in 0..5 {
                let (sender, context) = (sender.clone(), &context);
                scope.spawn(move || {
                    let _turn = context.turn(Wait::Forever).unwrap();
                    sender.send(number).unwrap();
                });
                while context.lock().waiting.len() <= number {
                    thread::yield_now();
                }
            }
            drop((turn, sender));
            assert_eq!(order.iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        });
    }

    #[test]
    fn a_compressor_stays_with_its_connection_unless_its_user_panicked() {
        let context = Context::default();
        let compressor = || Some(Box::new(Compressor::new(1, 9)));
        context.turn(Wait::No).unwrap().compressor = compressor();
        assert!(context.turn(Wait::No).unwrap().compressor.is_some());
        thread::scope(|scope| {
            let panicked = scope.spawn(|| {
                let mut turn = context.turn(Wait::No).unwrap();
                turn.compressor = compressor();
                panic!("as the test wants it");
            });
            assert!(panicked.join().is_err());
        });
        assert!(context.turn(Wait::No).unwrap().compressor.is_none());
    }

    #[test]
    fn a_connection_that_has_ended_keeps_no_compressor() {
        let context = Context::default();
        let compressor = || Some(Box::new(Compressor::new(1, 9)));
        context.turn(Wait::No).unwrap().compressor = compressor();
        let mut turn = context.turn(Wait::No).unwrap();
        turn.compressor = compressor();
        context.end();
        drop(turn);
        assert!(context.lock().compressor.is_none());
    }

    /// Sends a message to a peer, and tells whether it came compressed.
    fn deliver(deflating: &Deflating, peer: &mut Inflater, message: &[u8]) -> bool {
        let (sender, sent) = mpsc::channel();
        let send = |outgoing| {
            sender.send(Frame::encode(outgoing, None)).unwrap();
            Ok(Sent::Written)
        };
        deflating.send(message.to_vec().into(), Wait::Forever, || false, send).unwrap();
        let frame = sent.recv().unwrap();
        let payload = &frame.to_bytes(0)[frame.header().len()..];
        let is_compressed = frame.header()[0] & 0x40 != 0;
        let came = if is_compressed { peer.inflate(payload, message.len()).unwrap() } else { payload.to_vec() };
        assert!(came == message, "{} bytes came otherwise", message.len());
        assert!(payload.len() <= message.len() || message.len() < 1024, "{} bytes became longer", message.len());
        is_compressed
    }

    #[test]
    fn with_context_a_message_that_fills_the_window_never_becomes_longer() {
        let settings = Deflate::new().context_takeover(true).window_bits(10);
        let offers = extensions::parse([&b"permessage-deflate"[..]].into_iter()).unwrap();
        let agreed = negotiation::choose(&settings, &offers, false).unwrap();
        let deflating = Deflating::new(&Arc::new(Compression::new(settings)), &agreed, Role::Server, true);
        let mut peer = Inflater::new(10);
        let noise = |len| (0..len).map(|_| rand::random()).collect::<Vec<u8>>();
        let state = "the state of things, ".repeat(5).into_bytes();
        for _ in 0..3 {
            assert!(deliver(&deflating, &mut peer, &state));
            // The context is worth more than the few bytes.
            assert!(deliver(&deflating, &mut peer, &noise(500)));
            assert!(deliver(&deflating, &mut peer, &state));
            for len in [1024, 5000, 100_000] {
                assert!(!deliver(&deflating, &mut peer, &noise(len)), "{len} bytes of noise came compressed");
            }
        }
    }
}
