"""A page of the guide whose commands are run one after another, as somebody would type them who reads it.

Each block marked `sh` is run, and what the block marked `text` after it shows must come from it or from what goes on
meanwhile, with anything in the place of "...". A block marked `python` is a program, and the text before it says by which
name it is saved. A command that begins with one of the guide's services goes on in the background until the same one
begins again, or to the end.
"""

import os
import re
import socket
import subprocess
import time

import heartwire

BLOCK = re.compile(r"^( *)```(sh|text|python)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
SAVED_AS = re.compile(r".*[Ss]ave it as `([\w.-]+)`", re.DOTALL)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


class Guide:
    def __init__(self, name, folder, services, path=(), ports=("9001",)):
        """`services`: what the commands begin with that go on, each with the text by which it is seen to have begun.
        `path`: folders of programs, besides those of heartwire. `ports`: those of the page, in whose place free ones
        are taken."""
        self.page = heartwire.ROOT / "docs" / name
        self.folder, self.services = folder, services
        self.ports = {port: free_port() for port in ports}
        path = os.pathsep.join(map(str, [heartwire.PROGRAM.parent, *path, os.environ["PATH"]]))
        self.environment = heartwire.without_proxies({**os.environ, "PATH": path})
        self.running = {}
        self.said = ""

    def follow(self):
        """Runs all that the page says, and gives how many commands that was."""
        count = 0
        for kind, text, name in self.blocks():
            if kind == "text":
                self.expect(text)
            elif kind == "python":
                (self.folder / name).write_text(text)
            else:
                print(text, end="", flush=True)
                self.run(text)
                count += 1
        return count

    def blocks(self):
        """The kind and the text of each block, and for a program its name. Ports are those that are free, on loopback
        alone."""
        page, end = self.page.read_text(), 0
        for block in BLOCK.finditer(page):
            indent, kind, text = block.groups()
            saved_as = SAVED_AS.match(page[end : block.start()])
            end = block.end()
            if kind == "python" and saved_as is None:
                raise heartwire.Wrong(f"nothing says by which name this is saved: {text}")
            yield kind, self.here(re.sub(f"^{indent}", "", text, flags=re.MULTILINE)), saved_as and saved_as.group(1)

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
            timeout=heartwire.CEILING,
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
        if sign and process.stdout.find(lambda line: sign in line.text or None, heartwire.CEILING) is None:
            raise heartwire.Wrong(f"it does not begin: {command}\n{process.stderr.text()}")

    def expect(self, text):
        """Waits for each line of a block in what was said."""
        for line in text.splitlines():
            pattern = re.compile(".*".join(map(re.escape, line.strip().split("..."))))
            deadline = time.monotonic() + heartwire.CEILING
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
