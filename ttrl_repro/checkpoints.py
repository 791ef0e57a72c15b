"""Complete and intact checkpoints.

The Trainer writes a checkpoint file by file. `seal` adds the checksums of all of them last, so a
checkpoint without them was cut off while it was written, and one that does not match was damaged.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from ttrl_repro.errors import UserError
from ttrl_repro.records import write_atomic

SEAL = "checksums.json"


def seal(checkpoint: Path) -> None:
    """Mark a checkpoint as complete."""
    sums = {path.name: _checksum(path) for path in sorted(checkpoint.iterdir()) if path.name != SEAL}
    write_atomic(checkpoint / SEAL, json.dumps(sums, indent=2) + "\n")


def newest(folder: Path) -> Path | None:
    """The newest complete checkpoint in `folder`, verified; None if there is none.

    Raises UserError if it is damaged.
    """
    complete = [path for path in _all(folder) if (path / SEAL).is_file()]
    if not complete:
        return None
    verify(complete[-1])
    return complete[-1]


def verify(checkpoint: Path) -> None:
    """Raise UserError unless every file of a sealed checkpoint is as it was written."""
    advice = f"delete {checkpoint} to go on from an earlier checkpoint"
    try:
        sums: dict[str, str] = json.loads((checkpoint / SEAL).read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{checkpoint / SEAL}: corrupted ({error.msg}); {advice}") from error
    for name, expected in sums.items():
        path = checkpoint / name
        if not path.is_file():
            raise UserError(f"{path}: missing from the checkpoint; {advice}")
        if _checksum(path) != expected:
            raise UserError(f"{path}: corrupted (its checksum has changed); {advice}")


def drop_incomplete(folder: Path) -> None:
    """Delete checkpoints that a kill cut off while they were written."""
    for path in _all(folder):
        if not (path / SEAL).is_file():
            shutil.rmtree(path)


def _all(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
