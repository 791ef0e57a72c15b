"""The laboratory's phase diagram: what TTRL does to its first vote, by share of misreaders and of exposed questions."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from analysis.load import Study, rows_of
from ttrl_repro.errors import UserError
from ttrl_repro.miniature.recipes import load_recipe
from ttrl_repro.stats import avg_at_k, maj_at_k, replicates_interval
from ttrl_repro.summary import codes_by_protocol
from ttrl_repro.tasks.miniature import TASKS

MARGIN = 0.02  # a change this small is none
LAST_STEPS = 5  # over which the last label accuracy is averaged
OVER_VOTE = "gain over first maj"
LABELS = "change of label accuracy"
MEASURES = (OVER_VOTE, LABELS)


def exposed_share(task: str) -> float:
    """Share of a miniature task's questions that are exposed to the misconception by their recipe."""
    cells = TASKS[task]
    return sum(cell.count for cell in cells if cell.exposed) / sum(cell.count for cell in cells)


def misreaders(model: str) -> float:
    """Share of a base's authors who read from left to right. Raises UserError if it depends on the number of terms."""
    shares = {share for terms, share in load_recipe(model).corpus.misconception.items() if terms > 2}
    if len(shares) != 1:
        raise UserError(f"{model}: its share of misreaders depends on the number of terms; no place in this diagram")
    return shares.pop()


def phase_runs(study: Study) -> pd.DataFrame:
    """One row per finished run: `pi` (misreaders), `exposed` (questions), `replicate` and MEASURES.

    OVER_VOTE: avg@k after training minus the base's maj@n, on the trained questions at the evaluation temperature.
    LABELS: label accuracy, mean over the last LAST_STEPS steps, minus that of the first step.
    """
    rows = []
    for run in rows_of(study.runs[study.runs["state"] == "finished"]):
        mine = study.answers[(study.answers["run"] == run["run"]) & (study.answers["task"] == run["trained_task"])]
        codes = codes_by_protocol(rows_of(mine))
        first = codes[run["trained_task"], "train", 0, run["temperature"]]
        last = codes[run["trained_task"], "train", run["steps_done"], run["temperature"]]
        metrics = study.metrics[(study.metrics["run"] == run["run"]) & (study.metrics["metric"] == "label_accuracy")]
        accuracy = metrics.sort_values("step")["value"].to_numpy()
        rows.append(
            {
                "pi": misreaders(run["model"]),
                "exposed": exposed_share(run["trained_task"]),
                "replicate": f"b{run['seed_base']}-d{run['seed_draw']}-r{run['seed_rl']}",
                "first maj": maj_at_k(first),
                "trained avg": avg_at_k(last[:, : run["k"]]),
                "first label accuracy": accuracy[0],
                "last label accuracy": accuracy[-LAST_STEPS:].mean(),
                OVER_VOTE: avg_at_k(last[:, : run["k"]]) - maj_at_k(first),
                LABELS: accuracy[-LAST_STEPS:].mean() - accuracy[0],
            }
        )
    if not rows:
        raise UserError("no finished run")
    return pd.DataFrame(rows)


def outcome(over_vote: np.ndarray, labels: np.ndarray) -> str:
    """What a cell's replicates agree on.

    `gain`: every one passes the first vote by MARGIN; `collapse`: every one's label accuracy falls by it; else `stall`.
    """
    if (over_vote > MARGIN).all():
        return "gain"
    return "collapse" if (labels < -MARGIN).all() else "stall"


def phase_table(runs: pd.DataFrame) -> pd.DataFrame:
    """A row per cell: pi, exposed, n, outcome, and mean, low, high (t interval over replicates) of MEASURES."""
    rows = []
    for (pi, exposed), group in runs.groupby(["pi", "exposed"]):
        row: dict[str, object] = {"pi": pi, "exposed": exposed, "n": len(group)}
        row["outcome"] = outcome(group[OVER_VOTE].to_numpy(), group[LABELS].to_numpy())
        for measure in MEASURES:
            found = replicates_interval(group[measure].to_numpy())
            row |= {measure: found.value, f"{measure}, low": found.low, f"{measure}, high": found.high}
        rows.append(row)
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame, title: str) -> Figure:
    """Two maps, pi by exposed share: the gain over the first vote with the outcome, and the change of the labels."""
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 3.1))
    for axis, measure in zip(axes, MEASURES, strict=True):
        _map(axis, table, measure)
    figure.suptitle(title, fontsize=8.5)
    return figure


def _map(axis: Axes, table: pd.DataFrame, measure: str) -> None:
    grid = table.pivot(index="pi", columns="exposed", values=measure).sort_index(ascending=False)
    outcomes = table.pivot(index="pi", columns="exposed", values="outcome").sort_index(ascending=False)
    reach = max(float(np.nanmax(np.abs(grid.to_numpy()))), MARGIN)
    # PuOr: told apart by every kind of colour vision, and light in the middle.
    axis.imshow(grid.to_numpy(), cmap="PuOr_r", norm=TwoSlopeNorm(0, -reach, reach), aspect="auto")
    for i, pi in enumerate(grid.index):
        for j, exposed in enumerate(grid.columns):
            value = grid.loc[pi, exposed]
            if not np.isnan(value):
                word = f"{outcomes.loc[pi, exposed]}\n" if measure == OVER_VOTE else ""
                colour = "white" if abs(value) > 0.7 * reach else "black"
                axis.text(j, i, f"{word}{value:+.2f}", ha="center", va="center", fontsize=7.5, color=colour)
    axis.set_xticks(range(len(grid.columns)), [f"{share:.2f}" for share in grid.columns])
    axis.set_yticks(range(len(grid.index)), [f"{pi:.2f}" for pi in grid.index])
    axis.set(xlabel="share of exposed questions", ylabel="share of misreaders (pi)", title=measure)
    axis.grid(visible=False)
