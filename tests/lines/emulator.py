"""Lines between two hosts, on one machine: carries the packets between two tun devices, late, or not at all.

    emulator.py NEAR FAR SEED LIFETIME

NEAR and FAR are network namespaces; each gets a device named `line`. Every address of the far side has a line of its
own, so that one process stands for many hosts far away. Commands come on standard input, one a line, and each is
answered by one line of JSON:

    line ADDRESS SETTINGS        lays a line anew: SETTINGS are those of line.py, in JSON, without spaces
    outage ADDRESS SECONDS       all packets are dropped
    stall ADDRESS SECONDS        all packets are held, and delivered afterwards
    cut ADDRESS                  an outage for ever
    mend ADDRESS                 ends interruptions, and those to come
    report ADDRESS               says what the others say as well: see `report`

An address without a line is joined directly. The end of standard input is the end of it all, and so is LIFETIME, in
seconds: nobody has to end it.
"""

import fcntl
import heapq
import itertools
import json
import os
import select
import socket
import struct
import sys
import time

from line import FOREVER, OUTAGE, STALL, Line, Settings
from netns import run

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
DEVICE = "line"
LONGEST_PACKET = 65536
# Read in one go, before it is looked at what is due.
PACKETS_AT_ONCE = 64
TCP = 6


def open_tun(namespace, end):
    """A device of ours in a namespace, up."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    name = f"hw{os.getpid()}{end}"
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    run("ip", "link", "set", name, "netns", namespace, "name", DEVICE)
    run("ip", "-n", namespace, "link", "set", DEVICE, "up", "txqueuelen", "2000")
    return device


def carries_data(packet):
    """Whether an IPv4 packet has more in it than headers: a bare acknowledgement has not."""
    header = 4 * (packet[0] & 0x0F)
    if packet[9] == TCP:
        header += 4 * (packet[header + 12] >> 4)
    return len(packet) > header


class Far:
    """What lies beyond one address of the far side."""

    def __init__(self, line):
        self.line = line
        # When the near end last got something from it: any packet, and one with data.
        self.heard_at = self.data_at = None

    def report(self, now):
        """Times are in seconds since the epoch."""
        to_wall = time.time() - now
        wall = lambda moment: moment and moment + to_wall
        heard = {"now": now + to_wall, "heard_at": wall(self.heard_at), "data_at": wall(self.data_at)}
        return {**heard, **self.line.figures()}


class Emulator:
    def __init__(self, near, far, seed):
        self.devices = {"near": open_tun(near, "near"), "far": open_tun(far, "far")}
        self.seed = seed
        self.fars = {}
        # What is on its way: when it is due, in which order it came, the packet, and where it goes.
        self.flying = []
        self.numbers = itertools.count()

    def run(self, lifetime):
        ends = {device: end for end, device in self.devices.items()}
        death = time.monotonic() + lifetime
        commands = b""
        while (now := time.monotonic()) < death:
            wake = min(death, self.flying[0][0]) if self.flying else death
            for ready in select.select([*ends, 0], [], [], max(0.0, wake - now))[0]:
                if ready in ends:
                    self.take_in(ready, "far" if ends[ready] == "near" else "near")
                    continue
                data = os.read(0, 65536)
                if not data:
                    return
                *lines, commands = (commands + data).split(b"\n")
                for line in lines:
                    print(json.dumps(self.obey(*line.decode().split())), flush=True)
            self.deliver()
        sys.exit(f"not ended within {lifetime} s")

    def far(self, address):
        if address not in self.fars:
            self.fars[address] = Far(Line(Settings(), self.seed, time.monotonic()))
        return self.fars[address]

    def take_in(self, device, end):
        """Takes packets from a device that go to the other end."""
        for _ in range(PACKETS_AT_ONCE):
            try:
                packet = os.read(device, LONGEST_PACKET)
            except BlockingIOError:
                return
            # Nobody here has IPv6 but kernels that announce themselves.
            if packet[0] >> 4 != 4:
                continue
            far = self.far(socket.inet_ntoa(packet[16:20] if end == "far" else packet[12:16]))
            due = far.line.due(time.monotonic(), len(packet), end)
            if due is not None:
                heapq.heappush(self.flying, (due, next(self.numbers), packet, far, end))

    def deliver(self):
        """Delivers what is due."""
        while self.flying and self.flying[0][0] <= (now := time.monotonic()):
            _, number, packet, far, end = heapq.heappop(self.flying)
            until = far.line.stalls_until(now)
            if far.line.is_down(now):
                far.line.dropped += 1
            elif until > now:
                # With the number it has, so that what is held keeps its order.
                heapq.heappush(self.flying, (until, number, packet, far, end))
            else:
                os.write(self.devices[end], packet)
                if end == "near":
                    far.heard_at = now
                    if carries_data(packet):
                        far.data_at = now

    def obey(self, command, address, *arguments):
        now = time.monotonic()
        far = self.far(address)
        if command == "line":
            settings = Settings(**json.loads(arguments[0]))
            far.line = Line(settings, f"{self.seed} {address}", now)
        elif command == "outage":
            far.line.interrupt(now, float(arguments[0]), OUTAGE)
        elif command == "stall":
            far.line.interrupt(now, float(arguments[0]), STALL)
        elif command == "cut":
            far.line.interrupt(now, FOREVER, OUTAGE)
        elif command == "mend":
            far.line.mend()
        elif command != "report":
            raise ValueError(command)
        return far.report(now)


def main():
    near, far, seed, lifetime = sys.argv[1:]
    emulator = Emulator(near, far, seed)
    print(json.dumps("ready"), flush=True)
    emulator.run(float(lifetime))


if __name__ == "__main__":
    main()
