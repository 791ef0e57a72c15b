"""The laboratory's table: oracle labels on every trained task, and two mixes of questions on one base.

    python paper_figures/table_laboratory.py [--records FOLDER] [--out FOLDER]

FOLDER has a folder for each cell, with its replicates. Without --records: the committed records.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from analysis import load
from analysis.regime import markdown, regime_runs, regime_table
from ttrl_repro.errors import in_one_line

HERE = Path(__file__).resolve().parent
NAME = "table_laboratory"
MIXES = (
    "first maj, best T",
    "trained avg",
    "first label accuracy",
    "last label accuracy",
    "last - first label accuracy",
)


def main(
    records: Annotated[Path, typer.Option(help="folder of the cells")] = HERE / "data" / "laboratory",
    out: Annotated[Path, typer.Option(help="where csv and md go")] = HERE,
) -> None:
    """Write the table and print it."""
    runs = regime_runs(load(records))
    table = regime_table(runs)
    out.mkdir(parents=True, exist_ok=True)
    runs.to_csv(out / f"{NAME}_runs.csv", index=False, float_format="%.6g", lineterminator="\n")
    table.to_csv(out / f"{NAME}.csv", index=False, float_format="%.6g", lineterminator="\n")
    text = markdown(table)
    (out / f"{NAME}.md").write_text(text)
    # The mixes alone, for the README: a table that fits.
    (out / f"{NAME}_mixes.md").write_text(markdown(table[table["name"].str.startswith("mix-")], MIXES))
    print(text, end="")


if __name__ == "__main__":
    with in_one_line(NAME):
        typer.run(main)
