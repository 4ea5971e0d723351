//! Calls into foreign code: the application's handlers, callbacks and logger, and what their errors and panics leave
//! behind.
//!
//! Invariant: foreign code can only return. A panic becomes a text, and so does an error whose `Display` fails.
//! (Nothing can catch what aborts the process; the crate docs list it.)

use std::any::Any;
use std::fmt::{self, Display, Write};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Calls foreign code.
///
/// # Errors
/// The message of its panic. (Threads of our own start here too: their panic is a bug that has to be noticed.)
pub(crate) fn call<T>(foreign: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(foreign)).map_err(|payload| {
        let message = panic_message(&*payload);
        dispose(payload);
        message
    })
}

/// Drops a value whose `Drop` may panic.
pub(crate) fn dispose<T>(value: T) {
    if let Err(another) = catch_unwind(AssertUnwindSafe(move || drop(value))) {
        // The payload of that panic may panic too, and so on for ever. Leak a little memory instead.
        mem::forget(another);
    }
}

/// The text of a value, or as much of it as there is.
pub(crate) fn display_text(value: &dyn Display) -> String {
    /// Replaces the text, or the rest of it, if `Display` fails or panics.
    const UNDISPLAYABLE: &str = "(an error that cannot be shown)";
    let mut text = Bounded { text: String::new(), is_full: false };
    let is_complete = matches!(call(|| write!(text, "{value}")), Ok(Ok(())));
    let Bounded { mut text, is_full } = text;
    if is_full {
        text.push('…');
    } else if !is_complete {
        text.push_str(UNDISPLAYABLE);
    }
    text
}

/// The message of a panic.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> String {
    match payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str)) {
        Some(message) => display_text(&message),
        None => "no message".to_owned(),
    }
}

/// A text that is cut at a length that fits a log and a report.
struct Bounded {
    text: String,
    is_full: bool,
}

impl Bounded {
    const LIMIT: usize = 4096;
}

impl Write for Bounded {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let room = Self::LIMIT - self.text.len();
        let mut end = more.len().min(room);
        while !more.is_char_boundary(end) {
            end -= 1;
        }
        self.text.push_str(&more[..end]);
        self.is_full = end < more.len();
        if self.is_full { Err(fmt::Error) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::panic_any;

    struct Bomb(u32);

    impl Drop for Bomb {
        fn drop(&mut self) {
            if self.0 > 0 {
                panic_any(Self(self.0 - 1));
            }
        }
    }

    #[test]
    fn a_panic_is_survived_whatever_its_payload_does_when_it_is_dropped() {
        assert_eq!(call(|| 42), Ok(42));
        assert_eq!(call(|| panic!("oh {}", "no")), Err::<(), _>("oh no".to_owned()));
        assert_eq!(call(|| panic_any(Bomb(3))), Err::<(), _>("no message".to_owned()));
        dispose(Bomb(3));
    }

    struct Says(&'static str, fn() -> fmt::Result);

    impl Display for Says {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)?;
            (self.1)()
        }
    }

    #[test]
    fn a_value_that_cannot_be_displayed_has_a_text() {
        assert_eq!(display_text(&Says("fine", || Ok(()))), "fine");
        assert_eq!(display_text(&Says("half ", || Err(fmt::Error))), "half (an error that cannot be shown)");
        assert_eq!(display_text(&Says("", || panic_any(Bomb(3)))), "(an error that cannot be shown)");
        struct Endless;
        impl Display for Endless {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                loop {
                    f.write_str("ä.ö")?;
                }
            }
        }
        let endless = display_text(&Endless);
        assert!(endless.ends_with('…') && endless.len() <= Bounded::LIMIT + 3, "{}", endless.len());
    }
}
