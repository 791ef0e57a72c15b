"""Table 1: base and TTRL by size and task, with the baselines that a gain has to be seen beside."""

from __future__ import annotations

import pandas as pd

from analysis.figures import Runs, arms_table, script

NAME = "table_main"
ARMS = tuple(f"{size}-{task}" for task in ("30", "83", "500") for size in ("xs", "s", "m"))
TITLES = {
    "base_greedy": "base greedy",
    "base_avg": "base avg@16",
    "base_best_avg": "base avg@16, best T",
    "base_best_maj": "base maj@64, best T",
    "avg": "TTRL avg@16",
    "greedy": "TTRL greedy",
    "maj": "TTRL maj@64",
    "net_gain": "TTRL avg@16 - base's best",
}


def draw(runs: Runs) -> tuple[str, pd.DataFrame]:
    """A row per task and base: means and 95 % t intervals over replicates (base seed, questions, RL seed)."""
    names = {arm: f"{runs.config(arm).task}, {runs.config(arm).model}" for arm in ARMS}
    return arms_table(runs, names, "task, base", TITLES)


if __name__ == "__main__":
    script(NAME, ARMS, draw)
