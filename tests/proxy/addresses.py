"""Whom the server takes its clients for behind nginx, by what its log says of them. nginx calls from 127.0.0.1, clients from
addresses of their own.
"""

import contextlib
import os
import re
import signal
import tempfile

import heartwire
import proxy
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

CLIENT = "127.0.0.2"
STRANGER = "127.0.0.3"
# What a client would like to be taken for.
FORGED = "203.0.113.66"
FORGERY = {"X-Forwarded-For": FORGED, "X-Real-IP": FORGED}
TRUST = ["--trust-proxy", "127.0.0.1"]


def whom(server, address, origin, headers, path="/ws"):
    """Connects from an address, and gives what stands between the number of the connection and its opening and, which has
    to be the same, its end; ports left out."""
    seen = len(server.stderr.lines)
    with connect(
        f"ws://{address}{path}", source_address=(origin, 0), additional_headers=headers, proxy=None
    ) as socket:
        socket.send("hello")
        if socket.recv(timeout=heartwire.CEILING) != "hello":
            raise heartwire.Wrong("no echo")
    opened, ended = (said(server, rf"#\d+ (.+) {what}", seen) for what in ("opened /", "ended: "))
    if opened != ended:
        raise heartwire.Wrong(f"opened by {opened}, but ended by {ended}")
    if FORGED in server.stderr.text() and FORGED not in opened:
        raise heartwire.Wrong(f"the forged address is in the log: {server.stderr.text()}")
    return opened


def said(server, pattern, seen):
    found = server.stderr.find(lambda line: re.search(pattern, line.text), heartwire.CEILING, seen)
    if found is None:
        raise heartwire.Wrong(f"no line with {pattern} in the log: {server.stderr.text()}")
    return re.sub(r":\d+$", "", found.group(1))


@contextlib.contextmanager
def behind_nginx(*options):
    with heartwire.Server(*options) as server, proxy.nginx(server.address) as address:
        yield server, address


def expect(expected, found):
    if found != expected:
        raise heartwire.Wrong(f"taken for {found} instead of {expected}")
    return found


def trusted():
    """The address that nginx saw, whatever the client claims."""
    with behind_nginx(*TRUST) as (server, address):
        expect(f"{CLIENT} via 127.0.0.1", whom(server, address, CLIENT, {}))
        return expect(f"{CLIENT} via 127.0.0.1", whom(server, address, CLIENT, FORGERY))


def not_trusted():
    """Not told to trust it, or told to trust another: the server knows nginx and nobody else."""
    for options in ([], ["--trust-proxy", STRANGER]):
        with behind_nginx(*options) as (server, address):
            found = expect("127.0.0.1", whom(server, address, CLIENT, FORGERY))
    return found


def past_nginx():
    """Who gets at the server past a trusted nginx is not nginx."""
    with heartwire.Server(*TRUST) as server:
        return expect(STRANGER, whom(server, server.address, STRANGER, FORGERY, path="/"))


def all_trusted():
    """The negative control: trust in everybody is not what --trust-proxy is for, and shows that a forgery can succeed."""
    with behind_nginx("--trust-proxy", "127.0.0.0/8") as (server, address):
        return expect(f"{FORGED} via 127.0.0.1", whom(server, address, CLIENT, FORGERY))


def refused():
    """A page from elsewhere is refused through nginx, and the log has the address of the browser."""
    with behind_nginx(*TRUST, "--allow-origin", "https://example.org") as (server, address):
        whom(server, address, CLIENT, {"Origin": "https://example.org"})
        try:
            # With the Host of its own that it calls, it is as foreign as before.
            headers = {"Origin": f"http://{address}"}
            connect(f"ws://{address}/ws", source_address=(CLIENT, 0), additional_headers=headers, proxy=None).close()
        except InvalidStatus as answer:
            status = answer.response.status_code
            if status != 403:
                raise heartwire.Wrong(f"refused with {status}") from answer
            who = said(server, r"\] (.+) handshake failed: 403", 0)
            return f"{expect(f'{CLIENT} via 127.0.0.1', who)}: 403"
        raise heartwire.Wrong("a foreign origin was let in")


@contextlib.contextmanager
def at_unix_socket(*options):
    """A server at a Unix socket with nginx in front, which may run as another user."""
    with tempfile.TemporaryDirectory(prefix="heartwire-") as folder:
        os.chmod(folder, 0o755)
        upstream = f"unix:{folder}/socket"
        with heartwire.Logged([heartwire.PROGRAM, upstream, *options]) as server:
            if server.stdout.find(lambda line: line.text.startswith("listening on unix:") or None, heartwire.CEILING) is None:
                raise heartwire.Wrong(f"the server did not start: {server.stderr.text()}")
            with proxy.nginx(upstream) as address:
                yield server, address
            # Who was killed has left its file; who ends in order has not.
            server.child.send_signal(signal.SIGTERM)
            if server.child.wait(heartwire.CEILING) != 0 or os.listdir(folder):
                raise heartwire.Wrong(f"it left {os.listdir(folder)} behind")


def unix_socket():
    """nginx in front of a Unix socket, which has no address, trusted and not trusted."""
    with at_unix_socket("--unix-mode", "666") as (server, address):
        expect("unix socket", whom(server, address, CLIENT, FORGERY))
    with at_unix_socket("--unix-mode", "666", "--trust-proxy", "unix") as (server, address):
        return expect(f"{CLIENT} via unix socket", whom(server, address, CLIENT, FORGERY))


def closed_unix_socket():
    """The negative control: a socket that only its owner may write is none for nginx, which runs as another user."""
    if os.getuid() != 0:
        return "not root, so nginx is no other user: nothing to see"
    with at_unix_socket("--unix-mode", "600") as (_, address):
        try:
            connect(f"ws://{address}/ws", proxy=None).close()
        except InvalidStatus as answer:
            return str(expect(502, answer.response.status_code))
        raise heartwire.Wrong("nginx was let in")


SCENARIOS = {
    "address, nginx trusted": trusted,
    "address, nginx not trusted": not_trusted,
    "address, past a trusted nginx": past_nginx,
    "address, all trusted (control)": all_trusted,
    "address of a foreign Origin": refused,
    "Unix socket, nginx in front": unix_socket,
    "Unix socket for its owner only (control)": closed_unix_socket,
}
