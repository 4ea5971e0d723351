"""Peers that send more than their handler takes, and peers that take what they are sent slowly, or not at all."""

import time

from outcome import DEFAULT, QUICK, QUICK_PONGS, SLACK, Beat, Control, Row, check, found, lives, must_fail
from outcome import in_parallel, scenario
from raw import BINARY, Flooder, Mute, Peer, frame
from sites import Program, no_python, python

# So long the handler sleeps that is flooded.
AWAY = 4 * QUICK.bound
# A flooding peer without Pongs is to be found within this, whatever its handler does.
FLOODED = 30.0
KIB = frame(BINARY, bytes(1024))


@scenario("a flood while the handler sleeps, then death")
def flood_then_die():
    """The named exception: once the read-ahead is full, silence proves nothing, for an answer may have had no room."""
    name = "floods while the handler sleeps, then dies"
    with Program(QUICK) as server, Peer(server.address, f"/sleep/{round(AWAY * 1000)}", reads=False) as peer:
        peer.flood()
        last = peer.last_sent
        back = server.expect("back", until=last + AWAY + SLACK)
        check(server.count("ended") == 0, "concluded before its handler was back")
        check(back.time - last > QUICK.bound, "the handler was back too soon for this to prove anything")
        waited = Row(f"{name}: until the handler returns", QUICK, "nothing (named exception)")
        waited.when = f"{back.time - last:.2f} s"
        waited.why = "reading has stopped, so there may be no room for its Pongs"
        why = "read by its handler, it is judged again; counted from the handler's return"
        causes = ("heartbeat lost", "write stalled")
        row = found(f"{name}: from then on", server, 1, back.time, QUICK, why, causes, earliest=0.0)
        return [waited, row]


@scenario("a flood while the handler sleeps, and life")
def flood_and_live():
    name = "floods while the handler sleeps, and lives"
    with Program(QUICK) as server, Peer(server.address, f"/sleep/{round(AWAY * 1000)}") as peer:
        peer.flood()
        peer.start()
        back = server.expect("back", until=time.time() + AWAY + SLACK)
        return lives(name, server, 1, QUICK, back.time + 2 * QUICK.bound, "it answers as soon as there is room", [peer])


@scenario("a backlog of 128 KiB, taken at 1 KB/s", over_tls=False)
def backlog():
    def die(read_ahead, why, bound):
        with Program(QUICK, f"read-ahead={read_ahead}") as server, Peer(server.address, "/work/1000") as peer:
            for _ in range(128):
                peer.send(KIB)
            name = f"128 KiB taken at 1 KB/s, read-ahead {read_ahead >> 10} KiB, its peer is dead"
            return found(name, server, 1, peer.last_sent, QUICK, why, bound=bound)

    # Of 128 messages with 128 bytes each for their keep, so many do not fit, and one is taken in a second.
    left = 128 - 65536 // (1024 + 128)
    why = f"it may lack room until the handler took {left} messages; then silence counts"
    why_at_once = "all of it is read ahead, so silence counts at once; an old backlog is no news"
    return in_parallel(
        lambda: die(65536, why, left + QUICK.bound),
        lambda: die(262144, why_at_once, QUICK.bound),
    )


def read_slowly(beat, rate, seconds, path, how):
    """A peer that reads at a rate what another end sends without pause: one talks, another is silent but for Pongs."""

    def talk():
        name = f"reads {rate / 1000:g} kB/s and talks, {how}"
        with Program(beat) as server, Peer(server.address, path, rate=rate, talk=0.1, mss=1448) as peer:
            peer.start()
            row = lives(name, server, 1, beat, time.time() + seconds, "its bytes arrive: slow is not dead", [peer])
            row.when = f"{seconds:g} s"
            return row

    def keep_silent():
        name = f"reads {rate / 1000:g} kB/s and says nothing, {how}"
        with Program(beat) as server, Peer(server.address, path, rate=rate, mss=1448) as peer:
            opened = peer.last_sent
            peer.start()
            ended = server.ended(1, opened + seconds)
            last, pings = peer.last_sent, peer.pings
            if ended is None:
                why = f"it took something in time, always; it answered {pings} Pings"
                return Row(name, beat, "alive", f"{seconds:g} s", f"{beat.bound:.1f} s", why)
            took = ended.time - last
            check(ended.what.startswith(("write stalled", "heartbeat lost")), f"{name}: another cause: {ended.what}")
            check(took >= beat.earliest - 0.05, f"{name}: found after {took:.2f} s")
            why = f"no byte of it within max_missed x timeout, its Pings behind data; {peer.reads_at[-1][1]} bytes read"
            return Row(name, beat, f"dead: {ended.what}", f"{took:.2f} s", f"{beat.bound:.1f} s", why)

    return [talk, keep_silent]


