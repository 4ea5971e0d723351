"""The handshake alone: curl and `openssl s_client`, which know nothing of WebSockets. They send the request for an
upgrade, and we look at what comes back.

The controls: a client that trusts another CA comes to nothing, and neither does one with TLS 1.1.
"""

import re
import struct
import subprocess

import certificates
import heartwire
import needs

# From RFC 6455, section 1.3.
KEY, ACCEPT = "dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
UPGRADE = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {KEY}"]
ANSWER = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
ANSWER += f"Sec-WebSocket-Accept: {ACCEPT}"
# The Ping of a server whose payload is the number of the Ping.
PING = b"\r\n\r\n\x89\x011"
# curl's exit status for a certificate that it does not trust.
UNTRUSTED = 60

HEADER = ["program", "version", "what it did", "what came of it"]
EXPLANATION = "curl and `openssl s_client` at a server with TLS, whose certificate they verified."


def examine(made):
    """Rows, and what went wrong."""
    rows, wrong = [], []
    for program, version, checks in (
        ("curl", ("--version", r"curl (\S+)"), CURL),
        ("openssl", ("version", r"OpenSSL (\S+)"), OPENSSL),
    ):
        if reason := needs.no_program(program):
            print(f"skipped: {program}: {reason}")
            continue
        said = subprocess.run([program, version[0]], capture_output=True, text=True, timeout=heartwire.CEILING).stdout
        name = {"curl": "curl", "openssl": "openssl s_client"}[program]
        for what, check in checks.items():
            try:
                # Its Pings come quickly, and nobody has to answer them.
                with heartwire.Server("--ping-interval", "300ms", "--pong-timeout", "off", *made.serve) as server:
                    found = check(server, made)
            except heartwire.Wrong as failure:
                found = "FAILED"
                wrong.append(f"{name}, {what}: {failure}")
            rows.append([name, re.search(version[1], said)[1], what, found])
    return rows, wrong


def run(*command, given=b""):
    """The exit status, and all that was said."""
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run(list(map(str, command)), input=given, timeout=heartwire.CEILING, **both)
    return done.returncode, done.stdout


def expect(said, *patterns):
    for pattern in patterns:
        if not re.search(pattern, said):
            raise heartwire.Wrong(f"no {pattern} in {said}")


def curl(*options):
    return run("curl", "--silent", "--show-error", "--include", *options)


def headers():
    return [word for header in UPGRADE for word in ("--header", header)]


def curl_upgrades(server, made):
    # Nothing tells curl to end after a 101.
    limits = ["--no-buffer", "--max-time", "2"]
    _, said = curl(*limits, "--cacert", made.ca, *headers(), f"https://{server.address}/")
    expect(said, re.escape(ANSWER.encode()) + PING)
    return "101, and our Pings came"


def curl_asks(server, made):
    pages = {"healthz": b"\r\n\r\nok\n$", "metrics": rb"\nheartwire_", "heartwire.js": b"HeartSocket"}
    for path, expected in pages.items():
        status, said = curl("--cacert", made.ca, f"https://{server.address}/{path}")
        expect(said, b"^HTTP/1.1 200 OK\r\n", expected)
        if status != 0:
            raise heartwire.Wrong(f"exit status {status} at /{path}")
    return "200 each"


def curl_speaks_plainly(server, _):
    _, said = curl(f"http://{server.address}/")
    expect(said, b"^HTTP/1.1 400 Bad Request\r\n", b"This port speaks TLS: use https:// or wss://\n$")
    return "400 that says so"


def curl_distrusts(server, _):
    with certificates.made() as other:
        status, said = curl("--cacert", other.ca, *headers(), f"https://{server.address}/")
    if status != UNTRUSTED:
        raise heartwire.Wrong(f"exit status {status}: {said}")
    if server.stderr.find(lambda line: "does not trust the issuer" in line.text or None, heartwire.CEILING) is None:
        raise heartwire.Wrong(f"the log does not say why: {server.stderr.text()}")
    if server.log("opened"):
        raise heartwire.Wrong("opened all the same")
    return "refused by curl; the log says why"


CURL = {
    "asked for an upgrade": curl_upgrades,
    "/healthz, /metrics, /heartwire.js": curl_asks,
    "http:// on the port for TLS": curl_speaks_plainly,
    "trusts another CA (control)": curl_distrusts,
}


def masked(opcode, payload):
    """A frame. A mask of zeros is allowed."""
    return struct.pack("!BB", 0x80 | opcode, 0x80 | len(payload)) + bytes(4) + payload


def s_client(server, made, *options, given=b""):
    verify = ["-CAfile", made.ca, "-verify_return_error", "-verify_ip", "127.0.0.1"]
    # What it is given it sends at once, and stays until the server ends the connection.
    ending = ["-ign_eof"] if given else []
    return run("openssl", "s_client", "-connect", server.address, *verify, *ending, *options, given=given)


def converse(server, made, *options):
    """An upgrade, a text, a Close; and what s_client says of it."""
    request = "\r\n".join(["GET / HTTP/1.1", f"Host: {server.address}", *UPGRADE, "", ""]).encode()
    seen = len(server.stderr.lines)
    given = request + masked(1, b"hello") + masked(8, struct.pack("!H", 1000))
    status, said = s_client(server, made, *options, given=given)
    expect(said, re.escape(ANSWER.encode()), rb"\x81\x05hello.*\x88\x02\x03\xe8")
    closed = "closed by peer with 1000"
    if status != 0 or not server.stderr.find(lambda line: closed in line.text or None, heartwire.CEILING, seen):
        raise heartwire.Wrong(f"exit status {status}: {said}\n{server.stderr.text()}")
    return said


def speaks(version):
    def check(server, made):
        said = converse(server, made, f"-{version.lower().replace('.', '_')}", "-alpn", "http/1.1")
        expect(said, rb"\nNew, %s, " % version.replace("TLS", "TLSv").encode(), rb"\nALPN protocol: http/1\.1\n")
        expect(said, rb"Verify return code: 0 \(ok\)")
        return "101, echo and Close 1000 came, verified, ALPN http/1.1"

    return check


def resumes(version):
    def check(server, made):
        session = made.ca.parent / f"session-{version}"
        option = f"-{version.lower().replace('.', '_')}"
        converse(server, made, option, "-sess_out", session)
        said = converse(server, made, option, "-sess_in", session)
        expect(said, rb"\nReused, %s, " % version.replace("TLS", "TLSv").encode())
        return "resumed, and the same came"

    return check


def is_too_old(server, made):
    _, said = s_client(server, made, "-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0")
    expect(said, rb"SSL alert number (40|70)\n")
    failed = "speaks neither TLS 1.2 nor TLS 1.3"
    if server.stderr.find(lambda line: failed in line.text or None, heartwire.CEILING) is None:
        raise heartwire.Wrong(f"the log does not say why: {server.stderr.text()}")
    return "refused with an alert; the log says why"


OPENSSL = {
    "TLS 1.3: upgrade, text, Close": speaks("TLS1.3"),
    "TLS 1.2: upgrade, text, Close": speaks("TLS1.2"),
    "TLS 1.3: again with its session": resumes("TLS1.3"),
    "TLS 1.2: again with its session": resumes("TLS1.2"),
    "TLS 1.1 (control)": is_too_old,
}
