"""The model of a line, without I/O and without a clock: what becomes of a packet that is given to it, and when.

A line has two ways, alike and independent of each other: a bounded queue before a limited rate, then the air, which
loses packets, then the delay. Interruptions concern both ways, and what is on its way as well.
"""

import dataclasses
import random

OUTAGE, STALL = "outage", "stall"
FOREVER = float("inf")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of each way. Times in seconds."""

    delay: float = 0.0
    # Drawn evenly, on top of the delay. Packets keep their order, unless they may overtake.
    jitter: float = 0.0
    may_overtake: bool = False
    # The share of packets lost, each for itself.
    loss: float = 0.0
    # Gilbert and Elliott's two states, by time and not by packet, so that an idle line recovers too: bursts in which
    # this share is lost, with these mean lengths of a burst and of the pause after it.
    burst_loss: float = 0.0
    burst_length: float = 0.1
    burst_pause: float = 1.0
    # In bit/s, 0 for no limit; and what may wait before it, in bytes. More is dropped.
    rate: float = 0.0
    queue: int = 64 * 1024
    # Interruptions to come: begin and end, counted from the laying of the line, and their kind.
    schedule: tuple = ()


class Way:
    def __init__(self, settings, seed):
        self.settings = settings
        self.random = random.Random(seed)
        self.free_at = 0.0
        self.latest = 0.0
        self.in_burst = False
        self.turns_at = 0.0
        self.carried = self.lost = self.overflowed = 0

    def due(self, now, size):
        """When a packet of some bytes is at the other end; `None` if it never is."""
        settings = self.settings
        sent = now
        if settings.rate:
            wait = max(0.0, self.free_at - now)
            if wait * settings.rate / 8 + size > settings.queue:
                self.overflowed += 1
                return None
            self.free_at = sent = now + wait + size * 8 / settings.rate
        if self._loses(sent):
            self.lost += 1
            return None
        self.carried += 1
        due = sent + settings.delay + self.random.random() * settings.jitter
        if not settings.may_overtake:
            due = self.latest = max(due, self.latest)
        return due

    def _loses(self, now):
        settings = self.settings
        chance = settings.loss
        if settings.burst_loss:
            self._turn(now)
            if self.in_burst:
                chance = max(chance, settings.burst_loss)
        return self.random.random() < chance

    def _turn(self, now):
        """Goes from state to state up to a time."""
        if not self.turns_at:
            self.turns_at = now + self._stay()
        while self.turns_at <= now:
            self.in_burst = not self.in_burst
            self.turns_at += self._stay()

    def _stay(self):
        mean = self.settings.burst_length if self.in_burst else self.settings.burst_pause
        return self.random.expovariate(1 / mean)


class Line:
    def __init__(self, settings, seed, now):
        # By the end that they lead to.
        self.ways = {end: Way(settings, f"{seed} to {end}") for end in ("near", "far")}
        self.interruptions = [(now + begin, now + end, kind) for begin, end, kind in settings.schedule]
        self.dropped = 0

    def interrupt(self, now, length, kind):
        self.interruptions.append((now, now + length, kind))

    def mend(self):
        """Ends what is under way, and forgets what was to come."""
        self.interruptions = []

    def is_down(self, now):
        return any(kind == OUTAGE and begin <= now < end for begin, end, kind in self.interruptions)

    def stalls_until(self, now):
        """When what is held now goes on; `now` if nothing is held."""
        ends = (end for begin, end, kind in self.interruptions if kind == STALL and begin <= now < end)
        return max(ends, default=now)

    def due(self, now, size, end):
        """When a packet to an end arrives there, unless an interruption meets it; `None` if it never does."""
        if self.is_down(now):
            self.dropped += 1
            return None
        return self.ways[end].due(now, size)

    def figures(self):
        """What became of the packets, by fate. Dropped are those that met an outage."""
        ways = self.ways.values()
        return {
            "carried": sum(way.carried for way in ways),
            "lost": sum(way.lost for way in ways),
            "overflowed": sum(way.overflowed for way in ways),
            "dropped": self.dropped,
        }
