"""The servers: how each is started, and how it is spoken to.

A server is a program that listens on 127.0.0.1, on the port it is given (0: any that is free), sends back each message,
beats by Pings of its own, and tells on its standard output what happens:

    version VERSION        what it is made of
    listening on ADDRESS   it is ready
    open                   a connection has opened
    pong                   a Ping of its own was answered
    closed CODE            a connection has ended (1006: without a Close frame)

It speaks TLS if its environment says with what, as tests/support/certificates.py has it. At a line "close" it closes
all connections that it has, and stays for new ones.

Of those that know compression (websockets, ws), DEFLATE in the environment has the options, as peer.py says it, and
PARTS has them send each message back in three fragments.
"""

import contextlib
import dataclasses
import os
import pathlib
import re
import subprocess
import sys

import heartwire
import needs
import proxy

HERE = pathlib.Path(__file__).resolve().parent
RUST_TARGET = heartwire.TARGET / "beside"
RUST = RUST_TARGET / "debug" / "heartwire-test-servers"

# In seconds. A client that does not answer a Close frame is cut later than this.
ANSWERED = 2.0


@dataclasses.dataclass
class Kind:
    """A kind of server."""

    name: str
    # From a port to a command.
    command: object
    missing: object
    # The code with which it closes when told to.
    code: int = 1001
    # In seconds.
    ping_interval: float = 0.4
    environment: dict = dataclasses.field(default_factory=dict)
    # Options of the program besides, as its client, and as the server if this is one.
    options: tuple = ()
    serving: tuple = ()
    # Whether it stands behind nginx.
    is_proxied: bool = False
    # Whether it is tried over TLS too.
    knows_tls: bool = True
    # With what, if it is.
    made: object = None

    def over_tls(self, made):
        return dataclasses.replace(self, name=f"{self.name}, TLS", made=made)

    @contextlib.contextmanager
    def site(self):
        """A server at work, and its URL for clients."""
        with Site(self) as site:
            if not self.is_proxied:
                yield site
                return
            with proxy.nginx(site.address, made=self.made) as address:
                site.url = f"{site.scheme}://{address}/ws"
                yield site


class Site:
    """A server at one address, where another may take its place."""

    def __init__(self, kind):
        self.kind = kind
        self.scheme = "wss" if kind.made else "ws"
        # Whom its clients have to trust.
        self.ca = kind.made and str(kind.made.ca)
        self.address = "127.0.0.1:0"
        self.start()
        self.url = f"{self.scheme}://{self.address}/"

    def start(self):
        self.server = (Heartwire if self.kind.command is None else Program)(self.kind, self.address)
        self.address = self.server.address

    def close_all(self):
        """Has the server close all its connections, and waits until they answered. One that can do so only by ending
        has a successor at once."""
        self.server.close_all(self.kind.code)
        if self.server.child.poll() is not None:
            self.start()

    def kill(self):
        self.server.end()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.end()


class Program(heartwire.Process):
    """A server that speaks as written above."""

    def __init__(self, kind, address):
        tls = kind.made.server_environment if kind.made else {}
        environment = {**os.environ, "NODE_PATH": str(needs.node_modules("servers")), **kind.environment, **tls}
        command = kind.command(address.rpartition(":")[2])
        super().__init__(command, stdin=subprocess.PIPE, env=environment, cwd=HERE)
        found = self.find(r".*[Ll]istening on (?:\w+://)?([\d.]+:\d+)")
        if found is None:
            self.end()
            raise heartwire.Wrong(f"{kind.name} did not start: {self.stdout.text()}\n{self.stderr.text()}")
        self.address = found[1]

    @property
    def version(self):
        return self.find(r"version (\S+)")[1]

    def find(self, pattern):
        return self.stdout.find(lambda line: re.fullmatch(pattern, line.text), heartwire.CEILING)

    def pongs(self):
        """How many of its Pings were answered."""
        return sum(line.text == "pong" for line in list(self.stdout.lines))

    def has_closed(self, code):
        """Waits until a connection has ended with this code."""
        return self.find(f"closed {code}") is not None

    def close_all(self, code):
        self.child.stdin.write("close\n")
        self.child.stdin.flush()
        if not self.has_closed(code):
            raise heartwire.Wrong(f"nobody answered its Close frame: {self.stdout.text()}")


class Heartwire(heartwire.Server):
    """heartwire itself, which tells the same by its log. Only a Pong counts as life for it."""

    BEAT = ["--ping-interval", "400ms", "--pong-timeout", "1200ms", "--max-missed", "1", "--liveness", "pong-only"]

    def __init__(self, kind, address):
        tls = kind.made.serve if kind.made else []
        super().__init__(*self.BEAT, *kind.serving, *tls, command=[heartwire.PROGRAM, address])
        found = subprocess.run([heartwire.PROGRAM, "--version"], stdout=subprocess.PIPE, text=True, check=True)
        self.version = found.stdout.split()[1]

    def pongs(self):
        """It does not tell of each. That it lets a connection live says it."""

    def has_closed(self, code):
        cause = f" ended: closed by peer with {code}"
        return self.log_reader.find(lambda line: cause in line.text or None, heartwire.CEILING) is not None

    def close_all(self, _):
        status, took = self.shut_down()
        ended = self.wait_for("ended")
        if status != 0 or took > ANSWERED or not ended or not ended.rest.startswith("server shutdown"):
            raise heartwire.Wrong(f"nobody answered its Close frame in {took:.1f} s: {self.stderr.text()}")


def puma(port):
    return ["puma", "--bind", f"tcp://127.0.0.1:{port}", "faye.ru"]


def no_puma():
    return needs.no_program("puma") or needs.no_ruby("faye/websocket", "faye-websocket")


def no_rust():
    return needs.no_crates(HERE / "rust", RUST_TARGET)


KINDS = [
    Kind("faye, `ping: 5`, under puma", puma, no_puma, 1000, 5, {"PING": "5"}, knows_tls=False),
    Kind("faye, `ping: 1`, under puma", puma, no_puma, 1000, 1, {"PING": "1"}, knows_tls=False),
    Kind(
        "Python websockets, asyncio",
        lambda port: [sys.executable, "python.py", port],
        lambda: needs.no_python("websockets.asyncio.server", "websockets"),
    ),
    Kind(
        "Node ws",
        lambda port: ["node", "ws.js", port],
        lambda: needs.no_node("servers", "ws"),
        ping_interval=1,
    ),
    Kind("actix-ws", lambda port: [RUST, "actix-ws", port], no_rust, knows_tls=False),
    Kind("tokio-tungstenite", lambda port: [RUST, "tokio-tungstenite", port], no_rust),
    Kind("heartwire", None, lambda: None),
    Kind(
        "heartwire behind nginx",
        None,
        lambda: None if proxy.program() else "nginx is not installed",
        is_proxied=True,
    ),
]
