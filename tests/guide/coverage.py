"""Whether something looks after each block of the README and the guide: it is run, compiled, parsed or compared."""

import json
import re
import tomllib

import guide
import heartwire

DOCS = heartwire.ROOT / "docs"
README = heartwire.ROOT / "README.md"

# Pages that a stage of their own follows.
FOLLOWED = {"tls.md": "tls-guide", "topics-tour.md": "topics-guide", "nodes.md": "nodes-guide"}

# Folders of pages of which a test sees to all.
FOLDERS = {"lesson": "tests/integration/lesson.rs"}

# Blocks that other stages try, and commands of a script that does the same. Each of these has to name the page.
ELSEWHERE = {
    ("authentication.md", "js"): "tests/browser",
    ("getting-started.md", "html"): "tests/browser",
    ("nginx.md", "nginx"): "tests/proxy",
    ("pages.md", "js"): "tests/browser",
    ("platforms.md", "sh"): "bench/small",
    ("topics-page.md", "js"): "tests/browser",
    ("topics-protocol.md", "exchange"): "tests/integration/topics",
    ("topics-tour.md", "html"): "tests/browser",
    ("topics.md", "python"): "tests/auth-url",
}


def pages():
    return [README, *sorted(DOCS.rglob("*.md"))]


def followed_here():
    """Pages with commands that no stage of their own follows."""
    has_commands = {page for page in pages() if any(block.kind == "sh" for block in blocks_of(page))}
    has_commands -= {page for page in has_commands if page.parent.name in FOLDERS}
    return sorted(page for page in has_commands if page.name not in FOLLOWED and (page.name, "sh") not in ELSEWHERE)


def blocks_of(page):
    return list(guide.blocks(page.read_text()))


def neglected(page, blocks, here=None):
    """Says of each block that nothing looks after it."""
    here = followed_here() if here is None else here
    is_followed = page in here or names(f"tests/{FOLLOWED.get(page.name)}", page)
    commands = 0
    for block in blocks:
        commands += block.kind == "sh"
        if not is_looked_after(page, block, is_followed, commands):
            kind = block.info or "no kind"
            yield f"{page.name}:{block.line}: nothing runs, compiles or compares this block of {kind}"


def is_looked_after(page, block, is_followed, commands):
    if page.parent.name in FOLDERS:
        return f"docs/{page.parent.name}" in (heartwire.ROOT / FOLDERS[page.parent.name]).read_text()
    if (page.name, block.kind) in ELSEWHERE:
        return names(ELSEWHERE[page.name, block.kind], page)
    match block.kind:
        case "rust":
            return "ignore" not in block.info and is_compiled(page)
        case "sh":
            return is_followed
        case "text" if block.note.startswith("printed by "):
            return (heartwire.ROOT / block.note.removeprefix("printed by ")).exists()
        case "text":
            return block.note == "transcript" or is_followed and commands > 0
        case "toml":
            return is_manifest(block.text)
        case "json":
            return bool(json.loads(block.text))
        case _:
            # What is saved is for the commands that follow.
            return is_followed and block.name is not None


def names(where, page):
    """Whether a file, or one in a folder, names the page."""
    path = heartwire.ROOT / where
    files = [path] if path.is_file() else path.rglob("*") if path.is_dir() else []
    return any(page.name in file.read_text(errors="replace") for file in files if file.is_file())


def is_compiled(page):
    """Whether its examples are those of the library's documentation."""
    wanted = f'"../{page.relative_to(heartwire.ROOT)}"'
    return any(wanted in (heartwire.ROOT / "src" / file).read_text() for file in ("lib.rs", "testing.rs"))


def is_manifest(text):
    """Whether it asks for features of heartwire that there are."""
    manifest = tomllib.loads(text)
    known = tomllib.loads((heartwire.ROOT / "Cargo.toml").read_text())["features"]
    tables = [manifest.get(kind, {}) for kind in ("dependencies", "dev-dependencies")]
    asked = [feature for table in tables for feature in table.get("heartwire", {}).get("features", [])]
    return all(feature in known for feature in asked) and any("heartwire" in table for table in tables)


def check():
    found = [line for page in pages() for line in neglected(page, blocks_of(page))]
    if found:
        raise heartwire.Wrong("\n".join(found))
    control()
    count = sum(len(blocks_of(page)) for page in pages())
    return f"something looks after each of the {count} blocks on {len(pages())} pages"


def control():
    """Blocks that have to be missed."""
    page = DOCS / "choosing.md"
    for text in [
        "```yaml\nnobody: looks\n```",
        "```\nno language\n```",
        "```rust\nfn main() {}\n```",
        "```text\nwithout a command before it\n```",
        '```toml\n[dependencies]\nheartwire = { version = "1", features = ["nonsense"] }\n```',
        "<!-- printed by tests/nowhere -->\n```text\n1\n```",
    ]:
        if not list(neglected(page, guide.blocks(text + "\n"))):
            raise heartwire.Wrong(f"the control passes, so the check proves nothing: {text}")
    command = "```sh\ntrue\n```\n"
    if not list(neglected(page, guide.blocks(command), here=[])) or list(neglected(page, guide.blocks(command))):
        raise heartwire.Wrong("the control of commands passes: the check proves nothing")
    ignored = re.sub(r"^```rust.*", "```rust,ignore", (DOCS / "library.md").read_text(), count=1, flags=re.MULTILINE)
    if not list(neglected(DOCS / "library.md", guide.blocks(ignored))):
        raise heartwire.Wrong("an example that is not compiled is let pass")
