"""What choosing settings without labels costs: the regret of selectors, by resampling one finished grid.

A search over settings looks at some cells, one run each, and keeps the one whose score is highest. Its regret is what
the best of the cells it looked at would have given, minus what the kept one gives; a cell gives the mean avg@k of its
*other* replicates, so that a selector is not paid for its own noise. Selectors:

- `true labels`: avg@k of the run; what a search with a labelled set would do;
- `majority ratio`: of the run's last step, the label-free objective. Collapse, which agrees on anything, can win it;
- `majority ratio, no alarm`: the same among runs without an alarm of the watch (docs/metrics.md), if there is one;
- `chance`: any of them.

And what searches found, each of which kept the run whose own objective was highest: what that run showed, and what its
settings give when trained again on other draws, by which neither objective was paid.

    python -m analysis.selection FOLDER OBJECTIVE      # the settings that the search in FOLDER keeps, for `ttrl run`
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer

from analysis.load import Study, load
from analysis.regime import regime_runs
from ttrl_repro.errors import UserError, in_one_line
from ttrl_repro.records import Record
from ttrl_repro.stats import replicates_interval

FELL = 0.02  # a fall of label accuracy beyond which a kept cell counts as a loss
RESAMPLES = 2000

Selector = Callable[[pd.DataFrame], pd.Series]
SELECTORS: dict[str, Selector] = {
    "true labels": lambda runs: runs["trained avg"],
    "majority ratio": lambda runs: runs["majority ratio"],
    "majority ratio, no alarm": lambda runs: runs["majority ratio"] - runs["alarmed"],  # an alarmed one comes after all
    "chance": lambda runs: runs["chance"],
}
# What a search looks for -> the column of `selection_runs` that it is kept by.
OBJECTIVES = {"label-free": "majority ratio", "true-labels": "trained avg"}
SETTINGS = ("train.learning_rate", "rollout.temperature", "rollout.votes", "rollout.trained")
SHOWN = ("majority ratio", "trained avg", "last - first label accuracy")


def selection_runs(study: Study, folder: Path) -> pd.DataFrame:
    """`regime_runs`, with `commit`, SETTINGS, last `majority ratio`, and `alarmed` by the record in `folder`."""
    runs = regime_runs(study)
    last = study.metrics[study.metrics["metric"] == "majority_ratio"].sort_values("step").groupby("run")["value"].last()
    finished = study.runs[study.runs["state"] == "finished"]["run"]
    alarmed = {run: bool(Record.reopen(folder / run).manifest.get("alarms")) for run in finished}
    configs = pd.json_normalize([study.configs[run].model_dump() for run in runs["run"]])
    settings = {name: configs[name].to_numpy() for name in SETTINGS}
    commit = runs["run"].map(study.runs.set_index("run")["commit"])
    return runs.assign(
        **settings, commit=commit, **{"majority ratio": runs["run"].map(last), "alarmed": runs["run"].map(alarmed)}
    )


def kept_run(runs: pd.DataFrame, objective: str) -> pd.Series:
    """The run of a search with the highest value of its objective (of OBJECTIVES), the first of several."""
    return runs.iloc[int(np.argmax(runs[OBJECTIVES[objective]].to_numpy()))]


def searches_table(runs: pd.DataFrame, again: pd.DataFrame) -> pd.DataFrame:
    """What searches kept. A row per objective, `which` runs (`kept` or `again`) and `measure` (SHOWN): n searches,
    mean, low, high (95 % t interval over searches).

    runs, again: `selection_runs` with `objective` and `search`, of the searches' own runs, and of the kept settings on
    other draws, whose mean counts. Raises UserError for a search whose kept settings were not trained again.
    """
    rows = []
    for objective, of_objective in runs.groupby("objective", sort=False):
        found: dict[tuple[str, str], list[float]] = {(which, name): [] for which in ("kept", "again") for name in SHOWN}
        for search, group in of_objective.groupby("search", sort=False):
            kept = kept_run(group, str(objective))
            repeated = again[(again["objective"] == objective) & (again["search"] == search)]
            repeated = repeated[np.logical_and.reduce([repeated[name] == kept[name] for name in SETTINGS])]
            if repeated.empty:
                raise UserError(f"the settings that search {objective} {search} keeps were not trained again")
            for name in SHOWN:
                found["kept", name].append(float(kept[name]))
                found["again", name].append(float(repeated[name].mean()))
        for (which, name), values in found.items():
            interval = replicates_interval(np.array(values))
            rows.append([objective, len(values), which, name, interval.value, interval.low, interval.high])
    return pd.DataFrame(rows, columns=["objective", "n", "which", "measure", "mean", "low", "high"])


def searches_markdown(table: pd.DataFrame) -> str:
    """A row per objective, a column per measure of the kept runs and of their settings again."""
    columns = list(dict.fromkeys(zip(table["which"], table["measure"], strict=True)))
    titles = [f"{name}, {'as kept' if which == 'kept' else 'again'}" for which, name in columns]
    lines = ["| objective | searches | " + " | ".join(titles) + " |", "|---" * (2 + len(columns)) + "|"]
    for objective, group in table.groupby("objective", sort=False):
        values = group.set_index(["which", "measure"])[["mean", "low", "high"]]
        cells = ["{:.3f} [{:.3f}, {:.3f}]".format(*values.loc[column]) for column in columns]
        lines.append(f"| {objective} | {group['n'].iloc[0]} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def regret(runs: pd.DataFrame, looked_at: Sequence[int], resamples: int = RESAMPLES, seed: int = 0) -> pd.DataFrame:
    """A row per selector and number of cells looked at: n, `regret` (mean), its 2.5 and 97.5 % quantiles `low`, `high`.

    The best of noisy means is above the best mean, which every selector's regret pays alike; `behind`, the mean
    distance to what true labels kept among the same runs, does not have it. `lost`: share of resamples whose kept cell
    is one whose label accuracy falls. Raises UserError for a cell with fewer than two replicates, or fewer cells than
    are to be looked at.
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
        with_labels = np.mean([pair[0] for pair in found["true labels"]])
        for name, pairs in found.items():
            regrets = np.array([pair[0] for pair in pairs])
            low, high = np.quantile(regrets, [0.025, 0.975])
            lost = float(np.mean([pair[1] for pair in pairs]))
            mean, behind = regrets.mean(), regrets.mean() - with_labels
            values = {"regret": mean, "low": low, "high": high, "behind": behind, "lost": lost}
            rows.append({"selector": name, "n": m, **values})
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    """A row per selector, a column per number of cells looked at: regret (95 % of resamples), behind, lost."""
    counts = list(dict.fromkeys(table["n"]))
    lines = ["| selector | " + " | ".join(f"{n} cells" for n in counts) + " |", "|---" * (1 + len(counts)) + "|"]
    for name, group in table.groupby("selector", sort=False):
        cells = [
            "{:.3f} [{:.3f}, {:.3f}], {:+.3f}, lost {:.0%}".format(*row)
            for row in group[["regret", "low", "high", "behind", "lost"]].itertuples(index=False, name=None)
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(
    folder: Annotated[Path, typer.Argument(help="of a search")],
    objective: Annotated[str, typer.Argument(help=f"what it is kept by: {', '.join(OBJECTIVES)}")],
) -> None:
    """Print the settings that a search keeps, as overrides of a config."""
    if objective not in OBJECTIVES:
        raise UserError(f"unknown objective {objective!r}; known: {', '.join(OBJECTIVES)}")
    runs = folder / "runs"
    kept = kept_run(selection_runs(load(runs), runs), objective)
    print(" ".join(f"{name}={kept[name]}" for name in SETTINGS))


if __name__ == "__main__":
    with in_one_line("analysis.selection"):
        typer.run(main)
