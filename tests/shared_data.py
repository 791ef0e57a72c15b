"""The folder of real answers and verdicts that some tests measure on. It is not part of the repository."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data"


def read_shared(name: str) -> list[dict[str, Any]]:
    """The rows of a file; skips the test where it is absent."""
    path = FOLDER / name
    if not path.is_file():
        pytest.skip(f"no {name}: this measurement needs the folder of real answers, beside the checkout")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
