"""Table 3: the levels of the large task trained on alone, and all together."""

from __future__ import annotations

import pandas as pd

from analysis.figures import Runs, grid, script
from analysis.measures import estimated
from ttrl_repro.tasks.miniature import TASKS, WHOLE

NAME = "table_levels"
LEVELS = tuple(cell.name for cell in TASKS[WHOLE])
TOGETHER = "xs-500"
ARMS = (*(f"level-{level}" for level in LEVELS), TOGETHER)
TITLES = {
    "base_avg": "base avg@16",
    "avg": "TTRL avg@16",
    "gain": "gain",
    "base_tokens": "base tokens",
    "tokens": "TTRL tokens",
    "together": "TTRL avg@16, all levels together",
}


def draw(runs: Runs) -> tuple[str, pd.DataFrame]:
    """A row per level; the last column is the same level's questions after training on all five."""
    runs = runs.shared(ARMS)
    alone = [name for name in TITLES if name != "together"]
    table = runs.table([(f"level-{level}", measure, {}) for level in LEVELS for measure in alone])
    rows = []
    for place, level in enumerate(LEVELS):
        found = estimated([_part(runs, run, place) for run in runs.of(TOGETHER).values()])
        rows.append([f"level-{level}", "together", WHOLE, "train", *found])
    both = pd.concat([table, pd.DataFrame(rows, columns=table.columns)], ignore_index=True)
    both = both.sort_values("arm", key=lambda arms: arms.map({f"level-{level}": i for i, level in enumerate(LEVELS)}))
    return grid(both, list(LEVELS), "level", TITLES), both


def _part(runs: Runs, run: dict[str, object], place: int) -> float:
    """avg@k after training on all levels, over the questions of one: the set holds its cells one after another."""
    samples = runs.measurements.samples(str(run["run"]))
    codes_QN = samples[WHOLE, "train", int(str(run["steps_done"])), float(str(run["temperature"]))].codes_QN
    each = len(codes_QN) // len(LEVELS)
    return float((codes_QN[place * each : (place + 1) * each, : int(str(run["k"]))] == 0).mean())


if __name__ == "__main__":
    script(NAME, ARMS, draw)
