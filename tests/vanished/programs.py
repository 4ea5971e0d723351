"""The clients of a trial, many in one process, in the namespace of their end."""

import pathlib
import time

from commanded import Commanded
from heartwire import CEILING

HERE = pathlib.Path(__file__).resolve().parent


class Clients(Commanded):
    def __init__(self, wires, wire, port, count, made=None, receive_buffer=0):
        self.address = wires.CLIENT[wire]
        arguments = [wires.SERVER[wire], port, self.address, count, receive_buffer, *([made.ca] if made else [])]
        super().__init__(HERE / "clients.py", *arguments, inside=lambda command: wires.inside("client", command))

    def report(self):
        """The state of each, by its address."""
        return {f"{self.address}:{peer['port']}": peer for peer in self.ask("report")}

    def wait(self, condition, what):
        """Waits until a condition holds for each. The last report."""
        until = time.monotonic() + CEILING
        while True:
            report = self.report()
            if all(condition(name, peer) for name, peer in report.items()):
                return report
            if time.monotonic() > until:
                raise RuntimeError(f"it never came to this: {what}")
            time.sleep(0.05)
