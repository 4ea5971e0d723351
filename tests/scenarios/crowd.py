"""A crowd of clients in one process, by hand on plain sockets. They answer Pings, whatever else they do.

Usage: crowd.py ADDRESS. It obeys lines of standard input, each answered by a line of JSON; the end of input is its end.

    open NAME COUNT PATH        connects so many, as a group
    tell NAME COUNT TIMES       the first so many of a group send so many messages each
    measure SECONDS WHAT...     measures for so long, of each connection of some groups once every second; WHAT is
                                echo:NAME (a message and what comes back) or ping:NAME (a Ping and its Pong)
    alive                       how many of each group are connected
"""

import base64
import json
import os
import selectors
import socket
import statistics
import sys
import time

from raw import CLOSE, PATIENCE, PING, PONG, TEXT, Frames, frame, split

PERIOD = 1.0
# Connections opened between two looks at those that there are.
BATCH = 50


class Connection:
    __slots__ = ("socket", "frames", "asked_at", "next_at", "opcode", "is_over")

    def __init__(self, address, path):
        self.socket = socket.create_connection(address, PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.frames = Frames()
        # When the question left that is unanswered, and what opcode its answer has.
        self.asked_at = self.opcode = None
        self.next_at = 0.0
        self.is_over = False
        key = base64.b64encode(os.urandom(16)).decode()
        request = (
            f"GET {path} HTTP/1.1\r\nHost: scenarios\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
        )
        self.socket.sendall(request.encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self.socket.recv(4096) or b"\r\n\r\n"
        head, _, rest = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 "):
            raise ConnectionError(f"no upgrade: {answer!r}")
        # What the server sends at once is no answer to anything.
        list(self.frames.feed(rest))
        self.socket.setblocking(False)

    def send(self, data):
        try:
            self.socket.sendall(data)
        except OSError:
            self.is_over = True

    def ask(self, opcode):
        self.opcode, self.asked_at = (PONG if opcode == PING else TEXT), time.time()
        self.send(frame(opcode, b"hm"))

    def read(self):
        """Whether the answer has come, among what is there."""
        try:
            data = self.socket.recv(1 << 16)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self.is_over = True
            return False
        has_come = False
        for opcode, payload in self.frames.feed(data):
            if opcode == PING:
                self.send(frame(PONG, payload))
            elif opcode == CLOSE:
                self.is_over = True
            elif opcode == self.opcode and self.asked_at is not None:
                has_come = True
        return has_come


class Crowd:
    def __init__(self, address):
        self.address = split(address)
        self.groups = {}
        self.selector = selectors.DefaultSelector()
        self.selector.register(sys.stdin, selectors.EVENT_READ, None)
        self.input = b""
        self.is_at_end = False

    def run(self):
        while not self.is_at_end:
            self.serve(1.0)
            *lines, self.input = self.input.split(b"\n")
            for line in lines:
                print(json.dumps(self.obey(*line.decode().split())), flush=True)

    def serve(self, timeout, answered=lambda connection: None):
        for key, _ in self.selector.select(timeout):
            if key.data is None:
                data = os.read(sys.stdin.fileno(), 4096)
                self.is_at_end |= not data
                self.input += data
                continue
            if key.data.read():
                answered(key.data)
            if key.data.is_over:
                self.selector.unregister(key.fileobj)

    def obey(self, command, *arguments):
        return getattr(self, command)(*arguments)

    def open(self, name, count, path):
        group = self.groups.setdefault(name, [])
        for place in range(int(count)):
            connection = Connection(self.address, path)
            self.selector.register(connection.socket, selectors.EVENT_READ, connection)
            group.append(connection)
            if place % BATCH == 0:
                self.serve(0)
        return len(group)

    def tell(self, name, count, times):
        for connection in self.groups[name][: int(count)]:
            connection.send(frame(TEXT, b"work") * int(times))

    def alive(self):
        return {name: sum(not member.is_over for member in group) for name, group in self.groups.items()}

    def measure(self, seconds, *what):
        end = time.time() + float(seconds)
        pairs = [(dict(echo=TEXT, ping=PING)[kind], name) for kind, name in (word.split(":") for word in what)]
        samples = {name: [] for _, name in pairs}
        asking = [(connection, opcode, samples[name]) for opcode, name in pairs for connection in self.groups[name]]
        places = {connection: taken for connection, _, taken in asking}
        now = time.time()
        for place, (connection, _, _) in enumerate(asking):
            # Spread over the period, so that they do not wait for each other.
            connection.next_at = now + PERIOD * place / len(asking)

        def answered(connection):
            places[connection].append(time.time() - connection.asked_at)
            connection.asked_at = None

        while (now := time.time()) < end:
            for connection, opcode, _ in asking:
                if connection.next_at <= now and connection.asked_at is None and not connection.is_over:
                    connection.next_at = max(connection.next_at + PERIOD, now)
                    connection.ask(opcode)
            self.serve(0.002, answered)
        # What was not answered took at least so long.
        for connection, _, taken in asking:
            if connection.asked_at is not None:
                taken.append(time.time() - connection.asked_at)
                connection.asked_at = None
        return {name: summary(sorted(taken)) for name, taken in samples.items()}


def summary(taken):
    """In milliseconds."""
    if not taken:
        return {"count": 0}
    figures = {"median": statistics.median(taken), "p99": taken[int(len(taken) * 0.99)], "worst": taken[-1]}
    return {"count": len(taken), **{name: round(1000 * figure, 1) for name, figure in figures.items()}}


if __name__ == "__main__":
    Crowd(sys.argv[1]).run()
