"""Python `websockets`, as threads, with its own keepalive on.

Usage: threads.py PORT. What a server does is written in tests/servers/server.py; this one does not say
"pong".
"""

import os
import pathlib
import sys
import threading

import websockets
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.sync.server import serve

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import certificates  # noqa: E402
from compressed import compression, in_thirds  # noqa: E402

SOCKETS = set()


def say(*words):
    print(*words, flush=True)


def echo(socket):
    say("open")
    SOCKETS.add(socket)
    try:
        for message in socket:
            socket.send(in_thirds(message) if "PARTS" in os.environ else message)
    except ConnectionClosed:
        pass
    finally:
        SOCKETS.discard(socket)
        say("closed", socket.close_code)


def main(port):
    say("version", websockets.__version__)
    tls = certificates.server_context_of_environment()
    options = {"ssl": tls, "ping_interval": 0.4, "ping_timeout": 1.6, **compression(ServerPerMessageDeflateFactory)}
    with serve(echo, "127.0.0.1", port, **options) as server:
        say("listening on 127.0.0.1:%d" % server.socket.getsockname()[1])
        threading.Thread(target=server.serve_forever, daemon=True).start()
        while sys.stdin.readline() == "close\n":
            for socket in list(SOCKETS):
                socket.close(1001)


main(int(sys.argv[1]))
