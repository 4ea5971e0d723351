"""The emulator against what others measure: `ping`, and a plain transfer over TCP. Each check is made twice, over a
line as it should be and over one on which it has to fail."""

import collections
import pathlib
import re
import socket
import statistics
import subprocess
import threading
import time
import traceback

from commanded import Commanded
from heartwire import CEILING
from line import OUTAGE, STALL, Settings
from network import EMULATOR, Network
from table import markdown

# What a busy machine may add.
SLACK = 0.25
PING_PERIOD = 0.02
PINGS = 250
REPLY = re.compile(r"icmp_seq=(\d+) .*time=([\d.]+) ms")
GROUP = 200


class Pinged:
    """What `ping` says of a line. Times in seconds."""

    def __init__(self, network, address):
        command = ["ping", "-n", "-i", str(PING_PERIOD), "-c", str(PINGS), "-W", "3", address]
        done = subprocess.run(network.inside("near", command), capture_output=True, text=True, timeout=CEILING)
        replies = REPLY.findall(done.stdout)
        self.order = [int(number) for number, _ in replies]
        self.round_trips = [float(time) / 1000 for _, time in replies]
        lost = sorted(set(range(1, PINGS + 1)) - set(self.order))
        self.lost = len(lost) / PINGS
        runs = 1 + sum(later - earlier > 1 for earlier, later in zip(lost, lost[1:]))
        self.mean_run = len(lost) / runs

    @property
    def spread(self):
        """Between those of the fastest and the slowest twentieth, which a busy machine adds to."""
        steps = statistics.quantiles(self.round_trips, n=20)
        return steps[-1] - steps[0]

    @property
    def overtaken(self):
        return sum(later < earlier for earlier, later in zip(self.order, self.order[1:]))


class Transferred:
    """A transfer over TCP to the far side, and when its bytes arrived."""

    SIZE = 400_000

    def __init__(self, network, address):
        self.arrivals = collections.deque()
        ready = threading.Event()
        receiver = network.at("far", self._receive, address, ready)
        ready.wait(CEILING)
        began = time.monotonic()
        sender = network.at("near", self._send, address)
        sender.join(CEILING)
        receiver.join(CEILING)
        times = [began] + [at for at, _ in self.arrivals]
        self.is_complete = sum(count for _, count in self.arrivals) == self.SIZE
        self.rate = self.SIZE * 8 / (times[-1] - began)
        self.longest_gap = max(later - earlier for earlier, later in zip(times, times[1:]))
        self.overflowed = network.ask("report", address)["overflowed"]

    def _receive(self, address, ready):
        with socket.create_server((address, 0)) as listener:
            listener.settimeout(CEILING)
            self.port = listener.getsockname()[1]
            ready.set()
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(CEILING)
                while data := connection.recv(65536):
                    self.arrivals.append((time.monotonic(), len(data)))

    def _send(self, address):
        with socket.create_connection((address, self.port), CEILING) as connection:
            connection.sendall(bytes(self.SIZE))


class Check(collections.namedtuple("Check", "name probe line control measure low high")):
    """The measure lies between the limits over the one line, and does not over the other."""

    def run(self, network, settings, number):
        address = network.far(GROUP, number)
        network.lay(address, settings)
        return self.measure(self.probe(network, address))

    def holds(self, figure):
        return self.low <= figure <= self.high


