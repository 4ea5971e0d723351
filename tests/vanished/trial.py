"""One trial: a server, clients on the wire that will be cut (the victims) and on the one that stays (the others), a
fault, and the judgement of what the server said."""

import collections
import dataclasses
import os
import random
import statistics
import time

from metronome import METRONOME, sleep_until
from policy import Policy
from programs import Clients
from recorded import RecordedServer
from wires import Wires


class Unfit(Exception):
    """The machine was too slow for what the trial supposes. It says nothing about the server, and is repeated."""


@dataclasses.dataclass
class Row:
    """What a trial came to. Times in seconds."""

    name: str
    policy: Policy
    dead: int = 0
    alive: int = 0
    found: int = 0
    times: list = dataclasses.field(default_factory=list)
    false_deaths: int = 0
    reports: tuple = (0, 0)
    causes: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    remarks: list = dataclasses.field(default_factory=list)
    failures: list = dataclasses.field(default_factory=list)

    def cells(self):
        figures = [min(self.times), statistics.median(self.times), max(self.times)] if self.times else [None] * 3
        spelled = ["-" if figure is None else f"{figure:.2f}" for figure in figures]
        reports = "{}..{}".format(*self.reports) if self.reports[0] != self.reports[1] else str(self.reports[0])
        causes = ", ".join(f"{cause} {count}" for cause, count in sorted(self.causes.items()))
        bound = f"{self.policy.bound:.1f}" if self.dead else "-"
        remarks = "; ".join(filter(None, [causes, *self.remarks]))
        return [self.name, self.dead, self.alive, self.found, *spelled, bound, self.false_deaths, reports, remarks]


