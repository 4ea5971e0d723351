"""Servers by websockets, as its documentation shows them: an echo by the sync server, which has a thread for each
connection, or messages to all by `broadcast` of the asyncio server. They end with their standard input.

Usage: websockets.py [--broadcast] [--deflate LEVEL|defaults]
"""

import argparse
import asyncio
import logging
import os
import sys
import threading

from websockets.asyncio.server import broadcast
from websockets.asyncio.server import serve as serve_asyncio
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.sync.server import serve


def settings(deflate):
    size = {"max_size": 4 * 1024 * 1024}
    if deflate == "defaults":
        return {**size, "compression": "deflate"}
    if deflate is None:
        return {**size, "compression": None}
    factory = ServerPerMessageDeflateFactory(
        server_no_context_takeover=True, client_no_context_takeover=True, compress_settings={"level": int(deflate)}
    )
    return {**size, "compression": None, "extensions": [factory]}


def echo(connection):
    try:
        for message in connection:
            connection.send(message)
    except ConnectionClosed:
        pass


async def to_all(connection):
    async for message in connection:
        broadcast(connection.server.connections, message)


async def serve_broadcasts(deflate):
    async with serve_asyncio(to_all, "127.0.0.1", 0, backlog=4096, **settings(deflate)) as server:
        announce(server.sockets[0])
        await server.serve_forever()


def serve_echoes(deflate):
    with serve(echo, "127.0.0.1", 0, **settings(deflate)) as server:
        announce(server.socket)
        server.serve_forever()


def announce(listener):
    print("listening", listener.getsockname()[1], flush=True)


def end_with_stdin():
    sys.stdin.read()
    os._exit(0)


parser = argparse.ArgumentParser()
parser.add_argument("--broadcast", action="store_true")
parser.add_argument("--deflate")
options = parser.parse_args()
logging.disable(logging.CRITICAL)
threading.Thread(target=end_with_stdin, daemon=True).start()
if options.broadcast:
    asyncio.run(serve_broadcasts(options.deflate))
else:
    serve_echoes(options.deflate)
