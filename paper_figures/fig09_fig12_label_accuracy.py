"""Figures 9 and 12: label accuracy against pass@1 over training, ours beside the paper's.

    python paper_figures/fig09_fig12_label_accuracy.py [RECORDS] [--out FOLDER]

Without arguments it draws the committed demo records and writes beside itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from analysis import load
from analysis.curves import draw, paper_curves, training_curves
from analysis.style import save
from ttrl_repro.errors import UserError

HERE = Path(__file__).resolve().parent
NAME = "fig09_fig12_label_accuracy"


def main(
    records: Annotated[Path, typer.Argument(help="a run, or a folder of replicates of one cell")] = HERE
    / "data"
    / "demo",
    out: Annotated[Path, typer.Option(help="where pdf, png and csv go")] = HERE,
) -> None:
    """Draw the figure and print where it went."""
    study = load(records)
    cells = study.runs["cell"].unique()
    if len(cells) != 1:
        raise UserError(f"{records}: holds {len(cells)} different cells; this figure draws one")
    ours = training_curves(study, cells[0])
    first = study.runs.iloc[0]
    count = len(study.runs)
    title = f"{first['model']} on {first['task']}, " + (f"{count} replicates" if count > 1 else "one run")
    paper = paper_curves()
    figure = draw(ours, paper, title)
    for path in save(figure, pd.concat([ours, paper], ignore_index=True), out, NAME):
        print(f"figure: {path}")


if __name__ == "__main__":
    try:
        typer.run(main)
    except UserError as error:
        raise SystemExit(f"{NAME}: {error}") from None
