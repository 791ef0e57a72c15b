"""Pieces of figures: curves with bands, dots with intervals, maps; one look (analysis/style.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.transforms import ScaledTranslation

from analysis.style import COLOURS

CYCLE = tuple(COLOURS[name] for name in ("blue", "red", "green", "purple", "orange", "sky", "black"))
UNDER = 0.36  # inches from the axes to a legend under their label
DASHES = ("-", "--", "-.", ":")


def curve(axis: Axes, table: pd.DataFrame, label: str, colour: str, dash: str = "-") -> None:
    """A line over steps with its interval over replicates, where it has one."""
    axis.plot(table["step"], table["value"], dash, color=colour, label=label)
    if {"low", "high"} <= set(table.columns) and table["low"].notna().any():
        axis.fill_between(table["step"], table["low"], table["high"], color=colour, alpha=0.15, linewidth=0)


def dots(
    axis: Axes,
    table: pd.DataFrame,
    labels: Sequence[str],
    colour: str = COLOURS["blue"],
    offset: float = 0.0,
    marker: str = "o",
    label: str | None = None,
) -> None:
    """A row per estimate, from above: its mean and interval, horizontally."""
    y = np.arange(len(table))[::-1] + offset
    value = table["value"].to_numpy()
    errors = np.vstack([value - table["low"].to_numpy(), table["high"].to_numpy() - value])
    axis.errorbar(
        value,
        y,
        xerr=np.nan_to_num(errors),
        fmt=marker,
        color=colour,
        markersize=4,
        elinewidth=1,
        capsize=2,
        label=label,
    )
    axis.set_yticks(np.arange(len(table))[::-1], labels)
    axis.set_ylim(-0.7, len(table) - 0.3)
    axis.grid(visible=False, axis="y")


def points(
    axis: Axes, x: Sequence[float] | np.ndarray, table: pd.DataFrame, label: str, colour: str, form: str
) -> None:
    """Means over x with vertical intervals; `form` as matplotlib's: `o-` joins them."""
    value = table["value"].to_numpy()
    errors = np.nan_to_num(np.vstack([value - table["low"].to_numpy(), table["high"].to_numpy() - value]))
    axis.errorbar(x, value, yerr=errors, fmt=form, label=label, color=colour, markersize=4, elinewidth=1, capsize=2)


def level(axis: Axes, value: float, label: str, vertical: bool = False, colour: str = COLOURS["black"]) -> None:
    """A dashed reference line."""
    line = axis.axvline if vertical else axis.axhline
    line(value, color=colour, linestyle="--", linewidth=0.8, label=label)


def heat(axis: Axes, grid: pd.DataFrame, reach: float, names: tuple[str, str], form: str = "+.2f") -> None:
    """A map of numbers around 0: rows by index, columns by columns; orange below, purple above, to +-reach."""
    # PuOr: told apart by every kind of colour vision, and light in the middle.
    axis.imshow(grid.to_numpy(dtype=float), cmap="PuOr", norm=TwoSlopeNorm(0, -reach, reach), aspect="auto")
    numbers = grid.to_numpy(dtype=float)
    for i in range(grid.shape[0]):
        for j in range(grid.shape[1]):
            value = numbers[i, j]
            if not np.isnan(value):
                colour = "white" if abs(value) > 0.7 * reach else "black"
                axis.text(j, i, format(value, form), ha="center", va="center", fontsize=7, color=colour)
    axis.set_xticks(range(grid.shape[1]), [_tick(one) for one in grid.columns])
    axis.set_yticks(range(grid.shape[0]), [_tick(one) for one in grid.index])
    axis.set(ylabel=names[0], xlabel=names[1])
    axis.grid(visible=False)


def _tick(one: object) -> str:
    return f"{one:g}" if isinstance(one, float) else str(one)


def below(axis: Axes, columns: int = 2) -> None:
    """The legend under the axes and their label, where it hides nothing."""
    down = ScaledTranslation(0, -UNDER, axis.figure.dpi_scale_trans)
    axis.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, 0.0),
        bbox_transform=axis.transAxes + down,
        ncol=columns,
        handlelength=1.6,
        columnspacing=1,
    )


def long(tables: Mapping[str, pd.DataFrame], name: str = "series") -> pd.DataFrame:
    """Several tables of one shape as one, with their names in front."""
    parts = [table.assign(**{name: key})[[name, *table.columns]] for key, table in tables.items()]
    return pd.concat(parts, ignore_index=True)
