"""A real nginx in front of a server, with the configuration that docs/nginx.md shows."""

import collections
import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time

import heartwire

# What nginx needs besides, so as to run anywhere and beside others. The part of the guide is for the `http` block.
FRAME = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr;
events {{ worker_connections {connections}; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{part}
}}
"""

# What nginx serves, and the CA that its upstream has to have its certificate from.
Tls = collections.namedtuple("Tls", "chain key trusted")


def part_of_guide(upstreams, listen, read_timeout, as_it_comes, tls):
    """The guide's configuration with addresses of ours, and with another read timeout if one is given. `as_it_comes`
    leaves out what it says about restarts. `tls` has what it says about TLS."""
    page = (heartwire.ROOT / "docs" / "nginx.md").read_text()
    part, with_tls = re.findall(r"^```nginx\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    changes = []
    if tls:
        listen += f" ssl; ssl_certificate {tls.chain}; ssl_certificate_key {tls.key}"
        changes += [
            (r"(?m)^ *proxy_pass http://heartwire;\n", with_tls),
            (r"\bexample\.internal\b", "localhost"),
            (r"/etc/nginx/heartwire-ca\.pem\b", str(tls.trusted)),
        ]
    changes += [
        (r"(?m)^    server 127\.0\.0\.1:\d+ max_fails=0;", "\n".join(f"server {each} max_fails=0;" for each in upstreams)),
        (r"\blisten \d+;", f"listen {listen};"),
        (r"\bproxy_read_timeout \w+;", read_timeout and f"proxy_read_timeout {read_timeout};"),
    ]
    for pattern, replacement in changes:
        if len(re.findall(pattern, part)) != 1:
            raise heartwire.Wrong(f"the nginx configuration in docs/nginx.md has not one {pattern}")
        if replacement:
            part = re.sub(pattern, replacement, part)
    if as_it_comes:
        part = re.sub(r" max_fails=0|\bproxy_next_upstream [^;]*;", "", part)
    return part


@contextlib.contextmanager
def nginx(upstream, read_timeout=None, connections=64, as_it_comes=False, made=None, trusted=None):
    """Runs nginx in front of `upstream`, an address or a list of them, and gives the address it listens on. With `made`,
    certificates, there is TLS on both sides; nginx trusts their CA in the upstream, or another, `trusted`."""
    with running(upstream, read_timeout, connections, as_it_comes, made, trusted) as (address, _):
        yield address


@contextlib.contextmanager
def running(upstream, read_timeout=None, connections=64, as_it_comes=False, made=None, trusted=None):
    """The same, and gives the process besides, whose standard error is the log of errors."""
    tls = made and Tls(made.chain, made.key, trusted or made.ca)
    upstreams = [upstream] if isinstance(upstream, str) else upstream
    # nginx cannot take a port that is free and tell which, so another may take it first.
    for _ in range(5):
        with tempfile.TemporaryDirectory(prefix="heartwire-nginx-") as folder:
            with socket.create_server(("127.0.0.1", 0)) as taken:
                address = "127.0.0.1:%d" % taken.getsockname()[1]
            path = f"{folder}/nginx.conf"
            with open(path, "w") as file:
                part = part_of_guide(upstreams, address, read_timeout, as_it_comes, tls)
                file.write(FRAME.format(folder=folder, connections=connections, part=part))
            with heartwire.Process([program(), "-p", folder, "-c", path]) as process:
                if listens(process, address):
                    yield address, process
                    return
                said = process.stderr.text()
    raise heartwire.Wrong(f"nginx did not start: {said}")


def listens(process, address):
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + heartwire.CEILING
    while process.child.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection((host, int(port))).close()
            return True
        time.sleep(0.02)
    return False


def program():
    # Where Debian has it is not on everybody's path.
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


class Client(heartwire.Process):
    """client.py, connected through a proxy; over TLS if there are certificates."""

    def __init__(self, address, made=None):
        script = heartwire.ROOT / "tests" / "proxy" / "client.py"
        url = f"{'wss' if made else 'ws'}://{address}/ws"
        environment = {**os.environ, **(made.client_environment if made else {})}
        super().__init__([sys.executable, script, url], stdin=subprocess.PIPE, env=environment)
        if self.said("open") is None:
            self.end()
            raise heartwire.Wrong(f"the client did not connect: {self.stderr.text()}")

    def echo(self, text, timeout=heartwire.CEILING):
        """Sends a text, and gives the time of its echo, or `None`. No text may be sent twice."""
        self.child.stdin.write(text + "\n")
        self.child.stdin.flush()
        return self.said(f"got {text}", timeout)

    def said(self, text, timeout=heartwire.CEILING):
        """When it said this; `None` if it did not in time."""
        return self.stdout.find(lambda line: line.at if line.text == text else None, timeout)
