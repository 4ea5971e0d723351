"""Faults of system calls, by strace.

strace counts calls for each thread, so a fault that comes once comes once in each thread that makes the call.
"""

import os
import pathlib
import re
import signal
import subprocess
import tempfile
import threading
import time

import heartwire


# Calls whose failure says nothing of a connection that is open.
OF_NO_PEER = {"accept4", "clone3", "ppoll", "shutdown", "ioctl", "madvise"}


class Fault:
    """A kind of system call that fails, and how."""

    def __init__(self, calls, error, for_good):
        # Of several names for the same, the kernel and the C library at hand choose.
        self.calls, self.error, self.for_good = calls, error, for_good
        # A peer that lives must not be given up for it.
        self.spares_peers = calls[0] in OF_NO_PEER or error == "EINTR"
        self.name = f"{calls[0]} {error}, {'for good' if for_good else 'once'}"

    def options(self, at=1):
        names = ",".join(f"?{call}" for call in self.calls)
        count = f"{at}+" if self.for_good else f"{at}"
        return ["-e", f"trace={names}", "-e", f"inject={names}:error={self.error}:when={count}"]


class Injection:
    """A fault in a running process, as long as the `with` block lasts."""

    def __init__(self, pid, fault):
        self.log = tempfile.NamedTemporaryFile(prefix="strace-")
        command = ["strace", "-f", "-o", self.log.name, *fault.options(), "-p", str(pid)]
        self.began = time.monotonic()
        self.child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
        self.attached = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.child.stderr:
            if "attached" in line:
                self.attached.set()

    def __enter__(self):
        if not self.attached.wait(heartwire.CEILING):
            self.__exit__()
            raise RuntimeError("strace does not attach")
        return self

    def __exit__(self, *_):
        """Detaches: from here on all calls are what they should be."""
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGINT)
        self.child.wait(heartwire.CEILING)
        self.took = time.monotonic() - self.began

    def faults(self):
        """How often a call has failed."""
        return count_faults(self.log.name)


def count_faults(path):
    return len(re.findall(r"\(INJECTED\)", pathlib.Path(path).read_text(errors="replace")))


def threads_of_connections(pid):
    count = 0
    for thread in pathlib.Path(f"/proc/{pid}/task").iterdir():
        try:
            count += (thread / "comm").read_text().startswith("heartwire-conn")
        except OSError:
            # It has just ended.
            pass
    return count


def usage(pid):
    """Threads, open files and resident KiB of a process."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    resident = int(re.search(r"VmRSS:\s+(\d+)", status)[1])
    return len(os.listdir(f"/proc/{pid}/task")), len(os.listdir(f"/proc/{pid}/fd")), resident
