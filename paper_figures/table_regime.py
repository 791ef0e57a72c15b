"""The laboratory's regime: what the bases do on development draws, beside the bounds that the laboratory was chosen by.

    python paper_figures/table_regime.py [--out FOLDER]

From the reference statistics of the nine bases (ttrl_repro/miniature/reference.csv, docs/bases.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from ttrl_repro.errors import in_one_line
from ttrl_repro.miniature.bases import SIZES, reference_path

HERE = Path(__file__).resolve().parent
NAME = "table_regime"
TASKS = ("mini-30", "mini-83", "mini-500")
ROLLOUT = 1.0  # the temperature of the votes
# column -> what is measured at which temperature, minus what, and its bounds.
COLUMNS = {
    "greedy": (("greedy", 0.0), None, ""),
    "avg@16": (("avg@16", ROLLOUT), None, ""),
    "maj@64 - avg@16": (("maj@64", ROLLOUT), ("avg@16", ROLLOUT), "at least .15"),
    "pass@64 - maj@64": (("pass@64", ROLLOUT), ("maj@64", ROLLOUT), "at least .25"),
    "majority ratio": (("majority_ratio", ROLLOUT), None, ".15 to .5"),
}


def regime(reference: pd.DataFrame) -> pd.DataFrame:
    """A row per base, seed, task and column of COLUMNS: its value."""
    values = reference.set_index(["base", "seed", "task", "measure", "temperature"])["value"].sort_index()
    rows = []
    for base in SIZES:
        for task in TASKS:
            for seed in sorted(reference[reference["base"] == base]["seed"].unique()):
                for column, (what, minus, _) in COLUMNS.items():
                    value = values.loc[(base, seed, task, *what)]
                    value -= values.loc[(base, seed, task, *minus)] if minus else 0.0
                    rows.append([base, int(seed), task, column, float(value)])
    return pd.DataFrame(rows, columns=["base", "seed", "task", "column", "value"])


def markdown(table: pd.DataFrame) -> str:
    """A row per size and task: means over base seeds, and their range."""
    lines = [f"| base | task | {' | '.join(COLUMNS)} |", "|---" * (2 + len(COLUMNS)) + "|"]
    lines.append(f"| bounds | | {' | '.join(bounds for _, _, bounds in COLUMNS.values())} |")
    for (base, task), group in table.groupby(["base", "task"], sort=False):
        by_column = group.groupby("column", sort=False)["value"]
        cells = [f"{v.mean():.2f} ({v.min():.2f} to {v.max():.2f})" for v in (by_column.get_group(c) for c in COLUMNS)]
        lines.append(f"| {base} | {task} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(out: Annotated[Path, typer.Option(help="where csv and md go")] = HERE) -> None:
    """Write the table and print it."""
    table = regime(pd.read_csv(reference_path()))
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / f"{NAME}.csv", index=False, float_format="%.6g", lineterminator="\n")
    (out / f"{NAME}.md").write_text(markdown(table))
    print(markdown(table), end="")


if __name__ == "__main__":
    with in_one_line(NAME):
        typer.run(main)
