"""The laboratory's phase diagram: gain, stall or collapse of TTRL, by share of misreaders and of exposed questions.

    python paper_figures/phase_diagram.py [--records FOLDER] [--out FOLDER]

FOLDER has a folder for each cell, with its replicates. Without --records: the committed records.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from analysis import load
from analysis.phase import draw, phase_runs, phase_table, title_of
from analysis.style import save
from ttrl_repro.errors import UserError

HERE = Path(__file__).resolve().parent
NAME = "phase_diagram"


def main(
    records: Annotated[Path, typer.Option(help="folder of the cells")] = HERE / "data" / "phase",
    out: Annotated[Path, typer.Option(help="where pdf, png and csv go")] = HERE,
) -> None:
    """Draw the figure, write its tables, and print where they went."""
    cells = sorted(path for path in records.iterdir() if path.is_dir()) if records.is_dir() else []
    if not cells:
        raise UserError(f"{records}: no cells here")
    studies = {cell: load(cell) for cell in cells}
    runs = pd.concat([phase_runs(study) for study in studies.values()], ignore_index=True)
    table = phase_table(runs)
    for path in save(draw(table, title_of(studies, table)), table, out, NAME):
        print(f"figure: {path}")
    runs.to_csv(out / f"{NAME}_runs.csv", index=False, float_format="%.6g", lineterminator="\n")


if __name__ == "__main__":
    try:
        typer.run(main)
    except UserError as error:
        raise SystemExit(f"{NAME}: {error}") from None
