"""The trials: a server or a client, what it is asked to do while its calls fail, and what is checked afterwards."""

import os
import re
import subprocess
import tempfile
import time

import checks
import heartwire
import peer
import strace

PROGRAM = os.environ.get("HEARTWIRE", heartwire.PROGRAM)

CLOSE_TIMEOUT = 1.0

# What an end may take beyond the close timeout: the log's last wait, and a machine that is busy under strace.
SLACK = 4.0

SERVER = [PROGRAM, "127.0.0.1:0", "--ping-interval", "150ms", "--pong-timeout", "2s"]
SERVER += ["--close-timeout", f"{CLOSE_TIMEOUT}s", "--handshake-timeout", "1s", "--log-level", "debug"]
CLIENT = [PROGRAM, "connect", "--ping-interval", "150ms", "--pong-timeout", "2s"]
CLIENT += ["--close-timeout", f"{CLOSE_TIMEOUT}s", "--connect-timeout", "1s", "--handshake-timeout", "1s"]

# How long a peer waits for what may never come.
IMPATIENCE = 0.25

# As large as a message may be, and more than sockets and queues take.
LARGE = b"x" * (1 << 20)
MANY = 8

# In a row and without a pause, so that the connection becomes brisk.
BURST = 100


class Failed(Exception):
    """A check has failed."""


def require(wrong):
    if wrong:
        raise Failed(wrong)


def work(port):
    """Gives a server everything to do that it ever has, as far as its calls allow: openings, plain requests, echoes,
    endings of all kinds, and a peer that is behind, which takes a second thread."""
    slow = peer.Peer(port, IMPATIENCE, reads=False)
    slow.fill(LARGE, MANY)
    for _ in range(2):
        quick = peer.Peer(port, IMPATIENCE)
        all(quick.echoes(f"quick {number}", IMPATIENCE) for number in range(BURST))
        quick.echoes("long" * 100, IMPATIENCE)
        quick.close()
        peer.get(port, "/healthz", IMPATIENCE)
    slow.close()


def serves(port):
    """The server does what it is there for, at once or after a pause."""
    deadline = time.monotonic() + heartwire.CEILING / 3
    while time.monotonic() < deadline:
        fresh = peer.Peer(port, 2.0)
        is_echoed = fresh.echoes("and now", 2.0)
        fresh.close()
        if is_echoed and peer.get(port, "/healthz", 2.0) == 200:
            return None
        time.sleep(0.05)
    return "it does not serve any more"


class Site:
    """A server that has warmed up, with peers that stay."""

    def __init__(self):
        self.server = heartwire.Server(command=SERVER)
        self.pid, self.port = self.server.child.pid, self.server.port
        work(self.port)
        self.settle()
        self.before = strace.usage(self.pid)
        self.residents = [peer.Peer(self.port, 2.0) for _ in range(3)]
        require(None if all(each.echoes("before", 2.0) for each in self.residents) else "no echo before the fault")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.leave()
        self.server.end()

    def settle(self):
        """Waits until nobody is there any more."""
        deadline = time.monotonic() + heartwire.CEILING / 3
        while checks.reports(self.server.log()) and time.monotonic() < deadline:
            time.sleep(0.01)
        self.wait_for_threads(0, heartwire.CEILING / 3)

    def wait_for_threads(self, most, timeout):
        """Threads of connections wait for another client for a second before they end."""
        deadline = time.monotonic() + timeout
        while strace.threads_of_connections(self.pid) > most and time.monotonic() < deadline:
            time.sleep(0.01)

    def survivors(self):
        """How many of the peers that stay are still served."""
        return sum(resident.echoes("after", heartwire.CEILING / 3) for resident in self.residents)

    def leave(self):
        for resident in self.residents:
            resident.close()

    def end(self):
        """Asks it to end, and checks how it does, and that everything was reported."""
        status, took = self.server.shut_down()
        self.server.stderr.thread.join(heartwire.CEILING)
        require(checks.ended_well(status, took, CLOSE_TIMEOUT + SLACK, self.server.stderr.text()))
        require(checks.reports(self.server.log()))
        return took


