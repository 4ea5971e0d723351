"""What is checked of each case: what was agreed, each message and its way over the wire, and the heartbeat."""

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import time

import as_clients
import as_servers
import cases
import heartwire
import peer
from heartwire import CEILING, Wrong
from tap import PING, PONG, Tap

HERE = pathlib.Path(__file__).resolve().parent

# From how many bytes on heartwire compresses: each message by itself, and with those before it.
THRESHOLD, THRESHOLD_WITH_CONTEXT = 1024, 64
# From how many bytes on everybody does, also the first of three fragments.
SURE = 5000
# So short that Pings meet messages.
QUICK = ["--ping-interval", "50ms", "--pong-timeout", "10s"]
# In seconds: how long the handlers of program/src/main.rs are away, and how often a page may beat meanwhile.
AWAY, BEATS = 4.0, 3
# A busy machine may note a line so long after it was printed. An echo before the absence would come longer before it.
NOTED_LATE = AWAY / 2
# A text of the heartbeat, as it comes; "hello", that is a message, is as short.
SHORT = 20


def check(condition, message):
    if not condition:
        raise Wrong(message)


# Messages. ############################################################################################################


def exchange(case, cells, site, falsifies=False):
    """All messages, there and back."""
    (exchange_with_server if case.is_server else exchange_with_client)(case, cells, site, falsifies)


def exchange_with_client(case, cells, site, falsifies):
    """The peer sends all files, in one piece and then in fragments, and heartwire sends them back."""
    options = [*QUICK, "--deflate", case.deflate, *(case.made.serve if case.made else [])]
    with heartwire.Server(*options) as server, Tap(server.address, case.made, falsifies) as tap:
        server.url, server.trust = tap.url, case.made.client_environment if case.made else {}
        with case.other.start(server) as client:
            cells["version"] = client.version
            sent = []
            for command in ["file", "parts"][: 1 + case.cuts]:
                for path in site.paths:
                    check(client.echo(f"{command} {path}"), f"it cannot send {command} {path}")
                    sent.append(path)
            if case.pauses:
                client.echo(f"slowly {site.slow}")
                sent.append(site.slow)
            wait_for_pongs(tap, server)
            client.tell("close")
            client.closed(1000)
            ended = server.wait_for("ended")
            check(ended and ended.rest.startswith("closed by peer with 1000"), f"it closed, but: {ended}")
        check(not server.log("missed"), f"Pongs were missed: {server.log('missed')}")
        tap.check()
        pair = tap.connection()
        judge(case, cells, sent, pair, ours=pair.down, theirs=pair.up)
        slow = [message for message in pair.up.messages() if message.between]
        if case.pauses:
            check(slow and slow[-1].fragments >= 3, "no Pong came between the fragments of a message")
            cells["Pongs within a message"] = str(slow[-1].between)


def exchange_with_server(case, cells, site, falsifies):
    """heartwire sends all files, and the server sends them back, in fragments if it is to cut them."""
    with case.other.site() as place, Tap(place.url.split("/")[2], case.made, falsifies) as tap:
        cells["version"] = place.server.version
        trust = [place.ca] if place.ca else []
        url = tap.url + place.url.split("/", 3)[3]
        command = [site.program, "client", url, site.folder, case.deflate, *trust]
        done = subprocess.run(command, capture_output=True, text=True, timeout=4 * CEILING)
        said = done.stdout.splitlines()
        # heartwire names them in an order of its own.
        told = said[0].removeprefix("extensions ") if said else None
        check(same_parameters(told, case.header), f"agreed to {told!r}, not {case.header!r}\n{done.stderr}")
        expected = [f"ok {path.name}" for path in site.paths] + ["ok uncompressed"]
        wrong = [line for line in expected if line not in said]
        check(said[1:] == expected, f"came back otherwise, or not at all: {wrong}\n{done.stderr}")
        check(done.returncode == 0 and place.server.has_closed(1000), f"it was not closed with 1000\n{done.stderr}")
        tap.check()
        pair = tap.connection()
        judge(case, cells, site.paths + site.paths[-1:], pair, ours=pair.up, theirs=pair.down)


