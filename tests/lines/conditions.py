"""The lines and the policies that are tried with each other."""

import dataclasses
import random

from line import OUTAGE, STALL, Settings
from policy import Policy

# Of all randomness.
SEED = 20020501


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of line, and what its peers do besides answering Pings."""

    name: str
    settings: Settings
    # Interruptions: of which kind, how long, and how far apart from begin to begin, in seconds.
    interruption: str = ""
    length: float = 0.0
    period: float = 0.0
    first: float = 5.0
    # The peer is sent 5 MB, and says nothing. Else it says something now and then, and is answered.
    is_flooded: bool = False

    def at(self, address, until):
        """The settings of one such line, with interruptions up to a time, which differ from line to line."""
        schedule = []
        dice = random.Random(f"{SEED} {address}")
        begin = self.first + dice.random() * (self.period - self.length) / 2
        while self.interruption and begin + self.length < until:
            schedule.append((begin, begin + self.length, self.interruption))
            begin += self.period + dice.uniform(-1, 1) * (self.period - self.length) / 4
        return dataclasses.replace(self.settings, schedule=tuple(schedule))

    @property
    def round_trip(self):
        """The longest without an interruption."""
        wait = self.settings.queue * 8 / self.settings.rate if self.settings.rate else 0.0
        return 2 * (self.settings.delay + self.settings.jitter + wait)


# 0.15 s of every 2.4 s lose 80 %: 5 % in all.
WIFI = Settings(delay=0.005, jitter=0.03, burst_loss=0.8, burst_length=0.15, burst_pause=2.25)
KINDS = [
    Kind("fibre", Settings(delay=0.0025)),
    Kind("crowded Wi-Fi", WIFI),
    Kind("4G, handovers of 2 s", Settings(delay=0.03, jitter=0.01), OUTAGE, length=2.0, period=12.0),
    Kind("EDGE", Settings(delay=0.15, jitter=0.03, rate=100e3, queue=16_000)),
    Kind("satellite", Settings(delay=0.3)),
    Kind("VPN, stalls of 8 s", Settings(delay=0.02), STALL, length=8.0, period=22.0),
    Kind("5 MB at 20 kB/s", Settings(delay=0.02, rate=160e3), is_flooded=True),
]
# What the check for false deaths must catch.
LONG_OUTAGE = Kind("outage of 60 s", Settings(delay=0.0025), OUTAGE, length=60.0, period=60.0, first=8.0)

DEFAULT = Policy(interval=20, timeout=10, max_missed=3)
BRISK = Policy(interval=5, timeout=2, max_missed=2)
POLICIES = {
    "20s, 10s x 3": DEFAULT,
    "5s, 2s x 2": BRISK,
    "45s, 20s x 3": Policy(interval=45, timeout=20, max_missed=3),
    "1s, 500ms x 2": Policy(interval=1, timeout=0.5, max_missed=2),
    "1s, 1s x 4": Policy(interval=1, timeout=1, max_missed=4),
    "20s, 10s x 3, pong-only": dataclasses.replace(DEFAULT, liveness="pong-only"),
}
NAMES = {policy: name for name, policy in POLICIES.items()}


def endures(policy, kind):
    """Whether no peer may be taken for dead: the line is never silent for half of what the policy allows. The brisk
    policies have no such guarantee here, for a busy machine may itself be silent for that long."""
    return policy.floor >= DEFAULT.floor and kind.length + kind.round_trip < policy.floor / 2


def life(policy):
    """How long peers live before their line is cut, in seconds: no death comes much later than the others."""
    return min(80.0, 135.0 - policy.bound)
