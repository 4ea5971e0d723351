"""Python `websockets`, either as threads (`sync`) or as coroutines (`asyncio`), its own keepalive on at the same time.

Usage: python.py sync|asyncio URL. What a peer does is written in peer.py.
"""

import asyncio
import pathlib
import sys
import time

import websockets
from websockets.asyncio.client import connect as connect_asyncio
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.sync.client import connect as connect_sync

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
from compressed import compression, in_thirds  # noqa: E402

LARGE = bytes(i % 251 for i in range(1 << 20))
PAYLOADS = {"text": "héllo ✓", "binary": LARGE[:256], "fragmented": ["frag", "men", "ted ✓"], "large": LARGE}
# Faster than the server's, so that the two heartbeats meet.
OPTIONS = {"ping_interval": 0.3, "ping_timeout": 10, "max_size": None, "proxy": None}
# Between fragments that are sent slowly.
PAUSE = 0.3


def say(*words):
    print(*words, flush=True)


def payload(command):
    """What a command has sent: a message, or a list of its fragments."""
    kind, _, path = command.partition(" ")
    if not path:
        return PAYLOADS[command]
    content = pathlib.Path(path).read_bytes()
    message = content.decode() if path.endswith(".txt") else content
    return message if kind == "file" else in_thirds(message)


def judge(command, sent, received):
    if isinstance(sent, list):
        sent = sent[0][:0].join(sent)
    say("ok" if received == sent else "bad", command)


def slowly(parts):
    for part in parts:
        yield part
        time.sleep(PAUSE)


async def slowly_asyncio(parts):
    for part in parts:
        yield part
        await asyncio.sleep(PAUSE)


def run_sync(url):
    with connect_sync(url, **OPTIONS, **compression(ClientPerMessageDeflateFactory)) as socket:
        say("open")
        for command in map(str.strip, sys.stdin):
            if command == "close":
                socket.close(1000)
                say("closed", socket.close_code)
            elif command == "await-close":
                try:
                    socket.recv()
                except ConnectionClosed:
                    say("closed", socket.close_code)
            else:
                sent = payload(command)
                socket.send(slowly(sent) if command.startswith("slowly") else sent)
                judge(command, sent, socket.recv())


async def run_asyncio(url):
    async with connect_asyncio(url, **OPTIONS, **compression(ClientPerMessageDeflateFactory)) as socket:
        say("open")
        while command := (await asyncio.to_thread(sys.stdin.readline)).strip():
            if command == "close":
                await socket.close(1000)
                say("closed", socket.close_code)
            elif command == "await-close":
                await socket.wait_closed()
                say("closed", socket.close_code)
            else:
                sent = payload(command)
                await socket.send(slowly_asyncio(sent) if command.startswith("slowly") else sent)
                judge(command, sent, await socket.recv())


if __name__ == "__main__":
    kind, url = sys.argv[1:]
    say("version", websockets.__version__)
    if kind == "sync":
        run_sync(url)
    else:
        asyncio.run(run_asyncio(url))
