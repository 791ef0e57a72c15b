"""The floor: how fast a step could be at this machine's own rates, and how near the project comes.

    python -m bench.floor [--repeats 5]

Measured: matrix products (large and square, and in the shapes that mini-s has) in fp32 and, for information, bf16; the
copying of memory. The floor of sampling and of training is the count of operations (bench/flops.py) over the best fp32
rate, or the memory that must be moved over the copying rate, whichever is longer. Training is counted on the rows
that the project ran (shared prompts once, no padding), and, for comparison, as padded rows of whole prompts would be.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from bench.harness import RESULTS, Contestant, Measurement, measure, spread, table, write
from bench.ttrl_step import Steps
from bench.worker import Worker
from ttrl_repro.models import load_model
from ttrl_repro.native.library import load
from ttrl_repro.progress import Progress

MODELS = ("mini-s", "mini-xs")
SQUARE = 2048
SQUARE_PRODUCT = f"fp32 {SQUARE} x {SQUARE}"
WORK = {"sampling": ("sampling",), "training": ("forward", "backward", "optimizer")}  # and its phases
ROWS = 1920  # of the products in a model's shapes: as many as a step has samples
COPIED = 2**28  # bytes: far more than caches hold
LEAST_SECONDS = 0.3  # of work in a turn


def matrix_product(m: int, k: int, n: int, dtype: torch.dtype) -> Contestant:
    """Products (m, k) @ (k, n); the amount is floating-point operations."""
    a, b, out = torch.randn(m, k, dtype=dtype), torch.randn(k, n, dtype=dtype), torch.empty(m, n, dtype=dtype)
    times = max(1, int(LEAST_SECONDS * 1e11 / (2 * m * k * n)))

    def work(_: int) -> float:
        for _turn in range(times):
            torch.mm(a, b, out=out)
        return 2.0 * m * k * n * times

    return work


def copying() -> Contestant:
    """Copies of a large array; the amount is bytes read and written."""
    source = torch.ones(COPIED // 4)
    target = torch.empty_like(source)

    def work(_: int) -> float:
        for _turn in range(4):
            target.copy_(source)
        return 4.0 * 2 * COPIED

    return work


def shapes(config: Any) -> dict[str, tuple[int, int]]:
    """The (in, out) of a block's matrices."""
    hidden, dim, inner = config.hidden_size, config.head_dim, config.intermediate_size
    queries = config.num_attention_heads * dim
    return {
        "qkv": (hidden, queries + 2 * config.num_key_value_heads * dim),
        "out": (queries, hidden),
        "gate and up": (hidden, 2 * inner),
        "down": (inner, hidden),
    }


def machine_rates() -> dict[str, Contestant]:
    """Matrix products and copying."""
    config = load_model(MODELS[0])[0].config
    contestants: dict[str, Contestant] = {}
    for dtype, name in ((torch.float32, "fp32"), (torch.bfloat16, "bf16")):
        contestants[f"{name} {SQUARE} x {SQUARE}"] = matrix_product(SQUARE, SQUARE, SQUARE, dtype)
        for matrix, (k, n) in shapes(config).items():
            contestants[f"{name} {matrix} of {MODELS[0]}, {ROWS} x {k} x {n}"] = matrix_product(ROWS, k, n, dtype)
    contestants["copy"] = copying()
    return contestants


def floor_seconds(operations: float, rate: float, moved: float, bandwidth: float) -> float:
    """The least time for so many operations and so many bytes."""
    return max(operations / rate, moved / bandwidth)


def main(
    repeats: Annotated[int, typer.Option(min=1)] = 5,
    out: Annotated[Path, typer.Option(help="folder of the results")] = RESULTS,
) -> None:
    """Measure, print and write."""
    library = load()
    if isinstance(library, str):
        print(f"floor: only the native code is measured against it, and it is not used here: {library}")
        return
    rates = machine_rates()
    with Progress() as progress, ExitStack() as stack:
        workers = {name: stack.enter_context(Worker(Steps((f"model={name}",)).command())) for name in MODELS}
        # All in turns: a machine that others use, too, is as slow for the rates as it is for the steps.
        measured = measure({**rates, **workers}, repeats, progress, "rates and steps")
    medians = {name: statistics.median(measured.rates(name)) for name in rates}
    best = max((name for name in medians if name.startswith("fp32")), key=medians.__getitem__)
    lines = [
        "rates of this machine",
        *table(
            ["", "GFLOP/s (copy: GB/s)"],
            [[name, spread([rate / 1e9 for rate in measured.rates(name)], 1)] for name in rates],
        ),
        "",
        f"one step of 30 questions x 64 samples, against {best}",
        *shares(measured, best),
    ]
    write("floor", lines, {"best": best, "runs": measured.to_json()}, repeats, out)


def shares(measured: Measurement, best: str) -> list[str]:
    """Lines of the table of operations, seconds, floor and share of the floor, by model and kind of work."""
    rows = []
    for model in MODELS:
        parameter_bytes = 4.0 * load_model(model)[0].num_parameters()
        for kind, phases in WORK.items():
            # What must come from memory: the weights, and for training their gradients and Adam's two moments, once.
            moved = parameter_bytes * (1 if kind == "sampling" else 8)
            runs = measured.runs[model]
            taken = [sum(run.details["phases"].get(phase, 0.0) for phase in phases) for run in runs]
            operations = [float(run.details["operations"][kind]) for run in runs]
            floors = {
                rate: [
                    floor_seconds(work, per_second, moved, bandwidth)
                    for work, per_second, bandwidth in zip(
                        operations, measured.rates(rate), measured.rates("copy"), strict=True
                    )
                ]
                for rate in (best, SQUARE_PRODUCT)
            }
            of_floor = {rate: [f / t for f, t in zip(floor, taken, strict=True)] for rate, floor in floors.items()}
            padded = [run.details["padded_operations"][kind] / run.details["operations"][kind] for run in runs]
            rows.append(
                [
                    f"{model}, {kind}",
                    f"{statistics.median(operations) / 1e9:.1f}",
                    f"{statistics.median(taken):.3f}",
                    f"{statistics.median(floors[best]):.3f}",
                    percent(of_floor[best]),
                    percent(of_floor[SQUARE_PRODUCT]),
                    f"{statistics.median(padded):.2f}",
                ]
            )
    header = ["", "GFLOP", "seconds", "floor", "share of the floor", "against the square", "padded: times the work"]
    return table(header, rows)


def percent(values: list[float]) -> str:
    """Median and range, in per cent."""
    return f"{statistics.median(values):.0%} ({min(values):.0%} to {max(values):.0%})"


if __name__ == "__main__":
    typer.run(main)
