"""Handlers that are away: asleep, polling, busy; and peers that die, or live, meanwhile."""

import time

from outcome import DEFAULT, LONG, QUICK, QUICK_PONGS, SLACK, Control, Row, check, found, in_parallel, lives
from outcome import must_fail, never_found, scenario
from raw import Mute, Peer
from sites import Library, Program, no_chromium, no_python, no_ws, python

ASLEEP = f"/sleep/{round(LONG * 1000)}"
# What a connection of the page that speaks to the mute server is told: as the program tells it.
SETTINGS = b'heartwire {"connection":1,"leader":"server","interval":1000,"timeout":1000,"max_missed":2}'


@scenario("asleep, its peer is stopped", missing=no_python)
def stopped_while_asleep():
    """A Python client is stopped (SIGSTOP) in the first second of a handler that sleeps for ten times the bound."""

    def stop(beat):
        with Program(beat) as server, python("sync", "client", server.url + ASLEEP, "off") as client:
            client.expect_open(server)
            time.sleep(0.5)
            client.stop()
            stopped_at = time.time()
            if beat == "off":
                why = "without a heartbeat the same check finds nothing"
                return never_found("asleep, its peer is stopped, no heartbeat", server, 1, stopped_at, QUICK, why)
            why = "the stand-in pings on schedule and judges; its handler still sleeps"
            row = found("asleep, its peer is stopped", server, 1, stopped_at, beat, why)
            check(server.count("back") == 0, "its handler was back already")
            return row

    def stop_server(beat):
        with python("asyncio", "server", "off") as server:
            url = server.expect("listening on (wss?://.*)")[1]
            with Program(beat, url=url, handler=ASLEEP) as client:
                client.expect("opened")
                time.sleep(0.5)
                server.stop()
                stopped_at = time.time()
                why = "the same in a client"
                return found("a client's handler asleep, its server is stopped", client, 1, stopped_at, beat, why)

    return in_parallel(lambda: stop(QUICK), lambda: stop(QUICK_PONGS), lambda: stop_server(QUICK), lambda: stop("off"))


def wait_for_echo(name, peer, server, why, prefix=""):
    """A peer that beats by itself, and whose message waits for the handler, has to be there when that wakes up."""
    peer.expect_open(server, prefix)
    peer.expect(f"{prefix}(echo|closed.*|terminated)", LONG + 10)
    check(peer.heard(f"{prefix}echo", 0), f"it gave up: {peer.stdout.text()}")
    ended = server.ended(r"\d+", time.time() + 5)
    check(ended and ended.what.startswith("closed by peer with 1000"), f"it closed, but: {ended}")
    check(server.count("missed") == 0, "it answered, and missed Pongs were counted")
    return Row(name, QUICK, "alive, on both sides", "-", f"{QUICK.bound:.1f} s", why)


def give_up(name, peer, ending, why, prefix=""):
    """The control: the same peer at a server that answers nothing gives up."""
    peer.expect_open(prefix=prefix)
    began = time.time()
    said = peer.expect(f"{prefix}({ending})", 15)[1]
    return Control(name, "-", f"given up: {said}", f"{time.time() - began:.1f} s", "-", why)


def live_library(name, command, ending):
    def at_a_sleeper():
        with Program(QUICK) as server, command(server.url + ASLEEP) as peer:
            why = "the stand-in answers its Pings; the handler then finds its message"
            return wait_for_echo(f"asleep, {name}", peer, server, why)

    def at_a_mute():
        with Mute() as mute, command(mute.url) as peer:
            return give_up(f"{name}, Pings unanswered", peer, ending, "it does give up where nobody answers")

    return in_parallel(at_a_sleeper, at_a_mute)


@scenario("asleep, Python sync pings", missing=no_python)
def live_python_sync():
    command = lambda url: python("sync", "client", url, "1")
    return live_library("Python sync pings (1 s / 1 s)", command, "closed 1011.*")


