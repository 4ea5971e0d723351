"""A page of the guide whose commands are run one after another, as somebody would type them who reads it.

Each block marked `sh` is run, and what the block marked `text` after it shows must come from it or from what goes on
meanwhile, with anything in the place of "...". If the text before a block says by which name it is saved, it is. A
command that begins with one of the guide's services goes on in the background until the same one begins again, or to
the end. A comment before a block, `<!-- stop COMMAND -->`, ends one of them; `<!-- transcript -->` and
`<!-- printed by FILE -->` name blocks that are compared elsewhere.
"""

import collections
import os
import re
import socket
import subprocess
import time

import heartwire

FENCE = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
SAVED_AS = re.compile(r".*[Ss]ave\s+it\s+as\s+`([\w.-]+)`", re.DOTALL)
NOTE = re.compile(r"<!-- ([^>]*) -->\s*\Z")

# `kind` is the language and `info` all that stands behind the ticks, `name` that of the file, `note` the comment.
Block = collections.namedtuple("Block", "kind text name info note line")


def blocks(text):
    """All fenced blocks of a page."""
    end = 0
    for fence in FENCE.finditer(text):
        indent, info, inside = fence.groups()
        before = text[end : fence.start()]
        end = fence.end()
        name, note = SAVED_AS.match(before), NOTE.search(before)
        yield Block(
            kind=re.split(r"[ ,]", info)[0],
            text=re.sub(f"^{indent}", "", inside, flags=re.MULTILINE),
            name=name and name.group(1),
            info=info,
            note=note.group(1) if note else "",
            line=text.count("\n", 0, fence.start()) + 1,
        )


def is_compared_elsewhere(block):
    return block.note == "transcript" or block.note.startswith("printed by ")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


class Guide:
    def __init__(self, name, folder, services, path=(), ports=("9001",)):
        """`name`: a page in docs, or a path. `services`: what the commands begin with that go on, each with the text by
        which it is seen to have begun. `path`: folders of programs, besides those of heartwire. `ports`: those of the
        page, in whose place free ones are taken."""
        self.page = heartwire.ROOT / "docs" / name
        self.folder, self.services = folder, services
        self.ports = {port: free_port() for port in ports}
        path = os.pathsep.join(map(str, [heartwire.PROGRAM.parent, *path, os.environ["PATH"]]))
        self.environment = heartwire.without_proxies({**os.environ, "PATH": path})
        self.running = {}
        self.said = ""
        self.patience = heartwire.CEILING

    def follow(self, left_out=()):
        """Runs all that the page says but for what is left out, and gives how many commands that was."""
        count = 0
        for block in self.blocks():
            if block.note.startswith("stop "):
                self.end(block.note.removeprefix("stop "))
            if block.kind == "sh" and block.text not in left_out:
                print(block.text, end="", flush=True)
                self.run(block.text)
                count += 1
            elif block.kind == "text" and not is_compared_elsewhere(block):
                self.expect(block.text)
            elif block.name:
                (self.folder / block.name).write_text(block.text)
        return count

    def blocks(self):
        """Each block. Ports are those that are free, on loopback alone."""
        for block in blocks(self.page.read_text()):
            yield block._replace(text=self.here(block.text))

    def here(self, text):
        for port, free in self.ports.items():
            text = text.replace(f"0.0.0.0:{port}", f"127.0.0.1:{free}")
            text = re.sub(rf"(:|--port ){port}\b", rf"\g<1>{free}", text)
        return text

    def run(self, command):
        """Runs a block, and keeps what it says."""
        for service, sign in self.services.items():
            if command.startswith(self.here(service)):
                return self.begin(service, sign, command)
        done = subprocess.run(
            ["bash", "-e", "-c", command],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=10 * heartwire.CEILING,
        )
        self.said = done.stdout
        if done.returncode != 0:
            raise heartwire.Wrong(f"{command}exit status {done.returncode}: {done.stdout}")

    def begin(self, service, sign, command):
        """Runs a command that goes on, in place of an earlier one of its kind."""
        self.end(service)
        process = heartwire.Process(["bash", "-c", f"exec {command}"], cwd=self.folder, env=self.environment)
        self.running[service] = process
        self.said = ""
        deadline = time.monotonic() + heartwire.CEILING
        while sign and sign not in process.stdout.text() + process.stderr.text():
            if time.monotonic() > deadline:
                raise heartwire.Wrong(f"it does not begin: {command}\n{process.stderr.text()}")
            time.sleep(0.05)

    def expect(self, text):
        """Waits for each line of a block in what was said."""
        for line in text.splitlines():
            pattern = re.compile(".*".join(map(re.escape, line.strip().split("..."))))
            deadline = time.monotonic() + self.patience
            while not any(pattern.match(said) for said in self.lines()):
                if time.monotonic() > deadline:
                    raise heartwire.Wrong(f"nothing says {line!r}, but:\n" + "\n".join(self.lines()))
                time.sleep(0.05)

    def lines(self):
        running = [reader.text() for process in self.running.values() for reader in (process.stdout, process.stderr)]
        return "\n".join([self.said, *running]).splitlines()

    def end(self, service=None):
        """Ends what goes on, or one of them."""
        for name in [service] if service else list(self.running):
            if name in self.running:
                self.running.pop(name).end()
