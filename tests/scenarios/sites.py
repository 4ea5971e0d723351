"""The programs of the scenarios: the one under test, and the peers that are others' libraries."""

import collections
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import heartwire
import needs
from outcome import MADE, Beat, Unfit, check

HERE = pathlib.Path(__file__).resolve().parent
PROGRAM = heartwire.TARGET / "beside" / "debug" / "heartwire-test-scenarios"

Said = collections.namedtuple("Said", "time what")


def build():
    heartwire.build_beside(HERE / "program", PROGRAM.name)


class Program(heartwire.Process):
    """The program under test (program/src/main.rs): a server, or a client with one handler."""

    def __init__(self, beat, *settings, url=None, handler=None):
        role = ["client", url, handler] if url else ["server", "-", "-"]
        self.beat = beat
        setting = beat.setting() if isinstance(beat, Beat) else beat
        if made := MADE.get():
            settings += (f"ca={made.ca}",) if url else (f"certificate={made.chain},{made.key}",)
        super().__init__([PROGRAM, *role, f"beat={setting}", *settings], stdin=subprocess.PIPE)
        if url is None:
            found = self.stdout.find(lambda line: re.search(r"(wss?)://(\S+)", line.text), heartwire.CEILING)
            check(found, f"the server did not start: {self.stderr.text()}")
            self.address = found[2]
            self.url = f"{found[1]}://{self.address}"

    def tell(self, *words):
        self.child.stdin.write(" ".join(map(str, words)) + "\n")
        self.child.stdin.flush()

    def heard(self, what, number=1, until=None):
        """What was first said of this kind about a connection, waiting for it until a time; `None` if nothing was."""
        pattern = re.compile(rf"([\d.]+) {what} {number}(?: (.*)|)")
        timeout = heartwire.CEILING if until is None else max(0.0, until - time.time())
        found = self.stdout.find(lambda line: pattern.fullmatch(line.text), timeout)
        return found and Said(float(found[1]), found[2] or "")

    def expect(self, what, number=1, until=None):
        said = self.heard(what, number, until)
        check(said, f"it never said {what} {number}: {self.stdout.text()[-2000:]} {self.stderr.text()[-2000:]}")
        return said

    def ended(self, number=1, until=None):
        return self.heard("ended", number, until)

    def count(self, what):
        return sum(f" {what} " in line.text for line in list(self.stdout.lines))


class Library(heartwire.Process):
    """A peer out of somebody else's library: python.py, ws.js and page.js say what they say."""

    def __init__(self, *command):
        chromium = shutil.which("chromium") or shutil.which("chromium-browser") or ""
        environment = {**os.environ, "NODE_PATH": str(needs.node_modules("scenarios")), "CHROMIUM": chromium}
        if made := MADE.get():
            environment |= {**made.client_environment, **made.server_environment}
        super().__init__(command, env=environment, cwd=HERE)

    def heard(self, pattern, timeout=heartwire.CEILING):
        return self.stdout.find(lambda line: re.fullmatch(pattern, line.text), timeout)

    def expect(self, pattern, timeout=heartwire.CEILING):
        said = self.heard(pattern, timeout)
        check(said, f"it never said {pattern}: {self.stdout.text()} {self.stderr.text()[-2000:]}")
        return said

    def expect_open(self, server=None, prefix=""):
        """Waits until its connection has opened. If it does not, the scenario is tried again: over TLS a sync client of
        Python now and then opens none, at whatever server. It reads and writes in two threads, and CPython's `ssl` is
        not safe for that (https://github.com/python/cpython/issues/151508). A server that lets nobody in fails all
        three tries."""
        if not self.heard(f"{prefix}open"):
            said = server.stdout.text()[-600:] if server else "nothing"
            raise Unfit(f"it never opened: {self.stderr.text()[-600:]}; its server said: {said}")


def python(*arguments):
    return Library(sys.executable, "python.py", *arguments)


def no_python():
    return needs.no_python("websockets", "websockets")


def no_ws():
    return needs.no_node("scenarios", "ws")


def no_chromium():
    if reason := needs.no_node("scenarios", "playwright-core"):
        return reason
    has_one = shutil.which("chromium") or shutil.which("chromium-browser")
    return None if has_one else "chromium is not installed"
