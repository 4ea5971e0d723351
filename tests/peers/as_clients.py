"""What each peer goes through as a client of the program: messages, silence, an end by either side, and death."""

import dataclasses
import time
import traceback

import heartwire

# In seconds.
INTERVAL, TIMEOUT, MAX_MISSED = 0.5, 0.5, 3
HEARTBEAT = ["--ping-interval", "500ms", "--pong-timeout", "500ms", "--max-missed", str(MAX_MISSED)]
NO_HEARTBEAT = ["--ping-interval", "off"]
BOUND = INTERVAL + MAX_MISSED * TIMEOUT
# A peer is stopped at any point of the interval; a Ping that it did not answer may have been under way already.
EARLIEST = MAX_MISSED * TIMEOUT - TIMEOUT
# How late a loaded machine may be before we call it a fault.
SLACK = 2.0
IDLE = 3.0

# Commands and their columns.
MESSAGES = {"text": "text", "binary": "binary", "fragmented": "fragmented", "large": "1 MiB"}
COLUMNS = [*MESSAGES.values(), "Pings answered", "closes", "closed by us", "found dead"]
COLUMNS += ["no heartbeat", "false deaths", "reports"]


@dataclasses.dataclass
class Row:
    peer: object
    # What the server has, if this is over TLS.
    made: object = None
    # Of the server, besides.
    options: list = dataclasses.field(default_factory=list)
    version: str = ""
    cells: dict = dataclasses.field(default_factory=dict)
    # Connections that died though their peer lived, and closures for each opening, per server.
    false_deaths: int = 0
    reports: list = dataclasses.field(default_factory=list)
    # What was reported of the connection with all the messages.
    talked: str = ""
    failure: str = ""

    @property
    def name(self):
        return f"{self.peer.name}, TLS" if self.made else self.peer.name

    def server(self, *options):
        """A server for this peer, which knows what its clients have to trust."""
        server = heartwire.Server(*options, *self.options, *(self.made.serve if self.made else []))
        server.trust = self.made.client_environment if self.made else {}
        return server


def check(condition, message):
    if not condition:
        raise heartwire.Wrong(message)


def talk(peer, row):
    """Echoes, a long silence that only Pongs bridge, and a close by the peer."""
    with row.server(*HEARTBEAT, "--liveness", "pong-only") as server, peer.start(server) as client:
        row.version = client.version
        for command, column in MESSAGES.items():
            row.cells[column] = "yes" if client.echo(command) else "no way to"
        if peer.answers:
            ended = server.wait_for("ended", IDLE)
            row.false_deaths += ended is not None
            check(ended is None, f"it was idle, and closed: {ended}")
            check(client.echo("text"), "no echo after the silence")
        client.tell("close")
        client.closed(1000)
        report = server.wait_for("ended")
        check(report and report.rest.startswith("closed by peer with 1000"), f"it closed, but: {report}")
        row.talked = report.rest
        if peer.answers:
            check("last round trip" in report.rest, f"no Pong was seen: {report.rest}")
            row.cells["Pings answered"] = "yes"
        else:
            row.cells["Pings answered"] = "never"
        row.cells["closes"] = "yes"
        count_reports(server, row)


def close_from_here(peer, row):
    """The server ends, and the peer hears why."""
    with row.server(*HEARTBEAT) as server, peer.start(server) as client:
        client.echo("text")
        client.tell("await-close")
        status, took = server.shut_down()
        client.closed(1001)
        report = server.wait_for("ended")
        row.false_deaths += "heartbeat lost" in server.stderr.text()
        check(status == 0, f"the server ended with status {status}")
        check(report and report.rest.startswith("server shutdown"), f"the server ended, but reported {report}")
        check(took < 2.0, f"the closing handshake took {took:.1f} s: the peer did not answer")
        row.cells["closed by us"] = "yes"
        count_reports(server, row)


def find_dead(peer, row):
    """The peer is stopped, or is one that answers nothing, and is found."""
    with row.server(*HEARTBEAT) as server, peer.start(server) as client:
        took = silence_and_find(server, client, peer)
        check(took is not None, f"not found dead within {BOUND + SLACK} s")
        if not peer.answers:
            # Its TCP lives, so it hears of it.
            client.closed(1011)
        row.cells["found dead"] = f"{took:.2f} s"
        count_reports(server, row)


def stay_unfound(peer, row):
    """The negative control: without a heartbeat the same check finds nothing."""
    with row.server(*NO_HEARTBEAT) as server, peer.start(server) as client:
        took = silence_and_find(server, client, peer)
        check(took is None, f"found dead without a heartbeat, after {took} s: the check proves nothing")
        row.cells["no heartbeat"] = "not found"


def silence_and_find(server, client, peer):
    """Seconds from the silence to the report that this peer's heartbeat was lost, its socket being gone then; `None` if
    there was nothing of this in time."""
    client.echo("text")
    opened = server.wait_for("opened")
    heard_until = time.monotonic()
    if peer.answers:
        client.stop()
    silent_since = time.monotonic()
    report = server.wait_for("ended", BOUND + SLACK, of=opened.id)
    state, is_open = server.holds(opened.peer)
    if report is None:
        check(is_open and state == heartwire.ESTABLISHED, "no report, and yet the socket is gone")
        return None
    check(report.rest.startswith(f"heartbeat lost ({MAX_MISSED} Pongs missed)"), f"another cause: {report.rest}")
    check(report.at - heard_until >= EARLIEST, f"found dead too early, after {report.at - heard_until:.2f} s")
    check(not is_open and state != heartwire.ESTABLISHED, f"reported, but the socket is still there ({state})")
    return report.at - silent_since


def count_reports(server, row):
    """To be called when the last connection has been closed."""
    server.shut_down()
    opened, ended = ([entry.id for entry in server.log(what)] for what in ("opened", "ended"))
    row.reports.append(len(ended) / len(opened))
    check(sorted(opened) == sorted(ended), f"opened {opened}, but reported ended {ended}")


def examine(peer, made):
    row = Row(peer, made)
    scenarios = [talk, close_from_here, find_dead, stay_unfound]
    if made:
        # It takes its time, and has shown already that the check can fail.
        scenarios.remove(stay_unfound)
        row.cells["no heartbeat"] = "-"
    for scenario in scenarios:
        try:
            scenario(peer, row)
        except heartwire.Wrong as wrong:
            row.failure += f"{scenario.__name__}: {wrong}\n"
        except Exception:  # A defect of this program, which is to be told with the rest.
            row.failure += f"{scenario.__name__}: {traceback.format_exc()}\n"
    row.cells["false deaths"] = str(row.false_deaths)
    row.cells["reports"] = "1 each" if row.reports and set(row.reports) == {1} else str(row.reports)
    print(f"{row.name} {row.version}: {'FAILED' if row.failure else 'passed'}", flush=True)
    return row
