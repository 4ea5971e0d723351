"""Two hosts and the lines between them: ours, near, and one that stands for all the hosts far away."""

import dataclasses
import json
import pathlib
import threading

from commanded import Commanded
from netns import Hosts

EMULATOR = pathlib.Path(__file__).resolve().parent / "emulator.py"


class Network(Hosts):
    NEAR = "10.77.0.1"

    def __init__(self, seed, lifetime):
        super().__init__("near", "far")
        try:
            arguments = [self.namespaces["near"], self.namespaces["far"], seed, lifetime]
            self.emulator = Commanded(EMULATOR, *arguments)
        except BaseException:
            self.remove()
            raise
        self.ip("near", "addr", "add", self.NEAR, "dev", "line")
        self.ip("near", "route", "add", "10.78.0.0/16", "dev", "line", "src", self.NEAR)
        # All of these addresses are the far host's own.
        self.ip("far", "route", "add", "local", "10.78.0.0/16", "dev", "lo")
        self.ip("far", "route", "add", self.NEAR, "dev", "line")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.emulator.end()
        self.remove()

    @staticmethod
    def far(group, member):
        """An address far away."""
        return f"10.78.{group}.{member}"

    def lay(self, address, settings):
        """A line to an address."""
        words = json.dumps(dataclasses.asdict(settings), separators=(",", ":"))
        return self.emulator.ask("line", address, words)

    def ask(self, command, address, *arguments):
        """One of the other commands of the emulator."""
        return self.emulator.ask(command, address, *arguments)

    def at(self, host, act, *arguments):
        """Does something on a host, on a thread of its own, and gives the thread, which is running."""

        def there():
            self.enter(host)
            act(*arguments)

        thread = threading.Thread(target=there, daemon=True)
        thread.start()
        return thread
