"""The verdicts of the Autobahn test suite, as `kosoku` writes them down."""

import collections
import concurrent.futures
import json
import shutil

import certificates
import heartwire

CASES = 301
# Compression, which heartwire does not offer.
EXCLUDED = ["-x", "12.*", "-x", "13.*"]
# The largest messages of the cases in 9.*, which go both ways.
LARGEST = 16 * 1024 * 1024
# Where any behaviour is right: data after a Close frame, and two close codes that the RFC leaves open.
INFORMATIONAL = {"7.1.6", "7.13.1", "7.13.2"}
# Minutes for something that takes seconds.
TIME_LIMIT = 240


def missing():
    if shutil.which("kosoku") is None:
        return "kosoku is not installed (pip, tests/conformance/requirements.txt)"
    return certificates.missing()


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


def judge_all(kinds, found, limited):
    """Calls each function of `kinds` for all cases (with the arguments `found`) and for some with messages limited to
    1 KiB (`limited`), and prints what came of it. The exit status: whether all is as it must be."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        running = {kind: [pool.submit(run, *what) for what in (found, limited)] for kind, run in kinds.items()}
    # All are printed, whatever came of the first.
    verdicts = [judge(kind, *(future.result() for future in futures)) for kind, futures in running.items()]
    return 0 if all(verdicts) else 1


def judge(kind, found, limited):
    """Prints what was found by one kind. Whether all is as it must be."""
    counts = ", ".join(f"{count} {verdict}" for verdict, count in collections.Counter(found.values()).most_common())
    print(f"{kind}: {len(found)} cases: {counts}; 6.4.3 {found.get('6.4.3')}, 6.4.4 {found.get('6.4.4')}")
    bad = {case: verdict for case, verdict in found.items() if not is_good(case, verdict)}
    for case, verdict in bad.items():
        print(f"  {case}: {verdict}")
    caught = [case for case, verdict in limited.items() if not is_good(case, verdict)]
    print(f"{kind}: negative control, no message over 1 KiB: {len(caught)} of {len(limited)} cases fail, as some must")
    return len(found) == CASES and not bad and bool(caught)
