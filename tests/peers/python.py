"""Python `websockets`, either as threads (`sync`) or as coroutines (`asyncio`), its own keepalive on at the same time.

Usage: python.py sync|asyncio URL. What a peer does is written in peer.py.
"""

import asyncio
import sys

import websockets
from websockets.asyncio.client import connect as connect_asyncio
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect as connect_sync

LARGE = bytes(i % 251 for i in range(1 << 20))
PAYLOADS = {"text": "héllo ✓", "binary": LARGE[:256], "fragmented": ["frag", "men", "ted ✓"], "large": LARGE}
# Faster than the server's, so that the two heartbeats meet.
OPTIONS = {"ping_interval": 0.3, "ping_timeout": 10, "max_size": None, "proxy": None}


def say(*words):
    print(*words, flush=True)


def judge(command, received):
    sent = PAYLOADS[command]
    sent = "".join(sent) if command == "fragmented" else sent
    say("ok" if received == sent else "bad", command)


def run_sync(url):
    with connect_sync(url, **OPTIONS) as socket:
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
                socket.send(PAYLOADS[command])
                judge(command, socket.recv())


async def run_asyncio(url):
    async with connect_asyncio(url, **OPTIONS) as socket:
        say("open")
        while command := (await asyncio.to_thread(sys.stdin.readline)).strip():
            if command == "close":
                await socket.close(1000)
                say("closed", socket.close_code)
            elif command == "await-close":
                await socket.wait_closed()
                say("closed", socket.close_code)
            else:
                await socket.send(PAYLOADS[command])
                judge(command, await socket.recv())


if __name__ == "__main__":
    kind, url = sys.argv[1:]
    say("version", websockets.__version__)
    if kind == "sync":
        run_sync(url)
    else:
        asyncio.run(run_asyncio(url))
