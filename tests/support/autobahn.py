"""The Autobahn test suite, as `kosoku` runs it: which cases, and the verdicts as it writes them down."""

import collections
import concurrent.futures
import json
import os
import pathlib
import shutil
import sys

import certificates
import heartwire
import needs
import tls_relay

# kosoku, with what it lacks.
COMMAND = [sys.executable, pathlib.Path(__file__).with_name("autobahn_suite.py")]

# How many cases there are without compression.
BASIC = 301
# With it: five kinds of data, and seven offers. Each has 18 cases, of 1,000 messages that are as long as SIZES says.
COMPRESSED = [*(f"12.{number}" for number in range(1, 6)), *(f"13.{number}" for number in range(1, 8))]
SIZES = range(1, 19)
# What does not take long: 16, 64, 1,024 and 8,192 bytes, and the last once more in fragments of 256 bytes. 64 and 1,024
# are where heartwire begins to compress, with context takeover and without.
SMALL = {1, 2, 4, 6, 11}
# The rest takes minutes, for 10 GB go through: it runs if it is asked for.
ALL = os.environ.get("HEARTWIRE_AUTOBAHN") == "all"

# The largest messages of the cases in 9.*, which go both ways.
LARGEST = 16 * 1024 * 1024
# Where any behaviour is right: data after a Close frame, and two close codes that the RFC leaves open.
INFORMATIONAL = {"7.1.6", "7.13.1", "7.13.2"}
# Minutes for something that takes seconds, and for all many times what it takes.
TIME_LIMIT = 3000 if ALL else 240


def missing():
    return needs.no_python("kosoku", "kosoku (tests/conformance/requirements.txt)") or certificates.missing()


def only(*cases):
    """The options that select some cases."""
    return [option for case in cases for option in ("-i", case)]


def without_large():
    """The options that select all cases, but for those that run only if they are asked for."""
    large = [] if ALL else [f"{group}.{size}" for group in COMPRESSED for size in SIZES if size not in SMALL]
    return [option for case in large for option in ("-x", case)]


def only_compressed(groups):
    """The same, and of them only those in these groups of cases about compression."""
    return only(*(f"{group}.{size}" for group in groups for size in SIZES if ALL or size in SMALL))


def count_compressed(groups):
    return len(groups) * len(SIZES if ALL else SMALL)


# How many cases there are in a run.
COUNT = BASIC + count_compressed(COMPRESSED)
# Where a message over 1 KiB is needed.
OVER_1_KIB = only("1.1.6", "1.1.7", "1.1.8")
# Text and binary messages, of 16 bytes, which come back as they are, and of 4 KiB, which come back compressed.
ABOUT_COMPRESSION = only("12.1.1", "12.1.5", "12.4.1", "12.4.5", "12.2.1", "12.2.5")


def empty_folder(stage, name):
    """Where the reports of a run go."""
    folder = heartwire.TARGET / stage / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def verdicts(folder):
    """What came of each case: the worse of the verdicts on its messages and on its end."""
    (cases,) = json.loads((folder / "index.json").read_text()).values()
    order = ["OK", "INFORMATIONAL", "NON-STRICT"]

    def badness(verdict):
        return order.index(verdict) if verdict in order else len(order)

    return {case: max(found["behavior"], found["behaviorClose"], key=badness) for case, found in cases.items()}


def is_good(case, verdict):
    """OK; or INFORMATIONAL, where the suite itself has no expectation. NON-STRICT is not enough."""
    return verdict == "OK" or (verdict == "INFORMATIONAL" and case in INFORMATIONAL)


def judge_all(runs, controls):
    """Calls all functions of `runs`, by name each with how many cases there are, and of `controls`, and prints what
    came of it. The exit status: whether all is as it must be. In a run all cases must be good, in a control none."""
    # What is large takes its time anyway, and has limits of time of its own.
    with concurrent.futures.ThreadPoolExecutor(2 if ALL else 8) as pool:
        running = {name: (pool.submit(run), count) for name, (run, count) in runs.items()}
        controlling = {name: pool.submit(control) for name, control in controls.items()}
    # All are printed, whatever came of the first.
    judged = [judge(name, future.result(), count) for name, (future, count) in running.items()]
    judged += [judge_control(name, future.result()) for name, future in controlling.items()]
    return 0 if all(judged) else 1


def judge(name, found, count):
    bad = {case: verdict for case, verdict in found.items() if not is_good(case, verdict)}
    print(f"{name}: {len(found)} cases: {counts(found)}; 6.4.3 {found.get('6.4.3')}, 6.4.4 {found.get('6.4.4')}")
    for case, verdict in bad.items():
        print(f"  {case}: {verdict}")
    return len(found) == count and not bad


def judge_control(name, found):
    good = [case for case, verdict in found.items() if is_good(case, verdict)]
    print(f"negative control, {name}: {len(found)} cases: {counts(found)}; none may be OK")
    return bool(found) and not good


def counts(found):
    return ", ".join(f"{count} {verdict}" for verdict, count in collections.Counter(found.values()).most_common())


class FalsifyingRelay(tls_relay.Relay):
    """A relay without TLS that flips a bit in the middle of the first message that heartwire sends on a connection;
    `is_near`: heartwire is the one that connects."""

    def __init__(self, address, is_near):
        super().__init__(address)
        self.is_near = is_near
        self.flipped = 0

    def watch(self):
        there, back = super().watch()
        return (self.falsify(), back) if self.is_near else (there, self.falsify())

    def falsify(self):
        seen, place = bytearray(), None

        def through(chunk):
            nonlocal place
            begin = len(seen)
            seen.extend(chunk)
            if place is None and (place := middle_of_first_message(seen)) is not None and place >= begin:
                self.flipped += 1
                chunk = bytearray(chunk)
                chunk[place - begin] ^= 1
            return bytes(chunk)

        return through


def middle_of_first_message(seen):
    """Where in a stream the middle of its first message is, as soon as that is here. No message comes if the first
    frame is another one."""
    frame = seen.find(b"\r\n\r\n") + 4
    if frame < 4 or len(seen) < frame + 2 or seen[frame] & 0x0F not in (1, 2):
        return None
    length, header = seen[frame + 1] & 0x7F, 2
    if length > 125:
        header += 2 if length == 126 else 8
        length = int.from_bytes(seen[frame + 2 : frame + header], "big")
    header += 4 if seen[frame + 1] & 0x80 else 0
    place = frame + header + length // 2
    return place if len(seen) > place else None
