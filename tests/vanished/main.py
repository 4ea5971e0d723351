"""Runs the scenarios side by side, each with a server and two wires of its own, and prints one table."""

import argparse
import contextlib
import sys
import threading
import time
import traceback

import certificates
from metronome import METRONOME
from policy import Policy
from scenarios import scenarios
from trial import Row, Trial, Unfit

LEGEND = f"""
A Ping every 1 s, dead after 3 misses of 1 s (6 where peers come back silent). Times run from the last byte that could
have arrived (buffer full: from the cut, or from when the queue was full, if the line stays). {Policy().floor:.1f} s
must pass after that byte, and no more than the bound, plus {Trial.ALLOWANCE:.1f} s for the timers of the kernel and
a busy machine.
false: living peers that were found dead. reports: per connection.
"""
HEADINGS = "scenario,dead,alive,found,first s,median s,last s,bound s,false,reports,causes".split(",")
TEXTUAL = {HEADINGS.index("scenario"), HEADINGS.index("causes")}
ATTEMPTS = 4
CEILING = 300


def attempt(name, play, setting):
    with Trial(name, **setting) as trial:
        play(trial)
        trial.finish()
        return trial.judge()


def run(name, play, setting, rows):
    for number in range(1, ATTEMPTS + 1):
        try:
            rows[name] = attempt(name, play, setting)
            return
        except Unfit as reason:
            print(f"{name}: {reason}; attempt {number} of {ATTEMPTS} is void", flush=True)
        except Exception:
            rows[name] = Row(name, Policy(), failures=[traceback.format_exc()])
            return
    rows[name] = Row(name, Policy(), failures=[f"the machine was too slow {ATTEMPTS} times"])


def is_as_it_must_be(row):
    """Of a control: the check has failed, because the dead were not found, and for no other reason."""
    return row.failures == [f"{row.dead} of {row.dead} dead peers were not found"]


def show(rows):
    lines = [HEADINGS] + [[str(cell) for cell in row.cells()] for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    for line in lines:
        padded = [
            cell.ljust(width) if column in TEXTUAL else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths))
        ]
        print("  ".join(padded).rstrip())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="scenarios whose names contain this")
    only = parser.parse_args().only
    if reason := certificates.missing():
        print(f"skipped: all over TLS: {reason}")
    site = contextlib.nullcontext() if reason else certificates.made()
    with site as made:
        return perform([scenario for scenario in scenarios(made) if only in scenario[0]])


def perform(chosen):
    """Runs these. The exit status."""
    METRONOME.start()
    rows = {}
    threads = [threading.Thread(target=run, args=(*scenario, rows), daemon=True) for scenario in chosen]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + CEILING
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    rows = [rows.get(name) or Row(name, Policy(), failures=["it did not end"]) for name, _, _ in chosen]

    print(LEGEND)
    show(rows)
    failed = 0
    for row in rows:
        if row.name.startswith("CONTROL"):
            good = is_as_it_must_be(row)
            verdict = "fails, as it must" if good else "DOES NOT FAIL as it must"
            print(f"{row.name}: the check {verdict}: {row.failures}")
            failed += not good
        elif row.failures:
            failed += 1
            print(f"FAILED: {row.name}")
            print("\n".join(f"    {failure}" for failure in row.failures[:10]))
    failed += not METRONOME.is_trustworthy()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