def same_parameters(one, other):
    return one is not None and sorted(one.split("; ")) == sorted(other.split("; "))


def wait_for_pongs(tap, server):
    """The exchange may have been shorter than an interval."""
    deadline = time.monotonic() + CEILING
    while tap.connection().up.count(PONG) < 3:
        check(time.monotonic() < deadline, f"no Pongs came: {server.stderr.text()}")
        time.sleep(0.02)


def judge(case, cells, sent, pair, ours, theirs):
    """What was on the wire, against what was agreed."""
    answer = pair.down.extensions()
    check(answer == case.header, f"agreed to {answer!r}, not {case.header!r}; offered was {pair.up.extensions()!r}")
    from_us, from_peer = ours.messages(), theirs.messages()
    check(len(from_us) == len(from_peer) == len(sent), f"{len(sent)} messages, {len(from_us)} of ours")
    if case.agreed is None:
        compressed = [message for message in from_us + from_peer if message.is_compressed]
        check(not compressed, f"compressed, though that was not agreed: {compressed[:3]}")
    else:
        last = len(sent) - 1 if case.is_server else len(sent)
        for path, mine, others in zip(sent[:last], from_us, from_peer):
            judge_pair(case, path, mine, others)
        check(not case.is_server or not from_us[last].is_compressed, "compressed, though its sender was not to")
    if case.cuts:
        check(any(message.fragments >= 3 for message in from_peer), "nothing came in fragments")
    pings, pongs = ours.count(PING), theirs.count(PONG)
    check(pings and pongs, f"{pings} Pings and {pongs} Pongs")
    cells["agreed"] = "; ".join(case.agreed) or "(no parameters)" if case.agreed is not None else "declined"
    cells["messages"] = str(len(sent))
    cells["in fragments"] = str(sum(message.fragments > 1 for message in from_peer))
    size = sum(path.stat().st_size for path in sent)
    for column, messages in (("from heartwire", from_us), ("from peer", from_peer)):
        cells[column] = f"{100 * sum(message.length for message in messages) / size:.0f} %"
    cells["Pongs"] = str(pongs)


def judge_pair(case, path, mine, others):
    """The same message from heartwire and from its peer."""
    size, is_text = path.stat().st_size, path.suffix == ".txt"
    if size < (THRESHOLD_WITH_CONTEXT if case.our_takeover else THRESHOLD):
        check(not mine.is_compressed, f"{path.name} is short, and was compressed: {mine}")
    elif is_text:
        check(mine.is_compressed and mine.length < size, f"{path.name} was not compressed: {mine}")
    elif not case.our_takeover:
        check(not mine.is_compressed, f"{path.name} is noise, and was compressed: {mine}")
    if is_text and size >= SURE:
        check(others.is_compressed and others.length < size, f"the peer did not compress {path.name}: {others}")


# The heartbeat. #######################################################################################################


def beat(case, cells, site):
    """What the stages `peers` and `servers` do, with compression."""
    (beat_with_server if case.is_server else beat_with_client)(case, cells, site)


def beat_with_client(case, cells, _):
    row = as_clients.Row(case.other, case.made, options=["--deflate", case.deflate])
    as_clients.talk(case.other, row)
    # 1 MiB of them is a pattern that repeats itself.
    wire = re.findall(r"([\d.]+) (\w+) on the wire", row.talked)
    check(len(wire) == 2 and all(unit in ("B", "KiB", "kB", "KB") for _, unit in wire), f"not compressed: {row.talked}")
    as_clients.close_from_here(case.other, row)
    as_clients.find_dead(case.other, row)
    check(row.false_deaths == 0 and set(row.reports) == {1}, f"{row.false_deaths} false deaths, reports {row.reports}")
    cells["silence"] = "lives"
    cells["closes"] = "both"
    cells["found dead"] = row.cells["found dead"]


def beat_with_server(case, cells, site):
    found = {}
    as_servers.converse(case.other, found, site.probe)
    as_servers.find_stopped(case.other, found, site.probe)
    cells["silence"] = "lives"
    cells["closes"] = "both"
    cells["found dead"] = found["found dead"]


