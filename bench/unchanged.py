"""Whether the fast paths leave results as they are: paired replicates with and without them.

    python bench/unchanged.py [--replicates 10] [--model mini-xs]

A replicate is a question draw and an RL seed, run twice as a process of its own: once as it comes, and once
with the native code and the skipping of samples without signal turned off (PyTorch's sampler and forward pass).
Both pick tokens from the same uniform numbers, so they part only where rounding does, and it says how far. "No
difference" means that the 90 % interval of the mean paired difference in final avg@16 lies inside +-.02 (two
one-sided tests at 5 %). Finished runs are kept, others resumed. Writes bench/results/unchanged.json and .txt.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow.parquet as pq
import typer
from safetensors.torch import load_file
from scipy import stats as scipy_stats

from ttrl_repro.records import Record
from ttrl_repro.stats import avg_at_k
from ttrl_repro.summary import codes_by_protocol

RESULTS = Path(__file__).resolve().parent / "results"
EXPERIMENT = Path(__file__).resolve().parent.parent / "experiments" / "rewards" / "reward-majority.yaml"
EQUIVALENT = 0.02
ARMS = {
    "fast": ({}, "train.skip_without_signal=true"),
    "plain": ({"TTRL_NATIVE": "0"}, "train.skip_without_signal=false"),
}


def run(folder: Path, arm: str, model: str, replicate: int) -> None:
    """Run one arm of one replicate, or what is left of it."""
    variables, override = ARMS[arm]
    if (folder / "manifest.json").is_file():
        if Record.reopen(folder).manifest["state"] == "finished":
            return
        command = ["resume", str(folder)]
    else:
        seeds = [f"seeds.draw={replicate}", f"seeds.rl={replicate}"]
        command = [
            "run",
            str(EXPERIMENT),
            f"model={model}",
            override,
            *seeds,
            "evaluate.every=40",
            "--out",
            str(folder),
        ]
    environment = {**os.environ, **variables, "WANDB_MODE": "disabled"}
    subprocess.run(
        [sys.executable, "-m", "ttrl_repro.cli", *command], env=environment, check=True, stdout=subprocess.DEVNULL
    )


def final_avg(folder: Path) -> float:
    """avg@16 of the trained model on the set it was trained on."""
    record = Record.reopen(folder)
    experiment = record.experiment()
    last = experiment.train.steps
    rows = pq.read_table(folder / "eval" / f"step-{last:06d}.parquet").to_pylist()
    codes = codes_by_protocol(rows)[experiment.task, "train", last, experiment.evaluate.temperature]
    return avg_at_k(codes[:, : experiment.evaluate.k])


def apart(fast: Path, plain: Path) -> tuple[int, int, float]:
    """Final answers that differ, final answers, and the largest difference of a weight: the arms are two programs."""
    tables = [
        pq.read_table(newest(folder / "eval", "step-*.parquet"))["answer"].to_pylist() for folder in (fast, plain)
    ]
    weights = [
        load_file(newest(folder / "checkpoints", "checkpoint-*") / "model.safetensors") for folder in (fast, plain)
    ]
    largest = max(float((weights[0][name] - weights[1][name]).abs().max()) for name in weights[0])
    return sum(a != b for a, b in zip(*tables, strict=True)), len(tables[0]), largest


def newest(folder: Path, pattern: str) -> Path:
    """The file or folder with the greatest number in its name."""
    return max(folder.glob(pattern), key=lambda path: int(path.stem.rpartition("-")[2]))


def main(
    replicates: Annotated[int, typer.Option(min=2)] = 10,
    model: Annotated[str, typer.Option(help="which model")] = "mini-xs",
    runs: Annotated[Path, typer.Option(help="folder of the runs")] = Path("runs/unchanged"),
    out: Annotated[Path, typer.Option()] = RESULTS / "unchanged.json",
) -> None:
    """Run what is missing, then compare, print and write."""
    found: dict[str, list[float]] = {arm: [] for arm in ARMS}
    seconds: dict[str, list[float]] = {arm: [] for arm in ARMS}
    distances = []
    for replicate in range(replicates):
        folders = {arm: runs / f"{model}-{arm}-r{replicate}" for arm in ARMS}
        for arm, folder in folders.items():
            run(folder, arm, model, replicate)
            found[arm].append(final_avg(folder))
            seconds[arm].append(Record.reopen(folder).manifest["cost"]["seconds"])
        distances.append(apart(*folders.values()))
    difference = np.array(found["fast"]) - np.array(found["plain"])
    error = difference.std(ddof=1) / np.sqrt(replicates)
    half = scipy_stats.t.ppf(0.95, replicates - 1) * error
    low, high = difference.mean() - half, difference.mean() + half
    verdict = "inside" if low > -EQUIVALENT and high < EQUIVALENT else "NOT inside"
    different, answers, largest = (
        f(column) for f, column in zip((sum, sum, max), zip(*distances, strict=True), strict=True)
    )
    lines = [
        f"{model}, {replicates} paired replicates, final avg@16 on the trained questions",
        *(f"  {arm:5}  mean {np.mean(found[arm]):.4f}   {np.median(seconds[arm]):5.0f} s in steps" for arm in ARMS),
        f"  fast - plain: {difference.mean():+.4f}, 90 % interval [{low:+.4f}, {high:+.4f}], "
        f"{verdict} +-{EQUIVALENT}; largest {np.abs(difference).max():.4f}",
        f"  of {answers:,} answers of the final evaluations {different} differ; weights differ by up to {largest:.1e}",
    ]
    print("\n".join(lines))
    out.parent.mkdir(parents=True, exist_ok=True)
    content = {"model": model, "avg@16": found, "seconds": seconds, "mean": difference.mean(), "interval": [low, high]}
    out.write_text(json.dumps(content, indent=2) + "\n")
    out.with_suffix(".txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    typer.run(main)
