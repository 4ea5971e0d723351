"""The transcripts of the README and the guide: what they show happens again, and must look the same but for figures."""

import contextlib
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

import coverage
import heartwire

# A figure with its unit, a time stamp, or an address's port.
FIGURE = re.compile(r"\d[\d.:TZ-]*(?: ?(?:ms|µs|s)\b)?")

ECHOES = """
import sys, time
from websockets.sync.client import connect
with connect(sys.argv[1], max_size=None, proxy=None) as socket:
    for message in ["hello", "again", "x" * 2**20]:
        socket.send(message)
        assert socket.recv() == message
    print("echoed", flush=True)
    time.sleep(600)
"""


def shape(line):
    return FIGURE.sub("N", line.strip())


def transcript(page, number=0):
    """The lines of a transcript: the commands, and what follows."""
    found = [block for block in coverage.blocks_of(page) if block.note == "transcript"]
    return found[number].text.rstrip("\n").splitlines()


def shown(lines):
    """What a terminal shows besides the commands, and Ctrl-C."""
    return [shape(line) for line in lines if line.strip() != "^C"]


@contextlib.contextmanager
def merged(command, **options):
    """A program whose both outputs go to one file, and that file."""
    with tempfile.NamedTemporaryFile("w+") as output:
        child = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=heartwire.without_proxies(environment()), **options
        )
        try:
            yield child, pathlib.Path(output.name)
        finally:
            child.kill()
            child.wait()


def environment():
    return {**os.environ, "PATH": f"{heartwire.PROGRAM.parent}:{os.environ['PATH']}"}


def wait_for(output, pattern):
    deadline = time.monotonic() + heartwire.CEILING
    while True:
        if found := re.search(pattern, output.read_text()):
            return found
        if time.monotonic() > deadline:
            raise heartwire.Wrong(f"no {pattern!r} in: {output.read_text()}")
        time.sleep(0.05)


def death():
    """The README: three messages, SIGSTOP, and Ctrl-C when the peer was found dead."""
    command, *lines = transcript(coverage.README)
    options = command.removeprefix("$ heartwire ").split()
    with merged([heartwire.PROGRAM, "127.0.0.1:0", *options]) as (server, output):
        url = wait_for(output, r"ws://\S+").group()
        with heartwire.Process([sys.executable, "-c", ECHOES, url]) as peer:
            if peer.stdout.find(lambda line: line.text == "echoed" or None, heartwire.CEILING) is None:
                raise heartwire.Wrong(f"the peer was not served: {peer.stderr.text()}")
            # A Pong, so that there is a round trip.
            time.sleep(2.5)
            peer.stop()
            wait_for(output, "ended")
        server.send_signal(signal.SIGINT)
        server.wait(heartwire.CEILING)
        said = output.read_text().splitlines()
    return shown(lines), shown(said)


def other_end():
    """docs/client.md: a client whose server stands still for 6 s. How often it tries again depends on chance."""
    page = coverage.DOCS / "client.md"
    first, second, *lines = transcript(page)
    command = f"{first.removeprefix('$ ')} {second.strip()}"
    with heartwire.Server() as server:
        command = re.sub(r"ws://\S+", server.url, command)
        with merged(["bash", "-c", command]) as (client, output):
            wait_for(output, "round trip")
            server.stop()
            time.sleep(6)
            server.resume()
            client.wait(heartwire.CEILING)
            said = output.read_text().splitlines()
    return sorted(set(shown(lines))), sorted(set(shown(said)))


def beat():
    """docs/logs.md: each Ping and each Pong."""
    lines = transcript(coverage.DOCS / "logs.md", 0)
    with merged([heartwire.PROGRAM, "127.0.0.1:0", "--log-level", "trace", "--ping-interval", "500ms"]) as (_, output):
        url = wait_for(output, r"ws://\S+").group()
        with heartwire.Process([sys.executable, "-c", ECHOES, url]):
            wait_for(output, "Pong 2 received")
            said = [line for line in output.read_text().splitlines() if "#1" in line]
    return shown(lines), shown(said[: len(lines)])


def refusal():
    """docs/logs.md: a page of somebody else asks for the status."""
    lines = transcript(coverage.DOCS / "logs.md", 1)
    request = (
        "GET /heartwire/status HTTP/1.1\r\nHost: evil.example\r\nOrigin: https://evil.example\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with merged([heartwire.PROGRAM, "127.0.0.1:0"]) as (_, output):
        host, port = wait_for(output, r"ws://([\d.]+):(\d+)").groups()
        with socket.create_connection((host, int(port)), heartwire.CEILING) as client:
            client.sendall(request.encode())
            client.recv(1024)
            wait_for(output, "handshake failed")
        said = [line for line in output.read_text().splitlines() if "handshake" in line]
    return shown(lines), shown(said)


ALL = [death, other_end, beat, refusal]


def in_order(lines):
    """Log lines come by a thread of their own, some time after what they tell of: their order among themselves is
    promised, and that of all others."""
    return sorted(lines, key=lambda line: "[INFO" in line or "[WARN" in line or "[ERROR" in line)


def differences(wanted, got):
    return [f"- {line}" for line in wanted if line not in got] + [f"+ {line}" for line in got if line not in wanted]


def check():
    pages = coverage.pages()
    count = sum(block.note == "transcript" for page in pages for block in coverage.blocks_of(page))
    if count != len(ALL):
        raise heartwire.Wrong(f"the guide has {count} transcripts, and {len(ALL)} are compared")
    for replay in ALL:
        wanted, got = replay()
        if in_order(wanted) != in_order(got):
            found = "\n".join(differences(wanted, got) or ["in another order"])
            raise heartwire.Wrong(f"{replay.__doc__}\nit is not as the page shows it:\n{found}")
    control(wanted)
    return f"transcripts that happen as they are shown: {len(ALL)}"


def control(lines):
    """Figures may differ, and words may not."""
    text = "2026-11-24T18:28:47.475Z [INFO ] #1 127.0.0.1:56290 missed Pong 1 of 3 after 16.9ms"
    other = "2027-01-02T03:04:05.006Z [INFO ] #2 127.0.0.1:1024 missed Pong 2 of 3 after 1.0 s"
    if shape(text) != shape(other) or shape(text) == shape(text.replace("missed", "answered")):
        raise heartwire.Wrong("the control passes: the comparison of transcripts proves nothing")
    if not differences(lines, [line.replace("handshake", "shake") for line in lines]):
        raise heartwire.Wrong("the control passes: a line that differs is not noticed")
