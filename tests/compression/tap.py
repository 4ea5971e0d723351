"""A relay that reads along: the opening handshake, and the head of each frame in both directions. Over TLS it is a server
to the one end and a client to the other, so that it sees what they say.

It can falsify one byte of what a client sends, for a control.
"""

import collections
import time

import heartwire
import tls_relay

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
# A message that is shorter is not worth falsifying: what checks it may not tell it from another.
FALSIFIED_FROM = 5

Frame = collections.namedtuple("Frame", "at opcode is_final rsv1 rsv23 length")
Message = collections.namedtuple("Message", "is_text is_compressed length fragments between")


class Way:
    """What goes in one direction of a connection."""

    def __init__(self, falsifies=False):
        self.falsifies = falsifies
        self.head = None
        self.frames = []
        # The begin of a head, and how much of a payload is still to come.
        self.begun = bytearray()
        self.left = 0

    def take(self, chunk):
        """Reads a chunk, and gives what is to go on."""
        chunk = bytearray(chunk)
        at = 0 if self.head is not None else self._take_head(chunk)
        while at < len(chunk):
            if self.left == 0:
                self.begun.append(chunk[at])
                at += 1
                self._take_frame()
                continue
            step = min(self.left, len(chunk) - at)
            at += step
            self.left -= step
            if self.left == 0 and self.falsifies and self._is_plain():
                chunk[at - 1] ^= 1
                self.falsifies = False
        return bytes(chunk)

    def _take_head(self, chunk):
        before = len(self.begun)
        self.begun += chunk
        end = self.begun.find(b"\r\n\r\n")
        if end < 0:
            return len(chunk)
        self.head = self.begun[:end].decode()
        self.begun = bytearray()
        return end + 4 - before

    def _take_frame(self):
        head = self.begun
        if len(head) < 2:
            return
        short = head[1] & 0x7F
        extra = {126: 2, 127: 8}.get(short, 0)
        if len(head) < 2 + extra + (4 if head[1] & 0x80 else 0):
            return
        length = int.from_bytes(head[2 : 2 + extra], "big") if extra else short
        bits = head[0]
        frame = Frame(time.monotonic(), bits & 15, bool(bits & 0x80), bool(bits & 0x40), bool(bits & 0x30), length)
        self.frames.append(frame)
        self.left = length
        self.begun = bytearray()

    def _is_plain(self):
        """Whether the last frame is a binary message that is not compressed."""
        last = self.frames[-1]
        return last.opcode == BINARY and last.is_final and not last.rsv1 and last.length >= FALSIFIED_FROM

    def extensions(self):
        """The value of Sec-WebSocket-Extensions, empty if there is no such line."""
        lines = [line.partition(":") for line in (self.head or "").split("\r\n")]
        values = [value.strip() for name, _, value in lines if name.lower() == "sec-websocket-extensions"]
        return ", ".join(values)

    def count(self, opcode):
        return sum(frame.opcode == opcode for frame in list(self.frames))

    def messages(self):
        """All messages. RSV1 may stand at the first frame of one only, and the other two bits nowhere."""
        found, parts, between = [], [], 0
        for frame in list(self.frames):
            is_first = frame.opcode in (TEXT, BINARY)
            if frame.rsv23 or frame.rsv1 and not is_first:
                raise heartwire.Wrong(f"a reserved bit is set where it must not be: {frame}")
            if frame.opcode > BINARY:
                between += bool(parts) and frame.opcode == PONG
                continue
            if is_first:
                parts, between = [], 0
            parts.append(frame)
            if frame.is_final:
                first = parts[0]
                length = sum(part.length for part in parts)
                found.append(Message(first.opcode == TEXT, first.rsv1, length, len(parts), between))
                parts = []
        return found


Pair = collections.namedtuple("Pair", "up down")


class Tap(tls_relay.Relay):
    """Listens on a port of its own, for connections to `address`; with certificates, `made`, on both sides over TLS."""

    def __init__(self, address, made=None, falsifies=False):
        sides = {"accept": made.server_context(), "connect": made.client_context()} if made else {}
        super().__init__(address, **sides)
        self.falsifies = falsifies
        self.scheme = "wss" if made else "ws"
        self.pairs = []

    @property
    def url(self):
        return f"{self.scheme}://{self.address}/"

    def watch(self):
        self.pairs.append(Pair(Way(self.falsifies), Way()))
        return self.pairs[-1].up.take, self.pairs[-1].down.take

    def connection(self):
        """The last WebSocket that was opened: a browser asks for pages besides."""
        opened = [pair for pair in self.pairs if "\nupgrade: websocket" in (pair.up.head or "").lower()]
        if not opened:
            raise heartwire.Wrong("nobody asked for a WebSocket")
        return opened[-1]
