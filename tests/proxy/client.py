"""A client without a keepalive of its own, for it is the server's that is on trial.

Usage: client.py URL. It says "open", sends each line that it reads, says "got TEXT" for what comes, and "closed CODE"
at the end (1006: without a Close frame).
"""

import sys
import threading

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect


def listen(socket):
    try:
        while True:
            print("got", socket.recv(), flush=True)
    except ConnectionClosed:
        print("closed", socket.close_code, flush=True)


socket = connect(sys.argv[1], ping_interval=None, proxy=None)
print("open", flush=True)
threading.Thread(target=listen, args=[socket], daemon=True).start()
for line in map(str.strip, sys.stdin):
    socket.send(line)
