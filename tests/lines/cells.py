"""One cell of the table: a connection over a line of its own, which lives, may be lost and come back, and has its line
cut in the end; and the judgement of what heartwire said of it."""

import contextlib
import dataclasses
import os
import random
import subprocess
import threading
import time

from conditions import NAMES, SEED, endures, life
from heartwire import CEILING
from line import FOREVER
from metronome import METRONOME, sleep_until
from peers import FLOOD, Client, Server, flood
from recorded import Recorded

SERVES, CONNECTS = "server", "client"
# Beyond the bound, for timers of the kernel and threads that wait for a processor.
SLACK = 1.0
# Between the words that a peer says, in seconds: longer than most intervals, so that Pings have something to do.
SILENCE = 13.0
ATTEMPTS = 20
# Until what has happened stands in the log, in seconds.
LAG = 0.3
# How a cell ends: its line is cut; or it is not, and a death is waited for nevertheless; or it just ends.
CUT, PRETENDED, NONE = "cut", "pretended", "none"


@dataclasses.dataclass
class Row:
    """What a cell came to."""

    false_deaths: list = dataclasses.field(default_factory=list)
    found_after: float = None
    causes: list = dataclasses.field(default_factory=list)
    figures: dict = None
    failures: list = dataclasses.field(default_factory=list)

    def check(self, holds, otherwise):
        if not holds:
            self.failures.append(otherwise)


class Cell:
    """`role` is what heartwire is. A control has a pattern of what must be found wrong with it: it is judged by a
    policy that is not its own, or is not cut, or its death stands in the log twice."""

    def __init__(
        self, kind, policy, role, address, judged_by=None, ending=CUT, is_doubled=False, control=None
    ):
        self.kind, self.policy, self.role, self.address = kind, policy, role, address
        self.judged_by = judged_by or policy
        self.ending, self.is_doubled, self.control = ending, is_doubled, control
        self.dice = random.Random(f"{SEED} {address}")
        self.row = Row()
        self.peer = self.program = None

    @property
    def name(self):
        return f"{self.kind.name}; {NAMES[self.policy]}; {self.role}"

    def run(self, stage):
        self.start(stage)
        self.live(stage)
        if self.ending == NONE:
            report = stage.network.ask("report", self.address)
        else:
            report = self.cut(stage)
            self.await_deaths(report)
        self.judge(report)

    # Its life.

    def start(self, stage):
        lifetime = life(self.policy)
        stage.network.lay(self.address, self.kind.at(self.address, lifetime))
        self.ends_at = stage.began + lifetime + self.dice.uniform(0, 2)
        if self.role == SERVES:
            server = stage.server(self.policy, self.kind.is_flooded)
            self.program = server.program
            self.peer = Client(server.url, self.address, server.flood)
            stage.far_side.start(self.peer.live())
        else:
            self.peer = Server(self.address, answers=not self.kind.is_flooded)
            stage.far_side.start(self.peer.live())
            url = f"ws://{self.address}:{Server.PORT}/"
            command = [os.environ["HEARTWIRE"], "connect", *self.policy.options(), url]
            self.program = stage.keep(Recorded(stage.network.inside("near", command), stdin=subprocess.PIPE))
            if self.kind.is_flooded:
                threading.Thread(target=self.flood, daemon=True).start()
        self.wait_open()

    def flood(self):
        """Gives `heartwire connect` all that it is to send. It takes the next line when it has room."""
        for message in flood():
            self.type(message)

    def type(self, text):
        # That the program has ended is found out elsewhere.
        with contextlib.suppress(OSError, ValueError):
            self.program.child.stdin.write(text + "\n")
            self.program.child.stdin.flush()

    def live(self, stage):
        """Says a word now and then, but none to who is flooded."""
        word_at = time.time() + self.dice.uniform(0, SILENCE)
        while not self.kind.is_flooded and word_at < self.ends_at:
            sleep_until(word_at)
            word_at += SILENCE
            if self.role == SERVES:
                stage.far_side.start(self.peer.say("hm"))
            else:
                self.type("hm")
        sleep_until(self.ends_at)

    # Its end.

    def wait_open(self):
        await_connection(self.peer, self.program, self.address)

    def open_at(self, moment):
        return open_at(moment, self.program.of(self.address))

    def cut(self, stage):
        """Cuts the line, or pretends to, while both ends have a connection. What the emulator says of that moment."""
        for _ in range(ATTEMPTS):
            self.wait_open()
            report = stage.network.ask("cut" if self.ending == CUT else "report", self.address)
            time.sleep(LAG)
            if self.open_at(report["now"]):
                return report
            # It was lost at that very moment.
            stage.network.ask("mend", self.address)
        raise RuntimeError("no connection stayed until its line was cut")

    def last_life(self, report):
        """From when the time runs: the last data that arrived. While data goes out, an acknowledgement is life too."""
        return report["heard_at" if self.kind.is_flooded else "data_at"]

    def latest(self, report, policy):
        """Until when a policy must have found the peer dead."""
        since = self.last_life(report)
        # What is found by another policy is late for that reason, whatever the machine did.
        excuse = METRONOME.excuse(since, time.time(), policy.timeout) if policy is self.policy else 0.0
        return since + policy.bound + SLACK + excuse

    def await_deaths(self, report):
        """Waits until all were found, or should long have been."""
        self.program.reached(lambda _: not self.open_at(FOREVER), self.latest(report, self.policy) + SLACK)
        # A second report of the same would come now.
        time.sleep(LAG)
        if self.is_doubled:
            self.program.repeat(lambda text: f" {self.address}:" in text and " ended: " in text)

    def judge(self, report):
        row, record, moment = self.row, self.program.of(self.address), report["now"]
        row.figures = report
        row.false_deaths = [said.text for said in record.ended if said.time < moment]
        must_endure = self.control is not None or endures(self.policy, self.kind)
        row.check(not (must_endure and row.false_deaths), f"false deaths: {row.false_deaths}")
        opened, ended = ([said.id for said in said_of] for said_of in (record.opened, record.ended))
        for number in set(opened + ended):
            once = opened.count(number) == 1 and ended.count(number) <= 1
            row.check(once, f"#{number}: {opened.count(number)} openings, {ended.count(number)} endings")
        if self.ending == NONE:
            return
        if must_endure:
            # Words were answered; of a flood, some has come, and not yet all.
            low, high = (FLOOD / 20, FLOOD - 1) if self.kind.is_flooded else (1, FOREVER)
            row.check(low <= self.peer.received <= high, f"the peer received {self.peer.received} bytes")
        since = self.last_life(report)
        dead = [said for said in record.ended if said.time >= moment]
        row.causes = [said.text for said in dead]
        row.found_after = max((said.time - since for said in dead), default=None)
        bound = self.judged_by.bound
        row.check(not self.open_at(FOREVER), f"a dead peer was not found within {bound:g} s")
        late = [round(said.time - since, 2) for said in dead if said.time > self.latest(report, self.judged_by)]
        row.check(not late, f"found after {late} s")


def open_at(moment, record):
    """The numbers of the connections that heartwire had open then, or has opened since."""
    return {said.id for said in record.opened} - {said.id for said in record.ended if said.time < moment}


def await_connection(peer, program, address):
    """Waits until a peer far away and the program near both say that they are connected."""
    until = time.monotonic() + 2 * CEILING
    while not (peer.is_open and open_at(time.time(), program.of(address))):
        if time.monotonic() > until:
            raise RuntimeError(f"no connection, and this log: {program.stderr.text()[-2000:]}")
        time.sleep(0.05)
