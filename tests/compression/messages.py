"""The messages that are echoed, as files: text that compresses well, text of characters of up to four bytes, and noise.

The text repeats itself at all distances up to 64 KiB, so that what looks back too far for a small window is found out.
"""

import json
import random

LENGTHS = [0, 1, 10, 125, 126, 1000, 1024, 5000, 65535, 65536, 1 << 20]


def write(folder):
    """Writes them, and gives their paths in the order of their names, in which they are sent."""
    draw = random.Random(7692)
    kinds = {"ascii.txt": records(draw), "wide.txt": wide(draw), "noise.bin": draw.randbytes(LENGTHS[-1])}
    paths = []
    for place, length in enumerate(LENGTHS):
        for name, content in kinds.items():
            path = folder / f"{place:02}-{length}-{name}"
            path.write_bytes(cut(content, length) if name.endswith(".txt") else content[:length])
            paths.append(path)
    return sorted(paths)


def records(draw):
    """What a server tells of machines: JSON with names and figures that come again."""
    names = [f"machine-{draw.randrange(10**9)}" for _ in range(400)]
    lines = []
    length = 0
    while length <= LENGTHS[-1]:
        line = json.dumps({"name": draw.choice(names), "load": draw.randrange(100), "memory": draw.randrange(10**6)})
        lines.append(line)
        length += len(line) + 1
    return "\n".join(lines).encode()


def wide(draw):
    words = ["".join(draw.choices("äöüßéœ✓→語字🙂🦀 ", k=draw.randrange(2, 9))) for _ in range(300)]
    return " ".join(draw.choices(words, k=1 << 17)).encode()


def cut(text, length):
    """So many bytes of a text, filled up where a character does not fit."""
    return text[:length].decode(errors="ignore").encode().ljust(length, b".")
