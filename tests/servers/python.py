"""Python `websockets`, as coroutines, with its own keepalive on.

Usage: python.py PORT. What a server does is written in server.py.
"""

import asyncio
import os
import pathlib
import sys

import websockets
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import certificates  # noqa: E402
from compressed import compression, in_thirds  # noqa: E402


def say(*words):
    print(*words, flush=True)


async def tell_pongs(socket):
    """Says so whenever the keepalive has had an answer: the library then has a new latency."""
    latency = socket.latency
    while True:
        await asyncio.sleep(0.05)
        if socket.latency != latency:
            latency = socket.latency
            say("pong")


async def echo(socket):
    say("open")
    teller = asyncio.create_task(tell_pongs(socket))
    try:
        async for message in socket:
            await socket.send(in_thirds(message) if "PARTS" in os.environ else message)
    except ConnectionClosed:
        pass
    finally:
        teller.cancel()
        say("closed", socket.close_code)


async def main(port):
    say("version", websockets.__version__)
    tls = certificates.server_context_of_environment()
    options = {"ssl": tls, "ping_interval": 0.4, "ping_timeout": 1.6, **compression(ServerPerMessageDeflateFactory)}
    async with serve(echo, "127.0.0.1", port, **options) as server:
        say("listening on 127.0.0.1:%d" % server.sockets[0].getsockname()[1])
        while await asyncio.to_thread(sys.stdin.readline) == "close\n":
            await asyncio.gather(*(socket.close(1001) for socket in server.connections))
        await server.wait_closed()


asyncio.run(main(int(sys.argv[1])))