@scenario("slow readers, 20 kB/s")
def slow_readers():
    beat = Beat(5.0, 2.0, 2)
    in_handler = read_slowly(beat, 20_000, 30, "/feed/0/1024", "sent to by its handler")
    by_another = read_slowly(beat, 20_000, 30, "/push/0/1024", "sent to by a thread")
    return in_parallel(*in_handler, *by_another)


@scenario("slow readers, 2 kB/s, default policy", over_tls=False)
def very_slow_readers():
    return in_parallel(*read_slowly(DEFAULT, 2_000, 70, "/feed/0/1024", "sent to by its handler"))


@scenario("a sink")
def sink():
    """It takes everything and answers nothing."""

    def pour(beat, path, name):
        with Program(beat) as server, Peer(server.address, path, answers=False) as peer:
            peer.start()
            return found(name, server, 1, peer.last_sent, beat, "that its kernel takes what we send proves nothing")

    calls = [
        lambda beat=beat, path=path, how=how: pour(beat, path, f"takes everything, answers nothing, {how}")
        for beat in (QUICK, QUICK_PONGS)
        for path, how in (("/feed/5/1024", "sent to by its handler"), ("/push/5/1024", "sent to by a thread"))
    ]
    return in_parallel(*calls)


@scenario("a pause in reading")
def pause_reading():
    """60 kB were sent to it, and it reads nothing for long while it sends every 50 ms."""
    beat = Beat(1.0, 0.3, 1)
    with Program(beat) as server:
        with Peer(server.address, "/give/60000", reads=False, talk=0.05, mss=1448, buffer=4096) as peer:
            peer.start()
            until = time.time() + 12
            why = "bytes of it arrive; that its window is shut is no sign of death"
            return lives("reads nothing, sends every 50 ms, 60 kB wait", server, 1, beat, until, why, [peer])


@scenario("PongOnly, and a flood without a Pong")
def flood_without_pongs():
    def flood(path, how, bound):
        """Its bytes do not count, so its silence is as old as the connection."""
        name = f"floods and never answers, its handler {how}"
        with Program(QUICK_PONGS) as server, Flooder(server.address, path) as peer:
            opened = peer.last_sent
            peer.start()
            why = "no Pong among what was looked through; counted from its opening"
            return found(name, server, 1, opened, QUICK_PONGS, why, bound=bound)

    return in_parallel(
        lambda: flood("/work/0", "takes what it can", QUICK_PONGS.bound),
        lambda: flood("/echo", "echoes what it can", QUICK_PONGS.bound),
        # No bound is promised here, as long as reading stops again and again; but found it has to be.
        lambda: flood("/work/50", "takes 20 messages/s", FLOODED),
    )


@scenario("a Python server that is too busy to read", missing=no_python)
def busy_server():
    def connect(kind, how):
        with python(kind, "server", "off", "busy") as server:
            url = server.expect("listening on (wss?://.*)")[1]
            # Its last bytes are its answer to the handshake, but for the Pongs of the first messages.
            with Program(QUICK, url=url, handler="/feed/20/256") as client:
                opened = client.expect("opened").time
                name = f"a Python server too busy to read ({how})"
                why = "its kernel takes all that we send, and nothing comes back"
                return found(name, client, 1, opened, QUICK, why)

    return in_parallel(
        lambda: connect("asyncio", "asyncio, its loop blocked"),
        lambda: connect("sync", "threads, 16 messages not taken"),
    )


@scenario("another heartbeat, for a peer that is dead already")
def late_heartbeat():
    """Switched on from another thread, it finds within its own bound a peer that died under a slower one."""

    def switch(path, how):
        with Program(DEFAULT) as server, Peer(server.address, path) as peer:
            server.expect("begins")
            time.sleep(0.5)
            server.tell("heartbeat", 1, QUICK.setting())
            name = f"Sender::set_heartbeat for a dead peer, its handler {how}"
            why = "counted from the change: a Ping leaves at once"
            return found(name, server, 1, time.time(), QUICK, why)

    def switch_client():
        with Mute() as mute, Program(DEFAULT, url=mute.url, handler="/echo") as client:
            client.expect("begins")
            time.sleep(0.5)
            client.tell("heartbeat", 1, QUICK.setting())
            return found("ClientHandle::set_heartbeat for a dead server", client, 1, time.time(), QUICK, "the same")

    def do_not_switch():
        with Program(DEFAULT) as server, Peer(server.address, "/echo") as peer:
            peer.die()
            row = Control("a dead peer, its heartbeat not changed", DEFAULT, "nothing", f"{QUICK.bound + SLACK:.1f} s")
            row.bound, row.why = f"{DEFAULT.bound:.1f} s", "with the slower heartbeat the same check finds nothing yet"
            return must_fail(lambda: found("", server, 1, peer.last_sent, QUICK, ""), row)

    return in_parallel(
        lambda: switch("/echo", "in recv"),
        lambda: switch("/sleep/60000", "asleep"),
        switch_client,
        do_not_switch,
    )
