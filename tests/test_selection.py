import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from analysis.selection import (
    SELECTORS,
    SETTINGS,
    kept_run,
    main,
    markdown,
    regret,
    searches_markdown,
    searches_table,
)
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
    assert regret(runs, [3], resamples=50).set_index("selector")["behind"]["majority ratio"] == pytest.approx(0.3)
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
    assert "0.000 [0.000, 0.000], +0.000, lost 0%" in lines[2]


# -- searches ---------------------------------------------------------------------------------------


def searched(objective, search, *runs):
    """Runs of a search by (learning rate, majority ratio, trained avg, change of label accuracy)."""
    rows = []
    for rate, ratio, avg, change in runs:
        settings = dict(zip(SETTINGS, (rate, 1.0, 8, 4), strict=True))
        shown = {"majority ratio": ratio, "trained avg": avg, "last - first label accuracy": change}
        rows.append({"objective": objective, "search": search, **settings, **shown})
    return pd.DataFrame(rows)


def test_a_search_keeps_the_best_by_its_own_objective():
    runs = searched("label-free", 0, (1e-4, 0.9, 0.6, 0.1), (1e-3, 1.0, 0.1, -0.5), (2e-3, 1.0, 0.2, -0.5))
    assert kept_run(runs, "label-free")["train.learning_rate"] == 1e-3, "the first of two"
    assert kept_run(runs, "true-labels")["train.learning_rate"] == 1e-4


def test_searches_are_judged_by_what_their_settings_give_again():
    runs = pd.concat(
        [
            searched("label-free", 0, (1e-4, 0.9, 0.6, 0.1), (1e-3, 1.0, 0.1, -0.5)),
            searched("label-free", 1, (1e-4, 0.8, 0.7, 0.1)),
            searched("true-labels", 0, (1e-4, 0.9, 0.6, 0.1), (1e-3, 1.0, 0.1, -0.5)),
        ]
    )
    again = pd.concat(
        [
            searched("label-free", 0, (1e-3, 0.9, 0.2, -0.4), (1e-3, 0.9, 0.4, -0.2)),
            searched("label-free", 1, (1e-4, 0.8, 0.5, 0.0)),
            searched("true-labels", 0, (1e-4, 0.9, 0.5, 0.1)),
        ]
    )
    table = searches_table(runs, again)
    mean = table.set_index(["objective", "which", "measure"])["mean"]
    assert mean["label-free", "kept", "trained avg"] == pytest.approx((0.1 + 0.7) / 2)
    assert mean["label-free", "again", "trained avg"] == pytest.approx((0.3 + 0.5) / 2)
    assert mean["label-free", "again", "last - first label accuracy"] == pytest.approx((-0.3 + 0.0) / 2)
    assert mean["true-labels", "again", "trained avg"] == pytest.approx(0.5)
    assert list(table["n"].unique()) == [2, 1]
    assert searches_markdown(table).splitlines()[2].startswith("| label-free | 2 | 0.900 [")
    with pytest.raises(UserError, match="that search label-free 1 keeps were not trained again"):
        searches_table(runs, again[again["search"] == 0])
    other = again.assign(**{"train.learning_rate": 5e-5})
    with pytest.raises(UserError, match="that search label-free 0 keeps"):
        searches_table(runs, other)


def test_the_kept_settings_are_printed_as_overrides(repository, tmp_path, capsys):
    (tmp_path / "runs").mkdir()
    shutil.copytree(repository / "paper_figures" / "data" / "demo" / "r0", tmp_path / "runs" / "r0")
    main(tmp_path, "label-free")
    assert capsys.readouterr().out == (
        "train.learning_rate=0.0001 rollout.temperature=1.0 rollout.votes=64 rollout.trained=32\n"
    )
    with pytest.raises(UserError, match="unknown objective 'best'; known: label-free, true-labels"):
        main(tmp_path, "best")


def test_the_committed_tables_follow_from_the_committed_rows(repository, tmp_path):
    figures = repository / "paper_figures"
    subprocess.run([sys.executable, figures / "table_selection.py", "--out", tmp_path], check=True, capture_output=True)
    made = sorted(path.name for path in tmp_path.iterdir())
    assert made == sorted(path.name for path in figures.glob("table_selection*.[cm][sd]*"))
    for name in made:
        assert (tmp_path / name).read_bytes() == (figures / name).read_bytes()
    searches = pd.read_csv(figures / "data" / "selection" / "searches.csv")
    assert (searches.groupby(["objective", "search"]).size() == 20).all()
    assert len(searches) == 200
