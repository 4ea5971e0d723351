"""What all cells use: the network, the far side, and the servers near, one for each policy and kind of service."""

import dataclasses
import os
import re

from cells import await_connection
from peers import FarSide, Speaker
from recorded import RecordedServer


@dataclasses.dataclass
class Served:
    """A server near, and who has it flood its clients."""

    program: RecordedServer
    url: str
    flood: object


class Stage:
    """What all cells use."""

    def __init__(self, network):
        self.network = network
        self.far_side = FarSide(network)
        self.kept = []
        self.servers = {}
        self.began = None

    def keep(self, program):
        self.kept.append(program)
        return program

    def end(self):
        for program in self.kept:
            program.end()

    def serve(self, policy, floods, speaker_address):
        options = ["--mode", "broadcast", "--queue-size", "8MiB"] if floods else []
        command = [os.environ["HEARTWIRE"], "0.0.0.0:0", "--close-timeout", "1s", *policy.options(), *options]
        program = self.keep(RecordedServer(self.network.inside("near", command)))
        url = f"ws://{self.network.NEAR}:{program.port}/"
        speaker = None
        if floods:
            speaker = Speaker(url, speaker_address)
            self.far_side.start(speaker.live())
            await_connection(speaker, program, speaker_address)
        self.servers[policy, floods] = Served(program, url, speaker and speaker.flood)

    def server(self, policy, floods):
        return self.servers[policy, floods]

    def shut_down(self):
        """Ends the servers in good order. What is wrong with that."""
        wrong = []
        for served in self.servers.values():
            status, summary = served.program.shut_down()
            counts = re.search(r"opened (\d+), closed (\d+)\b", summary)
            if status != 0 or not counts or counts[1] != counts[2]:
                wrong.append(f"a server ended with {status}: {summary}")
        return wrong
