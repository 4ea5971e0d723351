"""Peers by hand on plain sockets, of which each byte is known with its time: clients that read, answer and talk as they
are told, or not at all, and a server that takes everything and answers nothing.

A peer that has died here keeps its socket, so that its kernel goes on acknowledging, as for a process that was stopped.
"""

import base64
import hashlib
import os
import pathlib
import re
import select
import socket
import sys
import threading
import time

TESTS = pathlib.Path(__file__).resolve().parent.parent
sys.path += [str(TESTS / "support"), str(TESTS / "vanished")]
from clients import BINARY, CLOSE, PING, PONG, TEXT, Frames, Plain, Sealed, frame  # noqa: E402
from outcome import MADE  # noqa: E402

PATIENCE = 20
MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
# How often a peer that reads at a rate reads, in seconds.
READ_PERIOD = 0.05


def split(address):
    host, _, port = address.rpartition(":")
    return host, int(port)


class Peer:
    """A client in a thread of its own. What it does can be changed while it lives."""

    def __init__(self, address, path="/echo", *, answers=True, reads=True, rate=None, talk=None, mss=None, buffer=None):
        # Whether it answers Pings; whether it reads, and how many bytes a second at most; how often it says something.
        self.answers, self.reads, self.rate, self.talk = answers, reads, rate, talk
        self.socket = socket.socket()
        if mss:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, mss)
        if buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(split(address))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.frames = Frames()
        self.last_sent = 0.0
        # When how many bytes had been read in all.
        self.reads_at = [(0.0, 0)]
        # By how much the thread itself was late at worst, with what it was to say or after a sleep.
        self.late = 0.0
        self.pings = 0
        # What a flood has left of a frame that was not taken whole.
        self.rest = b""
        self.is_over = self.has_died = False
        made = MADE.get()
        self.layer = Sealed(made.client_context(), self.socket) if made else Plain()
        self._shake_hands(path)
        self.thread = threading.Thread(target=self._live, daemon=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.die()
        self.socket.close()

    def start(self):
        self.thread.start()
        return self

    def die(self):
        """It does nothing any more. The time of its last byte."""
        self.has_died = True
        if self.thread.is_alive():
            self.thread.join()
        return self.last_sent

    def send(self, data):
        data, self.rest = self.rest + self.layer.seal(data), b""
        self.socket.settimeout(PATIENCE)
        self.socket.sendall(data)
        self.last_sent = time.time()

    def say(self, text=b"hm"):
        self.send(frame(TEXT, text))

    def flood(self, message=frame(BINARY, bytes(4096)), patience=1.0):
        """Sends until nothing more is taken for so long, or the end. To be called on a peer that was not started."""
        self.socket.settimeout(0)
        blocked_since = time.time()
        while time.time() - blocked_since < patience and not self.has_died:
            self.rest = self.rest or self.layer.seal(message)
            try:
                self.rest = self.rest[self.socket.send(self.rest) :]
                self.last_sent = blocked_since = time.time()
            except BlockingIOError:
                time.sleep(0.002)
            except OSError:
                self.is_over = True
                return

    def has_read(self, size):
        """When it had read so many bytes; `None` if it has not yet."""
        return next((at for at, total in self.reads_at if total >= size), None)

    def _shake_hands(self, path):
        key = base64.b64encode(os.urandom(16)).decode()
        request = (
            f"GET {path} HTTP/1.1\r\nHost: scenarios\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
        )
        self.send(request.encode())
        answer = b""
        # Byte by byte, so that nothing after the head is taken.
        while b"\r\n\r\n" not in answer:
            byte = self.socket.recv(1)
            if not byte:
                raise ConnectionError(f"the server hung up in the handshake after {answer!r}")
            answer += self.layer.open(byte)
        # What was in the same record as the end of the head.
        self._hear(answer.partition(b"\r\n\r\n")[2])
        if not answer.startswith(b"HTTP/1.1 101 "):
            raise ConnectionError(f"no upgrade: {answer!r}")

    def _live(self):
        talk_at = read_at = time.time()
        while not (self.has_died or self.is_over):
            now = time.time()
            if self.talk and now >= talk_at:
                self._attempt(self.say)
                # Not only what a sleep took too long: the other threads of this process hold us up anywhere.
                self.late = max(self.late, time.time() - talk_at)
                talk_at = max(talk_at + self.talk, now)
            if self.reads and self.rate and now >= read_at:
                self._attempt(lambda: self._read(max(1, int(self.rate * READ_PERIOD))))
                read_at = max(read_at + READ_PERIOD, now - 1.0)
            wake = min([now + 0.1, *[talk_at] * bool(self.talk), *[read_at] * bool(self.rate)])
            wait = max(0.0, wake - time.time())
            began, is_readable = time.time(), False
            if self.reads and not self.rate:
                is_readable = bool(select.select([self.socket], [], [], wait)[0])
            else:
                time.sleep(wait)
            self.late = max(self.late, time.time() - began - wait)
            if is_readable:
                self._attempt(lambda: self._read(1 << 18))

    def _attempt(self, step):
        try:
            step()
        except OSError:
            self.is_over = True

    def _read(self, size):
        self.socket.settimeout(0)
        try:
            data = self.socket.recv(size)
        except BlockingIOError:
            return
        if not data:
            self.is_over = True
            return
        self._hear(self.layer.open(data))

    def _hear(self, data):
        self.reads_at.append((time.time(), self.reads_at[-1][1] + len(data)))
        for opcode, payload in self.frames.feed(data):
            if opcode == PING:
                self.pings += 1
                if self.answers:
                    self.send(frame(PONG, payload))
            elif opcode == CLOSE:
                self.is_over = True


class Flooder(Peer):
    """Sends whatever is taken, as long as it lives, and takes whatever comes. It answers nothing."""

    def __init__(self, address, path):
        super().__init__(address, path, answers=False)

    def _live(self):
        reader = threading.Thread(target=self._take, daemon=True)
        reader.start()
        self.flood(patience=float("inf"))

    def _take(self):
        while not (self.has_died or self.is_over):
            if select.select([self.socket], [], [], 0.1)[0]:
                self._attempt(lambda: self._read(1 << 18))


class Mute:
    """A server that shakes hands, says what it is given to say first, takes everything and answers nothing."""

    def __init__(self, greeting=None):
        self.greeting = greeting
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        made = MADE.get()
        self.context = made.server_context() if made else None
        self.url = f"{'wss' if made else 'ws'}://{self.address}/"
        self.last_sent = 0.0
        self.sockets = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()
        for taken in self.sockets:
            taken.close()

    def _accept(self):
        while True:
            try:
                taken, _ = self.listener.accept()
            except OSError:
                return
            self.sockets.append(taken)
            threading.Thread(target=self._serve, args=[taken], daemon=True).start()

    def _serve(self, taken):
        try:
            if self.context:
                taken = self.context.wrap_socket(taken, server_side=True)
                self.sockets.append(taken)
            head = b""
            while b"\r\n\r\n" not in head:
                received = taken.recv(4096)
                if not received:
                    raise ConnectionError("it hung up before its request was complete")
                head += received
            key = re.search(rb"(?i)sec-websocket-key: *(\S+)", head)[1].decode()
            accepted = base64.b64encode(hashlib.sha1((key + MAGIC).encode()).digest()).decode()
            named = "Sec-WebSocket-Protocol: heartwire.v1\r\n" if b"heartwire.v1" in head else ""
            answer = (
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                f"Sec-WebSocket-Accept: {accepted}\r\n{named}\r\n"
            ).encode()
            if self.greeting:
                answer += bytes([0x81, len(self.greeting)]) + self.greeting
            taken.sendall(answer)
            self.last_sent = time.time()
        except OSError as error:
            print(f"the mute server could not open a connection: {error!r}", flush=True)
            return
        try:
            while taken.recv(1 << 16):
                pass
        except OSError:
            pass
