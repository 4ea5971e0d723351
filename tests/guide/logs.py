"""The lines of docs/logs.md are those of the sources: what it names is there, and all errors and warnings are named."""

import re

import coverage
import heartwire

PAGE = coverage.DOCS / "logs.md"
# The first cell of a row of the tables that say what a line means.
ROW = re.compile(r"^\| (`.*?) \| .* \| .* \|$", re.MULTILINE)
QUOTED = re.compile(r"`([^`]+)`")
# A text of Rust, with its parts that go over several lines.
TEXT = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
CALL = re.compile(
    r"\blog(?:\(\))?\s*(?:\.|::)(?:error|warn)!?\(\s*(?:format_args!\()?\s*\"((?:[^\"\\]|\\.)*)\"", re.DOTALL
)
# The shortest piece of a line by which it is known again.
SHORTEST = 8


def sources():
    files = [path for path in (heartwire.ROOT / "src").rglob("*.rs") if "tests" not in path.name]
    return {path: path.read_text().split("#[cfg(test)]\nmod tests {")[0] for path in files}


def unescaped(text):
    return re.sub(r"\\\n\s*", "", text).replace('\\"', '"')


def phrases(page):
    """What the page quotes of lines, without the figures."""
    below = page.split("## What each line means")[1]
    return [phrase for row in ROW.findall(below) for phrase in QUOTED.findall(row)]


def pieces(text):
    """What stands between the placeholders of a text."""
    return [piece for piece in re.split(r"\{[^}]*\}", unescaped(text)) if len(piece.strip()) >= SHORTEST]


def strangers(page, texts):
    """Phrases of the page that no source has."""
    texts = [unescaped(text) for text in texts]

    def is_known(phrase):
        # What a report says stands after this, in a text of its own.
        phrase = phrase.removeprefix("ended: ") if phrase != "ended: " else phrase
        pieces = [piece.strip() for piece in re.split(r"\d+", phrase) if piece.strip()]
        return any(is_instance(phrase, text) for text in texts) or all(
            any(piece in text for text in texts) for piece in pieces
        )

    return [phrase for phrase in phrases(page) if phrase != "opened /path" and not is_known(phrase)]


def is_instance(phrase, text):
    """Whether a line made from this text, which begins with a connection, may be that phrase."""
    literals = re.split(r"\{[^}]*\}", text)
    if sum(len(literal.replace(" ", "")) for literal in literals) < SHORTEST:
        return False
    pattern = re.compile(".+".join(map(re.escape, literals)))
    return any(pattern.fullmatch(prefix + phrase) for prefix in ("", "#1 "))


def unnamed(page, calls):
    """Errors and warnings of the sources that the page does not name."""
    quoted = phrases(page)

    def is_named(call):
        return any(piece.strip() in phrase or phrase.strip() in piece for piece in pieces(call) for phrase in quoted)

    return [call for call in calls if pieces(call) and not is_named(call)]


def check():
    texts = [text for source in sources().values() for text in TEXT.findall(source)]
    calls = [text for source in sources().values() for text in CALL.findall(source)]
    page = PAGE.read_text()
    if len(calls) < 25:
        raise heartwire.Wrong(f"only {len(calls)} errors and warnings were found in the sources")
    if found := strangers(page, texts):
        raise heartwire.Wrong(f"docs/logs.md has lines that no source has: {found}")
    if found := unnamed(page, calls):
        raise heartwire.Wrong(f"docs/logs.md does not name: {found}")
    if not strangers(page.replace("queue full", "queue empty"), texts) or not unnamed(
        page.replace("`queue full, dropping broadcasts`", "`opened /path`"), calls
    ):
        raise heartwire.Wrong("the control passes: the check of docs/logs.md proves nothing")
    return f"docs/logs.md has the lines of the sources: {len(phrases(page))} phrases, {len(calls)} errors and warnings"