class Trial:
    # Beyond the bound, for timers of the kernel and threads that wait for a processor: each of three misses may be noticed
    # late by a quarter of a second, which the metronome does not see.
    ALLOWANCE = 0.8
    # The wall clock, which the log and the clients go by, may be slewed a little against the timers.
    CLOCK_ERROR = 0.01

    def __init__(self, name, policy=Policy(), server=None, victims=20, others=20, victim_buffer=0, made=None):
        self.row = Row(name, policy, dead=victims, alive=others)
        self.policy = policy
        program = [os.environ["HEARTWIRE"], "0.0.0.0:0", "--close-timeout", "1s", *policy.options()]
        self.command = [*(server or program), *(made.serve if made else [])]
        self.is_program = self.command[0] == os.environ["HEARTWIRE"]
        # What the server has, if all this is over TLS.
        self.made = made
        self.victim_buffer = victim_buffer
        self.causes = ("heartbeat lost",)
        # By victim: after the first it may count as dead once the floor has passed, after the second the bound runs.
        self.surely_alive = {}
        self.last_life = {}
        # Those who spoke during the cut: both limits hold for them, but nobody knows which byte was their last.
        self.uncertain = set()

    def __enter__(self):
        self.wires = Wires()
        self.running = []
        try:
            self.server = self._keep(self._server())
            port = self.server.port
            made = self.made
            self.victims = self._keep(Clients(self.wires, "cut", port, self.row.dead, made, self.victim_buffer))
            self.others = self._keep(Clients(self.wires, "stay", port, self.row.alive, made))
        except BaseException:
            self.__exit__()
            raise
        self.victim_names = list(self.victims.report())
        self.other_names = list(self.others.report())
        return self

    def __exit__(self, *_):
        for program in reversed(self.running):
            program.end()
        self.wires.remove()

    def _server(self):
        # The example prints its events on standard output.
        log = "stderr" if self.is_program else "stdout"
        return RecordedServer(self.wires.inside("server", self.command), log)

    def _keep(self, program):
        self.running.append(program)
        return program

    # Steps of a trial.

    def await_beats(self, murmur=None):
        """Until the hearts have beaten for a while. The victims also say something now and then (once in so many
        seconds, or in an interval), so that their last bytes fall anywhere between two beats."""
        self.victims.ask("murmur", murmur or self.policy.interval)
        for clients in (self.victims, self.others):
            before = {name: peer["pings"] for name, peer in clients.report().items()}
            clients.wait(lambda name, peer: peer["pings"] >= before[name] + 2, "every client has had two Pings")
        time.sleep(self.policy.interval * random.random())

    def cut(self, how):
        """Cuts the wire. From here, whatever was sent before counts as the victims' last life."""
        self.moment = self.wires.cut(how)
        self.note_life(self.victims.report(), self.moment.begin, self.moment.end)
        return self.moment

    def note_life(self, report, sure_until, possible_until):
        for name, peer in report.items():
            self.surely_alive[name] = max(sent for sent in peer["sent"] if sent <= sure_until)
            self.last_life[name] = max(sent for sent in peer["sent"] if sent <= possible_until)
            if self.last_life[name] != self.surely_alive[name]:
                self.uncertain.add(name)

    def await_deaths(self):
        """Waits until all victims were found, or should long have been; and for as long as the bound in any case, so
        that the others are watched as well."""
        latest = max(self.last_life.values()) + self.policy.bound
        latest += self.ALLOWANCE + METRONOME.excuse(self.moment.begin, time.time(), self.policy.timeout)
        self.server.reached(lambda records: all(records[name].ended for name in self.victim_names), latest + 1.0)
        sleep_until(self.moment.end + self.policy.bound + self.policy.timeout)

    def finish(self):
        """The others are still served, and leave; the server ends."""
        before = {name: peer["messages"] for name, peer in self.others.report().items()}
        self.found_until = time.time()
        self.others.ask("speak", "still here")
        served = lambda name, peer: peer["end"] or peer["messages"] > before[name]
        self.others.wait(served, "the others are served")
        self.others.ask("close")
        self.server.wait(lambda records: all(records[name].ended for name in self.other_names), "the others left")
        status, summary = self.server.shut_down()
        if self.is_program:
            opened = self.row.dead + self.row.alive
            self.check(status == 0, f"exit status {status}")
            self.check(f"opened {opened}, closed {opened} " in summary, f"the summary says {summary!r}")

    # Judgement.

    def check(self, holds, otherwise):
        if not holds:
            self.row.failures.append(otherwise)

    def judge(self):
        row = self.row
        records = self.server.records
        self.check(set(records) == {*self.victim_names, *self.other_names}, "the log knows other peers than we do")
        counts = [len(record.ended) for record in records.values()]
        row.reports = (min(counts), max(counts))
        self.check(row.reports == (1, 1), "not every connection was reported exactly once")
        self.check(all(len(record.opened) == 1 for record in records.values()), "opened more or less than once")
        for name in self.other_names:
            causes = [said.text for said in records[name].ended]
            if causes[:1] != ["closed by peer with 1000"]:
                row.false_deaths += 1
                self.check(False, f"{name} was alive: {causes}")
        for name in self.victim_names:
            self.judge_victim(name, records[name])
        self.check(row.found == row.dead, f"{row.dead - row.found} of {row.dead} dead peers were not found")
        return row

    def judge_victim(self, name, record):
        deaths = [said for said in record.ended if said.time <= self.found_until]
        if not deaths:
            return
        death, row = deaths[0], self.row
        row.found += 1
        cause = death.text.split(" (")[0]
        row.causes[cause] += 1
        self.check(cause in self.causes, f"{name}: {death.text}")
        if name not in self.last_life:
            return
        taken = death.time - self.last_life[name]
        if name not in self.uncertain:
            row.times.append(taken)
        excuse = METRONOME.excuse(self.last_life[name], death.time, self.policy.timeout)
        latest = self.policy.bound + self.ALLOWANCE + excuse
        self.check(taken <= latest, f"{name}: found after {taken:.2f} s")
        earliest = self.policy.floor - self.CLOCK_ERROR
        early = death.time - self.surely_alive[name]
        self.check(early >= earliest, f"{name}: found after {early:.3f} s, too early")
        if cause == "heartbeat lost":
            misses = [said.text for said in record.misses]
            expected = list(range(1, self.policy.max_missed + 1))
            self.check(misses[-len(expected) :] == expected, f"{name}: missed {misses}")
