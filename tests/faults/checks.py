"""What must hold after a fault. Each check is a function that returns what is wrong, or `None`: the controls show that each
can say so."""

import collections
import time

import heartwire
import strace

# What a process may have more than before, in KiB: the C library keeps some for the threads that come next.
MEMORY = 12 * 1024

# Nothing that fails is tried again without a pause: so many failures of one kind, a second, at most.
RATE = 2000


def was_injected(faults):
    return None if faults else "no call has failed, so nothing was shown"


def does_not_spin(faults, seconds):
    limit = RATE * max(seconds, 1)
    return None if faults <= limit else f"{faults} failed calls in {seconds:.1f} s: it spins"


def live_on(survivors, peers):
    return None if survivors == peers else f"{peers - survivors} of {peers} peers that live were given up"


def reports(entries):
    """Exactly one end for each connection that opened, and no miss after it."""
    opened, ended, wrong = collections.Counter(), collections.Counter(), []
    for entry in entries:
        if entry.what == "opened":
            opened[entry.id] += 1
        elif entry.what == "ended":
            ended[entry.id] += 1
        elif entry.what == "missed" and ended[entry.id]:
            wrong.append(f"#{entry.id} missed a Pong after its end")
    if opened != ended:
        only = sorted((opened - ended) | (ended - opened))
        wrong.append(f"opened {sum(opened.values())}, ended {sum(ended.values())}, different: {only[:10]}")
    return "; ".join(wrong) or None


def is_back(pid, before):
    """Threads, open files and memory are what they were, after a while."""
    deadline = time.monotonic() + heartwire.CEILING / 3
    while True:
        now = strace.usage(pid)
        if now[0] <= before[0] and now[1] <= before[1] and now[2] <= before[2] + MEMORY:
            return None
        if time.monotonic() > deadline:
            return f"threads, open files, KiB: {now}, before {before}"
        time.sleep(0.01)


def ended_well(status, took, limit, output):
    if status != 0:
        return f"exit status {status}"
    if took > limit:
        return f"took {took:.1f} s to end, {limit:.1f} s are allowed"
    return has_not_panicked(output)


def has_not_panicked(output):
    return next((line for line in output.splitlines() if "panicked" in line or "internal error" in line), None)
