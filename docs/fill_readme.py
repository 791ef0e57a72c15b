"""Write the output of commands into the README and docs/, so that no number in them was typed by hand.

    python docs/fill_readme.py [--check]

A block looks like this, and holds what the command prints when run in the repository:

    <!-- output of: ttrl show paper_figures/data/demo/r0 -->
    <!-- end -->

`--check` writes nothing and exits with 1 if a block is out of date.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = (
    "README.md",
    *(
        f"docs/{name}.md"
        for name in ("lab_notes", "laboratory", "preregistration", "votes", "answers", "performance", "sweeps")
    ),
)
BLOCK = re.compile(r"(<!-- output of: (?P<command>[^\n]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def output(command: str) -> str:
    """What a command prints: markdown tables as they are, everything else as a code block."""
    # The environment that runs this script comes first, so that `ttrl` is this checkout's.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        shlex.split(command), capture_output=True, text=True, check=True, cwd=ROOT, env={**os.environ, "PATH": path}
    )
    text = "\n".join(line.rstrip() for line in done.stdout.splitlines()).strip("\n")
    return f"{text}\n" if text.startswith("|") else f"```\n{text}\n```\n"


def filled(text: str) -> str:
    """A document's text with every block made anew."""
    return BLOCK.sub(lambda match: match[1] + output(match["command"]) + match[3], text)


def main() -> None:
    """Fill the documents, or check them."""
    for name in DOCUMENTS:
        path = ROOT / name
        old = path.read_text()
        new = filled(old)
        if "--check" not in sys.argv[1:]:
            path.write_text(new)
        elif new != old:
            raise SystemExit(f"{name}: a block is out of date; run python docs/fill_readme.py")


if __name__ == "__main__":
    main()
