"""What a scenario comes to: rows of the table, and the checks that make them."""

import concurrent.futures
import contextvars
import dataclasses
import time
import traceback

from heartwire import Wrong

# How late a loaded machine may be before we call it a fault, in seconds.
SLACK = 2.0


# The certificates of the scenario that runs here, if it runs over TLS; all ends then speak it.
MADE = contextvars.ContextVar("made", default=None)


class Unfit(Exception):
    """The machine was too slow for what the scenario supposes, or a peer did not do its part. It may say nothing about
    the program, and is repeated."""


@dataclasses.dataclass
class Beat:
    """A heartbeat's policy. Times in seconds."""

    interval: float
    timeout: float
    max_missed: int
    liveness: str = ""

    @property
    def bound(self):
        return self.interval + self.max_missed * self.timeout

    @property
    def earliest(self):
        """No peer is dead sooner after its last byte: a Ping that it did not answer may have been under way already."""
        return (self.max_missed - 1) * self.timeout

    def setting(self):
        times = [str(round(self.interval * 1000)), str(round(self.timeout * 1000)), str(self.max_missed)]
        return ",".join([*times, *filter(None, [self.liveness])])

    def __str__(self):
        kind = ", PongOnly" if self.liveness else ""
        return f"{self.interval:g} s / {self.timeout:g} s x {self.max_missed}{kind}"


QUICK = Beat(1.0, 1.0, 2)
QUICK_PONGS = Beat(1.0, 1.0, 2, "pong")
DEFAULT = Beat(20.0, 10.0, 3)
# Handlers are away for so long where it is said that they are away for ten times the bound.
LONG = 10 * QUICK.bound


@dataclasses.dataclass
class Row:
    name: str
    beat: object
    concluded: str
    when: str = "-"
    bound: str = "-"
    why: str = ""

    def cells(self):
        return [self.name, str(self.beat), self.concluded, self.when, self.bound, self.why]


@dataclasses.dataclass
class Control(Row):
    """A row where a check was made to fail, and did."""


@dataclasses.dataclass
class Failed(Row):
    """What is not as it must be."""


@dataclasses.dataclass
class Scenario:
    name: str
    run: object
    # Those that load the whole machine run one after the other.
    is_heavy: bool = False
    # What is missing to run it, or `None`.
    missing: object = lambda: None
    # Whether it is also to run over TLS.
    over_tls: bool = True

    def attempt(self, made):
        """Its rows, over TLS if there are certificates."""
        if not made:
            return attempt(self.name, self.run)
        MADE.set(made)
        rows = attempt(self.name, self.run)
        for row in rows:
            row.name += ", TLS"
        return rows


SCENARIOS = []


def scenario(name, **options):
    """Enters a function that gives rows among the scenarios."""

    def enter(run):
        SCENARIOS.append(Scenario(name, run, **options))
        return run

    return enter


def check(condition, message):
    if not condition:
        raise Wrong(message)


def found(name, program, number, last_byte, beat, why, causes=("heartbeat lost",), bound=None, earliest=None):
    """The row of a peer that has to be found dead in time, for one of these causes, and not before it could be."""
    bound = beat.bound if bound is None else bound
    earliest = beat.earliest if earliest is None else earliest
    ended = program.ended(number, last_byte + bound + SLACK)
    check(ended, f"{name}: not found within {bound + SLACK:.1f} s of its last byte")
    took = ended.time - last_byte
    check(ended.what.startswith(causes), f"{name}: ended for another cause: {ended.what}")
    check(took <= bound + SLACK, f"{name}: found after {took:.2f} s, with a bound of {bound:.1f} s")
    check(took >= earliest - 0.05, f"{name}: found after {took:.2f} s, and {earliest:.1f} s are its due")
    return Row(name, beat, f"dead: {ended.what}", f"{took:.2f} s", f"{bound:.1f} s", why)


def never_found(name, program, number, last_byte, beat_of_check, why):
    """The control of `found`: the same, without a heartbeat."""
    return must_fail(
        lambda: found(name, program, number, last_byte, beat_of_check, why),
        Control(name, "off", "nothing", f"{beat_of_check.bound + SLACK:.1f} s", f"{beat_of_check.bound:.1f} s", why),
    )


def lives(name, program, number, beat, until, why, peers=()):
    """The row of a peer that has to live until then. `peers` are those of ours whose lateness would be ours."""
    ended = program.ended(number, until)
    if ended:
        # Whoever of ours is late just now is yet to say so.
        time.sleep(beat.timeout)
    late = max((peer.late for peer in peers), default=0.0)
    if ended and late > beat.timeout / 2:
        raise Unfit(f"it ended ({ended.what}), and we ourselves were late by {late:.2f} s")
    check(ended is None, f"{name}: it lived, and ended: {ended and ended.what}")
    return Row(name, beat, "alive", bound=f"{beat.bound:.1f} s", why=why)


def must_fail(check_of_something, row):
    """A control: gives the row if the check fails."""
    try:
        check_of_something()
    except Wrong:
        return row
    raise Wrong(f"the control did not fail: {row.name}")


def sleep_until(moment):
    time.sleep(max(0.0, moment - time.time()))


def attempt(name, call):
    """The rows of a call; if it fails, one that says how."""
    try:
        rows = call()
    except Unfit:
        raise
    except Wrong as wrong:
        rows = Failed(name, "", "FAILED", why=str(wrong))
    except Exception:  # A defect of this program, which is to be told with the rest.
        rows = Failed(name, "", "FAILED", why=traceback.format_exc())
    return [rows] if isinstance(rows, Row) else rows


def in_parallel(*calls):
    """Makes these calls at the same time, and gives the rows of all, also if some fail."""
    with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
        parts = [pool.submit(contextvars.copy_context().run, attempt, "(a part)", call) for call in calls]
        return [row for part in parts for row in part.result()]
