//! Both directions at once, with new keys in both. The stage `hostile` does the same for longer.

use std::time::Duration;

use super::{connect, secure};
use crate::support::{duplex, start_as_it_is};

#[test]
fn both_directions_at_once_with_new_keys_in_both_lose_nothing() {
    const LASTS: Duration = Duration::from_secs(2);
    let running = start_as_it_is(secure(), |conn| duplex::serve(conn, LASTS));
    let mut client = connect(&running);
    let exchanged = duplex::play(&mut client, LASTS);
    println!("{exchanged:?}");
    client.close();
    let report = running.closed();
    assert_eq!((report.traffic.messages_in, report.traffic.unsent), (exchanged.sent + 1, 0), "{report:?}");
    assert!(exchanged.sent > 20 && exchanged.received > 20, "not at once: {exchanged:?}");
}
