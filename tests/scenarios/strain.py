"""Many connections, and a machine that stops or is overloaded: the scenarios that load the machine as a whole."""

import json
import os
import pathlib
import resource
import subprocess
import sys
import threading
import time

import heartwire
from outcome import DEFAULT, LONG, QUICK, SLACK, Beat, Control, Row, check, found, in_parallel, lives
from outcome import must_fail, scenario
from raw import Peer
from sites import HERE, Program, no_python, python

# In milliseconds, generous for a loaded machine.
CEILING = {"median": 50, "p99": 750}
PONG_CEILING = 1000
PATIENT = Beat(2.0, 2.0, 3)

MANY, MANY_AWAY = 10_000, 1_000
# What one connection may cost of resident memory, and all together of one processor: far from what is usual.
KB_CEILING, LOAD_CEILING = 64, 0.5
MEASURED = 20.0
SUSPENSION = 5.0
# The part of Pings that a loaded machine may answer late.
MISSES_ALLOWED = 0.02


class Crowd(heartwire.Process):
    """Many clients in another process: crowd.py."""

    def __init__(self, address):
        super().__init__([sys.executable, "crowd.py", address], stdin=subprocess.PIPE, cwd=HERE)
        self.seen = 0

    def ask(self, *words, timeout=60.0):
        self.child.stdin.write(" ".join(map(str, words)) + "\n")
        self.child.stdin.flush()
        line = self.stdout.find(lambda line: line, timeout, self.seen)
        check(line, f"the crowd does not answer: {self.stderr.text()[-2000:]}")
        self.seen += 1
        return json.loads(line.text)


def check_round_trips(figures):
    for name, ceiling in CEILING.items():
        check(figures[name] <= ceiling, f"round trips: {figures}")


def check_pongs(figures):
    check(figures["worst"] <= PONG_CEILING, f"Pongs: {figures}")


def spell(figures):
    return "median {median} ms, 99 of 100 within {p99} ms, worst {worst} ms".format(**figures)


@scenario("200 busy, 200 echo", is_heavy=True)
def busy_and_echo():
    with Program(PATIENT) as server, Crowd(server.address) as crowd:
        crowd.ask("open", "echo", 200, "/echo")
        crowd.ask("open", "busy", 200, "/work/5000")
        before = crowd.ask("measure", 4, "echo:echo")["echo"]
        crowd.ask("tell", "busy", 200, 10)
        time.sleep(0.5)
        during = crowd.ask("measure", 8, "echo:echo", "ping:busy")
        check_round_trips(during["echo"])
        check_pongs(during["busy"])
        check(crowd.ask("alive") == {"echo": 200, "busy": 200}, f"some died: {server.stdout.text()[-2000:]}")
        check(server.count("missed") == 0, "some missed Pongs")
        rows = [
            Row("200 echo, nobody busy", PATIENT, "alive", why=spell(before)),
            Row("200 echo while 200 handlers sleep 5 s on each message", PATIENT, "alive", why=spell(during["echo"])),
            Row("200 busy handlers: Pings of their peers", PATIENT, "alive, answered", why=spell(during["busy"])),
        ]
        # The program is stopped for a moment while the same is measured.
        pause = threading.Timer(0.5, lambda: stop_for(server, 1.5))
        pause.start()
        stopped = crowd.ask("measure", 3, "echo:echo", "ping:busy")
        pause.join()
        for name, figures, judge in (("round trips", "echo", check_round_trips), ("Pongs", "busy", check_pongs)):
            name = f"{name}, the program stopped for 1.5 s"
            control = Control(name, PATIENT, "too late", why=spell(stopped[figures]))
            rows.append(must_fail(lambda: judge(stopped[figures]), control))
        return rows


def few_files():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    needed = MANY + 200
    enough = hard == resource.RLIM_INFINITY or hard >= needed
    return None if enough else f"it takes {needed} files for a process, and the hard limit (ulimit -Hn) is {hard}"


