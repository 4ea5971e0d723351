"""`wscat`, the program, between two pipes: it sends the lines that it reads and prints what comes, behind a prompt.

Usage: wscat.py PROGRAM URL. What a peer does is written in peer.py. Without a terminal wscat says neither when it is
connected nor why it was closed.
"""

import queue
import re
import subprocess
import sys
import threading

TEXT = {"text": "héllo ✓", "large": "x" * (1 << 20)}
KNOCK = "knock"


def say(*words):
    print(*words, flush=True)


def collect(stream, arrived):
    for line in stream:
        arrived.put(re.sub("^(> )+", "", line.rstrip("\n")))
    arrived.put(None)


def await_open(program, arrived):
    """What is typed before wscat is connected is lost, so we knock until there is an answer."""
    while True:
        type_line(program, KNOCK)
        try:
            return arrived.get(timeout=0.1)
        except queue.Empty:
            pass


def type_line(program, line):
    program.stdin.write(line + "\n")
    program.stdin.flush()


def next_line(arrived):
    """What came, but for the echoes of knocks."""
    while (line := arrived.get()) == KNOCK:
        pass
    return line


def main():
    path, url = sys.argv[1:]
    version = subprocess.run(["node", path, "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout
    say("version", version.strip())
    command = ["node", path, "--no-color", "--slash", "--connect", url]
    program = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")
    arrived = queue.Queue()
    threading.Thread(target=collect, args=[program.stdout, arrived], daemon=True).start()
    await_open(program, arrived)
    say("open")
    for command in map(str.strip, sys.stdin):
        if command in ("close", "await-close"):
            if command == "close":
                type_line(program, "/close 1000")
            while arrived.get() is not None:
                pass
            say("closed", "-")
        elif command in TEXT:
            type_line(program, TEXT[command])
            say("ok" if next_line(arrived) == TEXT[command] else "bad", command)
        else:
            say("no", command)


if __name__ == "__main__":
    main()
