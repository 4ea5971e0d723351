"""What each server goes through with the program as its client: messages, silence, an end by either side, death, and a
return."""

import subprocess
import time
import traceback

import heartwire
from client import Client, Follower, command

# In seconds.
INTERVAL, TIMEOUT, MAX_MISSED = 0.5, 0.5, 3
HEARTBEAT = ["--ping-interval", "500ms", "--pong-timeout", "500ms", "--max-missed", str(MAX_MISSED)]
NO_HEARTBEAT = ["--ping-interval", "off"]
BOUND = INTERVAL + MAX_MISSED * TIMEOUT
# A server is stopped at any point of the interval; a Ping that it did not answer may have been under way already.
EARLIEST = MAX_MISSED * TIMEOUT - TIMEOUT
# The probe's window of silence.
EXPECT = 2.0
# How late a loaded machine may be before we call it a fault.
SLACK = 2.0
IDLE = 3.0
# Or so many of the server's intervals, if that is longer.
INTERVALS = 2.2
# Pings answered in that time.
ENOUGH = 3

COLUMNS = ["version", "text", "binary", "1 MiB", "both beat", "closes", "closed by server"]
COLUMNS += ["server's Pings alone", "found dead", "no heartbeat", "led by server"]
COLUMNS += ["back after a stop", "back after a kill"]


def check(condition, message):
    if not condition:
        raise heartwire.Wrong(message)


def converse(kind, cells, _):
    """Echoes, a silence that only Pongs bridge, a close by the server, a return, and a close by the client."""
    with kind.site() as site, Client(site, *HEARTBEAT, "--liveness", "pong-only") as client:
        cells["version"] = site.server.version
        check(client.wait_for("opened"), f"not opened: {client.stderr.text()}")
        check(client.echo("héllo ✓"), "the text came back otherwise, or not at all")
        cells["text"] = "yes"
        check(client.echo("x" * (1 << 20)), "1 MiB of text came back otherwise, or not at all")
        # From here on the server's Pongs are all that comes, but for its own Pings, which do not count.
        stay_idle(kind, site, client)
        check(client.round_trips() >= ENOUGH, f"{client.round_trips()} round trips: {client.stderr.text()}")
        cells["both beat"] = "yes"

        site.close_all()
        ended = client.wait_for("ended", of=1)
        check(ended and ended.rest.startswith(f"closed by peer with {kind.code}"), f"the server closed: {ended}")
        cells["closed by server"] = str(kind.code)
        check(client.wait_for("opened", of=2), "it did not come back after the server had closed")
        check(client.echo("again"), "no echo after the return")
        finish(site, client, 2)
        cells["closes"] = "1000"


def stay_idle(kind, site, client):
    """Nobody says anything for several intervals, and the server's Pings are answered."""
    idle = max(IDLE, INTERVALS * kind.ping_interval)
    ended = client.wait_for("ended", idle)
    check(ended is None, f"it was idle, and ended: {ended}")
    pongs = site.server.pongs()
    enough = min(ENOUGH, int(idle / kind.ping_interval - 0.1))
    check(pongs is None or pongs >= enough, f"{pongs} Pings of the server were answered, not {enough}")


def finish(site, client, last):
    """The client's input ends: it closes, the server hears it, and each opening was reported ended."""
    status = client.finish()
    check(status == 0, f"exit status {status}: {client.stderr.text()}")
    ended = client.wait_for("ended", of=last)
    check(ended and ended.rest.startswith("closed by us with 1000"), f"it closed, but: {ended}")
    check(site.server.has_closed(1000), "the server did not hear it")
    opened, ended = ([entry.id for entry in client.log(what)] for what in ("opened", "ended"))
    check(opened == ended == list(range(1, last + 1)), f"opened {opened}, but reported ended {ended}")


def carry_binary(kind, cells, probe):
    """What the program cannot send: binary messages, small and large, and an empty text."""
    with kind.site() as site:
        done = subprocess.run(command(probe, "echo", site), capture_output=True, text=True, timeout=heartwire.CEILING)
        said = ["ok text", "ok empty", "ok binary", "ok large"]
        check(done.stdout.splitlines() == said and done.returncode == 0, f"{done.stdout}\n{done.stderr}")
        check(site.server.has_closed(1000), "the server did not hear it close")
        cells["binary"] = cells["1 MiB"] = "yes"


