"""Complete and intact checkpoints.

The Trainer writes a checkpoint file by file. `seal` adds the checksums of all of them last, so a
checkpoint without them was cut off while it was written, and one that does not match was damaged.
Beside them `keep_weights` keeps the weights alone of one step, which the Trainer's pruning does not touch.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from ttrl_repro.errors import UserError
from ttrl_repro.records import write_atomic

SEAL = "checksums.json"
KEPT = "label-free-step-"


def seal(checkpoint: Path) -> None:
    """Mark a checkpoint as complete."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != SEAL)
    sums = {path.relative_to(checkpoint).as_posix(): _checksum(path) for path in files}
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


def keep_weights(folder: Path, step: int, save: Callable[[Path], None]) -> None:
    """Keep the weights after `step` steps in `folder`. `save` writes them to a path."""
    target = kept_weights(folder, step)
    partial = folder / f".{target.name}.partial"
    for left in (partial, target):  # by a kill
        if left.exists():
            shutil.rmtree(left)
    save(partial)
    partial.rename(target)


def kept_weights(folder: Path, step: int) -> Path:
    """Where `keep_weights` keeps the weights of a step."""
    return folder / f"{KEPT}{step}"


def kept_steps(folder: Path) -> list[int]:
    """The steps whose weights are kept, in order."""
    return sorted(int(path.name.removeprefix(KEPT)) for path in folder.glob(f"{KEPT}*"))


def drop_weights(folder: Path, which: Callable[[int], bool] = lambda _: True) -> None:
    """Delete the kept weights of all steps, or of those for which `which(step)` is true."""
    for step in filter(which, kept_steps(folder)):
        shutil.rmtree(kept_weights(folder, step))


def _all(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
