//! What the application has attached to a connection: values of types of its own, by
//! [`Accept::extension`](crate::Accept::extension).
//!
//! Invariant: of our threads only the connection's own holds them. What the supervisor, the stand-in and the drainer
//! share of a connection has no reference to them. So the last reference goes away where foreign code may run: at the
//! end of the connection's thread, or where the application drops an `Accept` or a `Sender`.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use crate::foreign;

type Value = Arc<dyn Any + Send + Sync>;

/// Values of different types, each found by its type. Cloning is cheap.
#[derive(Clone, Default)]
pub(crate) struct Attached(Option<Arc<Values>>);

struct Values(Vec<Value>);

impl Attached {
    /// Adds a value. It replaces one of the same type; clones keep that.
    pub(crate) fn attach<T: Any + Send + Sync>(&mut self, value: T) {
        let value: Value = Arc::new(value);
        let others = self.values().iter().filter(|other| !other.is::<T>()).cloned();
        self.0 = Some(Arc::new(Values(others.chain([value]).collect())));
    }

    /// The value of this type.
    pub(crate) fn get<T: Any>(&self) -> Option<&T> {
        self.values().iter().find_map(|value| value.downcast_ref())
    }

    fn values(&self) -> &[Value] {
        self.0.as_deref().map_or(&[], |Values(values)| values)
    }
}

/// The application's code runs here. Its panic must not end a thread of ours, nor keep the other values.
impl Drop for Values {
    fn drop(&mut self) {
        self.0.drain(..).for_each(foreign::dispose);
    }
}

/// Two are equal if they are clones of one another: nothing else is known of the values.
impl PartialEq for Attached {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(ours), Some(theirs)) => Arc::ptr_eq(ours, theirs),
            (ours, theirs) => ours.is_none() && theirs.is_none(),
        }
    }
}

impl Eq for Attached {}

impl fmt::Debug for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Attached").field(&self.values().len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    use super::*;

    #[test]
    fn there_is_one_value_of_each_type_the_last() {
        let mut attached = Attached::default();
        assert_eq!(attached.get::<u32>(), None);
        attached.attach(1_u32);
        attached.attach("a text");
        let before = attached.clone();
        attached.attach(2_u32);
        assert_eq!((attached.get::<u32>(), attached.get::<&str>()), (Some(&2), Some(&"a text")));
        assert_eq!((before.get::<u32>(), attached.get::<u64>()), (Some(&1), None));
        assert_eq!(format!("{attached:?}"), "Attached(2)");
        assert_eq!(size_of::<Attached>(), size_of::<usize>());
    }

    #[test]
    fn only_clones_are_equal() {
        let mut attached = Attached::default();
        assert_eq!(attached, Attached::default());
        attached.attach(1);
        assert_eq!(attached, attached.clone());
        let mut other = Attached::default();
        other.attach(1);
        assert!(attached != other && other != Attached::default());
    }

    struct Bomb(Arc<AtomicU32>);

    impl Drop for Bomb {
        fn drop(&mut self) {
            self.0.fetch_add(1, SeqCst);
            panic!("as the test wants it");
        }
    }

    struct Other(#[allow(dead_code, reason = "it is there to be dropped")] Bomb);

    #[test]
    fn a_value_that_panics_when_it_is_dropped_does_no_harm() {
        let dropped = Arc::<AtomicU32>::default();
        let mut attached = Attached::default();
        attached.attach(Bomb(Arc::clone(&dropped)));
        attached.attach(Other(Bomb(Arc::clone(&dropped))));
        let last = attached.clone();
        drop(attached);
        assert_eq!(dropped.load(SeqCst), 0);
        drop(last);
        assert_eq!(dropped.load(SeqCst), 2);
    }
}
