"""The clients under test: `heartwire connect`, and the probe for what that cannot do."""

import re
import subprocess

import heartwire

# A line of the log.
ROUND_TRIP = re.compile(r"#\d+ round trip ")
NOT_CONNECTED = re.compile(r"not connected: (.*)")


class Client(heartwire.Logged):
    """`heartwire connect`, between two pipes."""

    def __init__(self, site, *options):
        trust = ["--cacert", site.ca] if site.ca else []
        super().__init__([heartwire.PROGRAM, "connect", site.url, *trust, *site.kind.options, *options], stdin=subprocess.PIPE)

    def echo(self, text, timeout=heartwire.CEILING):
        """Sends a line, and tells whether the same is the next that comes."""
        seen = len(self.stdout.lines)
        self.child.stdin.write(text + "\n")
        self.child.stdin.flush()
        return self.stdout.find(lambda line: line.text, timeout, seen) == text

    def round_trips(self):
        return sum(bool(ROUND_TRIP.search(line.text)) for line in list(self.stderr.lines))

    def failed_attempt(self):
        """Waits for an attempt that did not come to a connection, and tells why."""
        found = self.stderr.find(lambda line: NOT_CONNECTED.search(line.text), heartwire.CEILING)
        return found and found[1]

    def finish(self):
        """Ends its input, and gives its exit status."""
        self.child.stdin.close()
        return self.child.wait(heartwire.CEILING)


def command(probe, what, site):
    """The probe with its arguments."""
    return [probe, what, site.url, *([site.ca] if site.ca else [])]


class Follower(heartwire.Process):
    """The probe, with a heartbeat that the server leads."""

    def __init__(self, probe, site):
        super().__init__(command(probe, "follow", site))

    def opened(self):
        return self.stdout.find(lambda line: line.at if line.text == "open" else None, heartwire.CEILING)

    def ended(self, timeout):
        """The line about its end, `None` if it did not end in time."""
        return self.stdout.find(lambda line: line if line.text.startswith("ended: ") else None, timeout)
