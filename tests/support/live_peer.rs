//! Playing a live peer on a machine that may itself be late.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

/// When the peer that a test plays last showed life, and for how long it ever did not.
pub(crate) struct Pulse {
    last: Instant,
    longest_pause: Duration,
}

impl Pulse {
    pub(crate) fn beat(&mut self) {
        self.longest_pause = self.longest_pause.max(self.last.elapsed());
        self.last = Instant::now();
    }
}

/// Plays a live peer, that nobody may find dead unless it pauses for `deadly`. On a busy machine it may do so: then a
/// failure proves nothing, and it is played again.
pub(crate) fn live(deadly: Duration, play: impl Fn(&mut Pulse)) {
    for _ in 0..5 {
        let mut pulse = Pulse { last: Instant::now(), longest_pause: Duration::ZERO };
        match catch_unwind(AssertUnwindSafe(|| play(&mut pulse))) {
            Ok(()) => return,
            Err(_) if pulse.longest_pause >= deadly => println!("the peer itself paused {:?}", pulse.longest_pause),
            Err(panic) => {
                println!("the peer itself never paused for more than {:?}", pulse.longest_pause);
                resume_unwind(panic);
            }
        }
    }
    panic!("this machine is too busy to play a live peer");
}
