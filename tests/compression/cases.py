"""Who speaks with heartwire, how each is asked to compress, and what the two have to agree to."""

import dataclasses
import json
import sys

import needs
import peer
import server

NODE_MODULES = str(needs.node_modules("compression"))

NAME = "permessage-deflate"
NO_SERVER, NO_CLIENT = "server_no_context_takeover", "client_no_context_takeover"


@dataclasses.dataclass
class Case:
    """One line of the table. `other` is a Peer, which is a client of heartwire, or a Kind, which is a server of it."""

    other: object
    # `--deflate` of heartwire.
    deflate: str
    # The parameters of the answer, in its order; `None` if it has to be declined.
    agreed: list
    # What its library is asked for; `...` for its own defaults.
    asked: object = ...
    # Whether it can fragment what it sends.
    cuts: bool = False
    # Whether its heartbeat is tried too, and it over TLS.
    beats: bool = False
    made: object = None

    def __post_init__(self):
        environment = {"NODE_PATH": NODE_MODULES, **self.other.environment}
        if self.asked is not ...:
            environment["DEFLATE"] = json.dumps(self.asked)
        if self.is_server and self.cuts:
            environment["PARTS"] = "1"
        self.other = dataclasses.replace(self.other, environment=environment)
        if self.is_server:
            self.other = dataclasses.replace(self.other, options=("--deflate", self.deflate), made=self.made)

    @property
    def is_server(self):
        return isinstance(self.other, server.Kind)

    @property
    def pauses(self):
        """Whether it can take its time between fragments."""
        return self.cuts and not self.is_server and self.other.name in (THREADS.name, ASYNCIO.name, WS.name)

    @property
    def name(self):
        tls = ", TLS" if self.made else ""
        return f"{self.other.name.removesuffix(', TLS')}{tls}"

    @property
    def header(self):
        return "" if self.agreed is None else "; ".join([NAME, *self.agreed])

    @property
    def our_takeover(self):
        """Whether heartwire's messages refer to those before them."""
        ours = NO_CLIENT if self.is_server else NO_SERVER
        return self.agreed is not None and self.deflate == "context" and ours not in self.agreed

    def over_tls(self, made):
        return dataclasses.replace(self, made=made)


def no_websockets():
    return needs.no_python("websockets.sync.server", "websockets")


def no_node(package):
    return needs.no_node("compression", package)


def no_chromium():
    return no_node("playwright-core") or (None if peer.chromium() else "chromium is not installed")


def named(kinds, name, **changes):
    (found,) = [kind for kind in kinds if kind.name == name]
    return dataclasses.replace(found, **changes)


THREADS = named(peer.PEERS, "Python websockets, threads", missing=no_websockets)
ASYNCIO = named(peer.PEERS, "Python websockets, asyncio", missing=no_websockets)
WS = named(peer.PEERS, "Node ws", missing=lambda: no_node("ws"))
CHROMIUM = named(peer.PEERS, "Chromium, headless", missing=no_chromium)

THREADS_SERVER = server.Kind(
    "Python websockets, threads", lambda port: [sys.executable, "../compression/threads.py", port], no_websockets
)
ASYNCIO_SERVER = named(server.KINDS, "Python websockets, asyncio", missing=no_websockets)
WS_SERVER = named(server.KINDS, "Node ws", missing=lambda: no_node("ws"))

