"""Runs all trials and controls, several at a time, and prints a table of each. See run."""

import concurrent.futures
import os
import pathlib
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "support"))
import heartwire  # noqa: E402
import controls  # noqa: E402
import table  # noqa: E402
import trials  # noqa: E402
from strace import Fault  # noqa: E402

THREAD = ["clone3", "clone"]
POLL = ["ppoll", "poll"]
ACCEPT = ["accept4", "accept"]

# Errors that last: for good until they are over.
LASTING = [
    (ACCEPT, "EMFILE"),
    (ACCEPT, "ENFILE"),
    (ACCEPT, "ENOMEM"),
    (THREAD, "EAGAIN"),
    (["recvfrom"], "ENOMEM"),
    (["recvfrom"], "ECONNRESET"),
    (["read"], "ECONNRESET"),
    (["sendto"], "EPIPE"),
    (["sendto"], "ENOBUFS"),
    (["sendmsg"], "ENOBUFS"),
    (POLL, "ENOMEM"),
    (["setsockopt"], "ENOMEM"),
    (["shutdown"], "ENOTCONN"),
    (["ioctl"], "ENOTTY"),
    (["madvise"], "ENOMEM"),
]

# Errors that nobody gets twice in a row, among them signals.
PASSING = [
    (ACCEPT, "ECONNABORTED"),
    (ACCEPT, "EINTR"),
    (["recvfrom"], "EINTR"),
    (["read"], "EINTR"),
    (["sendto"], "EINTR"),
    (["sendmsg"], "EINTR"),
    (POLL, "EINTR"),
]

# What only a client does.
CONNECTING = [
    (["socket"], "EMFILE"),
    (["connect"], "ENETUNREACH"),
    (["getsockopt"], "ENOBUFS"),
]

# What a client cannot do without: the program reads its standard input by it.
TERMINAL = [["read"]]

# What is not called by every client, or not when a server comes and goes.
ELSEWHERE = [ACCEPT, ["sendmsg"], ["shutdown"]]


def all_trials():
    """Name and function of each."""
    for calls, error in LASTING + PASSING:
        once = Fault(calls, error, for_good=False)
        yield f"server: {once.name}", trials.server_recovers, [once]
    for calls, error in LASTING:
        for_good = Fault(calls, error, for_good=True)
        yield f"server: {for_good.name}", trials.server_recovers, [for_good]
        yield f"server that ends: {for_good.name}", trials.server_ends, [for_good]
    for calls, error in LASTING + CONNECTING:
        if calls not in TERMINAL + ELSEWHERE:
            for_good = Fault(calls, error, for_good=True)
            yield f"client: {for_good.name}", trials.client_recovers, [for_good]
    for who, command, threads in [("server", trials.SERVER, 6), ("client", [*trials.CLIENT, "ws://127.0.0.1:1/"], 7)]:
        for number in range(1, threads + 1):
            fault = Fault(THREAD, "EAGAIN", for_good=False)
            yield f"{who} that starts: {fault.name}, thread {number}", trials.start_fails, [fault, number, command]
        fault = Fault(["socketpair"], "EMFILE", for_good=False)
        yield f"{who} that starts: {fault.name}", trials.start_fails, [fault, 1, command]
    for call, error in [("socket", "EMFILE"), ("bind", "EADDRINUSE"), ("listen", "EADDRINUSE")]:
        fault = Fault([call], error, for_good=False)
        yield f"server that starts: {fault.name}", trials.start_fails, [fault, 1, trials.SERVER]


def perform(trial):
    name, function, arguments = trial
    began = time.monotonic()
    try:
        faults, what = function(*arguments)
    except (trials.Failed, RuntimeError, OSError, subprocess.SubprocessError) as failed:
        return name, None, f"FAILED: {failed}", time.monotonic() - began
    return name, faults, what, time.monotonic() - began


def main(parts):
    chosen = [trial for trial in all_trials() if not parts or any(part in trial[0] for part in parts)]
    began = time.monotonic()
    # Most of a trial is waiting.
    with concurrent.futures.ThreadPoolExecutor(4 * (os.cpu_count() or 1)) as pool:
        failing = [pool.submit(controls.perform, control) for control in controls.ALL if not parts]
        rows = list(pool.map(perform, chosen))
        failing = [control.result() for control in failing]
    cells = [[name, "-" if faults is None else str(faults), what, f"{took:.1f} s"] for name, faults, what, took in rows]
    print(table.markdown(["fault", "failed calls", "what came of it", "took"], cells))
    if failing:
        print()
        print(table.markdown(["control: a check that has to fail", "why it did"], failing))
    failures = [name for name, faults, _, _ in rows if faults is None]
    failures += [name for name, why in failing if why == controls.HAS_NOT_FAILED]
    print(f"\n{len(rows)} faults and {len(failing)} controls in {time.monotonic() - began:.0f} s, {len(failures)} failed")
    for name in failures:
        print(f"failed: {name}")
    return 1 if failures or not rows else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