def processor_time(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def resident(pid):
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def cost(pid):
    """Processor time of so many seconds, and resident memory in KB."""
    before, began = processor_time(pid), time.time()
    time.sleep(MEASURED)
    return (processor_time(pid) - before) * MEASURED / (time.time() - began), resident(pid)


@scenario("10,000 connections, 1,000 away", is_heavy=True, missing=few_files)
def many():
    with Program(DEFAULT, f"max-connections={MANY + 100}") as server, Crowd(server.address) as crowd:
        began = time.time()
        opened = crowd.ask("open", "many", MANY, "/work/3600000", timeout=120)
        check(opened == MANY, f"{opened} were opened")
        opening = time.time() - began
        rows = []

        def measure(name):
            taken, kilobytes = cost(server.child.pid)
            check(taken <= LOAD_CEILING * MEASURED, f"{name}: {taken:.1f} s of processor time in {MEASURED:.0f} s")
            check(kilobytes <= KB_CEILING * MANY, f"{name}: {kilobytes} KB resident")
            why = f"{1000 * taken / MEASURED:.1f} ms of processor time a second, {kilobytes / 1024:.0f} MiB resident"
            rows.append(Row(name, DEFAULT, "alive", f"{MEASURED:.0f} s", why=why))

        measure(f"{MANY:,} connections, all in recv (opened in {opening:.1f} s)")
        crowd.ask("tell", "many", MANY_AWAY, 1)
        time.sleep(1.0)
        measure(f"{MANY:,} connections, {MANY_AWAY:,} of them away")
        check(crowd.ask("alive") == {"many": MANY}, f"some died: {server.stdout.text()[-2000:]}")
        return rows


@scenario("answers within microseconds", is_heavy=True)
def answer_at_once():
    """What comes back before our own thread is back from writing the Ping is an answer to it."""
    beat = Beat(0.3, 0.2, 3)

    pings = 20 * round(10.0 / beat.interval)

    def count(path, how, meanwhile=None):
        with Program(beat) as server, Crowd(server.address) as crowd:
            crowd.ask("open", "quick", 20, path)
            time.sleep(5.0)
            if meanwhile:
                meanwhile(crowd)
            time.sleep(5.0)
            missed = server.count("missed")
            name = f"20 peers answer each Ping at once, their handlers {how}"
            check(crowd.ask("alive") == {"quick": 20}, f"{name}: {server.count('ended')} of them were found dead")
            check(missed <= pings * MISSES_ALLOWED, f"{name}: of {pings} Pings {missed} were counted as missed")
            return Row(name, beat, "alive", "10 s", f"{beat.bound:.1f} s", f"of {pings} Pings {missed} missed")

    def miss():
        control = Control("20 peers that are stopped for 0.6 s", beat, "misses", why="the count of misses tells")
        return must_fail(lambda: count("/echo", "", lambda crowd: stop_for(crowd, 0.6)), control)

    return in_parallel(lambda: count("/echo", "in recv"), lambda: count("/sleep/60000", "asleep"), miss)


# Stopped, and overloaded.

PATHS = ["/echo", f"/sleep/{round(LONG * 1000)}", "/poll/3000", "/feed/100/64"]


@scenario("the program is stopped", missing=no_python, over_tls=False)
def suspend():
    return in_parallel(suspend_us, suspend_us_as_client, suspend_them)


def suspend_us():
    with Program(QUICK) as server, Crowd(server.address) as crowd:
        for path in PATHS:
            crowd.ask("open", path, 5, path)
        time.sleep(2.5)
        stop_for(server)
        time.sleep(2 * QUICK.bound)
        check(all(count == 5 for count in crowd.ask("alive").values()), f"some died: {server.stdout.text()[-2000:]}")
        why = "what had arrived was read before anybody was judged; 20 peers, handlers in recv, asleep, polling, sending"
        return Row(f"a server stopped for {SUSPENSION:g} s, its peers live", QUICK, "alive", why=why)


def suspend_us_as_client():
    with python("asyncio", "server", "off") as server:
        url = server.expect("listening on (ws://.*)")[1]
        with Program(QUICK, url=url, handler="/echo") as client:
            client.expect("opened")
            time.sleep(2.5)
            stop_for(client)
            until = time.time() + 2 * QUICK.bound
            name = f"a client stopped for {SUSPENSION:g} s, its server lives"
            return lives(name, client, 1, QUICK, until, "the same")


def suspend_them():
    with Program(QUICK) as server, Crowd(server.address) as crowd:
        crowd.ask("open", "/echo", 1, "/echo")
        time.sleep(2.5)
        stopped_at = time.time()
        stop_for(crowd)
        why = "the peers are stopped for as long instead, and are found"
        row = found("", server, 1, stopped_at, QUICK, why)
        return Control(f"the peers stopped for {SUSPENSION:g} s", QUICK, row.concluded, row.when, row.bound, why)


def stop_for(process, seconds=SUSPENSION):
    process.stop()
    time.sleep(seconds)
    process.resume()


@scenario("overload", is_heavy=True)
def overload():
    """Two busy loops for each processor beside the program."""
    with Program(QUICK) as server, Crowd(server.address) as crowd, Peer(server.address, "/echo") as victim:
        victim.start()
        server.expect("opened")
        for path in PATHS:
            crowd.ask("open", path, 5, path)
        time.sleep(2.0)
        loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * os.cpu_count())]
        try:
            time.sleep(1.0)
            last = victim.die()
            # Held up ourselves, we give one fresh timeout in each silence, and no more.
            why = "held up ourselves, we give a silence one fresh Ping, and no more"
            bound = QUICK.bound + QUICK.timeout
            row = found("overload, a peer dies", server, 1, last, QUICK, why, bound=bound)
            time.sleep(max(0.0, last + 8 - time.time()))
        finally:
            for loop in loops:
                loop.kill()
                loop.wait()
        check(all(count == 5 for count in crowd.ask("alive").values()), f"some died: {server.stdout.text()[-2000:]}")
        why = f"two busy loops for each processor beside it for 8 s; 20 peers; slack {SLACK:g} s"
        return [row, Row("overload, its peers live", QUICK, "alive", why=why)]
