"""Python `websockets`, as threads (`sync`) or as coroutines (`asyncio`), client or server.

    python.py sync|asyncio client URL KEEPALIVE
    python.py sync|asyncio server KEEPALIVE [busy]

KEEPALIVE is the interval and the timeout of its own heartbeat in seconds, or "off". A client says "open", sends
"hello", says "echo" when it has come back, and closes; a server says "listening on ws://ADDRESS" and "open", and
echoes, or, if it is busy, takes no message at all. Both say "closed CODE REASON". A server speaks TLS if its
environment says with what, as tests/support/certificates.py has it.
"""

import asyncio
import pathlib
import sys
import time

from websockets.asyncio.client import connect as connect_asyncio
from websockets.asyncio.server import serve as serve_asyncio
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect as connect_sync
from websockets.sync.server import serve as serve_sync

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import certificates  # noqa: E402

BUSY = 600
TLS = certificates.server_context_of_environment()
SCHEME = "wss" if TLS else "ws"


def say(*words):
    print(*words, flush=True)


def keepalive(text):
    seconds = None if text == "off" else float(text)
    return {"ping_interval": seconds, "ping_timeout": seconds}


def say_closed(socket, error=None):
    """By the other side's Close frame if there was one, or else by ours."""
    close = error and (error.rcvd or error.sent)
    code, reason = (close.code, close.reason) if close else (socket.close_code, socket.close_reason)
    say("closed", code, reason)


def run_client_sync(url, options):
    with connect_sync(url, proxy=None, **options) as socket:
        say("open")
        try:
            socket.send("hello")
            say("echo" if socket.recv() == "hello" else "other")
            socket.close()
            say_closed(socket)
        except ConnectionClosed as error:
            say_closed(socket, error)


async def run_client_asyncio(url, options):
    async with connect_asyncio(url, proxy=None, **options) as socket:
        say("open")
        try:
            await socket.send("hello")
            say("echo" if await socket.recv() == "hello" else "other")
            await socket.close()
            say_closed(socket)
        except ConnectionClosed as error:
            say_closed(socket, error)


def run_server_sync(options, is_busy):
    def handle(socket):
        say("open")
        if is_busy:
            time.sleep(BUSY)
        try:
            for message in socket:
                socket.send(message)
            say_closed(socket)
        except ConnectionClosed as error:
            say_closed(socket, error)

    with serve_sync(handle, "127.0.0.1", 0, ssl=TLS, **options) as server:
        say("listening on %s://127.0.0.1:%d" % (SCHEME, server.socket.getsockname()[1]))
        server.serve_forever()


async def run_server_asyncio(options, is_busy):
    async def handle(socket):
        say("open")
        if is_busy:
            # The whole loop, as by a computation.
            time.sleep(BUSY)
        try:
            async for message in socket:
                await socket.send(message)
            say_closed(socket)
        except ConnectionClosed as error:
            say_closed(socket, error)

    async with serve_asyncio(handle, "127.0.0.1", 0, ssl=TLS, **options) as server:
        say("listening on %s://127.0.0.1:%d" % (SCHEME, server.sockets[0].getsockname()[1]))
        await server.wait_closed()


def main(kind, role, *arguments):
    if role == "client":
        url, options = arguments[0], keepalive(arguments[1])
        run_client_sync(url, options) if kind == "sync" else asyncio.run(run_client_asyncio(url, options))
    else:
        options, is_busy = keepalive(arguments[0]), "busy" in arguments
        run_server_sync(options, is_busy) if kind == "sync" else asyncio.run(run_server_asyncio(options, is_busy))


main(*sys.argv[1:])
