"""Write the conversations of tests/vectors into docs/protocol.md, where it names them.

A vector is the only place in which a conversation is written; the document shows it. `--check` writes nothing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support.vectors import shown_in  # noqa: E402 - the tree is on the path only now

DOCUMENT = ROOT / "docs" / "protocol.md"


def main() -> int:
    """1 when `--check` finds another text than there should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="say whether the document is as the vectors are")
    only_check = parser.parse_args().check
    text = DOCUMENT.read_text(encoding="utf-8")
    wanted = shown_in(text)
    if text == wanted:
        print(f"{DOCUMENT.name} shows the vectors as they are")
        return 0
    if only_check:
        print(f"{DOCUMENT.name} shows other conversations than tests/vectors; run scripts/vectors.py")
        return 1
    DOCUMENT.write_text(wanted, encoding="utf-8")
    print(f"wrote {DOCUMENT.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
