"""Each alert that the package brings is on a page that says what to do about it."""

import re

import coverage
import heartwire

ALERTS = heartwire.ROOT / "packaging" / "alerts.yml"
PAGES = [coverage.DOCS / name for name in ("operations.md", "nodes.md")]


def unexplained(names):
    rows = [line for page in PAGES for line in page.read_text().splitlines() if line.startswith("| `Heartwire")]
    return [name for name in names if not any(f"`{name}`" in row.split(" | ")[0] for row in rows)]


def check():
    names = re.findall(r"^ *- alert: (\w+)$", ALERTS.read_text(), re.MULTILINE)
    if len(names) < 5:
        raise heartwire.Wrong(f"only {len(names)} alerts were found")
    if found := unexplained(names):
        raise heartwire.Wrong(f"nothing says what to do about {found}")
    if unexplained(["HeartwireNobody"]) != ["HeartwireNobody"]:
        raise heartwire.Wrong("the control passes: the check of alerts proves nothing")
    return f"alerts that a page explains: {len(names)}"
