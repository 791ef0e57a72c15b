"""The trainer's controls as a table: majority, oracle, permuted labels and format, over replicates.

    python paper_figures/table_controls.py [RECORDS ...] [--out FOLDER]

Every RECORDS folder holds the replicates of one cell. Without arguments: the committed records.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from analysis import load
from analysis.controls import markdown, per_run, summarise, with_paired
from ttrl_repro.errors import UserError

HERE = Path(__file__).resolve().parent
NAME = "table_controls"
CELLS = ("reward-majority", "reward-oracle", "reward-permuted", "reward-format")


def main(
    records: Annotated[list[Path] | None, typer.Argument(help="folders of replicates")] = None,
    out: Annotated[Path, typer.Option(help="where csv and md go")] = HERE,
) -> None:
    """Write the table and print it."""
    folders = records or [HERE / "data" / "rewards" / cell for cell in CELLS]
    runs = with_paired(pd.concat([per_run(load(folder)) for folder in folders], ignore_index=True))
    summary = summarise(runs)
    out.mkdir(parents=True, exist_ok=True)
    runs.to_csv(out / f"{NAME}_runs.csv", index=False, float_format="%.6g", lineterminator="\n")
    summary.to_csv(out / f"{NAME}.csv", index=False, float_format="%.6g", lineterminator="\n")
    (out / f"{NAME}.md").write_text(markdown(summary))
    print(markdown(summary), end="")


if __name__ == "__main__":
    try:
        typer.run(main)
    except UserError as error:
        raise SystemExit(f"{NAME}: {error}") from None