def is_found_without_heartbeat(case):
    """The control: a stopped peer, and a server that sends no Pings."""
    row = as_clients.Row(case.other, None, options=["--deflate", case.deflate])
    as_clients.stay_unfound(case.other, row)


# Handlers that are away. ##############################################################################################


class Away(heartwire.Process):
    """The server whose handlers are away."""

    def __init__(self, site, deflate):
        super().__init__([site.program, "away", deflate])
        found = self.stdout.find(lambda line: re.search(r"ws://(\S+)", line.text), CEILING)
        check(found, f"the server did not start: {self.stderr.text()}")
        self.address = found[1]

    def back_at(self):
        line = self.stdout.find(lambda line: line if line.text == "back" else None, CEILING)
        check(line, f"no handler came back: {self.stderr.text()}")
        return line.at


def page_beats(deflate, agreed, site):
    """A page's heartbeat in text, which Chromium compresses, is answered while the handler is away. Tells what came."""
    environment = {**os.environ, "NODE_PATH": cases.NODE_MODULES, "CHROMIUM": peer.chromium()}
    with Away(site, deflate) as server, Tap(server.address) as tap:
        command = ["node", "page.js", f"http://{tap.address}/"]
        with heartwire.Process(command, env=environment, cwd=HERE) as browser:
            back_at = server.back_at()
            echoes = [find_line(browser, "echo", number) for number in (1, 2)]
            beats = [line for line in list(browser.stdout.lines) if line.text == "beat" and line.at < back_at]
            said = f"{browser.stdout.text()}\n{browser.stderr.text()}"
            check(all(echoes), f"the page did not get its messages back: {said}")
            check(len(beats) >= BEATS, f"{len(beats)} heartbeats were answered while the handler was away")
            check(echoes[0].at >= back_at - NOTED_LATE, "the handler was not away: the check proves nothing")
            check("closed" not in said, f"the page closed: {said}")
        pair = tap.connection()
        check(pair.down.extensions() == agreed, f"agreed to {pair.down.extensions()!r}, not {agreed!r}")
        asked = [message for message in pair.up.messages() if message.length < SHORT]
        compressed = sum(message.is_compressed for message in asked)
        check(compressed >= BEATS, f"Chromium compressed {compressed} of its short texts: the check proves nothing")
        check(pair.up.count(PONG) >= BEATS, f"{pair.up.count(PONG)} Pings of ours were answered")
    return f"{len(beats)} beats answered in {AWAY:.0f} s, {compressed} of {len(asked)} short texts came compressed"


def messages_wait(deflate, agreed, site):
    """Compressed messages for a handler that is away are there when it is back, and meanwhile the heart beats."""
    environment = {"DEFLATE": json.dumps({}), **cases.ASYNCIO.environment}
    peer_kind = dataclasses.replace(cases.ASYNCIO, environment=environment)
    with Away(site, deflate) as server, Tap(server.address) as tap:
        server.url, server.trust = tap.url, {}
        with peer_kind.start(server) as client:
            # Its echo is awaited, so it takes as long as the handler is away.
            check(client.echo(f"parts {site.slow}"), "no echo")
            answered_at = time.monotonic()
            check(answered_at >= server.back_at() - NOTED_LATE, "the handler was not away: the check proves nothing")
            pongs = tap.connection().down.count(PONG)
            for path in site.paths:
                check(client.echo(f"file {path}"), f"no echo of {path.name}")
        pair = tap.connection()
        check(pair.down.extensions() == agreed, f"agreed to {pair.down.extensions()!r}, not {agreed!r}")
        check(pair.up.messages()[0].is_compressed, "the first message was not compressed")
        check(pongs >= BEATS, f"{pongs} Pings of the peer were answered while the handler was away")
    return f"{pongs} Pings of the peer answered in {AWAY:.0f} s, then all messages came back"


def find_line(process, text, number):
    """The first line with this text, or the second, and so on."""
    found = []

    def wanted(line):
        if line.text == text:
            found.append(line)
        return line if line.text == text and len(found) == number else None

    return process.stdout.find(wanted, CEILING)
