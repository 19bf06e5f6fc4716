"""Commands as the README has them: `readme.py run|ask|test` prints the main job, its curl lines, the test line."""

from __future__ import annotations

import re
import sys
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"
WANTED = {"run": r"python3 -m wrapper .*http\.server.*", "ask": r"curl .*", "test": r".*python3 -m pytest.*"}


def commands(text: str) -> list[str]:
    """Every line of every shell block, continued lines joined."""
    blocks = re.findall(r"^```(?:sh|bash|console|shell)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip().removeprefix("$ ").rstrip(" &") for line in lines]


def sections() -> list[str]:
    """The text under each heading."""
    return re.split(r"^#+ .*$", README.read_text(), flags=re.MULTILINE)


def main(kind: str) -> int:
    """What is asked stands in the section of what runs."""
    chosen = sections()
    if kind == "ask":
        chosen = [section for section in chosen if re.search(WANTED["run"], section)][:1]
    found = [line for section in chosen for line in commands(section) if re.fullmatch(WANTED[kind], line)]
    if not found:
        sys.exit(f"README.md has no command of the kind {kind}: {WANTED[kind]}")
    print("\n".join(found if kind == "ask" else found[:1]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
