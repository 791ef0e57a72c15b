"""RL algorithms at equal samples: what each ends at."""

from __future__ import annotations

import pandas as pd

from analysis.figures import Runs, arms_table, script

NAME = "table_algorithms_study"
ARMS = ("grpo", "dr-grpo", "dapo", "rloo", "reinforce-pp", "ppo", "prime")
TITLES = {
    "base_avg": "base avg@16",
    "base_best_maj": "base maj@64, best T",
    "avg": "avg@16",
    "gain": "gain",
    "pass": "pass@64",
}


def draw(runs: Runs) -> tuple[str, pd.DataFrame]:
    """A row per algorithm; mini-xs on mini-30."""
    return arms_table(runs, {arm: arm for arm in ARMS}, "algorithm", TITLES)


if __name__ == "__main__":
    script(NAME, ARMS, draw)
