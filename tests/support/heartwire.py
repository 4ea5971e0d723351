"""The heartwire program under test, as the tests in Python see it: started, its log read line by line, stopped.

Every wait is for an event and has a ceiling. No process outlives the `with` block that it was started in.
"""

import collections
import os
import pathlib
import re
import shutil
import signal
import subprocess
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
PROGRAM = TARGET / "release" / "heartwire"
TOOLS = pathlib.Path(os.environ.get("TOOLS", TARGET / "tools"))

# Longer than anything takes on the slowest machine, so that a test fails instead of hanging.
CEILING = 30.0

# What a stage exits with when it cannot run here.
SKIPPED = 77

# A line of the log about a connection: "... #17 127.0.0.1:51234 ended: heartbeat lost (3 Pongs missed); open 2.1s, ..."
# The examples say "closed" instead.
ABOUT = re.compile(r"#(?P<id>\d+) (?P<peer>\S+) (?P<what>opened|missed|ended|closed|handler):? (?P<rest>.*)")

# A connection's state in /proc/net/tcp.
ESTABLISHED = "01"

Line = collections.namedtuple("Line", "at text")
Entry = collections.namedtuple("Entry", "at id peer what rest")


class Wrong(Exception):
    """Something that was checked is not as it must be."""


def build():
    """Brings the release build up to date. Does nothing if it is."""
    subprocess.run(["cargo", "build", "--quiet", "--locked", "--release"], cwd=ROOT, check=True)


def build_beside(project, program):
    """Brings a project that stands on its own and uses the library up to date, and gives the path of its program.

    It is built with the very versions that heartwire is, whose Cargo.lock it is given; it must not need more crates."""
    target = TARGET / "beside"
    shutil.copy(ROOT / "Cargo.lock", project)
    environment = {**os.environ, "CARGO_TARGET_DIR": str(target)}
    subprocess.run(["cargo", "build", "--quiet"], cwd=project, env=environment, check=True)
    return target / "debug" / program


class Reader:
    """Collects the lines of a stream, each with the time of its arrival."""

    def __init__(self, stream):
        self.lines = []
        self.is_at_end = False
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self._read, args=[stream], daemon=True)
        self.thread.start()

    def _read(self, stream):
        for text in stream:
            with self.changed:
                self.lines.append(Line(time.monotonic(), text.rstrip("\n")))
                self.changed.notify_all()
        with self.changed:
            self.is_at_end = True
            self.changed.notify_all()

    def find(self, wanted, timeout, seen=0):
        """The first thing that `wanted` makes of a line, waiting for it; `None` if there is none in time. The first
        `seen` lines do not count."""
        deadline = time.monotonic() + timeout
        with self.changed:
            while True:
                while seen < len(self.lines):
                    found = wanted(self.lines[seen])
                    if found is not None:
                        return found
                    seen += 1
                left = deadline - time.monotonic()
                if self.is_at_end or left <= 0:
                    return None
                self.changed.wait(left)

    def text(self):
        with self.changed:
            return "\n".join(line.text for line in self.lines)


def without_proxies(environment):
    """The same without the variables that name proxies: what the tests connect to is on this machine."""
    return {name: value for name, value in environment.items() if not name.lower().endswith("_proxy")}


class Process:
    """A program with its output collected, in a session of its own."""

    def __init__(self, command, **options):
        options.setdefault("stdin", subprocess.DEVNULL)
        options["env"] = without_proxies(options.get("env") or os.environ)
        self.child = subprocess.Popen(
            [str(part) for part in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
            **options,
        )
        self.stdout = Reader(self.child.stdout)
        self.stderr = Reader(self.child.stderr)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        """Kills it with all that it started."""
        # Stopped first, for nginx starts another worker for one that is killed.
        self.stop()
        for pid in reversed(self.family()):
            send_signal(pid, signal.SIGKILL)
        self.child.wait(CEILING)

    def stop(self):
        """Stops it with all that it started: its sockets stay open, and nobody looks at them."""
        for pid in self.family():
            send_signal(pid, signal.SIGSTOP)

    def resume(self):
        for pid in self.family():
            send_signal(pid, signal.SIGCONT)

    def family(self):
        """Its number and those of all that it started, parents first. Empty once its end was noticed: the number may be
        another program's by now."""
        return [self.child.pid, *descendants(self.child.pid)] if self.child.returncode is None else []


class Logged(Process):
    """A program that logs its connections as heartwire does."""

    def __init__(self, command, log="stderr", **options):
        super().__init__(command, **options)
        self.log_reader = getattr(self, log)

    def log(self, what=None):
        """What the log says of connections so far: everything, or what was `opened`, `missed` or `ended`."""
        entries = map(entry, list(self.log_reader.lines))
        return [item for item in entries if item and what in (None, item.what)]

    def wait_for(self, what, timeout=CEILING, of=None):
        """The first line of the log that says that something was `opened`, `missed` or `ended`; `None` if none does
        in time. `of` is the number of the connection, if it matters."""

        def wanted(line):
            item = entry(line)
            return item if item and item.what == what and of in (None, item.id) else None

        return self.log_reader.find(wanted, timeout)


class Server(Logged):
    """A running `heartwire`, or another program that speaks as it does, on a port of its own."""

    def __init__(self, *options, command=None, log="stderr"):
        command = command or [PROGRAM, "127.0.0.1:0"]
        super().__init__([*command, *options], log)
        found = self.stdout.find(lambda line: re.search(r"(wss?)://(\S+)", line.text), CEILING)
        if found is None:
            self.end()
            raise RuntimeError(f"the server did not start: {self.stderr.text()}")
        self.scheme, self.address = found.groups()
        self.port = int(self.address.rpartition(":")[2])
        self.url = f"{self.scheme}://{self.address}/"

    def shut_down(self):
        """Asks it to end, and gives its exit status and how long that took."""
        began = time.monotonic()
        self.child.send_signal(signal.SIGTERM)
        status = self.child.wait(CEILING)
        return status, time.monotonic() - began

    def holds(self, peer):
        """What there is left of the connection to `peer`: the kernel's state of it (`None` if it knows no such
        connection), and whether the server has it open."""
        state, inode = kernel_state(self.port, int(peer.rpartition(":")[2]))
        return state, inode not in (None, "0") and f"socket:[{inode}]" in open_files(self.child.pid)


def entry(line):
    found = ABOUT.search(line.text)
    if found is None:
        return None
    return Entry(line.at, int(found["id"]), found["peer"], found["what"].replace("closed", "ended"), found["rest"])


def kernel_state(local_port, remote_port):
    """State and inode of our end of a TCP connection over IPv4, or `None` twice."""
    for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        local, remote = (int(fields[place].rpartition(":")[2], 16) for place in (1, 2))
        if (local, remote) == (local_port, remote_port):
            return fields[3], fields[9]
    return None, None


def open_files(pid):
    names = set()
    for descriptor in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        try:
            names.add(os.readlink(descriptor))
        except FileNotFoundError:
            pass
    return names


def descendants(pid):
    """All processes that come from `pid`, parents first."""
    children = collections.defaultdict(list)
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            # The name of the program, in brackets, may hold anything.
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        children[parent].append(int(folder.name))
    found = list(children[pid])
    for child in found:
        found.extend(children[child])
    return found


def send_signal(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