def server_recovers(fault):
    """Calls fail for a while. Then the server serves as before, and has nothing left over."""
    with Site() as site:
        with strace.Injection(site.pid, fault) as injection:
            for resident in site.residents:
                resident.echoes("during", IMPATIENCE)
            work(site.port)
            site.wait_for_threads(len(site.residents), 2.0)
        require(checks.was_injected(injection.faults()))
        require(checks.does_not_spin(injection.faults(), injection.took))
        require(serves(site.port))
        survivors = site.survivors()
        if fault.spares_peers:
            require(checks.live_on(survivors, len(site.residents)))
        site.leave()
        require(checks.is_back(site.pid, site.before))
        took = site.end()
    return injection.faults(), f"{survivors} of 3 peers live on; ended in {took:.1f} s"


def server_ends(fault):
    """Calls fail while the server is asked to end."""
    with Site() as site:
        slow = peer.Peer(site.port, IMPATIENCE, reads=False)
        slow.fill(LARGE, MANY)
        with strace.Injection(site.pid, fault) as injection:
            took = site.end()
        require(checks.does_not_spin(injection.faults(), injection.took))
        slow.close()
    return injection.faults(), f"ended in {took:.1f} s"


class Guest(heartwire.Logged):
    """A client whose standard input is ours."""

    def __init__(self, url):
        super().__init__([*CLIENT, url], stdin=subprocess.PIPE)

    def echoes(self, text, timeout):
        try:
            self.child.stdin.write(f"{text}\n")
            self.child.stdin.flush()
        except OSError:
            return False
        return self.stdout.find(lambda line: line.text == text or None, timeout) is not None


def client_recovers(fault):
    """Calls fail for a while, and the server goes and comes. Then the client is connected as before."""
    with heartwire.Server(command=SERVER) as first, Guest(first.url) as guest:
        require(None if guest.echoes("before", heartwire.CEILING) else "no echo before the fault")
        before = strace.usage(guest.child.pid)
        with strace.Injection(guest.child.pid, fault) as injection:
            guest.echoes("during", IMPATIENCE)
            first.shut_down()
            command = [PROGRAM, first.address, *SERVER[2:]]
            with heartwire.Server(command=command):
                # Its pauses are drawn by lot, so the next attempt may come late.
                deadline = time.monotonic() + heartwire.CEILING / 3
                while checks.was_injected(injection.faults()) and time.monotonic() < deadline:
                    time.sleep(0.01)
                time.sleep(2 * IMPATIENCE)
                injection.__exit__()
                require(checks.was_injected(injection.faults()))
                require(checks.does_not_spin(injection.faults(), injection.took))
                # Whatever was lost was lost with its connection: what is typed now arrives.
                deadline = time.monotonic() + heartwire.CEILING / 3
                attempt = 0
                while not guest.echoes(f"after {(attempt := attempt + 1)}", 1.0):
                    require(None if time.monotonic() < deadline else "it does not come back")
                require(checks.is_back(guest.child.pid, before))
                began = time.monotonic()
                guest.child.stdin.close()
                status = guest.child.wait(heartwire.CEILING)
                took = time.monotonic() - began
        guest.stderr.thread.join(heartwire.CEILING)
        require(checks.ended_well(status, took, CLOSE_TIMEOUT + SLACK, guest.stderr.text()))
        require(checks.reports(guest.log()))
    return injection.faults(), f"back; ended in {took:.1f} s"


def start_fails(fault, number, command):
    """A call fails while the program starts: one line says so, and nothing hangs."""
    with tempfile.NamedTemporaryFile(prefix="strace-") as log:
        traced = ["strace", "-f", "-qq", "-o", log.name, *fault.options(number), *command]
        with heartwire.Process(traced) as process:
            status = process.child.wait(heartwire.CEILING)
            process.stderr.thread.join(heartwire.CEILING)
            output = process.stderr.text()
        faults = strace.count_faults(log.name)
    require(checks.was_injected(faults))
    require(None if status == 1 else f"exit status {status}: {output}")
    require(checks.has_not_panicked(output))
    errors = re.findall("^error: .*", output, re.MULTILINE)
    require(None if len(errors) == 1 else f"not one line: {output}")
    return faults, errors[0]
