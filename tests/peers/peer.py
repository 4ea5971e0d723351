"""The peers: how each is started, and how it is spoken to.

A peer is a program that connects to the URL it is given and obeys the lines it reads, one after the other:

    text, binary, fragmented, large
                  sends that, waits for the echo and says "ok COMMAND", or "bad COMMAND" if something else came back, or
                  "no COMMAND" if its library has no way to send it
    file PATH     the same with what is in a file: a text if its name ends in .txt, else binary
    parts PATH    the same in three fragments
    slowly PATH   the same with pauses between the fragments
    close         closes with 1000, and says "closed CODE"
    await-close   says "closed CODE" when the other side has closed ("-" if it is not told the code)

A file is known to those that tests/compression uses. Of those that know compression (websockets, ws), DEFLATE in the
environment has the options, as JSON: the arguments of websockets' factory, or ws' `perMessageDeflate`.

A URL may be one of wss://. Whom the peer then trusts stands in its environment, as tests/support/certificates.py says.

Before that it says "version VERSION", and "open" as soon as it is connected. The text is short and not all ASCII;
binary is 256 bytes of which byte i is i % 251, large 1 MiB of the same; fragmented is a text in three fragments. wscat,
which knows lines of text only, has 1 MiB of text instead.
"""

import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys

import heartwire
import needs

HERE = pathlib.Path(__file__).resolve().parent
NODE = needs.node_modules("peers")
CARGO_TARGET = heartwire.TARGET / "beside"
RUST = CARGO_TARGET / "debug" / "heartwire-test-peers"


@dataclasses.dataclass
class Peer:
    """A kind of peer."""

    name: str
    command: list
    missing: object
    # Whether its library answers Pings by itself, so that it lives while it is idle.
    answers: bool = True
    environment: dict = dataclasses.field(default_factory=dict)
    # Whether it is tried over TLS too.
    knows_tls: bool = True

    def start(self, server):
        return Running(self, server)


class Running(heartwire.Process):
    """A peer that is connected."""

    def __init__(self, peer, server):
        environment = {**os.environ, "NODE_PATH": str(NODE), **peer.environment, **server.trust}
        super().__init__([*peer.command, server.url], stdin=subprocess.PIPE, env=environment, cwd=HERE)
        self.name = peer.name
        try:
            self.version = self.expect("version").partition(" ")[2]
            self.expect("open")
        except heartwire.Wrong:
            self.end()
            raise

    def tell(self, command):
        self.child.stdin.write(command + "\n")
        self.child.stdin.flush()

    def expect(self, *words, timeout=heartwire.CEILING):
        """The next line that begins with one of `words`, which must come in time."""
        line = self.stdout.find(lambda line: line.text if line.text.split(" ")[0] in words else None, timeout)
        if line is None:
            said = f"{self.stdout.text()}\n{self.stderr.text()}".strip()
            raise heartwire.Wrong(f"it did not say {' or '.join(words)}, but: {said}")
        return line

    def echo(self, command):
        """Has it send something. Tells whether it could; that the same came back is checked."""
        replies = {f"{outcome} {command}": outcome for outcome in ("ok", "bad", "no")}
        # The same command may be given twice, so what was said before does not count.
        seen = len(self.stdout.lines)
        self.tell(command)
        outcome = self.stdout.find(lambda line: replies.get(line.text), heartwire.CEILING, seen)
        if outcome not in ("ok", "no"):
            raise heartwire.Wrong(f"{command} came back otherwise, or not at all: {self.stderr.text()}")
        return outcome == "ok"

    def closed(self, code):
        """Waits until it says that its connection was closed with this code."""
        said = self.expect("closed").split(" ")[1]
        if said not in (str(code), "-"):
            raise heartwire.Wrong(f"it was closed with {said}, not {code}")


# What is missing for a peer, or `None`. ###############################################################################


def no_websockets():
    return needs.no_python("websockets.sync.client", "websockets")


def no_faye():
    return needs.no_ruby("faye/websocket", "faye-websocket")


def no_java():
    return needs.no_program("java")


def no_node(package):
    return needs.no_node("peers", package)


def chromium():
    return shutil.which("chromium") or shutil.which("chromium-browser") or ""


def no_chromium():
    return no_node("playwright-core") or (None if chromium() else "chromium is not installed")


def no_rust():
    return needs.no_crates(HERE / "rust", CARGO_TARGET)


PEERS = [
    Peer("Python websockets, threads", [sys.executable, "python.py", "sync"], no_websockets),
    Peer("Python websockets, asyncio", [sys.executable, "python.py", "asyncio"], no_websockets),
    Peer("Ruby faye-websocket", ["ruby", "faye.rb"], no_faye),
    Peer("JDK HttpClient", ["java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "Jdk.java"], no_java),
    Peer("tokio-tungstenite", [RUST, "tokio-tungstenite"], no_rust),
    Peer("awc, Pings answered by hand", [RUST, "awc-answering"], no_rust, knows_tls=False),
    Peer("awc as it is", [RUST, "awc-silent"], no_rust, answers=False, knows_tls=False),
    Peer("Node ws", ["node", "ws.js"], lambda: no_node("ws")),
    Peer("Node wscat", [sys.executable, "wscat.py", NODE / "wscat" / "bin" / "wscat"], lambda: no_node("wscat")),
    Peer("Chromium, headless", ["node", "chromium.js"], no_chromium, environment={"CHROMIUM": chromium()}),
]
