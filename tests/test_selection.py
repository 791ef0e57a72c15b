import numpy as np
import pandas as pd
import pytest

from analysis.selection import SELECTORS, markdown, regret
from ttrl_repro.errors import UserError


def grid(avg, ratio, alarmed=None, change=None):
    """Runs of cells a, b, ... by (replicates of) their avg and majority ratio."""
    rows = []
    for cell, (values, ratios) in enumerate(zip(avg, ratio, strict=True)):
        for replicate, (value, share) in enumerate(zip(values, ratios, strict=True)):
            rows.append(
                {
                    "cell": "abcdef"[cell],
                    "replicate": replicate,
                    "trained avg": value,
                    "majority ratio": share,
                    "alarmed": bool(alarmed and alarmed[cell]),
                    "last - first label accuracy": change[cell] if change else 0.0,
                }
            )
    return pd.DataFrame(rows)


def by_selector(table):
    return table.set_index("selector")["regret"]


def test_without_noise_the_regret_is_the_distance_to_the_best():
    runs = grid(avg=[(0.9, 0.9), (0.6, 0.6), (0.2, 0.2)], ratio=[(0.8, 0.8), (0.9, 0.9), (0.5, 0.5)])
    found = by_selector(regret(runs, [3], resamples=200))
    assert found["true labels"] == pytest.approx(0.0)
    assert found["majority ratio"] == pytest.approx(0.3)
    # A third each of 0, .3 and .7.
    assert found["chance"] == pytest.approx(1.0 / 3, abs=0.06)


def test_collapse_wins_the_majority_ratio_and_the_alarm_gives_it_away():
    runs = grid(
        avg=[(0.8, 0.8), (0.05, 0.05)], ratio=[(0.9, 0.9), (1.0, 1.0)], alarmed=[False, True], change=[0.1, -0.5]
    )
    table = regret(runs, [2], resamples=50).set_index("selector")
    assert table.loc["majority ratio", "regret"] == pytest.approx(0.75)
    assert table.loc["majority ratio", "lost"] == 1.0
    assert table.loc["majority ratio, no alarm", "regret"] == pytest.approx(0.0)
    assert table.loc["majority ratio, no alarm", "lost"] == 0.0


def test_a_selector_is_not_paid_for_its_own_noise():
    # Cells that give the same: whichever run was lucky, the cell's other replicates are not.
    generator = np.random.default_rng(1)
    avg = [tuple(generator.normal(0.5, 0.1, size=2)) for _ in range(6)]
    runs = grid(avg=avg, ratio=[(0.5, 0.5)] * 6)
    found = by_selector(regret(runs, [6], resamples=500))
    assert found["true labels"] > 0.05


def test_it_is_seeded_and_refuses_what_cannot_be_resampled():
    runs = grid(avg=[(0.9, 0.8), (0.6, 0.7)], ratio=[(0.8, 0.7), (0.9, 0.6)])
    assert regret(runs, [1, 2], resamples=20).equals(regret(runs, [1, 2], resamples=20))
    with pytest.raises(UserError, match="one replicate alone"):
        regret(runs.iloc[:3], [1])
    with pytest.raises(UserError, match="the grid has 2 cells, and 3 are to be looked at"):
        regret(runs, [3])


def test_the_table_has_a_row_per_selector():
    runs = grid(avg=[(0.9, 0.8), (0.6, 0.7)], ratio=[(0.8, 0.7), (0.9, 0.6)])
    lines = markdown(regret(runs, [1, 2], resamples=20)).splitlines()
    assert lines[0] == "| selector | 1 cells | 2 cells |"
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[2:]] == list(SELECTORS)
    assert "0.000 [0.000, 0.000], lost 0%" in lines[2]
