"""Hosts of our own out of network namespaces of Linux: made, entered, and removed again."""

import ctypes
import itertools
import os
import subprocess

CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)

_numbers = itertools.count(1)


class Hosts:
    """Some hosts, each with a name, loopback up, and nothing else. `PREFIX` in the environment begins the names of the
    namespaces, so that whoever set it can remove what a killed test leaves behind."""

    def __init__(self, *names):
        prefix = f"{os.environ.get('PREFIX', f'hw{os.getpid()}')}-{next(_numbers)}"
        self.namespaces = {name: f"{prefix}-{name}" for name in names}
        try:
            for namespace in self.namespaces.values():
                run("ip", "netns", "add", namespace)
                # As every host has it. The server wakes itself over it when it is to end.
                run("ip", "-n", namespace, "link", "set", "lo", "up")
        except BaseException:
            self.remove()
            raise

    def inside(self, name, command):
        """The command that runs another on a host."""
        return ["ip", "netns", "exec", self.namespaces[name], *command]

    def ip(self, name, *words):
        """Configures a host."""
        run("ip", "-n", self.namespaces[name], *words)

    def enter(self, name):
        """Moves the calling thread, and no other, to a host: sockets that it makes from now on are there."""
        with open(f"/run/netns/{self.namespaces[name]}") as file:
            if LIBC.setns(file.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"cannot enter {file.name}")

    def remove(self):
        for namespace in self.namespaces.values():
            subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True, timeout=20)


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
