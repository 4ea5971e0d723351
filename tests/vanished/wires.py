"""Two hosts and two wires between them, out of network namespaces and veth pairs: one wire that is going to be cut, and
one that stays."""

import collections
import subprocess
import time

from netns import Hosts, run

# A moment that took some time: nothing had happened before `begin`, and all of it had at `end`.
Moment = collections.namedtuple("Moment", "begin end")

# Packets vanish where they arrive, so that the sender's kernel believes them sent, as on a real line.
TOWARDS_US, FROM_US = ("server", "in"), ("client", "in")
CUTS = {
    "both ways": [TOWARDS_US, FROM_US],
    "towards us": [TOWARDS_US],
    "from us": [FROM_US],
    "their link": [("client", "link")],
    "our link": [("server", "link")],
}


class Wires(Hosts):
    SERVER = {"cut": "10.77.1.1", "stay": "10.77.2.1"}
    CLIENT = {"cut": "10.77.1.2", "stay": "10.77.2.2"}

    def __init__(self):
        super().__init__("server", "client")
        self.how = None
        try:
            self._lay()
        except BaseException:
            self.remove()
            raise

    def _lay(self):
        server, client = self.namespaces["server"], self.namespaces["client"]
        for wire in ("cut", "stay"):
            ends = ("name", wire, "netns", server, "type", "veth", "peer", "name", wire, "netns", client)
            run("ip", "link", "add", *ends)
            for host, addresses in (("server", self.SERVER), ("client", self.CLIENT)):
                self.ip(host, "addr", "add", f"{addresses[wire]}/24", "dev", wire)
                self.ip(host, "link", "set", wire, "up")

    def cut(self, how):
        self.how = how
        return self._change(cut=True)

    def mend(self):
        moment = self._change(cut=False)
        self.how = None
        return moment

    def _change(self, cut):
        commands = []
        for side, what in CUTS[self.how]:
            if what == "link":
                commands.append(["ip", "-n", self.namespaces[side], "link", "set", "cut", "down" if cut else "up"])
            else:
                rule = ["iptables", "-w", "-A" if cut else "-D", "INPUT", "-i", "cut", "-j", "DROP"]
                commands.append(self.inside(side, rule))
        begin = time.time()
        at_once = [subprocess.Popen(command) for command in commands]
        for process in at_once:
            if process.wait(20) != 0:
                raise RuntimeError(f"failed: {' '.join(process.args)}")
        return Moment(begin, time.time())
