//! Topics under attack: bounds hold, memory stays within them, and others are served meanwhile.

mod floods;
mod requests;
mod server;

use crate::Scenario;

pub(crate) fn scenarios() -> Vec<Scenario> {
    [floods::scenarios(), requests::scenarios()].into_iter().flatten().collect()
}
