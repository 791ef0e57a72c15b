"""Every figure and table of the study from the committed records: `make figures`; with --check, are they up to date?

    python paper_figures/make_figures.py [--check] [--records FOLDER] [--out FOLDER]

What has no runs yet is named and left as it is. --check draws into a folder of its own and compares: csv, md and json
byte by byte, pictures by their pixels; it exits with 1 if a committed file does not follow from the records.
"""

from __future__ import annotations

import importlib.util
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Annotated

import matplotlib.image
import numpy as np
import typer

from analysis import load
from analysis.arms import read_arms
from analysis.figures import FOLDER, RECORDS, Missing, Runs, write
from ttrl_repro.errors import in_one_line

TEXTS = (".csv", ".json", ".md")


def scripts() -> dict[str, ModuleType]:
    """The figures' scripts, as modules, by name."""
    found = {}
    for path in sorted(FOLDER.glob("*.py")):
        if "analysis.figures import" in path.read_text() and path.stem != Path(__file__).stem:
            spec = importlib.util.spec_from_file_location(path.stem, path)
            assert spec is not None
            assert spec.loader is not None
            found[path.stem] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(found[path.stem])
    return found


def same(one: Path, other: Path) -> bool:
    """Whether two files say the same; of pictures the pixels count, a pdf is not compared (its png is)."""
    if not other.is_file():
        return False
    if one.suffix in TEXTS:
        return one.read_bytes() == other.read_bytes()
    if one.suffix == ".png":
        pixels = [matplotlib.image.imread(path) for path in (one, other)]
        return pixels[0].shape == pixels[1].shape and bool(np.abs(pixels[0] - pixels[1]).max() < 0.02)
    return True


def main(
    check: Annotated[bool, typer.Option("--check", help="compare, and write nothing")] = False,
    records: Annotated[Path, typer.Option(help="folder of the study's records")] = RECORDS,
    out: Annotated[Path, typer.Option(help="where files go, or are")] = FOLDER,
) -> None:
    """Draw them all, or compare."""
    began = time.monotonic()
    runs = Runs(load(records, frozen=True), read_arms())
    stale = []
    with tempfile.TemporaryDirectory() as folder:
        for name, module in scripts().items():
            try:
                place, optional = Path(folder) if check else out, getattr(module, "OPTIONAL", False)
                paths = write(name, module.ARMS, module.draw, runs, place, optional)
            except Missing as missing:
                print(f"not drawn: {name}: {missing}")
                continue
            if check:
                stale += [path.name for path in paths if not same(path, out / path.name)]
            else:
                print(f"drawn: {name}")
    if stale:
        raise SystemExit(f"these do not follow from the records: {', '.join(stale)}; run make figures")
    print(f"{len(runs.study.runs)} runs, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    with in_one_line("make_figures"):
        typer.run(main)
