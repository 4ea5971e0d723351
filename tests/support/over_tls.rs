//! The same tests over TLS: with `HEARTWIRE_TEST_TLS=1` every server, client and other end that is made here speaks
//! TLS.
//!
//! A test that means nothing over TLS begins with `plain_only!("why")`: it is left out then, and says so.

use std::env;
use std::sync::OnceLock;

/// Whether the tests run over TLS.
pub(crate) fn is_on() -> bool {
    static IS_ON: OnceLock<bool> = OnceLock::new();
    *IS_ON.get_or_init(|| match env::var("HEARTWIRE_TEST_TLS").as_deref() {
        Err(_) | Ok("") => false,
        Ok("1") => cfg!(feature = "tls") || panic!("HEARTWIRE_TEST_TLS needs the feature tls"),
        Ok(other) => panic!("HEARTWIRE_TEST_TLS={other:?}: 1, or nothing"),
    })
}

/// Leaves a test out over TLS, for this reason.
#[allow(unused_macros)]
macro_rules! plain_only {
    ($why:literal) => {
        if $crate::support::over_tls::is_on() {
            fn here() {}
            let test = std::any::type_name_of_val(&here).trim_end_matches("::here");
            println!("not over TLS: {test}: {}", $why);
            return;
        }
    };
}
pub(crate) use plain_only;
