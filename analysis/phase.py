"""The laboratory's phase diagram: what TTRL does to its first vote, by share of misreaders and of exposed questions."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from analysis.load import Study, rows_of
from analysis.regime import regime_runs
from ttrl_repro.errors import UserError
from ttrl_repro.miniature.recipes import load_recipe
from ttrl_repro.records import Record
from ttrl_repro.stats import replicates_interval
from ttrl_repro.tasks.miniature import TASKS

MARGIN = 0.02  # a change this small is none
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
    """`regime_runs`, with `pi` (misreaders), `exposed` (questions) and MEASURES.

    OVER_VOTE: avg@k after training minus the base's maj at its best temperature, the bar of the study's claims.
    LABELS: last minus first label accuracy. Raises UserError as `regime_runs` and `misreaders`.
    """
    runs = regime_runs(study)
    runs = runs.rename(columns={"trained avg - first maj": OVER_VOTE, "last - first label accuracy": LABELS})
    return runs.assign(pi=runs["model"].map(misreaders), exposed=runs["task"].map(exposed_share))


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


def markdown(table: pd.DataFrame) -> str:
    """A row per cell: outcome, and both measures with their intervals over replicates."""
    lines = [f"| misreaders | exposed | n | outcome | {' | '.join(MEASURES)} |", "|---" * (4 + len(MEASURES)) + "|"]
    for row in rows_of(table):
        cells = [f"{row[m]:+.3f} [{row[f'{m}, low']:+.3f}, {row[f'{m}, high']:+.3f}]" for m in MEASURES]
        place = f"{row['pi']:.2f} | {row['exposed']:.2f} | {row['n']} | {row['outcome']}"
        lines.append(f"| {place} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def title_of(folder: Path, study: Study, table: pd.DataFrame) -> str:
    """Steps, questions, parameters and replicates of the finished runs, as their records in the folder say."""
    finished = study.runs.loc[study.runs["state"] == "finished", "run"]
    manifests = [Record.reopen(folder / run).manifest for run in finished]
    steps = _listed(str(manifest["steps_done"]) for manifest in manifests)
    questions = _listed(str(manifest["task"]["questions"]) for manifest in manifests)
    parameters = _listed(f"{manifest['model']['parameters'] / 1e6:.1f}" for manifest in manifests)
    return (
        f"TTRL for {steps} steps on {questions} questions, {parameters} M parameters; "
        f"means over {_listed(map(str, table['n']))} replicates"
    )


def _listed(numbers: Iterable[str]) -> str:
    return "/".join(sorted(set(numbers), key=float))


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
