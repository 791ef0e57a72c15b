"""Logs of the authors' own code (TTRL on verl) in the words of this package, so that their runs lie in the same tables.

Their trainer logs to W&B and to the console, as `step:12 - train/label_accuracy:0.51 - actor/entropy:0.33`. Metrics
without a counterpart here are left out. Of validation `mean@N` is avg@N; `maj@N` is a bootstrap of 1000 draws with
replacement there, and so not this package's maj@n: it keeps a name of its own. Two things differ though they share a
name: their last release takes label, reward and ground-truth metrics over the samples that it keeps, here it is all
votes; and an earlier one read the label out of the label again, so that one that is no number counts as wrong.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import pandas as pd

from ttrl_repro.errors import UserError

# theirs -> ours; of several that name one thing the first that is there counts.
NAMES = {
    "train/label_accuracy": "label_accuracy",
    "train/reward_accuracy": "reward_accuracy",
    "train/majority_ratio": "majority_ratio",
    "train/ground_truth_ratio": "ground_truth_ratio",
    "train/ground_truth_reward": "ground_truth_ratio",
    "train/majority_voting_reward": "majority_voting_reward",
    "actor/entropy": "entropy",
    "train/entropy": "entropy",
    "actor/entropy_loss": "entropy",
    "actor/grad_norm": "grad_norm",
    "actor/lr": "learning_rate",
    "actor/pg_clipfrac": "clip_ratio",
    "actor/pg_loss": "loss",
    "actor/kl_loss": "kl",
    "response_length/mean": "mean_tokens",
    "response_length/clip_ratio": "truncation_rate",
}
PASS = re.compile(r"train/(pass@\d+)$")
VALIDATION = re.compile(r"val-core/(?P<task>[^/]+)/acc/(?P<kind>mean|maj|best)@(?P<n>\d+)(?:/mean)?$")
KINDS = {"mean": "avg", "maj": "bootstrapped maj", "best": "bootstrapped pass"}
LINE = re.compile(r"\bstep:(\d+) - (.*)$")


def metric_name(theirs: str) -> str | None:
    """The name here of a metric of theirs; None if there is none."""
    if theirs in NAMES:
        return NAMES[theirs]
    found = PASS.match(theirs)
    if found:
        return found[1]
    found = VALIDATION.match(theirs)
    return f"eval/{found['task']}/{KINDS[found['kind']]}@{found['n']}" if found else None


def renamed(run: str, step: int, values: dict[str, float]) -> list[dict[str, object]]:
    """A step's values as rows of `Study.metrics`: run, step, metric, value. What is no finite number is left out."""
    rows: dict[str, float] = {}
    for theirs in sorted(values, key=lambda name: list(NAMES).index(name) if name in NAMES else len(NAMES)):
        name, value = metric_name(theirs), values[theirs]
        if name is not None and isinstance(value, int | float) and math.isfinite(value):
            rows.setdefault(name, float(value))
    return [{"run": run, "step": step, "metric": name, "value": value} for name, value in rows.items()]


def read_console_log(path: Path) -> pd.DataFrame:
    """The metrics of a verl run from what it printed: run (the file's stem), step, metric, value.

    Of a step that was logged twice, as by a run that was started again, the later line counts. Raises UserError if
    there is no such line.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    steps: dict[int, list[dict[str, object]]] = {}
    for line in lines:
        found = LINE.search(line)
        if found:
            values = dict(part.rpartition(":")[::2] for part in found[2].split(" - "))
            numbers = {name.strip(): number for name, text in values.items() if (number := _number(text)) is not None}
            steps[int(found[1])] = renamed(path.stem, int(found[1]), numbers)
    rows = [row for step in sorted(steps) for row in steps[step]]
    if not rows:
        raise UserError(f"{path}: no line as `step:1 - train/label_accuracy:0.5 - ...` here")
    return pd.DataFrame(rows, columns=["run", "step", "metric", "value"])


def _number(text: str) -> float | None:
    # verl prints NumPy's numbers as `np.float64(0.5)` under NumPy 2.
    found = re.search(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", text.rpartition("(")[2])
    return float(found[0]) if found else None
