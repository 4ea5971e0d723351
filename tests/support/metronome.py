"""Time in tests that go by the wall clock, as logs do: whether the machine was too busy for what a test supposes, or
the clock was set."""

import threading
import time


class Metronome(threading.Thread):
    """Notices when the machine holds us up: what happens then cannot be blamed on the server, which is held up too. And
    it notices if the wall clock, which logs go by, is set."""

    PERIOD = 0.02
    # A miss that the server notices later than a quarter of its timeout is none (heartbeat.rs): a timeout more.
    NOTABLE = 0.2
    DRIFT = 0.05

    def __init__(self):
        super().__init__(daemon=True)
        self.holdups = []
        self.offset = time.time() - time.monotonic()

    def run(self):
        last = time.time()
        while True:
            time.sleep(self.PERIOD)
            now = time.time()
            if now - last - self.PERIOD > self.NOTABLE:
                self.holdups.append((last, now))
            last = now

    def lengths(self, begin, end):
        """How long it was held up, each time, between two times."""
        return [late - due for due, late in self.holdups if late > begin and due < end]

    def excuse(self, begin, end, timeout):
        """How much later something between two times may happen."""
        return sum(length + timeout for length in self.lengths(begin, end))

    def longest(self, begin, end):
        """The longest that it was held up between two times; 0 if it was not."""
        return max(self.lengths(begin, end), default=0.0)

    def is_trustworthy(self):
        """Prints what there is to say of the machine. Whether the times of the log are worth anything."""
        if self.holdups:
            longest = max(late - due for due, late in self.holdups)
            print(f"the machine held us up {len(self.holdups)} times, for {longest:.1f} s at most")
        drift = abs(time.time() - time.monotonic() - self.offset)
        if drift > self.DRIFT:
            print(f"the wall clock was set by {drift:.2f} s meanwhile: the times are worth nothing")
        return drift <= self.DRIFT


METRONOME = Metronome()


def sleep_until(moment):
    time.sleep(max(0.0, moment - time.time()))
