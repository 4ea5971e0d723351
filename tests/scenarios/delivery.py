"""Confirmed delivery: `Sender::confirm` says that the peer has read everything, no sooner, and only if it is so."""

import time

from outcome import Control, Row, check, in_parallel, must_fail, scenario
from raw import Peer
from sites import Program

# More than both kernels take, so that data waits with us.
MUCH = 12 << 20


def check_read(peer, size, at):
    """The peer had read so much by then."""
    read_at = peer.has_read(size)
    check(read_at is not None and read_at <= at, f"{peer.reads_at[-1][1]} bytes of {size} were read")


@scenario("confirmed delivery")
def confirm():
    return in_parallel(
        lambda: confirm_to_reader("/echo", "in recv"),
        lambda: confirm_to_reader("/sleep/60000", "asleep"),
        confirm_to_stopped,
        confirm_while_queued,
    )


def confirm_to_reader(path, how):
    with Program("off") as server, Peer(server.address, path) as peer:
        peer.start()
        server.expect("begins")
        # Until a handler that is away is stood in for.
        time.sleep(0.5)
        server.tell("deliver", 1, 100_000, 5_000)
        sent, confirmed = server.expect("sent"), server.expect("confirmed")
        check_read(peer, 100_000, confirmed.time)
        took = f"{confirmed.time - sent.time:.3f} s"
        name = f"confirm: the peer reads, its handler {how}"
        why = "the Pong of a Ping behind the message; after `send` returned"
        return Row(name, "off", "confirmed", took, "5.0 s", why)


def confirm_to_stopped():
    with Program("off") as server, Peer(server.address) as peer:
        server.expect("begins")
        server.tell("deliver", 1, 100_000, 2_000)
        sent = server.expect("sent")
        end = server.expect("unconfirmed")
        check("time" in end.what, f"another reason: {end.what}")
        took = end.time - sent.time
        check(1.95 <= took <= 4.0, f"that took {took:.2f} s")
        check(peer.reads_at[-1][1] == 0, "it read something")
        why = "its kernel took everything, which is no delivery"
        return Row("confirm: the peer is dead", "off", f"unconfirmed: {end.what}", f"{took:.2f} s", "2.0 s", why)


def confirm_while_queued():
    with Program("off") as server, Peer(server.address, reads=False) as peer:
        peer.start()
        server.expect("begins")
        server.tell("deliver", 1, MUCH, 30_000)
        sent = server.expect("sent")
        early = server.heard("confirmed", until=sent.time + 3)
        check(early is None, f"confirmed, and nothing was read: sent {sent}, confirmed {early}")
        peer.reads = True
        confirmed = server.expect("confirmed")
        check_read(peer, MUCH, confirmed.time)
        took = f"{confirmed.time - peer.has_read(MUCH):.3f} s"
        name = f"confirm: {MUCH >> 20} MiB wait for a peer that pauses"
        why = "not while data waits; counted from when the peer had read all"
        row = Row(name, "off", "confirmed", took, "30 s", why)
        why = "when `send` returned the peer had not read it: the check would tell"
        control = Control("`send` has returned", "off", "not delivered", "-", "-", why)
        return [row, must_fail(lambda: check_read(peer, MUCH, sent.time), control)]
