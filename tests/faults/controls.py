"""The same checks where they have to fail."""

import sys
import time

import checks
import heartwire
import peer
import strace
import trials

HAS_NOT_FAILED = "HAS NOT FAILED"


def an_end_is_missing():
    """Of the peers that stay, once the log has told that they opened."""
    with trials.Site() as site:
        deadline = time.monotonic() + heartwire.CEILING / 3
        while not (wrong := checks.reports(site.server.log())) and time.monotonic() < deadline:
            time.sleep(0.01)
        return wrong


def an_end_comes_twice():
    with trials.Site() as site:
        site.leave()
        site.settle()
        entries = site.server.log()
        return checks.reports([*entries, entries[-1]])


def a_miss_follows_an_end():
    with trials.Site() as site:
        site.leave()
        site.settle()
        entries = site.server.log()
        return checks.reports([*entries, entries[-1]._replace(what="missed")])


def peers_are_still_there():
    """Each has a thread and an open file."""
    with trials.Site() as site:
        return checks.is_back(site.pid, site.before)


def memory_is_still_taken():
    """Each peer that is behind has a queue of 1 MiB."""
    with trials.Site() as site:
        site.leave()
        slow = [peer.Peer(site.port, 2.0, reads=False) for _ in range(24)]
        for each in slow:
            each.socket.settimeout(trials.IMPATIENCE)
            each.fill(trials.LARGE, trials.MANY)
        time.sleep(0.5)
        threads, files, _ = strace.usage(site.pid)
        wrong = checks.is_back(site.pid, (threads, files, site.before[2]))
        for each in slow:
            each.close()
        return wrong


def the_fault_lasts():
    with trials.Site() as site, strace.Injection(site.pid, strace.Fault(["accept4", "accept"], "EMFILE", True)):
        return trials.serves(site.port)


def nothing_has_failed():
    with trials.Site() as site, strace.Injection(site.pid, strace.Fault(["mount"], "EPERM", True)) as injection:
        trials.work(site.port)
    return checks.was_injected(injection.faults())


def it_spins():
    loop = [sys.executable, "-c", "import os\nwhile True: os.getppid()"]
    with heartwire.Process(loop) as process:
        with strace.Injection(process.child.pid, strace.Fault(["getppid"], "EPERM", True)) as injection:
            time.sleep(0.5)
    return checks.does_not_spin(injection.faults(), injection.took)


def it_is_killed():
    with trials.Site() as site:
        site.server.child.kill()
        return checks.ended_well(site.server.child.wait(heartwire.CEILING), 0, 1, "")


def a_peer_is_given_up():
    with trials.Site() as site:
        site.residents[0].close()
        return checks.live_on(site.survivors(), len(site.residents))


def it_takes_too_long():
    return checks.ended_well(0, 2, 1, "")


def it_has_panicked():
    return checks.ended_well(0, 0, 1, "thread 'heartwire-supervisor' panicked at src/supervisor.rs:1:1:")


ALL = [
    an_end_is_missing,
    an_end_comes_twice,
    a_miss_follows_an_end,
    peers_are_still_there,
    memory_is_still_taken,
    the_fault_lasts,
    nothing_has_failed,
    it_spins,
    it_is_killed,
    a_peer_is_given_up,
    it_takes_too_long,
    it_has_panicked,
]


def perform(control):
    return control.__name__.replace("_", " "), control() or HAS_NOT_FAILED
