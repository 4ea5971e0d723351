"""The scenarios: how peers vanish, and what must have come of it."""

import functools
import os
import time

from metronome import sleep_until
from policy import Policy
from trial import Unfit
from wires import Moment


def vanish(trial, how, kill=False):
    """The line is cut, and stays so; with `kill` the host is gone too, without a word that could get out."""
    trial.await_beats()
    trial.cut(how)
    if kill:
        trial.victims.end()
    trial.await_deaths()


def vanish_while_heard(trial):
    """Nothing of what we say arrives any more; whatever the victims say does, but they only ever answer."""
    trial.await_beats()
    trial.victims.ask("hush")
    trial.cut("from us")
    trial.await_deaths()
    now = time.time()
    trial.note_life(trial.victims.report(), now, now)


def vanish_with_full_buffers(trial, reading):
    """The server sends without end, and the victims read nothing, or little enough for the queue to be always full."""
    # The cut may come while the system still sends what it has taken, a Ping among it. Then the Pong is what is missed.
    trial.causes = ("write stalled", "heartbeat lost")
    trial.await_beats()
    trial.victims.ask("hush")
    last_read = time.time()
    trial.victims.ask(reading)
    trial.others.ask("produce", 32 * 1024, 0.01)
    trial.server.wait(lambda records: all(records[name].full for name in trial.victim_names), "the queues are full")
    if reading == "drip":
        # Slow, but alive: for longer than a stalled write may last.
        sleep_until(time.time() + trial.policy.floor + 1.0)
        killed = [name for name in trial.victim_names if trial.server.records[name].ended]
        trial.check(not killed, f"killed for being slow: {killed}")
        trial.row.remarks.append(f"had read slowly for {time.time() - last_read:.1f} s")
        # What the kernel took last, the victim took a moment before.
        last_read = time.time() - 0.5
    elif any(trial.server.records[name].ended for name in trial.victim_names):
        raise Unfit("a write had stalled before the line was cut")
    moment = trial.cut("both ways")
    for name in trial.victim_names:
        # The life of somebody who cannot answer is that he takes what we send.
        trial.surely_alive[name], trial.last_life[name] = last_read, moment.end
    trial.await_deaths()
    deaths = [said.text for name in trial.victim_names for said in trial.server.records[name].ended]
    stalled = sum("write stalled" in death for death in deaths)
    trial.check(2 * stalled > len(deaths), f"of {len(deaths)} only {stalled} had stalled")


def never_read(trial):
    """The line stays, and the victims' systems answer for them; but nobody reads there what the server sends."""
    trial.causes = ("write stalled",)
    trial.await_beats()
    trial.victims.ask("hush")
    last_read = time.time()
    trial.victims.ask("deaf")
    trial.others.ask("produce", 32 * 1024, 0.01)
    trial.server.wait(lambda records: all(records[name].full for name in trial.victim_names), "the queues are full")
    now = time.time()
    trial.moment = Moment(last_read, now)
    for name in trial.victim_names:
        # What their systems took last they took between the two.
        trial.surely_alive[name], trial.last_life[name] = last_read, now
    trial.await_deaths()


def vanish_while_the_handler_sleeps(trial, naps):
    """All handlers sleep, those of the others too. The stand-in judges meanwhile, and nobody's time runs differently."""
    trial.await_beats()
    trial.victims.ask("hush")
    asleep_until = time.time() + naps
    trial.others.ask("speak", round(1000 * naps))
    trial.victims.ask("speak", round(1000 * naps))
    trial.cut("both ways")
    if time.time() > asleep_until - 0.5:
        raise Unfit("the handlers were awake before the line was cut")
    trial.await_deaths()
    records = trial.server.records
    stalled = [name for name in trial.victim_names if len(records[name].stalled) == 1]
    trial.check(len(stalled) == trial.row.dead, f"only {len(stalled)} handlers were reported as stalled, once")


