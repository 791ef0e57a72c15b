"""The trainer's controls: what a run gains over the first majority vote, by source of reward."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.load import Study, rows_of
from ttrl_repro.errors import UserError
from ttrl_repro.stats import avg_at_k, maj_at_k, replicates_interval
from ttrl_repro.summary import codes_by_protocol

MEASURES = ("base avg", "first maj", "trained avg", "trained maj", "gain", "gain over first maj", "boxed gain")
PAIRED = "gain over format"
SHOWN = ("base avg", "first maj", "trained avg", "gain over first maj", PAIRED)  # in the markdown table


def per_run(study: Study) -> pd.DataFrame:
    """One row per finished run and split of its task: MEASURES at the run's evaluation temperature.

    `gain`: trained avg minus base avg. `gain over first maj`: trained avg minus the base's maj.
    `boxed gain`: rise in the share of samples with an answer, the part of a gain that is format.
    """
    rows = []
    for run in rows_of(study.runs[study.runs["state"] == "finished"]):
        mine = study.answers[(study.answers["run"] == run["run"]) & (study.answers["task"] == run["trained_task"])]
        codes = codes_by_protocol(rows_of(mine))
        for split in dict.fromkeys(split for _, split, _, _ in codes):
            first = codes[run["trained_task"], split, 0, run["temperature"]]
            last = codes[run["trained_task"], split, run["steps_done"], run["temperature"]]
            k = run["k"]
            base, trained, vote = avg_at_k(first[:, :k]), avg_at_k(last[:, :k]), maj_at_k(first)
            values = (base, vote, trained, maj_at_k(last), trained - base, trained - vote,
                      float((last[:, :k] >= 0).mean() - (first[:, :k] >= 0).mean()))  # fmt: skip
            replicate = f"b{run['seed_base']}-d{run['seed_draw']}-r{run['seed_rl']}"
            rows.append(
                {"reward": run["reward"], "split": split, "replicate": replicate}
                | dict(zip(MEASURES, values, strict=True))
            )
    if not rows:
        raise UserError("no finished run with an evaluation")
    return pd.DataFrame(rows)


def with_paired(runs: pd.DataFrame) -> pd.DataFrame:
    """`per_run`, and `gain over format`: a run's gain minus that of the format run of the same replicate.

    Raises UserError if such a run is missing.
    """
    key = ["split", "replicate"]
    control = runs[runs["reward"] == "format"].set_index(key)["gain"]
    missing = [k for k in runs[key].itertuples(index=False, name=None) if k not in control.index]
    if missing:
        raise UserError(f"no format run for replicate {missing[0][1]}")
    paired = runs.join(control.rename("control"), on=key)
    return paired.assign(**{PAIRED: paired["gain"] - paired["control"]}).drop(columns="control")


def summarise(runs: pd.DataFrame, by: str = "reward") -> pd.DataFrame:
    """Mean and t interval over replicates of every measure: `by`, split, n, measure, mean, low, high."""
    rows = []
    for arm, split in runs[[by, "split"]].drop_duplicates().itertuples(index=False):
        group = runs[(runs[by] == arm) & (runs["split"] == split)]
        n = len(group)
        for measure in (name for name in (*MEASURES, PAIRED) if name in group):
            found = replicates_interval(group[measure].to_numpy())
            rows.append(
                {
                    by: arm,
                    "split": split,
                    "n": n,
                    "measure": measure,
                    "mean": found.value,
                    "low": found.low if n > 1 else np.nan,
                    "high": found.high if n > 1 else np.nan,
                }
            )
    return pd.DataFrame(rows)


def markdown(summary: pd.DataFrame, by: str = "reward", shown: Sequence[str] = SHOWN) -> str:
    """The summary as a table: a row per `by` and split, a column per measure of `shown`."""
    lines = [
        f"| {by} | questions | n | " + " | ".join(shown) + " |",
        "|---" * (3 + len(shown)) + "|",
    ]
    for (arm, split), group in summary.groupby([by, "split"], sort=False):
        cells = []
        for measure in shown:
            row = group[group["measure"] == measure].iloc[0]
            interval = "" if np.isnan(row["low"]) else f" [{row['low']:.3f}, {row['high']:.3f}]"
            cells.append(f"{row['mean']:.3f}{interval}")
        lines.append(f"| {arm} | {split} | {group['n'].iloc[0]} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
