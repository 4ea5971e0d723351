"""Programs whose log is taken apart, connection by connection, with the times that stand in it."""

import calendar
import collections
import re
import time

from heartwire import CEILING, Process

LINE = re.compile(r"(?P<stamp>\S+Z \[\w+ *\] )?#(?P<id>\d+) (?P<peer>[\d.]+:\d+):? (?P<rest>.*)")
MISSED = re.compile(r"missed Pong (\d+) of \d+")
ENDED = re.compile(r"(?:ended|closed): (?P<cause>[^;]*)")

# `time` is in seconds since the epoch, `id` the number of the connection.
Said = collections.namedtuple("Said", "time id text")


class Record:
    """What was said of the connections with one address."""

    def __init__(self):
        self.opened = []
        self.misses = []
        self.ended = []
        self.stalled = []
        self.full = []

    def note(self, said):
        if said.text.startswith("opened "):
            self.opened.append(said)
        elif missed := MISSED.match(said.text):
            self.misses.append(said._replace(text=int(missed[1])))
        elif ended := ENDED.match(said.text):
            self.ended.append(said._replace(text=ended["cause"]))
        elif said.text.startswith("handler has "):
            self.stalled.append(said)
        elif said.text.startswith("queue full"):
            self.full.append(said)


class Recorded(Process):
    """The program, or one that prints its events in the same words."""

    def __init__(self, command, log="stderr", **options):
        super().__init__(command, **options)
        self.log = getattr(self, log)
        self.seen = 0
        self.heard = collections.defaultdict(Record)

    @property
    def records(self):
        """What was said so far, by the address of the peer."""
        to_wall = time.time() - time.monotonic()
        with self.log.changed:
            for line in self.log.lines[self.seen :]:
                match = LINE.match(line.text)
                if match:
                    # A line without a time has that of its arrival.
                    when = parse_time(match["stamp"].split()[0]) if match["stamp"] else line.at + to_wall
                    self.heard[match["peer"]].note(Said(when, int(match["id"]), match["rest"]))
            self.seen = len(self.log.lines)
        return self.heard

    def of(self, host):
        """What was said so far of all connections with a host, in one record."""
        all_of_them = Record()
        with self.log.changed:
            for peer, record in self.records.items():
                if peer.rpartition(":")[0] == host:
                    for what, said in vars(record).items():
                        getattr(all_of_them, what).extend(said)
        return all_of_them

    def repeat(self, is_meant):
        """Has the last line that is meant stand in the log twice."""
        with self.log.changed:
            self.log.lines.append(next(line for line in reversed(self.log.lines) if is_meant(line.text)))

    def reached(self, condition, until):
        """Waits for a condition on the records, up to a time. Whether it came true."""
        with self.log.changed:
            while not condition(self.records):
                left = until - time.time()
                if left <= 0 or self.log.is_at_end:
                    return False
                self.log.changed.wait(left)
            return True

    def wait(self, condition, what):
        if not self.reached(condition, time.time() + CEILING):
            raise RuntimeError(f"it never came to this: {what}")


class RecordedServer(Recorded):
    """One that listens on a port of its own, at whatever address."""

    def __init__(self, command, log="stderr"):
        super().__init__(command, log)
        found = self.stdout.find(lambda line: re.search(r"listening on wss?://[\d.]+:(\d+)", line.text), CEILING)
        if found is None:
            self.end()
            raise RuntimeError(f"the server did not start: {self.stderr.text()}")
        self.port = int(found[1])

    def shut_down(self):
        """Ends it in good order, and gives its exit status and last line once all that it said is heard."""
        self.child.terminate()
        status = self.child.wait(CEILING)
        for reader in (self.stdout, self.stderr):
            reader.thread.join(CEILING)
        return status, self.stdout.lines[-1].text


def parse_time(text):
    """Seconds since the epoch of a time such as 2030-01-02T03:04:05.678Z."""
    return calendar.timegm(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S")) + float("0" + text[19:-1])
