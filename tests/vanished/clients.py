"""Many WebSocket clients in one process, by hand on plain sockets: connections that cost next to nothing, and of which
each byte sent is known with its time.

    clients.py SERVER PORT SOURCE COUNT RECEIVE_BUFFER [CA]

With a CA, a file, they speak TLS, and trust the servers of that CA.
They answer Pings, and do besides what the commands on standard input say, one a line; each is answered by one line of
JSON. The end of standard input is their end: nobody outlives whoever started them.
"""

import base64
import collections
import json
import os
import selectors
import socket
import ssl
import struct
import sys
import threading
import time

PATIENCE = 20
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
# Of an inbound frame, no more than this much is kept: the payload of a control frame fits, and nobody reads the others.
KEPT = 125
DRIP_PERIOD, DRIP_SIZE = 0.02, 4096


def frame(opcode, payload=b""):
    """A masked frame. The mask is zero: allowed, and the payload needs no work."""
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, size)
    return head + bytes(4) + payload


class Frames:
    """Takes a stream apart into frames."""

    def __init__(self):
        self.head = bytearray()
        self.opcode = None
        self.payload = b""
        self.left = 0

    def feed(self, data):
        """Yields the opcode and the first bytes of the payload of each frame that is complete."""
        at = 0
        while at < len(data) or (self.opcode is not None and self.left == 0):
            if self.opcode is None:
                self.head.append(data[at])
                at += 1
                self.begin()
            else:
                part = data[at : at + self.left]
                at += len(part)
                self.left -= len(part)
                self.payload += part[: KEPT - len(self.payload)]
            if self.opcode is not None and self.left == 0:
                yield self.opcode, self.payload
                self.opcode, self.payload = None, b""
                self.head.clear()

    def begin(self):
        """Starts on the payload, if the head is complete."""
        if len(self.head) < 2:
            return
        size = self.head[1] & 0x7F
        extra = {126: 2, 127: 8}.get(size, 0)
        if len(self.head) == 2 + extra:
            self.left = int.from_bytes(self.head[2:], "big") if extra else size
            self.opcode = self.head[0] & 0x0F


class Plain:
    """What a peer sends goes out as it is, and what comes is what was sent."""

    def seal(self, data):
        return data

    def open(self, data):
        return data


class Sealed:
    """TLS, in memory: what is sent becomes records, and records what was sent. One thread may send and another read."""

    def __init__(self, context, connection):
        self.lock = threading.Lock()
        self.arrived, self.leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.records = context.wrap_bio(self.arrived, self.leaving, server_hostname="localhost")
        while True:
            try:
                self.records.do_handshake()
                return connection.sendall(self.leaving.read())
            except ssl.SSLWantReadError:
                connection.sendall(self.leaving.read())
                self.arrived.write(connection.recv(1 << 14) or self._refuse())

    def _refuse(self):
        raise ConnectionError("the server hung up in the handshake of TLS")

    def seal(self, data):
        with self.lock:
            self.records.write(data)
            return self.leaving.read()

    def open(self, data):
        opened = []
        with self.lock:
            self.arrived.write(data)
            # The end, as TLS announces it, is followed by the one of TCP.
            try:
                while part := self.records.read(1 << 16):
                    opened.append(part)
            except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
                pass
        return b"".join(opened)


class Peer:
    def __init__(self, server, source, receive_buffer, context=None):
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(PATIENCE)
        self.socket.bind((source, 0))
        self.socket.connect(server)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port = self.socket.getsockname()[1]
        self.frames = Frames()
        self.outbox = bytearray()
        self.sent = collections.deque(maxlen=32)
        self.pings = self.messages = 0
        self.is_mute = False
        self.close_code = None
        self.end = None
        self.ended_at = None
        self.sent.append(time.time())
        self.layer = Sealed(context, self.socket) if context else Plain()
        self.shake_hands()

    def shake_hands(self):
        key = base64.b64encode(os.urandom(16)).decode()
        request = (
            "GET / HTTP/1.1\r\nHost: vanished\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
        )
        self.sent.append(time.time())
        self.socket.sendall(self.layer.seal(request.encode()))
        answer = b""
        while b"\r\n\r\n" not in answer:
            data = self.socket.recv(1 << 14)
            if not data:
                raise ConnectionError(f"the server hung up in the handshake after {answer!r}")
            answer += self.layer.open(data)
        if not answer.startswith(b"HTTP/1.1 101 "):
            raise ConnectionError(f"no upgrade: {answer!r}")
        self.socket.setblocking(False)
        self.take(answer.partition(b"\r\n\r\n")[2])

    def read(self, size):
        try:
            data = self.socket.recv(size)
        except BlockingIOError:
            return
        except OSError as error:
            return self.finish(error.strerror)
        if not data:
            return self.finish("end")
        self.take(self.layer.open(data))

    def take(self, data):
        for opcode, payload in self.frames.feed(data):
            if opcode == PING:
                self.pings += 1
                if not self.is_mute:
                    self.send(frame(PONG, payload))
            elif opcode == CLOSE:
                self.close_code = int.from_bytes(payload[:2], "big")
            elif opcode in (TEXT, BINARY):
                self.messages += 1

    def send(self, data):
        if self.end is None:
            self.outbox += self.layer.seal(data)
            self.flush()

    def flush(self):
        if not self.outbox or self.end is not None:
            return
        now = time.time()
        try:
            count = self.socket.send(self.outbox)
        except BlockingIOError:
            return
        except OSError as error:
            return self.finish(error.strerror)
        del self.outbox[:count]
        self.sent.append(now)

    def finish(self, how):
        if self.end is None:
            self.end, self.ended_at = how, time.time()

    def state(self):
        return {
            "port": self.port,
            "sent": list(self.sent),
            "pings": self.pings,
            "messages": self.messages,
            "close_code": self.close_code,
            "end": self.end,
            "ended_at": self.ended_at,
        }


