"""From a sweep's file to its cells in the storage."""

from __future__ import annotations

from ttrl_repro.errors import UserError
from ttrl_repro.sweeps.files import SweepFile
from ttrl_repro.sweeps.store import Store


def enqueue(sweep: SweepFile, store: Store, seed: int = 0) -> int:
    """Put a sweep's cells into the storage, those that are not there yet; returns how many.

    seed: of a search, which is another search under another. Raises UserError if the file is not valid, or not that of
    the sweep in the storage.
    """
    cells = [(cell.key, cell.params) for cell in sweep.cells()] if sweep.method == "grid" else []
    store.open_sweep(sweep.space() if sweep.method == "grid" else {**sweep.space(), "seed": seed})
    if sweep.method != "grid":
        return 0
    wanted = {key for key, _ in cells}
    strange = [row.cell for row in store.cells() if row.cell not in wanted]
    if strange:
        raise UserError(
            f"the storage holds another sweep {sweep.name!r}: {len(strange)} of its cells, as {strange[0]}, are not in "
            f"{sweep.path}; add to the file what is missing, or give this sweep another name"
        )
    return store.add(cells[: sweep.size()])