def come_back(trial, away, speaks):
    """The line is mended before the bound: twice, so that misses that are not forgotten would add up to a death."""
    for _ in range(2):
        # They talk up to the cut, so that they are silent for hardly longer than it lasts. But nothing may be lost that
        # they said: behind what TCP has to send again, the word that they are back would wait.
        trial.await_beats(murmur=0.2)
        trial.victims.ask("mute")
        moment = trial.cut("both ways")
        trial.victims.ask("unmute")
        before = {name: peer["messages"] for name, peer in trial.victims.report().items()}
        sleep_until(moment.begin + away)
        trial.wires.mend()
        if not speaks:
            # Their word comes by what TCP sends again, and only then do they say something.
            time.sleep(2.5)
        trial.victims.ask("speak", "back")
        silence = time.time() - min(trial.surely_alive.values())
        if speaks and silence > trial.policy.floor - 0.05:
            raise Unfit(f"a victim was silent for {silence:.2f} s")
        heard = lambda name, peer: peer["end"] or peer["messages"] > before[name]
        trial.victims.wait(heard, "the victims are served again")
    dead = [name for name in trial.victim_names if trial.server.records[name].ended]
    trial.check(not dead, f"found dead although they came back: {dead}")
    misses = [[said.text for said in trial.server.records[name].misses] for name in trial.victim_names]
    reset = [counts for counts in misses if counts.count(1) >= 2 and max(counts) < trial.policy.max_missed]
    trial.check(len(reset) == len(misses), f"misses not reported, or not forgotten: {misses}")
    restarts = sum(counts.count(1) for counts in misses)
    trial.row.remarks.append(f"{sum(map(len, misses))} misses, counted from 1 again {restarts} times")
    trial.row.alive += trial.row.dead
    trial.row.dead = 0
    trial.other_names += trial.victim_names
    trial.victim_names = []
    trial.victims.ask("close")


def come_back_too_late(trial):
    vanish(trial, "both ways")
    mended = trial.wires.mend().end
    trial.victims.ask("speak", "back")
    report = trial.victims.wait(lambda _, peer: peer["end"], "the victims see the end of their connections")
    slowest = max(peer["ended_at"] for peer in report.values()) - mended
    trial.row.remarks.append(f"saw it within {slowest:.1f} s of their return: {len(report)}")


def stay(trial):
    """No fault at all, and yet the deaths are waited for."""
    trial.await_beats()
    now = time.time()
    trial.note_life(trial.victims.report(), now, now)
    trial.moment = Moment(now, now)
    trial.await_deaths()


def cut_without_heartbeat(trial):
    trial.cut("both ways")
    trial.await_deaths()


def broadcasting(policy):
    options = ["--mode", "broadcast", "--queue-size", "64KiB", "--close-timeout", "1s"]
    return [os.environ["HEARTWIRE"], "0.0.0.0:0", *options, *policy.options()]


def scenarios(made):
    """Name, what happens, and in what setting. With `made`, certificates, some of it over TLS as well."""
    brisk, patient = Policy(), Policy(max_missed=6)
    silent = [os.environ["HEARTWIRE"], "0.0.0.0:0", "--close-timeout", "1s", "--ping-interval", "off"]
    slow = [os.environ["SLOW_HANDLER"], "0.0.0.0:0"]
    full = {"server": broadcasting(brisk), "victims": 8, "others": 4, "victim_buffer": 8192}
    part = functools.partial
    plain = [
        ("packets dropped both ways", part(vanish, how="both ways"), {}),
        ("link down, their end", part(vanish, how="their link"), {}),
        ("link down, our end", part(vanish, how="our link"), {}),
        ("host gone", part(vanish, how="both ways", kill=True), {}),
        ("dropped towards us only", part(vanish, how="towards us"), {}),
        ("dropped from us only", vanish_while_heard, {}),
        ("buffer full, reads nothing", part(vanish_with_full_buffers, reading="deaf"), full),
        ("buffer full, reads slowly", part(vanish_with_full_buffers, reading="drip"), full),
        ("buffer full, line stays", never_read, full),
        ("handler asleep for 2 s", part(vanish_while_the_handler_sleeps, naps=2.0), {"server": slow}),
        ("handler asleep for 10 s", part(vanish_while_the_handler_sleeps, naps=10.0), {"server": slow}),
        ("back after 2.3 s, twice", part(come_back, away=2.3, speaks=True), {}),
        ("back after 2.3 s, silent", part(come_back, away=2.3, speaks=False), {"policy": patient}),
        ("back too late", come_back_too_late, {}),
        ("200 of 400 at once", part(vanish, how="both ways"), {"victims": 200, "others": 200}),
        ("CONTROL: heartbeat off", cut_without_heartbeat, {"server": silent}),
        ("CONTROL: nobody vanishes", stay, {}),
    ]
    again = [
        "packets dropped both ways",
        "host gone",
        "dropped from us only",
        "buffer full, reads nothing",
        "buffer full, reads slowly",
        "buffer full, line stays",
        "back after 2.3 s, twice",
        "200 of 400 at once",
        "CONTROL: heartbeat off",
    ]
    over_tls = [(f"{name}, TLS", play, {**setting, "made": made}) for name, play, setting in plain if name in again]
    return plain + (over_tls if made else [])
