//! What is measured.

pub(crate) mod connect;
pub(crate) mod count;
pub(crate) mod deflate;
pub(crate) mod detect;
pub(crate) mod echoes;
pub(crate) mod fanout;
mod footprint;
pub(crate) mod idle;
pub(crate) mod isolation;
mod measured;
pub(crate) mod nodes;
pub(crate) mod syscalls;
pub(crate) mod tls;
pub(crate) mod topics;

use crate::cli::Common;
use crate::interrupt;

/// Messages of the two runs whose difference is what the ones between cost: start and end of the server drop out.
const FEW: u64 = 200;
const MANY: u64 = 1200;

/// Does a measurement for each of `what`, again in each round, and each round beginning with another: what disturbs the
/// machine for a while disturbs all of them.
fn interleave<T>(common: &Common, what: &[T], mut measure: impl FnMut(usize, &T)) {
    for round in 0..common.rounds {
        for index in 0..what.len() {
            if interrupt::is_set() {
                return;
            }
            measure(round + 1, &what[(index + round) % what.len()]);
        }
    }
}
