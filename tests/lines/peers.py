"""The far side: Python `websockets`, as clients and as servers, without a heartbeat of their own.

All of them live on one thread, on the far host. They answer Pings, and know how often they were connected.
"""

import asyncio
import contextlib
import threading

import websockets
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.protocol import State

from heartwire import CEILING

OPTIONS = {"ping_interval": None, "max_size": None, "compression": None, "close_timeout": 1}
# A client that lost its connection is back after so many seconds.
PAUSE = 0.5
# What a flooded peer is sent in all, and in one message; in bytes.
FLOOD, MESSAGE = 5_000_000, 100_000


class FarSide:
    """The thread and its loop."""

    def __init__(self, network):
        self.loop = None
        # A loop itself knows its tasks only weakly.
        self.started = []
        ready = threading.Event()
        network.at("far", self._run, ready)
        if not ready.wait(CEILING):
            raise RuntimeError("the far side does not start")

    def _run(self, ready):
        self.loop = asyncio.new_event_loop()
        self.loop.call_soon(ready.set)
        self.loop.run_forever()

    def start(self, coroutine):
        self.started.append(asyncio.run_coroutine_threadsafe(coroutine, self.loop))


class Peer:
    def __init__(self):
        self.socket = None
        self.opened = 0
        self.received = 0

    @property
    def is_open(self):
        socket = self.socket
        return socket is not None and socket.state is State.OPEN

    async def say(self, text):
        """Says something if anybody is there."""
        if self.is_open:
            with contextlib.suppress(websockets.ConnectionClosed):
                await self.socket.send(text)

    async def listen(self, socket, answer):
        """Takes messages in until the connection ends."""
        self.socket = socket
        self.opened += 1
        with contextlib.suppress(websockets.ConnectionClosed):
            async for message in socket:
                self.received += len(message)
                if answer:
                    await socket.send(message)


class Client(Peer):
    """One that comes back whenever its connection ends. `opens` is awaited with each."""

    def __init__(self, url, source, opens=None):
        super().__init__()
        self.url, self.source, self.opens = url, source, opens

    async def live(self):
        while True:
            with contextlib.suppress(OSError, EOFError, websockets.WebSocketException):
                async with connect(self.url, local_addr=(self.source, 0), proxy=None, **OPTIONS) as socket:
                    if self.opens:
                        asyncio.ensure_future(self.opens())
                    await self.listen(socket, answer=False)
            await asyncio.sleep(PAUSE)


class Server(Peer):
    """One for a single client."""

    PORT = 9000

    def __init__(self, address, answers):
        super().__init__()
        self.address, self.answers = address, answers

    async def live(self):
        async with serve(self.talk, self.address, self.PORT, **OPTIONS) as server:
            await server.serve_forever()

    async def talk(self, socket):
        await self.listen(socket, self.answers)


class Speaker(Client):
    """One whose words a broadcasting server hands to all others."""

    async def flood(self):
        for message in flood():
            await self.say(message)


def flood():
    """The messages for a flooded peer."""
    return ["5" * MESSAGE] * (FLOOD // MESSAGE)
