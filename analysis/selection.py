"""What choosing settings without labels costs: the regret of selectors, by resampling one finished grid.

A search over settings looks at some cells, one run each, and keeps the one whose score is highest. Its regret is what
the best of the cells it looked at would have given, minus what the kept one gives; a cell gives the mean avg@k of its
*other* replicates, so that a selector is not paid for its own noise. Selectors:

- `true labels`: avg@k of the run; what a search with a labelled set would do;
- `majority ratio`: of the run's last step, the label-free objective. Collapse, which agrees on anything, can win it;
- `majority ratio, no alarm`: the same among runs without an alarm of the watch (docs/metrics.md), if there is one;
- `chance`: any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.load import Study
from analysis.regime import regime_runs
from ttrl_repro.errors import UserError
from ttrl_repro.records import Record

FELL = 0.02  # a fall of label accuracy beyond which a kept cell counts as a loss
RESAMPLES = 2000

Selector = Callable[[pd.DataFrame], pd.Series]
SELECTORS: dict[str, Selector] = {
    "true labels": lambda runs: runs["trained avg"],
    "majority ratio": lambda runs: runs["majority ratio"],
    "majority ratio, no alarm": lambda runs: runs["majority ratio"] - runs["alarmed"],  # an alarmed one comes after all
    "chance": lambda runs: runs["chance"],
}


def selection_runs(study: Study, folder: Path) -> pd.DataFrame:
    """`regime_runs`, with `majority ratio` of the last step, and `alarmed` by the run's own record in `folder`."""
    runs = regime_runs(study)
    last = study.metrics[study.metrics["metric"] == "majority_ratio"].sort_values("step").groupby("run")["value"].last()
    finished = study.runs[study.runs["state"] == "finished"]["run"]
    alarmed = {run: bool(Record.reopen(folder / run).manifest.get("alarms")) for run in finished}
    return runs.assign(**{"majority ratio": runs["run"].map(last), "alarmed": runs["run"].map(alarmed)})


def regret(runs: pd.DataFrame, looked_at: Sequence[int], resamples: int = RESAMPLES, seed: int = 0) -> pd.DataFrame:
    """A row per selector and number of cells looked at: n, `regret` (mean), its 2.5 and 97.5 % quantiles `low`, `high`.

    `lost`: share of resamples whose kept cell is one whose label accuracy falls. Raises UserError for a cell with fewer
    than two replicates, or fewer cells than are to be looked at.
    """
    runs = runs.reset_index(drop=True)
    cells = [group.index.to_numpy() for _, group in runs.groupby("cell", sort=False)]
    if min(map(len, cells)) < 2:
        raise UserError("a cell has one replicate alone: nothing says what it would give again")
    if max(looked_at) > len(cells):
        raise UserError(f"the grid has {len(cells)} cells, and {max(looked_at)} are to be looked at")
    avg, change = (runs[name].to_numpy() for name in ("trained avg", "last - first label accuracy"))
    generator = np.random.default_rng(seed)
    rows = []
    for m in looked_at:
        found: dict[str, list[tuple[float, bool]]] = {name: [] for name in SELECTORS}
        for _ in range(resamples):
            chosen = [cells[i] for i in generator.choice(len(cells), size=m, replace=False)]
            seen = np.array([generator.choice(cell) for cell in chosen])
            others = [cell[cell != run] for cell, run in zip(chosen, seen, strict=True)]
            gives = np.array([avg[other].mean() for other in others])
            falls = np.array([change[other].mean() < -FELL for other in others])
            looks = runs.loc[seen].assign(chance=generator.random(m))
            for name, selector in SELECTORS.items():
                kept = int(np.argmax(selector(looks).to_numpy()))
                found[name].append((gives.max() - gives[kept], bool(falls[kept])))
        for name, pairs in found.items():
            regrets = np.array([pair[0] for pair in pairs])
            low, high = np.quantile(regrets, [0.025, 0.975])
            lost = float(np.mean([pair[1] for pair in pairs]))
            rows.append({"selector": name, "n": m, "regret": regrets.mean(), "low": low, "high": high, "lost": lost})
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    """A row per selector, a column per number of cells looked at: regret, and the share of losses."""
    counts = list(dict.fromkeys(table["n"]))
    lines = ["| selector | " + " | ".join(f"{n} cells" for n in counts) + " |", "|---" * (1 + len(counts)) + "|"]
    for name, group in table.groupby("selector", sort=False):
        cells = [
            f"{regret:.3f} [{low:.3f}, {high:.3f}], lost {lost:.0%}"
            for regret, low, high, lost in group[["regret", "low", "high", "lost"]].itertuples(index=False, name=None)
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
