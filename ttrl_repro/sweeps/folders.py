"""The records of a sweep on disk: where each claim writes, how a later one goes on with it, and publishing.

runs/CELL           finished
attempts/N/CELL     of the claim with token N
logs/CELL.N.log     what its process printed
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from ttrl_repro.checkpoints import SEAL
from ttrl_repro.errors import UserError
from ttrl_repro.records import Record

MANIFEST = "manifest.json"
CHECKPOINTS = "checkpoints"
TRIES = 5  # copies of a record that changes meanwhile


class Folders:
    """The folders of one sweep."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def published(self, cell: str) -> Path:
        """The record of a finished cell."""
        return self.root / "runs" / cell

    def attempt(self, cell: str, token: int) -> Path:
        """Where the claim with this token writes."""
        return self.root / "attempts" / str(token) / cell

    def log(self, cell: str, token: int) -> Path:
        """Where its process prints."""
        return self.root / "logs" / f"{cell}.{token}.log"

    def attempted(self) -> set[str]:
        """The cells of which there are attempts here."""
        return {path.name for path in (self.root / "attempts").glob("*/[!.]*")}

    def adopt(self, cell: str, token: int, previous: int) -> Path | None:
        """Begin the claim's record with a copy of the newest earlier one that can be read; None if there is none.

        Raises OSError if it cannot be written.
        """
        target = self.attempt(cell, token)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():  # of a claim whose answer got lost with the connection: nobody's
            shutil.rmtree(target)
        for earlier in range(previous, 0, -1):
            source = self.attempt(cell, earlier)
            try:
                if copy_record(source, target):
                    return target
            except UserError as error:  # damaged, as by a power cut: an earlier one may serve
                print(f"{source}: passed over: {error}", flush=True)
        return None

    def publish(self, cell: str, token: int) -> None:
        """Give the record of a cell that has ended its place, and delete all attempts. Raises OSError.

        Safe for several agents at once: what has its place is never touched again, and only one of them can give it.
        """
        target, source = self.published(cell), self.attempt(cell, token)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            source.rename(target)
        except FileNotFoundError:  # another agent did the same
            pass
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise  # else: published under a database that is no more, while this one's claim ran
        self.clean(cell)

    def clean(self, cell: str) -> None:
        """Delete the attempts of a cell that has ended."""
        for left in [*(self.root / "attempts").glob(f"*/{cell}"), *(self.root / "attempts").glob(f"*/.{cell}.copy")]:
            shutil.rmtree(left, ignore_errors=True)


def copy_record(source: Path, target: Path) -> bool:
    """Copy a record that somebody may still be writing; False if there is none.

    What the manifest said at the beginning is written last, after checkpoints and then all else: so whatever a
    checkpoint's step needs is there, and a copy that says `finished` is of a record that nobody writes any more. Files
    that are never changed once they have their name (checkpoints, parquet) are linked where the file system can. Raises
    UserError for a record that cannot be read, OSError if the copy cannot be written.
    """
    partial = target.with_name(f".{target.name}.copy")
    for _ in range(TRIES):
        if partial.exists():
            shutil.rmtree(partial)
        if not (source / MANIFEST).is_file():
            return False
        Record.reopen(source)
        manifest = (source / MANIFEST).read_bytes()
        partial.mkdir(parents=True)
        try:
            found = list(_files(source))
            for path in sorted(found, key=lambda path: path.parts[0] != CHECKPOINTS):
                if path != Path(MANIFEST):
                    _link_or_copy(source, partial, path)
            steady = list(_files(source)) == found  # a folder that is being deleted may be listed in part
        except FileNotFoundError:  # merged, pruned or renamed meanwhile
            steady = False
        if not steady:
            time.sleep(0.2)
            continue
        (partial / MANIFEST).write_bytes(manifest)
        partial.rename(target)
        return True
    raise UserError("changes too fast to be copied")


def _files(record: Path, under: Path = Path()) -> Iterator[Path]:
    """Files of a record, relative to it: no links, nothing half-written, of checkpoints the sealed ones alone."""
    for entry in sorted(os.scandir(record / under), key=lambda entry: entry.name):
        path = under / entry.name
        if entry.is_symlink() or entry.name.endswith(".partial") or entry.name == ".lock":
            continue
        if entry.is_dir():
            unsealed = entry.name.startswith("checkpoint-") and not (record / path / SEAL).is_file()
            if not unsealed:
                yield from _files(record, path)
        elif entry.is_file():
            yield path


def _link_or_copy(source: Path, target: Path, path: Path) -> None:
    (target / path).parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet" or path.parts[0] == CHECKPOINTS:
        try:
            os.link(source / path, target / path)
            return
        except FileNotFoundError:
            raise
        except OSError as error:  # another file system, or one without links
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.EACCES):
                raise
    shutil.copy2(source / path, target / path)