class Crowd:
    def __init__(self, server, source, count, receive_buffer, context):
        self.peers = [Peer(server, source, receive_buffer, context) for _ in range(count)]
        self.selector = selectors.DefaultSelector()
        for peer in self.peers:
            self.selector.register(peer.socket, selectors.EVENT_READ, peer)
        self.selector.register(sys.stdin, selectors.EVENT_READ, None)
        self.murmurs = []
        self.period = 0.0
        self.drips = False
        self.next_drip = 0.0
        self.product = None
        self.next_product = 0.0

    def run(self):
        commands = b""
        while True:
            for key, _ in self.selector.select(self.tick()):
                if key.data is None:
                    data = os.read(sys.stdin.fileno(), 4096)
                    if not data:
                        return
                    commands += data
                else:
                    key.data.read(1 << 18)
                    if key.data.end is not None:
                        self.selector.unregister(key.fileobj)
            *lines, commands = commands.split(b"\n")
            for line in lines:
                print(json.dumps(self.obey(*line.decode().split())), flush=True)

    def tick(self):
        """Does what is due by the clock. How long nothing else will be."""
        now = time.monotonic()
        wake = now + 1.0
        for peer in self.peers:
            peer.flush()
            if peer.outbox:
                wake = now + 0.005
        while self.murmurs:
            due, peer = self.murmurs[0]
            wake = min(wake, due)
            if due > now:
                break
            peer.send(frame(TEXT, b"hm"))
            self.murmurs = self.murmurs[1:] + [(due + self.period, peer)]
        if self.drips:
            if now >= self.next_drip:
                self.next_drip = now + DRIP_PERIOD
                for peer in self.peers:
                    if peer.end is None:
                        peer.read(DRIP_SIZE)
            wake = min(wake, self.next_drip)
        if self.product is not None:
            if now >= self.next_product:
                self.next_product = now + self.pause
                if not self.peers[0].outbox:
                    self.peers[0].send(self.product)
            wake = min(wake, self.next_product)
        return max(0.0, wake - now)

    def obey(self, command, *arguments):
        if command == "report":
            return [peer.state() for peer in self.peers]
        if command == "speak":
            for peer in self.peers:
                peer.send(frame(TEXT, " ".join(arguments).encode()))
        elif command == "murmur":
            # Each says something once in so many seconds, one after the other.
            self.period, now = float(arguments[0]), time.monotonic()
            self.murmurs = [(now + self.period * at / len(self.peers), peer) for at, peer in enumerate(self.peers)]
        elif command == "hush":
            self.murmurs = []
        elif command in ("mute", "unmute"):
            # Mute: says nothing at all, answers no Ping either.
            self.murmurs = []
            for peer in self.peers:
                peer.is_mute = command == "mute"
        elif command == "close":
            self.product, self.murmurs = None, []
            for peer in self.peers:
                peer.send(frame(CLOSE, struct.pack("!H", 1000)))
        elif command in ("deaf", "drip"):
            # Deaf: reads nothing any more. Drip: reads a little at a time.
            self.drips = command == "drip"
            for peer in self.peers:
                if peer.end is None:
                    self.selector.unregister(peer.socket)
        elif command == "produce":
            # The first peer sends messages of so many bytes, so many seconds apart, without end.
            self.product, self.pause = frame(BINARY, bytes(int(arguments[0]))), float(arguments[1])
        else:
            raise ValueError(command)
        return None


def main():
    server, port, source, count, receive_buffer, *ca = sys.argv[1:]
    context = ssl.create_default_context(cafile=ca[0]) if ca else None
    crowd = Crowd((server, int(port)), source, int(count), int(receive_buffer), context)
    print(json.dumps("ready"), flush=True)
    crowd.run()


if __name__ == "__main__":
    main()
