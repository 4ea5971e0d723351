"""Tests the emulator, then runs all cells side by side, and prints what came of them."""

import argparse
import re
import sys
import threading
import time
import traceback

import selftest
from cells import CONNECTS, NONE, PRETENDED, SERVES, SLACK, Cell
from conditions import BRISK, DEFAULT, KINDS, LONG_OUTAGE, NAMES, POLICIES, SEED
from heartwire import CEILING
from metronome import METRONOME
from network import Network
from stage import Stage
from table import markdown

LEGEND = f"""
Each cell is a connection over a line of its own, between heartwire, in the role given, and Python `websockets`. First
it lives, with all the faults of its line; then the line is cut for good. A false death fails the test if the default
policy, or one as patient, reports it on a line that is never silent for half of its misses; of the others they are
figures. "Found after" counts from the last data that arrived before the cut (from the last acknowledgement where
heartwire was sending 5 MB) and must be within the bound and {SLACK:.1f} s. Policies: interval, timeout x misses.
"""
# Of everything, in seconds.
TIME_LIMIT = 400
# For the emulator's own test, which measures milliseconds on a machine that is busy with other stages too.
SECOND_CHANCES = 2


def cells(only):
    for group, kind in enumerate(KINDS, 1):
        for member, policy in enumerate(POLICIES.values(), 1):
            for role, base in ((SERVES, 0), (CONNECTS, 100)):
                if only in kind.name:
                    yield Cell(kind, policy, role, Network.far(group, base + member))
    # What the checks must find wrong.
    far = lambda member: Network.far(100, member)
    yield Cell(LONG_OUTAGE, DEFAULT, SERVES, far(1), ending=NONE, control="false deaths: ")
    yield Cell(LONG_OUTAGE, DEFAULT, CONNECTS, far(2), ending=NONE, control="false deaths: ")
    yield Cell(KINDS[0], BRISK, SERVES, far(3), ending=PRETENDED, control="a dead peer was not found within")
    yield Cell(KINDS[0], BRISK, CONNECTS, far(4), ending=PRETENDED, control="a dead peer was not found within")
    yield Cell(KINDS[0], DEFAULT, SERVES, far(5), judged_by=BRISK, control="found after ")
    yield Cell(KINDS[0], BRISK, SERVES, far(6), is_doubled=True, control=r"#\d+: 1 openings, 2 endings$")


def run(cell, stage):
    try:
        cell.run(stage)
    except Exception:
        cell.row.failures.append(traceback.format_exc())


def play(network, chosen):
    """Runs all cells. What is wrong besides what stands in their rows."""
    stage = Stage(network)
    try:
        for number, policy in enumerate(POLICIES.values(), 1):
            stage.serve(policy, floods=False, speaker_address=None)
            stage.serve(policy, floods=True, speaker_address=network.far(250, number))
        stage.began = time.time()
        threads = [threading.Thread(target=run, args=(cell, stage), daemon=True) for cell in chosen]
        for thread in threads:
            thread.start()
        for cell, thread in zip(chosen, threads):
            thread.join(max(0.0, stage.began + TIME_LIMIT - CEILING - time.time()))
            if thread.is_alive():
                cell.row.failures.append("it did not end")
        return stage.shut_down()
    finally:
        stage.end()


def line_of(cell):
    row = cell.row
    found = "-" if row.found_after is None else f"{row.found_after:.2f} s"
    causes = sorted({*row.causes, *(f"false: {cause}" for cause in row.false_deaths)})
    figures = [str(len(row.false_deaths)), found, f"{cell.judged_by.bound:g} s", "; ".join(causes)]
    return [cell.kind.name, NAMES[cell.policy], cell.role, *figures]


def show_lines(chosen):
    """What the lines did to their packets."""
    rows = []
    for kind in KINDS:
        figures = [cell.row.figures for cell in chosen if cell.kind == kind and cell.row.figures]
        if figures:
            sums = [sum(each[fate] for each in figures) for fate in ("carried", "lost", "overflowed", "dropped")]
            rows.append([kind.name, *map(str, sums)])
    print(markdown(["packets of", "carried", "lost", "overflowed", "met an outage"], rows))


def verdict(cell):
    """What there is to say of a cell, and whether all is well."""
    failures = cell.row.failures
    if not cell.control:
        return "\n    ".join([f"FAILED: {cell.name}", *failures]) if failures else None, not failures
    good = bool(failures) and all(re.match(cell.control, failure) for failure in failures)
    how = "fails, as it must" if good else "DOES NOT FAIL as it must"
    return f"control: {cell.name}: {how}: {failures}", good


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="lines whose names contain this")
    only = parser.parse_args().only
    METRONOME.start()
    chosen = list(cells(only))
    with Network(SEED, TIME_LIMIT) as network:
        wrong = selftest.run(network)
        for _ in range(SECOND_CHANCES):
            if wrong:
                print(f"{wrong}, which a busy machine may have done: once more")
                wrong = selftest.run(network)
        if wrong:
            chosen = []
        else:
            wrong = play(network, chosen)
            print(LEGEND)
            header = ["line", "policy", "heartwire as", "false deaths", "found after", "bound", "causes"]
            print(markdown(header, map(line_of, (cell for cell in chosen if not cell.control))))
            print()
            show_lines(chosen)
            print()
    failed = len(wrong)
    for complaint in wrong:
        print(f"FAILED: {complaint}")
    for remark, good in map(verdict, chosen):
        failed += not good
        if remark:
            print(remark)
    failed += not METRONOME.is_trustworthy()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
