"""Files of one JSON object a line, as users write them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ttrl_repro.errors import UserError


def read_objects(path: Path, needed: str, field: str = "") -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects in `path` with their line numbers, from 1; empty lines are skipped.

    For messages: `needed` names the fields of an object, `field` (`task: `) what the path was given for.
    Raises UserError naming the line.
    """
    try:
        # Not splitlines(): JSON strings may hold Unicode's other line separators.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{field}cannot read {path}: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{where}: not valid JSON ({error.msg})") from error
        if not isinstance(row, dict):
            raise UserError(f"{where}: expected an object with {needed}, found {type(row).__name__}")
        yield number, row
