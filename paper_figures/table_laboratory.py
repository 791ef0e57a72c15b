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
# Parts of the table that fit a page, by what their runs' names begin with.
PARTS = {
    "mix": (
        "first maj, best T",
        "trained avg",
        "first label accuracy",
        "last label accuracy",
        "last - first label accuracy",
    ),
    "oracle": ("base greedy", "base avg", "first maj, best T", "trained avg", "trained avg - first maj"),
}


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
    for name, measures in PARTS.items():
        (out / f"{NAME}_{name}.md").write_text(markdown(table[table["name"].str.startswith(f"{name}-")], measures))
    print(text, end="")


if __name__ == "__main__":
    with in_one_line(NAME):
        typer.run(main)
