"""The paper's own numbers (arXiv 2504.16084v3): its tables, and its curves as read from the figures.

`paper_figures/paper/tables.csv`: where, model, benchmark, quantity, value (percent). `paper_figures/paper/*.csv`: step,
value (shares, or nats of entropy).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

import pandas as pd

from ttrl_repro.errors import UserError
from ttrl_repro.parts import Strict

FOLDER = Path(__file__).resolve().parent.parent / "paper_figures" / "paper"
LAST = 10  # points behind `last10`: a curve's end is one noisy evaluation


class Number(Strict):
    """A number of a table, in percent."""

    where: str
    model: str
    benchmark: str
    quantity: str

    def label(self) -> str:
        """As `table 1, AMC, Qwen2.5-Math-7B, TTRL avg@16`."""
        return ", ".join((self.where, self.model, self.benchmark, self.quantity))


class Relative(Strict):
    """A table's gain relative to its base, in percent of it."""

    after: Number
    base: Number

    def label(self) -> str:
        """As `table 1, AMC, Qwen2.5-Math-7B, TTRL avg@16, relative to base avg@16`."""
        return f"{self.after.label()}, relative to {self.base.quantity}"


class Curve(Strict):
    """A point of a curve, in percent: first, last, max, min, or the mean of the first or last LAST points."""

    curve: str
    at: Literal["first", "last", "max", "min", "first10", "last10"]

    def label(self) -> str:
        """As `fig6_avg16, last`."""
        return f"{self.curve}, {self.at}"


@cache
def tables() -> pd.DataFrame:
    """All numbers of the tables."""
    return pd.read_csv(FOLDER / "tables.csv")


@cache
def curve(name: str) -> pd.DataFrame:
    """A curve's step and value, in order of the steps. Raises UserError for an unknown one."""
    path = FOLDER / f"{name}.csv"
    if not path.is_file():
        raise UserError(f"{path}: no such curve of the paper")
    return pd.read_csv(path).sort_values("step", kind="stable")


Own = Number | Relative | Curve


def value_of(one: Own) -> float:
    """The number itself. Raises UserError if the paper has none, or several, of that name."""
    if isinstance(one, Relative):
        base = value_of(one.base)
        return 100 * (value_of(one.after) - base) / base
    if isinstance(one, Number):
        found = tables()
        for name, value in one.model_dump().items():
            found = found[found[name] == value]
        if len(found) != 1:
            raise UserError(f"the paper's tables have {len(found)} numbers {one.label()!r}, not one")
        return float(found["value"].iloc[0])
    values = curve(one.curve)["value"]
    found_at = {
        "first": values.iloc[0],
        "last": values.iloc[-1],
        "max": values.max(),
        "min": values.min(),
        "first10": values.iloc[:LAST].mean(),
        "last10": values.iloc[-LAST:].mean(),
    }
    return 100 * float(found_at[one.at])
