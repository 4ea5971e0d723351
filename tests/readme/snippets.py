"""The Rust snippets of the README, and of pages of the guide, as programs.

Nothing of them is changed but the port, for theirs may be taken here. One that has only a `handler` gets a `main`
that serves with it.
"""

import json
import random
import re
import shutil
import socket

import heartwire

PAGES = [heartwire.ROOT / page for page in ("README.md", "docs/library.md", "docs/client.md", "docs/authentication.md")]
PROJECT = heartwire.TARGET / "readme"
PORT_OF_THE_PAGES = ":9001"

# Warnings are errors: a snippet that is copied should not begin with one.
MANIFEST = f"""\
[package]
name = "heartwire-test-readme"
version = "0.0.0"
edition = "2024"
publish = false

# On its own, so that the workspace does not build it.
[workspace]

[dependencies]
heartwire = {{ path = {json.dumps(str(heartwire.ROOT))}, default-features = false, features = ["signals"] }}
env_logger = {{ version = "0.11", default-features = false }}

[lints.rust]
warnings = "deny"

[profile.dev]
debug = false
"""

MAIN = f"""
fn main() -> Result<(), Error> {{
    heartwire::Server::bind("127.0.0.1{PORT_OF_THE_PAGES}")?.serve(handler)
}}
"""

# A heading, bold words that begin a paragraph, or a block of code with its language.
LANDMARK = re.compile(
    r"^#+ (?P<heading>.+)|^\*\*(?P<bold>.+?)\.?\*\*|^```(?P<language>\w+).*\n(?P<code>(?s:.*?))^```$", re.MULTILINE
)


def snippets():
    """The text of each, by the heading or the bold words that it stands under."""
    found, name = {}, None
    for landmark in (landmark for page in PAGES for landmark in LANDMARK.finditer(page.read_text())):
        name = landmark["heading"] or landmark["bold"] or name
        if landmark["language"] == "rust":
            if name in found:
                raise heartwire.Wrong(f'two snippets stand under "{name}"')
            found[name] = landmark["code"]
    return found


def program(code):
    return code if re.search(r"^fn main\(", code, re.MULTILINE) else code + MAIN


def altered(code, old, new):
    if old not in code:
        raise heartwire.Wrong(f"the snippet has no {old} that could be altered")
    return code.replace(old, new)


def build(codes):
    """Builds programs, each from the snippet of that name. Gives the port that they all use, and their paths."""
    port = free_port()
    shutil.rmtree(PROJECT, ignore_errors=True)
    sources = PROJECT / "src" / "bin"
    sources.mkdir(parents=True)
    (PROJECT / "Cargo.toml").write_text(MANIFEST)
    names = {name: "readme-" + re.sub(r"\W+", "-", name.lower()) for name in codes}
    for name, code in codes.items():
        source = program(code).replace(PORT_OF_THE_PAGES, f":{port}")
        (sources / f"{names[name]}.rs").write_text(source)
    return port, {name: heartwire.build_beside(PROJECT, names[name]) for name in names}


def free_port():
    """Below those that the system gives away by itself, so that none takes it while the programs are built."""
    while True:
        port = random.randrange(20000, 30000)
        with socket.socket() as attempt:
            try:
                attempt.bind(("", port))
                return port
            except OSError:
                pass
