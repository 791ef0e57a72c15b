"""Arms of one comparison (algorithms, or rewards) as a table: avg@16 before and after, over replicates.

    python paper_figures/table_arms.py algorithms|rewards [--records FOLDER] [--out FOLDER]

FOLDER has a folder for each arm, with its replicates. Without --records: the committed records.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from analysis import load
from analysis.controls import markdown, per_run, summarise
from ttrl_repro.errors import UserError

HERE = Path(__file__).resolve().parent
SHOWN = ("base avg", "first maj", "trained avg", "gain", "gain over first maj")


class Comparison(StrEnum):
    """Which arms."""

    ALGORITHMS = "algorithms"
    REWARDS = "rewards"


def main(
    comparison: Annotated[Comparison, typer.Argument()],
    records: Annotated[Path | None, typer.Option(help="folder of the arms")] = None,
    out: Annotated[Path, typer.Option(help="where csv and md go")] = HERE,
) -> None:
    """Write the table and print it."""
    root = records or HERE / "data" / comparison.value
    arms = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    if not arms:
        raise UserError(f"{root}: no arms here")
    prefix = f"{comparison.value.removesuffix('s')}-"
    named = [per_run(load(arm)).assign(arm=arm.name.removeprefix(prefix)) for arm in arms]
    runs = pd.concat(named, ignore_index=True)
    summary = summarise(runs, "arm")
    order = summary[(summary["measure"] == "gain") & (summary["split"] == "train")].sort_values("mean", ascending=False)
    rank = {arm: place for place, arm in enumerate(order["arm"])}
    summary = summary.sort_values("arm", key=lambda arms: arms.map(rank), kind="stable")
    name = f"table_{comparison.value}"
    out.mkdir(parents=True, exist_ok=True)
    runs.to_csv(out / f"{name}_runs.csv", index=False, float_format="%.6g", lineterminator="\n")
    summary.to_csv(out / f"{name}.csv", index=False, float_format="%.6g", lineterminator="\n")
    text = markdown(summary, "arm", SHOWN)
    (out / f"{name}.md").write_text(text)
    print(text, end="")


if __name__ == "__main__":
    try:
        typer.run(main)
    except UserError as error:
        raise SystemExit(f"table_arms: {error}") from None
