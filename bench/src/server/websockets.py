"""An echo by the sync server of websockets. Ends with its standard input."""

import logging
import os
import sys
import threading

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve


def echo(connection):
    try:
        for message in connection:
            connection.send(message)
    except ConnectionClosed:
        pass


def end_with_stdin():
    sys.stdin.read()
    os._exit(0)


logging.disable(logging.CRITICAL)
threading.Thread(target=end_with_stdin, daemon=True).start()
with serve(echo, "127.0.0.1", 0, compression=None, max_size=4 * 1024 * 1024) as server:
    print("listening", server.socket.getsockname()[1], flush=True)
    server.serve_forever()
