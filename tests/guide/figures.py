#!/usr/bin/env python3
"""Tables of figures in the guide, and the pictures drawn of them: copies of what a stage or the benchmark has printed.

    tests/guide/figures.py --write      brings them up to date

A copy stands between `<!-- table 1 of FILE: HEADING -->` and `<!-- end -->`; the heading may be left out.
"""

import html
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "support"))
import heartwire  # noqa: E402

COPY = re.compile(r"(<!-- table (\d+) of ([^:\n]+?)(?:: (.+))? -->\n)(.*?)(<!-- end -->)", re.DOTALL)
TABLE = re.compile(r"(?:^\|.*\|\n?)+", re.MULTILINE)
PICTURES = heartwire.ROOT / "docs" / "pictures"
BENCHMARK = "bench/README.md"
ISOLATION, SPEED = "What only threads give: isolation", "Speed, memory, detection"

# A picture of one row of a table: its file, title, the table, and how the row begins.
BARS = [
    ("isolation.svg", "p99 in ms of 98 connections, while 2 more block", ISOLATION, "block, 200 ms"),
    ("memory.svg", "KB resident for each of 10,000 idle connections", SPEED, "KB resident for each of 10,000"),
]


def section(text, heading):
    """What stands under a heading."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    if found is None:
        raise heartwire.Wrong(f"no heading {heading!r}")
    return found.group(1)


def tables(file, heading):
    text = (heartwire.ROOT / file).read_text()
    return [table.rstrip("\n") + "\n" for table in TABLE.findall(section(text, heading) if heading else text)]


def with_copies(text):
    """A page with all of its copies as they should be."""

    def replace(found):
        opening, number, file, heading, _, closing = found.groups()
        return f"{opening}\n{tables(file, heading)[int(number) - 1]}\n{closing}"

    return COPY.sub(replace, text)


def cells(row):
    return [cell.strip() for cell in row.strip().strip("|").split("|")]


def row_of(heading, beginning):
    """Names and texts of the cells of a row that have one, from the first table that has such a row."""
    for table in tables(BENCHMARK, heading):
        names, _, *rows = map(cells, table.splitlines())
        for row in rows:
            if row[0].startswith(beginning):
                return [(name, text) for name, text in zip(names[1:], row[1:]) if text]
    raise heartwire.Wrong(f"no row {beginning!r} under {heading!r}")


def number(text):
    """The figure in a cell: of a range the middle, without the interval in brackets."""
    found = [float(each) for each in re.findall(r"\d+(?:\.\d+)?", re.sub(r"\(.*?\)", "", text))]
    return sum(found) / len(found)


def in_full(names):
    """Names of columns, of which some go on with that of the column before."""
    server = ""
    for name in names:
        if name.startswith("with ") or name == "4 KiB buffers":
            yield f"{server}, {name}".replace("`", "")
        else:
            server = name.split(",")[0]
            yield name


def bars(title, row):
    """An SVG of horizontal bars, for light and dark pages."""
    width, left, bar, step = 720, 300, 18, 28
    texts = [re.sub(r" *\(.*?\)|[*~]", "", text) for _, text in row]
    values = [number(text) for text in texts]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {step * len(row) + 40}" role="img">',
        f"<title>{html.escape(title)}</title>",
        "<style>text { font: 14px sans-serif; fill: #222 } rect { fill: #9aa4b2 } .ours { fill: #d6336c }"
        " @media (prefers-color-scheme: dark) { text { fill: #ddd } rect { fill: #667080 } .ours { fill: #f06595 } }"
        "</style>",
        f'<text x="8" y="20">{html.escape(title)}</text>',
    ]
    for place, (name, text, value) in enumerate(zip(in_full([name for name, _ in row]), texts, values)):
        top = 34 + step * place
        length = max(2, round((width - left - 110) * value / max(values)))
        ours = ' class="ours"' if name == "heartwire" else ""
        parts += [
            f'<text x="{left - 8}" y="{top + 14}" text-anchor="end">{html.escape(name)}</text>',
            f'<rect{ours} x="{left}" y="{top}" width="{length}" height="{bar}"/>',
            f'<text x="{left + length + 8}" y="{top + 14}">{html.escape(text)}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def wanted():
    """All files that have copies or are pictures, as they should be."""
    for page in [heartwire.ROOT / "README.md", *(heartwire.ROOT / "docs").glob("*.md")]:
        text = page.read_text()
        if COPY.search(text):
            yield page, with_copies(text)
    for file, title, heading, beginning in BARS:
        yield PICTURES / file, bars(title, row_of(heading, beginning))


def stale():
    return [path for path, text in wanted() if not path.exists() or path.read_text() != text]


def check():
    if found := stale():
        names = ", ".join(path.name for path in found)
        raise heartwire.Wrong(f"not what was printed: {names}; tests/guide/figures.py --write brings them up to date")
    page = (heartwire.ROOT / "docs" / "compatibility.md").read_text()
    changed = page.replace("| 0            | 1 each", "| 1            | 1 each", 1)
    if changed == page or with_copies(changed) == changed:
        raise heartwire.Wrong("the control passes: a figure that was changed is not noticed")
    return f"tables and pictures that are what was printed: {len(list(wanted()))} files"


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    for path in stale():
        print(path.relative_to(heartwire.ROOT))
    for path, text in list(wanted()):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
