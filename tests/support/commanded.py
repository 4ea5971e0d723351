"""A program of ours that answers each line of its standard input by one line of JSON."""

import json
import subprocess
import sys
import threading

from heartwire import CEILING, Process


class Commanded(Process):
    """It begins with a line of JSON that says that it is ready, and the end of its standard input is its end."""

    def __init__(self, script, *arguments, inside=lambda command: command):
        super().__init__(inside([sys.executable, "-B", script, *arguments]), stdin=subprocess.PIPE)
        self.name = script.name
        self.answered = 0
        # One command at a time.
        self.turn = threading.Lock()
        try:
            self._answer()
        except BaseException:
            self.end()
            raise

    def _answer(self):
        line = self.stdout.find(lambda line: line, CEILING, seen=self.answered)
        if line is None:
            raise RuntimeError(f"{self.name} does not answer: {self.stderr.text()}")
        self.answered += 1
        return json.loads(line.text)

    def ask(self, *command):
        with self.turn:
            self.child.stdin.write(" ".join(map(str, command)) + "\n")
            self.child.stdin.flush()
            return self._answer()