def checks():
    ever = float("inf")
    delay, bursts = Settings(delay=0.05), Settings(burst_loss=1.0, burst_length=0.2, burst_pause=0.8)
    overtaking = Settings(delay=0.01, jitter=0.08, may_overtake=True)
    in_order = Settings(delay=0.01, jitter=0.08)
    outage, stall = (Settings(delay=0.01, schedule=((1.0, 2.5, kind),)) for kind in (OUTAGE, STALL))
    rate, wide = Settings(delay=0.01, rate=1e6, queue=24_000), Settings(delay=0.01, rate=1e6, queue=4_000_000)
    direct = Settings()
    cut_short = Settings(delay=0.01, rate=1e6, schedule=((1.0, 2.5, OUTAGE),))
    round_trip = lambda pinged: statistics.median(pinged.round_trips)
    slowest = lambda pinged: max(pinged.round_trips)
    lost = lambda pinged: pinged.lost
    gap = lambda transferred: transferred.longest_gap if transferred.is_complete else 0.0
    return [
        Check("delay: median round trip, s", Pinged, delay, direct, round_trip, 0.1, 0.1 + SLACK),
        Check("jitter: spread of round trips, s", Pinged, in_order, delay, lambda p: p.spread, 0.05, 0.16 + SLACK),
        Check("order: packets overtaken", Pinged, in_order, overtaking, lambda p: p.overtaken, 0, 0),
        Check("overtaking: packets overtaken", Pinged, overtaking, in_order, lambda p: p.overtaken, 10, PINGS),
        # Of two ways with 10 % each.
        Check("loss: share lost", Pinged, Settings(loss=0.1), direct, lost, 0.08, 0.30),
        Check("bursts: packets lost in a row", Pinged, bursts, Settings(loss=0.2), lambda p: p.mean_run, 3, PINGS),
        Check("outage of 1.5 s: share lost", Pinged, outage, stall, lost, 0.1, 0.4),
        Check("stall of 1.5 s: share lost", Pinged, stall, outage, lost, 0.0, 0.01),
        Check("stall of 1.5 s: slowest, s", Pinged, stall, delay, slowest, 1.3, 1.5 + 4 * SLACK),
        Check("rate of 1 Mbit/s: TCP, bit/s", Transferred, rate, direct, lambda t: t.rate, 0.4e6, 1.02e6),
        Check("queue of 24 kB: overflows", Transferred, rate, wide, lambda t: t.overflowed, 1, ever),
        Check("outage of 1.5 s: TCP stops and goes on, s", Transferred, cut_short, wide, gap, 1.4, 5.0),
    ]


def measured(network, check, settings, number, figures):
    try:
        figures[number] = check.run(network, settings, number)
    except Exception:
        print(f"{check.name}: {traceback.format_exc()}", flush=True)


def lifetimes():
    """The emulator ends by itself, after its time and with its parent; and not before. What is wrong with that."""
    wrong = []
    with Network(0, 60) as network:
        if network.emulator.child.poll() is not None:
            wrong.append("the emulator ended at once")
        network.emulator.child.stdin.close()
        wrong += ends(network.emulator.child, 0, "its standard input")
        # The devices have gone with it, and so another can take its place.
        spaces = network.namespaces
        brief = Commanded(EMULATOR, spaces["near"], spaces["far"], 0, 1)
        wrong += ends(brief.child, 1, "its lifetime")
    return wrong


def ends(child, expected, what):
    try:
        status = child.wait(CEILING)
    except subprocess.TimeoutExpired:
        child.kill()
        return [f"the emulator outlived {what}"]
    return [] if status == expected else [f"the emulator ended with {status} after {what}"]


def run(network):
    """Makes all checks at once, and prints them. What is wrong."""
    plan = checks()
    figures = {}
    threads = []
    for number, check in enumerate(plan, 1):
        for place, settings in ((number, check.line), (100 + number, check.control)):
            thread = threading.Thread(target=measured, args=(network, check, settings, place, figures), daemon=True)
            threads.append(thread)
            thread.start()
    wrong = lifetimes()
    for thread in threads:
        thread.join(2 * CEILING)
    rows = []
    for number, check in enumerate(plan, 1):
        figure, control = figures.get(number), figures.get(100 + number)
        if figure is None or not check.holds(figure):
            wrong.append(f"{check.name}: {figure}")
        if control is None or check.holds(control):
            wrong.append(f"{check.name}: the control does not fail: {control}")
        limits = f"{check.low:,g} to {check.high:,g}"
        rows.append([check.name, limits, *("-" if value is None else f"{value:,.3g}" for value in (figure, control))])
    print(markdown(["emulator", "limits", "measured", "control, must be outside"], rows), flush=True)
    return wrong