CLIENTS = [
    Case(THREADS, "on", [NO_SERVER, NO_CLIENT], cuts=True, beats=True),
    Case(THREADS, "context", [], cuts=True, beats=True),
    Case(THREADS, "context", [NO_SERVER], {"server_no_context_takeover": True}),
    Case(THREADS, "context", [NO_CLIENT], {"client_no_context_takeover": True}),
    Case(
        THREADS,
        "on",
        [NO_SERVER, "server_max_window_bits=8", NO_CLIENT, "client_max_window_bits=9"],
        {"server_max_window_bits": 8, "client_max_window_bits": 9},
    ),
    Case(
        THREADS,
        "context",
        ["server_max_window_bits=8", "client_max_window_bits=9"],
        {"server_max_window_bits": 8, "client_max_window_bits": 9},
        cuts=True,
    ),
    Case(THREADS, "off", None),
    Case(THREADS, "context", None, None),
    Case(ASYNCIO, "on", [NO_SERVER, NO_CLIENT], cuts=True, beats=True),
    Case(ASYNCIO, "context", [], cuts=True, beats=True),
    Case(
        ASYNCIO,
        "context",
        ["server_max_window_bits=10", NO_CLIENT, "client_max_window_bits=12"],
        {"server_max_window_bits": 10, "client_no_context_takeover": True, "client_max_window_bits": 12},
    ),
    Case(WS, "on", [NO_SERVER, NO_CLIENT], cuts=True, beats=True),
    Case(WS, "context", [], cuts=True, beats=True),
    Case(
        WS,
        "context",
        [NO_SERVER, NO_CLIENT],
        {"serverNoContextTakeover": True, "clientNoContextTakeover": True, "threshold": 0},
        cuts=True,
    ),
    Case(
        WS,
        "context",
        ["server_max_window_bits=8", "client_max_window_bits=9"],
        {"serverMaxWindowBits": 8, "clientMaxWindowBits": 9, "threshold": 0},
        cuts=True,
    ),
    Case(CHROMIUM, "on", [NO_SERVER, NO_CLIENT], beats=True),
    Case(CHROMIUM, "context", [], beats=True),
    # They offer nothing.
    Case(named(peer.PEERS, "JDK HttpClient"), "on", None, cuts=True),
    Case(named(peer.PEERS, "tokio-tungstenite"), "on", None),
    Case(named(peer.PEERS, "awc, Pings answered by hand"), "on", None),
    Case(named(peer.PEERS, "Ruby faye-websocket"), "on", None),
]

# What a server of websockets wants by default.
ITS_BITS = ["server_max_window_bits=12", "client_max_window_bits=12"]

SERVERS = [
    Case(ASYNCIO_SERVER, "on", [NO_SERVER, NO_CLIENT, *ITS_BITS], beats=True),
    Case(ASYNCIO_SERVER, "context", ITS_BITS, beats=True, cuts=True),
    Case(
        ASYNCIO_SERVER,
        "context",
        [NO_SERVER, NO_CLIENT, "server_max_window_bits=9", "client_max_window_bits=8"],
        {
            "server_no_context_takeover": True,
            "client_no_context_takeover": True,
            "server_max_window_bits": 9,
            "client_max_window_bits": 8,
        },
    ),
    Case(ASYNCIO_SERVER, "off", None),
    Case(ASYNCIO_SERVER, "on", None, None),
    Case(THREADS_SERVER, "on", [NO_SERVER, NO_CLIENT, *ITS_BITS], cuts=True),
    Case(THREADS_SERVER, "context", ["client_max_window_bits=8"], {"client_max_window_bits": 8}),
    # Its default is not to compress.
    Case(WS_SERVER, "on", None),
    Case(WS_SERVER, "on", [NO_SERVER, NO_CLIENT], True, beats=True),
    Case(WS_SERVER, "context", [], True, cuts=True, beats=True),
    Case(
        WS_SERVER,
        "context",
        ["client_max_window_bits=9", "server_max_window_bits=9"],
        {"serverMaxWindowBits": 9, "clientMaxWindowBits": 9, "threshold": 0},
        cuts=True,
    ),
    Case(named(server.KINDS, "tokio-tungstenite"), "on", None),
    Case(named(server.KINDS, "actix-ws"), "on", None),
    Case(named(server.KINDS, "faye, `ping: 1`, under puma"), "on", None),
    Case(named(server.KINDS, "heartwire behind nginx"), "on", None),
    Case(
        named(server.KINDS, "heartwire behind nginx", serving=("--deflate", "on")),
        "context",
        [NO_SERVER, NO_CLIENT],
        beats=True,
    ),
    Case(named(server.KINDS, "heartwire behind nginx", serving=("--deflate", "context")), "context", [], beats=True),
]