def listen_only(kind, cells, _):
    """A client that only answers Pings stays connected to a server that only sends them."""
    with kind.site() as site, Client(site, *NO_HEARTBEAT) as client:
        check(client.wait_for("opened"), f"not opened: {client.stderr.text()}")
        stay_idle(kind, site, client)
        check(client.echo("still there"), "no echo after the silence")
        finish(site, client, 1)
        cells["server's Pings alone"] = "lives"


def find_stopped(kind, cells, probe):
    """A stopped server is found, by Pings of ours and by the lack of its own; without a heartbeat it is not."""
    with kind.site() as site, Client(site, *HEARTBEAT) as client, Client(site, *NO_HEARTBEAT) as control:
        follows = kind.ping_interval < EXPECT
        with Follower(probe, site) if follows else Client(site, *NO_HEARTBEAT) as follower:
            check(client.echo("héllo") and control.echo("héllo"), f"no echo: {client.stderr.text()}")
            check(not follows or follower.opened(), f"not opened: {follower.stderr.text()}")
            heard_until = time.monotonic()
            site.server.stop()
            silent_since = time.monotonic()
            ended = client.wait_for("ended", BOUND + SLACK)
            check(ended, f"not found dead within {BOUND + SLACK} s")
            check(ended.rest.startswith(f"heartbeat lost ({MAX_MISSED} Pongs missed)"), f"another cause: {ended.rest}")
            check(ended.at - heard_until >= EARLIEST, f"found dead too early, after {ended.at - heard_until:.2f} s")
            cells["found dead"] = f"{ended.at - silent_since:.2f} s"
            if follows:
                # Held up itself, it gives a silence one fresh window.
                ended = follower.ended(silent_since + 2 * EXPECT + SLACK - time.monotonic())
                check(ended and ended.text.startswith("ended: heartbeat lost"), f"led by the server: {ended}")
                check(ended.at - heard_until >= EXPECT - kind.ping_interval - TIMEOUT, "led by the server: too early")
                cells["led by server"] = f"{ended.at - silent_since:.2f} s"
            else:
                cells["led by server"] = "-"
            ended = control.wait_for("ended", max(0, silent_since + BOUND + SLACK - time.monotonic()))
            check(ended is None, f"found dead without a heartbeat: {ended}: the check proves nothing")
            cells["no heartbeat"] = "not found"
        resumed_at = time.monotonic()
        site.server.resume()
        opened = client.wait_for("opened", of=2)
        check(opened, f"it did not come back: {client.stderr.text()}")
        check(client.echo("again"), "no echo after the return")
        cells["back after a stop"] = f"{opened.at - resumed_at:.2f} s"
        finish(site, client, 2)


def come_back(kind, cells, _):
    """The server is killed, and another takes its port."""
    with kind.site() as site, Client(site, *HEARTBEAT) as client:
        check(client.echo("héllo"), f"no echo: {client.stderr.text()}")
        site.kill()
        ended = client.wait_for("ended")
        check(ended, "it did not notice that the server was gone")
        check(ended.rest.startswith(("disconnected without a Close frame", "socket error")), f"reported as {ended.rest}")
        reason = client.failed_attempt()
        check(reason, "it never tried to come back")
        check(client.child.poll() is None, f"it gave up: {reason}")
        site.start()
        back_at = time.monotonic()
        opened = client.wait_for("opened", of=2)
        check(opened, f"it did not come back: {client.stderr.text()}")
        check(client.echo("again"), "no echo after the return")
        cells["back after a kill"] = f"{opened.at - back_at:.2f} s"
        finish(site, client, 2)


SCENARIOS = [converse, listen_only, find_stopped, come_back, carry_binary]


def examine(kind, scenario, cells, probe):
    """What is wrong, or nothing."""
    try:
        scenario(kind, cells, probe)
    except heartwire.Wrong as wrong:
        return f"{kind.name}, {scenario.__name__}: {wrong}"
    except Exception:  # A defect of this program, which is to be told with the rest.
        return f"{kind.name}, {scenario.__name__}: {traceback.format_exc()}"
