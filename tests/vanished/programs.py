"""The programs of a trial, each in its namespace: the server, whose log is taken apart, and the clients."""

import calendar
import collections
import json
import pathlib
import re
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "support"))
from heartwire import CEILING, Process  # noqa: E402

LINE = re.compile(r"(?P<stamp>\S+Z \[\w+ *\] )?#(?P<id>\d+) (?P<peer>[\d.]+:\d+):? (?P<rest>.*)")
MISSED = re.compile(r"missed Pong (\d+) of \d+")
ENDED = re.compile(r"(?:ended|closed): (?P<cause>[^;]*)")

Said = collections.namedtuple("Said", "time text")


class Record:
    """What the server said of one connection."""

    def __init__(self):
        self.opened = []
        self.misses = []
        self.ended = []
        self.stalled = []
        self.full = []


class Server(Process):
    """The program, or one that prints its events in the same words."""

    def __init__(self, wires, command, logs_on_stderr=True):
        super().__init__(wires.inside("server", command))
        self.log = self.stderr if logs_on_stderr else self.stdout
        self.seen = 0
        self.heard = collections.defaultdict(Record)
        found = self.stdout.find(lambda line: re.search(r"listening on ws://[\d.]+:(\d+)", line.text), CEILING)
        if found is None:
            self.end()
            raise RuntimeError(f"the server did not start: {self.stderr.text()}")
        self.port = int(found[1])

    @property
    def records(self):
        """What was said so far, by the address of the peer."""
        with self.log.changed:
            lines = self.log.lines[self.seen :]
            self.seen += len(lines)
        to_wall = time.time() - time.monotonic()
        for line in lines:
            match = LINE.match(line.text)
            if match:
                # A line without a time has that of its arrival.
                when = parse_time(match["stamp"].split()[0]) if match["stamp"] else line.at + to_wall
                note(self.heard[match["peer"]], Said(when, match["rest"]))
        return self.heard

    def reached(self, condition, until):
        """Waits for a condition on the records, up to a time. Whether it came true."""
        while not condition(self.records):
            left = until - time.time()
            with self.log.changed:
                if left <= 0 or (self.log.is_at_end and self.seen == len(self.log.lines)):
                    return False
                if self.seen == len(self.log.lines):
                    self.log.changed.wait(left)
        return True

    def wait(self, condition, what):
        if not self.reached(condition, time.time() + CEILING):
            raise RuntimeError(f"it never came to this: {what}")

    def shut_down(self):
        """Ends it in good order, and gives its exit status and last line once all that it said is heard."""
        self.child.terminate()
        status = self.child.wait(CEILING)
        for reader in (self.stdout, self.stderr):
            reader.thread.join(CEILING)
        return status, self.stdout.lines[-1].text


def note(record, said):
    if said.text.startswith("opened "):
        record.opened.append(said)
    elif missed := MISSED.match(said.text):
        record.misses.append(Said(said.time, int(missed[1])))
    elif ended := ENDED.match(said.text):
        record.ended.append(Said(said.time, ended["cause"]))
    elif said.text.startswith("handler has "):
        record.stalled.append(said)
    elif said.text.startswith("queue full"):
        record.full.append(said)


class Clients(Process):
    """Many clients in one process."""

    def __init__(self, wires, wire, port, count, receive_buffer=0):
        self.address = wires.CLIENT[wire]
        arguments = [wires.SERVER[wire], port, self.address, count, receive_buffer]
        command = [sys.executable, "-B", HERE / "clients.py", *arguments]
        super().__init__(wires.inside("client", command), stdin=subprocess.PIPE)
        self.answered = 0
        try:
            self._answer()
        except BaseException:
            self.end()
            raise

    def _answer(self):
        line = self.stdout.find(lambda line: line, CEILING, seen=self.answered)
        if line is None:
            raise RuntimeError(f"the clients of {self.address} do not answer: {self.stderr.text()}")
        self.answered += 1
        return json.loads(line.text)

    def ask(self, *command):
        self.child.stdin.write(" ".join(map(str, command)) + "\n")
        self.child.stdin.flush()
        return self._answer()

    def report(self):
        """The state of each, by its address."""
        return {f"{self.address}:{peer['port']}": peer for peer in self.ask("report")}

    def wait(self, condition, what):
        """Waits until a condition holds for each. The last report."""
        until = time.monotonic() + CEILING
        while True:
            report = self.report()
            if all(condition(name, peer) for name, peer in report.items()):
                return report
            if time.monotonic() > until:
                raise RuntimeError(f"it never came to this: {what}")
            time.sleep(0.05)


def parse_time(text):
    """Seconds since the epoch of a time such as 2030-01-02T03:04:05.678Z."""
    return calendar.timegm(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S")) + float("0" + text[19:-1])