@scenario("asleep, Python asyncio pings", missing=no_python)
def live_python_asyncio():
    command = lambda url: python("asyncio", "client", url, "1")
    return live_library("Python asyncio pings (1 s / 1 s)", command, "closed 1011.*")


@scenario("asleep, Node ws pings", missing=no_ws)
def live_ws():
    return live_library("Node ws pings (1 s)", lambda url: Library("node", "ws.js", url), "terminated")


@scenario("asleep, a page beats", missing=no_chromium, over_tls=False)
def live_page():
    with Program(QUICK) as server, Mute(SETTINGS) as mute:
        with Library("node", "page.js", server.url.replace("ws:", "http:"), server.url + ASLEEP, mute.url) as page:
            whys = "the stand-in answers its texts `ping`", "it does give up where nobody answers"
            living = lambda: wait_for_echo("asleep, a page with heartwire.js beats", page, server, whys[0], "0 ")
            dying = lambda: give_up("a page, beats unanswered", page, "closed 1006.*", whys[1], "1 ")
            return in_parallel(living, dying)


@scenario("asleep, our own Client")
def live_client():
    """Both ends are ours: one handler sleeps, the other end demands Pongs."""

    def judged_client(client_beat, client_handler, server_beat, path, name, why):
        with Program(server_beat) as server:
            with Program(client_beat, url=server.url + path, handler=client_handler) as client:
                until = server.expect("opened").time + LONG - 1
                lives(name, server, 1, server_beat, until, why)
                return lives(name, client, 1, client_beat if server_beat == QUICK else server_beat, time.time(), why)

    names = "asleep, our Client pings (PongOnly)", "our Client's handler asleep, the server pings (PongOnly)"
    why = "the stand-in answers its Pings"
    return in_parallel(
        lambda: judged_client(QUICK_PONGS, "/echo", QUICK, ASLEEP, names[0], why),
        lambda: judged_client(QUICK, ASLEEP, QUICK_PONGS, "/echo", names[1], why + ", in a client too"),
    )


@scenario("our Client asleep, a Python server pings", missing=no_python)
def live_client_of_python():
    with python("asyncio", "server", "1") as server:
        url = server.expect("listening on (wss?://.*)")[1]
        with Program(QUICK, url=url, handler=ASLEEP) as client:
            until = client.expect("opened").time + LONG - 1
            why = "the same for a server out of another library (1 s / 1 s)"
            row = lives("our Client's handler asleep, a Python server pings", client, 1, QUICK, until, why)
            check(not server.heard("closed.*", 0), f"the server gave up: {server.stdout.text()}")
            return row


def poll(beat, until_death, name):
    """A handler that looks for messages without waiting, every 3 s: one peer dies, another lives."""
    with Program(beat) as server:
        with Peer(server.address, "/poll/3000") as victim, Peer(server.address, "/poll/3000") as other:
            # Each was accepted before the next connected.
            victim.start(), other.start()
            time.sleep(until_death)
            last = victim.die()
            why = "deadlines are kept between its looks"
            row = found(f"{name}, its peer dies", server, 1, last, beat, why)
            until = max(time.time(), last + beat.bound + SLACK)
            why = "its Pongs are read in time"
            return [row, lives(f"{name}, its peer lives", server, 2, beat, until, why, [other])]


@scenario("polling, default policy", over_tls=False)
def poll_by_default():
    return poll(DEFAULT, 5.0, "polling every 3 s")


@scenario("polling, quick policy")
def poll_quickly():
    return poll(QUICK, 4.0, "polling every 3 s")


@scenario("a living peer, and the check that it lives")
def silent_is_not_alive():
    """The control of every row that says "alive": the same check of a peer that says nothing has to fail."""
    with Program(QUICK) as server, Peer(server.address, ASLEEP, answers=False) as peer:
        peer.start()
        why = "the check that a peer lives fails for one that answers nothing"
        until = time.time() + QUICK.bound + SLACK
        row = Control("asleep, its peer reads and answers nothing", QUICK, "not alive", why=why)
        return must_fail(lambda: lives("", server, 1, QUICK, until, ""), row)
