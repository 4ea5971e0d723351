//! The drainer: the second thread of a connection whose peer is slow. It blocks in writes until the queue is empty.
//!
//! Invariants:
//! - There is one at a time. The thread that finds the socket full starts it. Until it has caught up, all other threads
//!   only queue.
//! - While it runs, it has the batch, and writes to the socket without the lock.
//! - It drops what the end of the connection leaves: the application may have lent the payloads, and then its code
//!   runs.
//! - Anything that stops it early ends the connection: a failed write, a panic, or a failure to start its thread.

use std::io;
use std::mem;
use std::sync::Arc;
use std::time::Instant;

use super::batch::Batch;
use super::{Owner, Refused, Sent, Socket, WriteHalf};
use crate::foreign;
use crate::protocol::close::CloseReason;
use crate::transport::socket::is_timeout;

impl<O: Owner> WriteHalf<O> {
    /// Starts the drainer, when frames are queued and the socket is full.
    #[cold]
    pub(super) fn start_drainer(owner: &Arc<O>) -> Result<Sent, Refused> {
        let owned = Arc::clone(owner);
        match owner.start_thread(move || Self::run_drainer(&owned)) {
            Ok(()) => Ok(Sent::Queued),
            Err(error) => {
                owner.abort(CloseReason::io(&error));
                owner.write_half().drop_remains();
                Err(Refused::Closed)
            }
        }
    }

    fn run_drainer(owner: &O) {
        let write_half = owner.write_half();
        match foreign::call(|| write_half.drain()) {
            Ok(Ok(())) => {
                // While threads wait in line, others are still refused.
                write_half.wait_for_line();
                owner.queue_emptied();
            }
            Ok(Err(error)) => {
                write_half.fail(write_half.lock(), &error);
                owner.write_failed(&error);
            }
            // A message may borrow memory of the application, whose code runs when the message is dropped here.
            Err(message) => owner.abort(CloseReason::io(&io::Error::other(format!("a write panicked: {message}")))),
        }
        write_half.drop_remains();
    }

    fn drop_remains(&self) {
        let remains = mem::take(&mut self.lock().remains);
        drop(remains);
    }

    /// Writes until the queue is empty or the connection has ended.
    fn drain(&self) -> io::Result<()> {
        let mut batch = Batch::default();
        let mut spent = Vec::new();
        let mut has_progress = true;
        loop {
            // Take the next frames: the rest of the batch, then control frames, then other data. After a wait in vain
            // the rest waits alone: of all Pongs that come meanwhile, only the newest is to be sent.
            let socket = {
                let mut state = self.lock();
                if has_progress {
                    state.queue.refill_for_drainer(&mut batch);
                }
                let Some(socket) = state.socket.clone().filter(|_| !batch.is_empty()) else {
                    state.catch_up();
                    self.signal_progress(&state);
                    return Ok(());
                };
                socket
            };
            // Write without the lock, however long the socket takes. Ending the wait is the heartbeat's task.
            let taken = match socket.send_patiently(batch.slices(&mut Batch::room())) {
                // Over TLS a write that takes nothing says what is pinned. It is no progress either.
                Ok(taken) if taken.wire == 0 => {
                    has_progress = false;
                    continue;
                }
                Ok(taken) => taken,
                Err(error) if is_timeout(&error) || error.kind() == io::ErrorKind::Interrupted => {
                    has_progress = false;
                    continue;
                }
                Err(error) => return Err(error),
            };
            has_progress = true;
            // Record the progress, and wake the threads that wait for room.
            let mut state = self.lock();
            state.blocked_since = Some(Instant::now());
            state.note_taken(&mut batch, taken, &mut spent);
            self.signal_progress(&state);
            drop(state);
            // Drop the written payloads without the lock.
            spent.clear();
        }
    }
}
