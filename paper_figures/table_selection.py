"""Choosing settings without labels: the regret of selectors on a grid, and what searches found.

    python paper_figures/table_selection.py [--records FOLDER] [--out FOLDER]

FOLDER as experiments/search.sh leaves it: its 374 runs become one row each in data/selection. Without --records: the
committed rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from analysis import load
from analysis.selection import OBJECTIVES, markdown, regret, searches_markdown, searches_table, selection_runs
from ttrl_repro.errors import UserError, in_one_line

HERE = Path(__file__).resolve().parent
NAME = "table_selection"
ROWS = HERE / "data" / "selection"
SEARCHES = 5  # an objective
LOOKED_AT = (4, 12, 48)  # cells of the grid's 48


def rows_of_records(folder: Path) -> dict[str, pd.DataFrame]:
    """A row per run of the grid, of the searches, and of what they keep, trained again."""
    found: dict[str, list[pd.DataFrame]] = {"grid": [], "searches": [], "again": []}
    places = {("grid", "", -1): folder / "grid" / "runs"}
    for objective in OBJECTIVES:
        for search in range(SEARCHES):
            places["searches", objective, search] = folder / f"{objective}-{search}" / "runs"
            places["again", objective, search] = folder / "again" / f"{objective}-{search}"
    for (kind, objective, search), place in places.items():
        runs = selection_runs(load(place), place)
        found[kind].append(runs.assign(objective=objective, search=search) if objective else runs)
    return {kind: pd.concat(tables, ignore_index=True) for kind, tables in found.items()}


def main(
    records: Annotated[Path | None, typer.Option(help="folder of experiments/search.sh")] = None,
    rows: Annotated[Path, typer.Option(help="of the runs' rows")] = ROWS,
    out: Annotated[Path, typer.Option(help="where csv and md go")] = HERE,
) -> None:
    """Write the tables and print them."""
    if records is not None:
        rows.mkdir(parents=True, exist_ok=True)
        for kind, table in rows_of_records(records).items():
            table.to_csv(rows / f"{kind}.csv", index=False, float_format="%.6g", lineterminator="\n")
    missing = [kind for kind in ("grid", "searches", "again") if not (rows / f"{kind}.csv").is_file()]
    if missing:
        raise UserError(f"{rows}: no {missing[0]}.csv; give --records")
    grid, searches, again = (pd.read_csv(rows / f"{kind}.csv") for kind in ("grid", "searches", "again"))
    selectors, kept = regret(grid, LOOKED_AT), searches_table(searches, again)
    out.mkdir(parents=True, exist_ok=True)
    for name, table, text in (
        (NAME, selectors, markdown(selectors)),
        (f"{NAME}_searches", kept, searches_markdown(kept)),
    ):
        table.to_csv(out / f"{name}.csv", index=False, float_format="%.6g", lineterminator="\n")
        (out / f"{name}.md").write_text(text)
        print(text)


if __name__ == "__main__":
    with in_one_line(NAME):
        typer.run(main)
