import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from analysis import load
from analysis.regime import DIFFERENCES, MEASURES, markdown, regime_runs, regime_table


def test_a_row_per_cell_with_intervals_where_there_are_replicates():
    measures = {title: [0.5, 0.7] for title in MEASURES}
    differences = {title: [0.1, -0.1] for title in DIFFERENCES}
    facts = {"name": "mix", "model": "mini-s", "task": "mix-34", "replicate": ["a", "b"]}
    two = pd.DataFrame({**facts, "cell": "c", **measures, **differences})
    one = two.head(1).assign(cell="d", task="mix-45")
    table = regime_table(pd.concat([two, one]))
    first = table[(table["task"] == "mix-34") & (table["measure"] == "trained avg")].iloc[0]
    # t(.975, 1) = 12.706, times the standard error .1.
    assert (first["n"], first["mean"]) == (2, pytest.approx(0.6))
    assert (first["low"], first["high"]) == pytest.approx((0.6 - 1.2706, 0.6 + 1.2706), abs=1e-3)
    assert table[table["task"] == "mix-45"]["low"].isna().all()
    *_, last = markdown(table).splitlines()
    assert (
        last
        == "| mix | mini-s | mix-45 | 1 | "
        + "0.500 | " * len(MEASURES)
        + "+0.100 | " * (len(DIFFERENCES) - 1)
        + "+0.100 |"
    )
    assert not np.isnan(table["mean"]).any()


@pytest.fixture(scope="module")
def laboratory(request):
    return request.config.rootpath / "paper_figures" / "data" / "laboratory"


def test_the_committed_tables_follow_from_the_committed_records(repository, tmp_path):
    script = repository / "paper_figures" / "table_laboratory.py"
    subprocess.run([sys.executable, script, "--out", tmp_path], check=True, capture_output=True, cwd=repository)
    made = sorted(path.name for path in tmp_path.iterdir())
    assert made == sorted(path.name for path in (repository / "paper_figures").glob("table_laboratory*.[cm][sd]*"))
    for name in made:
        assert (tmp_path / name).read_bytes() == (repository / "paper_figures" / name).read_bytes(), name


def test_two_mixes_of_one_base_end_on_opposite_sides_of_their_first_vote(laboratory):
    table = regime_table(regime_runs(load(laboratory))).set_index(["name", "measure"])
    ends = {}
    for mix in ("mix-34", "mix-45"):
        first, last = (table.loc[(mix, f"{when} label accuracy")] for when in ("first", "last"))
        assert (first["n"], first["model"]) == (10, "mini-s")
        ends[mix] = (last["low"] > first["high"], last["high"] < first["low"])
    assert ends == {"mix-34": (True, False), "mix-45": (False, True)}


def test_true_labels_gain_a_fifth_over_the_first_vote_on_every_task_that_is_trained_on(laboratory):
    runs = regime_runs(load(laboratory))
    oracle = runs[runs["name"].str.startswith("oracle-")].set_index(["task", "model"])
    trained = {"mini-30", "mini-83", "mini-500", "mix-34", "mix-45"}
    assert {task for task, model in oracle.index if model == "mini-s"} == trained | {"mini-choice"}
    assert oracle["base greedy"].between(0, 1).all()
    gains = oracle["trained avg - first maj"]
    assert (gains.drop("mini-choice") >= 0.2).all()
    # Where nothing can be learned from true labels, nothing is claimed to be gained.
    assert abs(gains["mini-choice", "mini-s"]) < 0.1


def test_the_regime_is_that_of_the_reference(repository, tmp_path):
    script = repository / "paper_figures" / "table_regime.py"
    subprocess.run([sys.executable, script, "--out", tmp_path], check=True, capture_output=True, cwd=repository)
    for name in ("table_regime.md", "table_regime.csv"):
        assert (tmp_path / name).read_bytes() == (repository / "paper_figures" / name).read_bytes(), name
    table = pd.read_csv(tmp_path / "table_regime.csv")
    assert len(table) == 3 * 3 * 3 * 5
    # Room for a vote over the average, and for training over the vote, on every size and task.
    means = table.groupby(["base", "task", "column"])["value"].mean().unstack()
    assert (means["maj@64 - avg@16"] >= 0.15).all()
    assert (means["pass@64 - maj@64"] >= 0.25).all()
    assert means["majority ratio"].between(0.15, 0.6).all()
