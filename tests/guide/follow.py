"""Follows one page: runs its commands, on the scratch system that it is started in.

    follow.py PAGE
"""

import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "support"))
import guide  # noqa: E402
import heartwire  # noqa: E402

SERVICES = {
    "cargo run --release": "listening",
    "heartwire 127.0.0.1:9001": "listening",
    "heartwire subscribe ws://127.0.0.1:9001/ news chat": None,
    "python3 auth.py": None,
    "python3 listen.py": "connected",
    "python3 ticks.py": None,
}
# What runs this.
LEFT_OUT = ["./test\n"]


def main():
    page = guide.Guide(sys.argv[1], heartwire.ROOT, SERVICES, [pathlib.Path(sys.executable).parent], ports=())
    try:
        count = page.follow(LEFT_OUT)
    except heartwire.Wrong as wrong:
        print(f"WRONG: {wrong}")
        return 1
    finally:
        page.end()
    print(f"{page.page.name}: commands that do what it says: {count}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
