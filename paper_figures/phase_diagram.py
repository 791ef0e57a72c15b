"""The laboratory's phase diagram: gain, stall or collapse of TTRL, by share of misreaders and of exposed questions.

    python paper_figures/phase_diagram.py [--records FOLDER] [--out FOLDER]

FOLDER has a folder for each cell, with its replicates. Without --records: the committed records.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from analysis import load
from analysis.phase import draw, markdown, phase_runs, phase_table, title_of
from analysis.style import save
from ttrl_repro.errors import in_one_line

HERE = Path(__file__).resolve().parent
NAME = "phase_diagram"


def main(
    records: Annotated[Path, typer.Option(help="folder of the cells")] = HERE / "data" / "phase",
    out: Annotated[Path, typer.Option(help="where pdf, png and csv go")] = HERE,
) -> None:
    """Draw the figure, write its tables, and print where they went."""
    study = load(records)
    runs = phase_runs(study)
    table = phase_table(runs)
    for path in save(draw(table, title_of(records, study, table)), table, out, NAME):
        print(f"figure: {path}")
    (out / f"{NAME}.md").write_text(markdown(table))
    runs.to_csv(out / f"{NAME}_runs.csv", index=False, float_format="%.6g", lineterminator="\n")


if __name__ == "__main__":
    with in_one_line(NAME):
        typer.run(main)
